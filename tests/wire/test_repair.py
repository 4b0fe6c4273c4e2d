import json
import time
from contextlib import suppress
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.wire.rejections import Reason, Rejected
from edge.wire.repair import REPAIRS_MAX, repair_json

STRICT = b'{"a": [1, -0.5e-3, "\\n\\u00e9", true, false, null]}'
LONG = b"[" + b"9" * 40 + b"," + b"7" * 300 + b"]"
REPAIRED = {
    "strict JSON": (STRICT, STRICT),
    "line breaks between tokens": (b'{\r\n "a": 1\n}', b'{   "a": 1 }'),
    "constants": (b"[NaN,Infinity, -Infinity ]", b"[null,null, null ]"),
    "constant alone": (b"NaN", b"null"),
    "constants in strings": (b'{"NaN":"Infinity, -Infinity","a":"\\"NaN"}', b'{"NaN":"Infinity, -Infinity","a":"\\"NaN"}'),
    "constant after an escaped backslash": (b'["\\\\",NaN]', b'["\\\\",null]'),
    "overflow": (b"[1e999,-1e999,1E+400,1e308,1.8e308]", b"[null,null,null,1e308,null]"),
    "underflow and long fractions": (b"[1e-999,0." + b"3" * 500 + b"]", b"[1e-999,0." + b"3" * 500 + b"]"),
    "exponent at the edge of a double": (b"[" + b"9" * 200 + b"e99]", b"[" + b"9" * 200 + b"e99]"),
    "integers of 40 and of 300 digits": (LONG, LONG),
    "integers no double holds": (b"[" + b"9" * 400 + b",-" + b"9" * 10_000 + b"]", b"[null,null]"),
    "number spelled unusually": (b"[1.10,1E5,-0]", b"[1.10,1E5,-0]"),
    "repeated keys": (b'{"a":NaN,"a":2}', b'{"a":null,"a":2}'),
    "lone high escape": (b'["\\ud83c"]', b'["\\ufffd"]'),
    "lone low escape": (b'["x\\uDF55y"]', b'["x\\ufffdy"]'),
    "escapes in the wrong order": (b'["\\udf55\\ud83c"]', b'["\\ufffd\\ufffd"]'),
    "two high, one low": (b'["\\ud83c\\ud83c\\udf55"]', b'["\\ufffd\\ud83c\\udf55"]'),
    "a pair of escapes": (b'["\\ud83c\\udf55"]', b'["\\ud83c\\udf55"]'),
    "high escape and another escape": (b'["\\ud83c\\n\\ud83c\\u0041"]', b'["\\ufffd\\n\\ufffd\\u0041"]'),
    "a backslash and then ud83c": (b'["\\\\ud83c",NaN]', b'["\\\\ud83c",null]'),
    "lone escape in a key": (b'{"\\ud83c":1}', b'{"\\ufffd":1}'),
    "several strings": (b'["\\ud83c","NaN\\ud83c NaN",NaN]', b'["\\ufffd","NaN\\ufffd NaN",null]'),
    "CESU-8 pair": (b'["\xed\xa0\xbc\xed\xbd\x95"]', '["🍕"]'.encode()),
    "CESU-8 half": (b'["\xed\xa0\xbc", "\xed\xbd\x95"]', '["�", "�"]'.encode()),
    "CESU-8 half before real UTF-8": (b'["' + b"\xed\xa0\xbc" + '🍕é"]'.encode(), '["�🍕é"]'.encode()),
    "an emoji of today": ('["🍕", NaN]'.encode(), '["🍕", null]'.encode()),
}  # fmt: skip


@pytest.mark.parametrize(("text", "repaired"), REPAIRED.values(), ids=REPAIRED)
def test_what_clients_write_becomes_strict(text: bytes, repaired: bytes) -> None:
    assert repair_json(text) == repaired
    orjson.loads(repaired)


# The sample of a documentation page: a comma is missing before "date_joined".
SAMPLE = b"""{
    "api_key": "<ph_project_api_key>",
    "event": "$groupidentify",
    "properties": {
        "$group_set": {
            "name": "<company_name>",
            "subscription": "premium"
            "date_joined": "2020-01-23T00:00:00.000Z"
        }
    }
}"""


def test_the_place_of_a_missing_comma_is_named() -> None:
    at = SAMPLE.index(b'"date_joined"')
    with pytest.raises(Rejected) as refusal:
        repair_json(SAMPLE)
    assert refusal.value.reason is Reason.BAD_JSON
    assert refusal.value.found == (
        f'expected \',\' or \'}}\' at line 8 column 13 (byte {at}), near `: "premium" "date_joined": "2020-01-`'
    )


