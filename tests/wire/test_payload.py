import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.payload import NOT_TEXT, read_payload
from edge.wire.rejections import Reason, Rejected
from edge.wire.request import EVENTS_MAX

SHAPES: dict[str, tuple[bytes, tuple[object, ...], int]] = {
    "event, api_key": (b'{"api_key":"a","event":"e"}', ("a",), 1),
    "event, token": (b'{"token":"a","event":"e"}', ("a",), 1),
    "event, $token": (b'{"$token":"a","event":"e"}', ("a",), 1),
    "event, in its properties": (b'{"event":"e","properties":{"token":"a"}}', ("a",), 1),
    "event, its own before its properties'": (b'{"token":"a","properties":{"token":"b"}}', ("a",), 1),
    "event, an empty key before its properties'": (b'{"token":"","properties":{"token":"b"}}', ("b",), 1),
    "event, its keys in their order": (b'{"api_key":"c","token":"b","$token":"a"}', ("a",), 1),
    "event, an empty one before the next": (b'{"$token":"","token":"b"}', ("b",), 1),
    "event, none": (b'{"event":"e"}', (), 1),
    "event, null": (b'{"event":"e","api_key":null}', (), 1),
    "event, empty": (b'{"event":"e","api_key":""}', ("",), 1),
    "event, another empty one": (b'{"event":"e","token":""}', ("",), 1),
    "event, empty in its properties": (b'{"event":"e","properties":{"token":""}}', ("",), 1),
    "batch, the wrapper's": (b'{"api_key":"a","batch":[{"event":"e","token":"b"},{}]}', ("a",), 2),
    "batch, the wrapper's in its order": (b'{"$token":"c","token":"b","api_key":"a","batch":[{}]}', ("a",), 1),
    "batch, its events'": (b'{"batch":[{"token":"a"},{"properties":{"token":"a"}}]}', ("a",), 2),
    "batch, some of its events'": (b'{"batch":[{},{"token":"a"},{}]}', ("a",), 3),
    "batch, an empty one and its events'": (b'{"api_key":"","batch":[{"token":"a"}]}', ("a",), 1),
    "batch of odd things, an empty one and its events'": (b'{"api_key":"","batch":[1,{"token":"a"}]}', ("a",), 2),
    "batch, an event with an empty one": (b'{"batch":[{"token":""},{"token":"a"}]}', ("a",), 2),
    "batch, empty ones": (b'{"batch":[{"token":""},{"token":""}]}', ("",), 2),
    "batch, none": (b'{"batch":[{},{}]}', (), 2),
    "batch, different ones": (b'{"batch":[{"token":"a"},{"token":"b"}]}', ("a", "b"), 2),
    "batch that is null is an event": (b'{"api_key":"a","batch":null}', ("a",), 1),
    "list": (b'[{"token":"a"},{"event":"e"}]', ("a",), 2),
    "list, an event's keys in their order": (b'[{"api_key":"c","token":"b","$token":"a"}]', ("a",), 1),
    "list, none": (b"[{}]", (), 1),
    "list, three different ones are two too many": (b'[{"token":"a"},{"token":"b"},{"token":"c"}]', ("a", "b"), 3),
    # members of odd types take the lenient way, to the same result
    "key is a number": (b'{"api_key":7,"event":"e"}', (NOT_TEXT,), 1),
    "key is a number, another one is text": (b'{"api_key":7,"token":"a"}', ("a",), 1),
    "key is a number in a list": (b'[{"token":7},{"token":"a"},{"properties":{"token":7}}]', ("a",), 3),
    "keys differ in their blanks": (b'[{"token":"a"},{"token":" a\\t"},{"token":"a "}]', ("a",), 3),
    "key is blank, another is not": (b'{"token":" ","api_key":"a"}', ("a",), 1),
    "key is blank, the properties' is not": (b'{"token":" ","properties":{"token":"a"}}', ("a",), 1),
    "key of the batch is blank, an event's is not": (b'{"api_key":" ","batch":[{"token":"a"}]}', ("a",), 1),
    "key of the batch is a number, an event's is not": (b'{"api_key":7,"batch":[{},{"token":"a"}]}', ("a",), 2),
    "key is a number, the properties' is not": (b'{"token":7,"properties":{"token":"a"}}', ("a",), 1),
    "keys are blank and numbers": (b'[{"token":" "},{"token":7},{}]', (" ",), 3),
    "key of the batch is empty": (b'{"api_key":"","batch":[{}]}', ("",), 1),
    "properties are text": (b'{"token":"a","properties":"p"}', ("a",), 1),
    "token of properties is a number": (b'{"event":"e","properties":{"token":7}}', (NOT_TEXT,), 1),
    "batch is an object": (b'{"token":"a","batch":{}}', ("a",), 1),
    "batch of odd things": (b'{"api_key":"a","batch":[1,null,"x",[],{"event":1}]}', ("a",), 5),
    "batch of odd things, a key inside": (b'{"batch":[1,{"token":"a"}]}', ("a",), 2),
    "list of odd things": (b'[1,null,{"token":"a"}]', ("a",), 3),
    "event of odd types, its keys in their order": (b'{"api_key":7,"token":"b","$token":"a"}', ("a",), 1),
    "batch of odd things and blanks": (b'{"batch": [ 1 ,\n{"token":"a"} , null ] }', ("a",), 3),
    "batch of odd things, keys that differ": (b'[1,{"token":"a"},{"token":"b"},{"token":"c"}]', ("a", "b"), 4),
    "batch of odd things, a key that is null": (b'{"api_key":null,"token":"a","batch":[1]}', ("a",), 1),
    "list of a list": (b"[[]]", (), 1),
    "key twice, the last counts": (b'{"api_key":"a","api_key":"b"}', ("b",), 1),
}