BROKEN = {
    "nothing": (b"", "the text ends early at line 1 column 1 (byte 0)"),
    "cut short": (b'{"a":\n', "the text ends early at line 2 column 1 (byte 6)"),
    "open string": (b'["abc', "the text ends early at line 1 column 6 (byte 5)"),
    "open string after a repair": (b'["\\ud83c', "the text ends early at line 1 column 9 (byte 8)"),
    "after NaN": (b'{"a":NaN "b":1}', "expected ',' or '}' at line 1 column 10 (byte 9)"),
    "after all that is repaired": (
        b'["\\ud83c", "\xed\xa0\xbc\xed\xbd\x95", -Infinity, 1e999\n 5]',
        "expected ',' or ']' at line 2 column 2 (byte 39)",
    ),
    "column counts characters": ('["é€🍕" 5]'.encode(), "expected ',' or ']' at line 1 column 8 (byte 13)"),
    "NaN as a key": (b"{NaN:1}", "expected '\"' at line 1 column 2 (byte 1)"),
    "NaN glued to a number": (b"[1NaN]", "expected ',' or ']' at line 1 column 3 (byte 2)"),
    "words glued to NaN": (b"[NaNny]", "expected ',' or ']' at line 1 column 5 (byte 4)"),
    "negative NaN": (b"[-NaN]", "invalid character at line 1 column 3 (byte 2)"),
    "comma at the end": (b"[1,]", "trailing comma in array at line 1 column 4 (byte 3)"),
    "single quotes": (b"{'a':1}", "expected '\"' at line 1 column 2 (byte 1)"),
    "leading zero": (b"[01]", "invalid number at line 1 column 3 (byte 2)"),
    "dots in a number": (b"[1.2.3]", "expected ',' or ']' at line 1 column 5 (byte 4)"),
    "line break in a string": (b'["a\nb"]', "invalid character at line 1 column 4 (byte 3)"),
    "bad escape": (b'["\\x"]', "invalid escaped character at line 1 column 4 (byte 3)"),
    "bad unicode escape": (b'["\\ud8zz"]', "invalid character in unicode escape at line 1 column 8 (byte 7)"),
    "escape outside a string": (b"[\\ud83c]", "invalid character at line 1 column 2 (byte 1)"),
    "something behind it": (b"{} {}", "trailing characters at line 1 column 5 (byte 4)"),
    "a NUL": (b"[1\0]", "expected ',' or ']' at line 1 column 3 (byte 2)"),
}


@pytest.mark.parametrize(("text", "found"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_refused_with_its_place_in_the_text_as_sent(text: bytes, found: str) -> None:
    with pytest.raises(Rejected) as refusal:
        repair_json(text)
    assert refusal.value.reason is Reason.BAD_JSON
    assert refusal.value.found.split(", near")[0] == found


@pytest.mark.parametrize(
    ("text", "at"),
    [(b'{"a":"\xff"}', 6), (b'["\xed\xa0\xbc\xc3"]', 5), ('["é'.encode() + b"\xc0\x80", 4), (b"\x80", 0)],
    ids=["no lead byte", "after a CESU-8 half", "overlong", "at the start"],
)
def test_what_is_no_utf8_is_refused_with_its_place(text: bytes, at: int) -> None:
    with pytest.raises(Rejected) as refusal:
        repair_json(text)
    assert refusal.value.reason is Reason.BAD_UTF8
    assert refusal.value.found.startswith(f"Byte {at} is 0x{text[at]:02x}, ")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"[NaN,["], ids=["lists", "objects", "with repairs"])
def test_nesting_too_deep_is_refused(opening: bytes) -> None:
    with pytest.raises(Rejected) as refusal:
        repair_json(opening * 400_000)
    assert refusal.value.reason is Reason.TOO_NESTED


def test_nesting_as_deep_as_data_is_accepted() -> None:
    text = b'{"a":[' * 100 + b"NaN" + b"]}" * 100
    assert repair_json(text) == text.replace(b"NaN", b"null")


def test_repairs_without_end_are_refused() -> None:
    with pytest.raises(Rejected) as refusal:
        repair_json(b"[" + b"NaN," * (REPAIRS_MAX + 1) + b"1]")
    assert refusal.value.reason is Reason.BAD_JSON


@pytest.mark.parametrize(
    "text",
    [b'["' + b"\\n" * 500_000 + b'\\ud800"]', b'["' * 500_000, b'["\\' * 300_000, b"-" * 1_000_000, b"1" * 1_000_000],
    ids=["escapes", "open strings", "open escapes", "signs", "digits"],
)  # fmt: skip
def test_hostile_text_takes_linear_time(text: bytes) -> None:
    started = time.process_time()
    with suppress(Rejected):
        repair_json(text)
    assert time.process_time() - started < 1


# Python writes NaN, Infinity and lone surrogates the way the clients concerned do.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters() | st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def joined(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, str):
        return joined(value)
    if isinstance(value, list):
        return [strict(item) for item in value]
    if isinstance(value, dict):
        return {joined(key): strict(item) for key, item in value.items()}
    return value


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_only_what_strict_json_cannot_say_changes(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    repaired = repair_json(text)
    assert b"\n" not in repaired
    assert json.loads(repaired) == strict(value)


QUOTED = [b'"', b"\\", b"\\u", b"\\ud83c", b"\\udf55", b"d83c", b"\xed\xa0\xbc", b"\xed\xbd\x95", b"\xff", b"\0"]
NUMBERS = [b"NaN", b"Infinity", b"-", b"N", b"I", b"1", b"e", b"999", b".", b"+", b"true", b"null"]
FRAGMENTS = st.sampled_from(QUOTED + NUMBERS + [b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\r"])


@example(b"5" * 5000)
@given(
    st.binary(max_size=100)
    | st.lists(FRAGMENTS, max_size=20).map(b"".join)
    | st.lists(FRAGMENTS).map(lambda p: b'["' + b"".join(p) + b'"]')
)
def test_any_bytes_become_json_or_are_rejected(text: bytes) -> None:
    try:
        repaired = repair_json(text)
    except Rejected:
        return
    orjson.loads(repaired)
    msgspec.json.decode(repaired)
    assert b"\n" not in repaired
    assert b"\r" not in repaired