@pytest.mark.parametrize(("text", "tokens", "events"), SHAPES.values(), ids=SHAPES)
def test_key_and_number_of_events_are_found(text: bytes, tokens: tuple[object, ...], events: int) -> None:
    payload = read_payload(text)
    assert (payload.tokens, payload.events, payload.repaired) == (tokens, events, False)
    assert payload.text is text


BAD = {
    "empty list": (b"[]", Reason.EMPTY_BATCH),
    "empty batch": (b'{"api_key":"a","batch":[]}', Reason.EMPTY_BATCH),
    "empty batch, key of an odd type": (b'{"api_key":1,"batch":[]}', Reason.EMPTY_BATCH),
    "cut": (b'{"api_key":"a"', Reason.BAD_JSON),
    "two values": (b"{} {}", Reason.BAD_JSON),
    "trailing comma": (b'[{"token":"a"},]', Reason.BAD_JSON),
    "single quotes": (b"{'api_key':'a'}", Reason.BAD_JSON),
    "not UTF-8 in a key": (b'{"api_key":"\xff"}', Reason.BAD_UTF8),
    "not UTF-8 where nothing is read": (b'{"api_key":"a","properties":{"x":"\xff"}}', Reason.BAD_UTF8),
    "not UTF-8 in an event of a batch": (b'{"api_key":"a","batch":[{"event":"\xc3"}]}', Reason.BAD_UTF8),
    "list nested too deeply": (b'[{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}]", Reason.TOO_NESTED),
    "object nested too deeply": (b'{"a":' * 400_000 + b"1" + b"}" * 400_000, Reason.TOO_NESTED),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
def test_what_holds_no_event_is_refused(text: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as raised:
        read_payload(text)
    assert raised.value.reason is reason


def test_what_strict_json_forbids_is_repaired() -> None:
    payload = read_payload(b'{"api_key":"a","batch":[{"event":"e","properties":{"x":NaN,"y":"\\ud83c"}}]}')
    assert (payload.tokens, payload.events, payload.repaired) == (("a",), 1, True)
    assert payload.text == b'{"api_key":"a","batch":[{"event":"e","properties":{"x":null,"y":"\\ufffd"}}]}'


def test_many_different_keys_take_no_longer_than_two() -> None:
    """One by one against all before them, this many would take a minute."""
    text = b"[" + b",".join(b'{"token":"%d"}' % i for i in range(50_000)) + b"]"
    started = time.process_time()
    assert len(read_payload(text).tokens) == 2
    assert time.process_time() - started < 5


def test_keys_that_are_no_text_are_not_compared() -> None:
    """Nested deeply, comparing two of them could exhaust the stack."""
    nested = b"[" * 500 + b"]" * 500
    assert len(read_payload(b'[{"token":%b},{"token":%b}]' % (nested, nested)).tokens) == 1


EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "api_key": st.text(),
        "token": st.text(),
        "$token": st.text(),
        "event": st.text(),
        "properties": st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
    },
)


def reference_tokens(event: dict[str, Any]) -> list[object]:
    """Whatever stands where a key may, the nearest first."""
    named = [event[name] for name in ("$token", "token", "api_key") if name in event]
    inside = event.get("properties", {}).get("token")
    return named if inside is None else [*named, inside]


@given(st.lists(EVENTS, min_size=1, max_size=5), st.sampled_from(["list", "batch", "one"]))
def test_well_typed_events_have_the_keys_a_plain_reading_finds(events: list[dict[str, Any]], shape: str) -> None:
    if shape == "one":
        events = events[:1]
        text = msgspec.json.encode(events[0])
    else:
        text = msgspec.json.encode(events if shape == "list" else {"batch": events})
    found = [reference_tokens(event) for event in events]
    keys = [[token.strip() for token in tokens if isinstance(token, str) and token.strip()] for tokens in found]
    expected = {near[0] for near in keys if near}
    payload = read_payload(text)
    assert payload.events == len(events)
    if expected:
        assert {str(token).strip() for token in payload.tokens} <= expected
        assert len(payload.tokens) == min(2, len(expected))
    else:
        assert len(payload.tokens) == min(1, sum(map(len, found)))
        assert all(token is NOT_TEXT or not str(token).strip() for token in payload.tokens)


DENSE = {
    "objects": b"{}",
    "nulls": b"null",
    "digits": b"1",
    "lists": b"[]",
    "events": b'{"token":"a","event":"e"}',
}


@pytest.mark.parametrize("wrapped", [True, False], ids=["batch", "list"])
@pytest.mark.parametrize("element", DENSE.values(), ids=DENSE)
def test_events_are_counted_up_to_their_maximum(element: bytes, wrapped: bool) -> None:
    begin, end = (b'{"api_key":"a","batch":[', b"]}") if wrapped else (b"[", b"]")
    text = begin + b",".join([element] * EVENTS_MAX)
    assert read_payload(text + end).events == EVENTS_MAX
    with pytest.raises(Rejected) as raised:
        read_payload(text + b"," + element + end)
    assert raised.value.reason is Reason.TOO_MANY_EVENTS


@pytest.mark.parametrize(
    "element", [DENSE["events"], b'{"properties":{"x":NaN}}', b"null"], ids=["typed", "repaired", "loose"]
)
@pytest.mark.parametrize("begin", [b'{"api_key":"a","batch":[', b'{"batch":[', b"["], ids=["keyed", "batch", "list"])
def test_the_maximum_may_be_another(begin: bytes, element: bytes) -> None:
    end = b"]}" if begin[0] == 0x7B else b"]"
    text = begin + b",".join([element] * 600)
    assert read_payload(text + end, None, 600).events == 600
    with pytest.raises(Rejected) as raised:
        read_payload(text + b"," + element + end, None, 600)
    assert raised.value.reason is Reason.TOO_MANY_EVENTS
    assert raised.value.detail.endswith("Expected at most 600.")


def test_a_dense_text_is_read_as_others_are() -> None:
    """Many commas make it long, not many events."""
    text = b'[{"event":"e","properties":{"x":[%b1]}},{"token":"a"},{"token":"b"}]' % (b"1," * EVENTS_MAX)
    payload = read_payload(text)
    assert (payload.tokens, payload.events, payload.repaired) == (("a", "b"), 3, False)
    payload = read_payload(b'{"token":"a","properties":{"x":[%bNaN]}}' % (b"1," * EVENTS_MAX))
    assert (payload.tokens, payload.events, payload.repaired) == (("a",), 1, True)
    with pytest.raises(Rejected) as raised:
        read_payload(text[:-1])
    assert raised.value.reason is Reason.BAD_JSON
