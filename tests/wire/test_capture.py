import base64
import gzip
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.segment.record import Record, RecordIds, as_json, decode_record, encode_records
from edge.wire.capture import Captured, capture, empty_poll, is_terse, read_data_query, read_plain_query
from edge.wire.encoding import read_plain_gzip
from edge.wire.payload import read_plain
from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Heavy, Light, Limits, Request
from edge.wire.routes import ROUTES, find_route
from edge.wire.validate import judge_token

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
AT = 1_751_367_600_123_456


def captured(
    target: bytes, body: bytes, headers: Mapping[bytes, bytes] | None = None, decoded_bytes_max: int = 10_000
) -> tuple[Captured, Record]:
    route, query = find_route(target)
    assert route is not None
    request = Request("POST", query, body, headers or {}, "203.0.113.7", AT)
    found = capture(request, route, Limits(decoded_bytes_max), RecordIds(0xA))
    assert found.record.count(b"\n") == 1
    assert found.record.endswith(b"\n")
    return found, decode_record(found.record)


def test_an_event_becomes_a_record() -> None:
    found, record = captured(b"/e/", EVENT)
    assert record == Record("000000000000000a-0", AT, "phc_x", "e", "203.0.113.7", EVENT)
    assert (found.events, found.beacon, found.terse, found.layers) == (1, False, False, ())


def test_the_bytes_of_the_client_are_kept_but_for_line_breaks() -> None:
    body = '{ "api_key": "phc_x",\r\n\t"event": "caf\\u00e9 é", "n": 1.50, "n": 1e2 }'.encode()
    assert captured(b"/e/", body)[1].data == body.replace(b"\r\n", b"  ")


def test_blanks_around_the_json_are_not() -> None:
    assert captured(b"/e/", b"\n  " + EVENT + b" \n")[1].data == EVENT


@pytest.mark.parametrize("target", list(ROUTES), ids=bytes.decode)
def test_the_record_is_of_the_route_it_came_by(target: bytes) -> None:
    if ROUTES[target].kind.value == "capture":
        assert captured(target, EVENT)[1].path == target.decode().strip("/")


PACKED = base64.b64encode(EVENT).decode()
WRAPPED = {
    "gzip": (b"/e/", gzip.compress(EVENT), ("gzip",)),
    "gzip, declared in the query": (b"/e/?compression=gzip-js", gzip.compress(EVENT), ("gzip",)),
    "base64": (b"/e/", PACKED.encode(), ("base64",)),
    "form": (b"/e/", b"data=" + quote(PACKED).encode(), ("form", "base64")),
    "query": (b"/e/?data=" + quote(PACKED).encode(), b"", ("base64",)),
    "gzip of what needs repair": (
        b"/e/",
        gzip.compress(EVENT[:-1] + b',"n":NaN}'),
        ("gzip", "repair"),
    ),
}


@pytest.mark.parametrize(("target", "body", "layers"), WRAPPED.values(), ids=WRAPPED)
def test_what_was_unwrapped_is_told(target: bytes, body: bytes, layers: tuple[str, ...]) -> None:
    found, record = captured(target, body)
    assert found.layers == layers
    assert msgspec.json.decode(record.data)["event"] == "e"


TIMES = {
    "query": (b"/e/?_=1751367600000", EVENT, "1751367600000"),
    "query, a date": (b"/e/?_=2025-07-01T11:00:00%2B02:00", EVENT, "2025-07-01T11:00:00+02:00"),
    "query, no time": (b"/e/?_=soon", EVENT, ""),
    "query, partly not UTF-8": (b"/e/?_=1%FF", EVENT, "1\ufffd"),
    "query, by name": (b"/e/?sent_at=1751367600000", EVENT, "1751367600000"),
    "query, by its other name": (b"/e/?sentAt=1751367600000", EVENT, "1751367600000"),
    "form": (b"/e/", b"data=" + quote(PACKED).encode() + b"&sent_at=1751367600001", "1751367600001"),
    "query before form": (b"/e/?_=1", b"data=" + quote(PACKED).encode() + b"&sent_at=2", "1"),
    "form, its other name": (b"/e/", b"data=" + quote(PACKED).encode() + b"&sentAt=1751367600001", "1751367600001"),
    "form, as queries have it": (b"/e/", b"_=1751367600001&data=" + quote(PACKED).encode(), "1751367600001"),
    "no time in the query before form": (b"/e/?_=soon", b"data=" + quote(PACKED).encode() + b"&sent_at=2", "2"),
    "none": (b"/e/?ver=1", EVENT, ""),
}


@pytest.mark.parametrize(("target", "body", "sent_at"), TIMES.values(), ids=TIMES)
def test_the_time_of_sending_outside_the_payload_is_kept_as_found(target: bytes, body: bytes, sent_at: str) -> None:
    assert captured(target, body)[1].sent_at == sent_at


def test_the_user_agent_is_kept_for_session_replay_only() -> None:
    for target, expected in ((b"/s/", 'Mozilla "é'), (b"/e/", "")):
        route, _ = find_route(target)
        assert route is not None
        request = Request("POST", b"", EVENT, {b"user-agent": b'Mozilla "\xe9'}, "", AT)
        record = decode_record(capture(request, route, Limits(), RecordIds(1)).record)
        assert record.user_agent == expected


BEACONS = {b"beacon=1": True, b"ip=1&beacon=1": True, b"beacon=0": False, b"beacon=true": False, b"": False}


@pytest.mark.parametrize(("query", "beacon"), BEACONS.items(), ids=map(bytes.decode, BEACONS))
def test_only_beacon_1_is_a_beacon(query: bytes, beacon: bool) -> None:
    assert captured(b"/e/?" + query, EVENT)[0].beacon is beacon


KEYS = {
    "payload": (b"/e/?token=q", {b"authorization": b"Bearer b"}, EVENT, "phc_x"),
    "query": (b"/e/?token=q", {b"authorization": b"Bearer b"}, b'{"event":"e"}', "q"),
    "bearer": (b"/e/", {b"authorization": b"Bearer b"}, b'{"event":"e"}', "b"),
    "form": (b"/e/", {}, b"api_key=f&data=" + quote('{"event":"e"}').encode(), "f"),
}


@pytest.mark.parametrize(("target", "headers", "body", "token"), KEYS.values(), ids=KEYS)
def test_the_key_is_looked_for_wherever_clients_put_it(
    target: bytes, headers: dict[bytes, bytes], body: bytes, token: str
) -> None:
    assert captured(target, body, headers)[1].token == token


REFUSED = {
    "nothing": (b"/e/", b"", Reason.NO_DATA),
    "no key": (b"/e/", b'{"event":"e"}', Reason.NO_TOKEN),
    "no JSON": (b"/e/", b'{"event":}', Reason.BAD_JSON),
    "no event": (b"/batch/", b'{"api_key":"a","batch":[]}', Reason.EMPTY_BATCH),
    "too large": (b"/e/", gzip.compress(EVENT + b" " * 2000), Reason.DECODED_TOO_LARGE),
}


@pytest.mark.parametrize(("target", "body", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stored_is_refused(target: bytes, body: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as raised:
        captured(target, body, decoded_bytes_max=1000)
    assert raised.value.reason is reason


FORM = b"data=" + quote(PACKED).encode()
TERSE = {
    "PostHog's": (b"/e/", EVENT, False),
    "PostHog's, a form": (b"/e/", FORM, False),
    "Mixpanel's, JSON": (b"/track", EVENT, True),
    "Mixpanel's, a form": (b"/engage/", FORM, True),
    "Mixpanel's, the query": (b"/track/?verbose=0&data=" + quote(PACKED).encode(), b"", True),
    "Mixpanel's, verbose in the query": (b"/import?verbose=1", FORM, False),
    "Mixpanel's, verbose in the form": (b"/groups/", FORM + b"&verbose=1&ip=0", False),
    "Mixpanel's, verbose in both": (b"/track/?verbose=1", FORM + b"&verbose=0", False),
    "Mixpanel's, a value that is not 1": (b"/track?verbose=true", FORM, True),
}


@pytest.mark.parametrize(("target", "body", "terse"), TERSE.values(), ids=TERSE)
def test_mixpanels_libraries_get_the_success_they_ask_for(target: bytes, body: bytes, terse: bool) -> None:
    assert captured(target, body)[0].terse is terse


@pytest.mark.parametrize(
    ("target", "terse"), [(b"/track", True), (b"/track?verbose=1", False), (b"/e/", False), (b"/e/?verbose=0", False)]
)
def test_a_poll_is_answered_as_its_route_answers(target: bytes, terse: bool) -> None:
    route, query = find_route(target)
    assert route is not None
    assert is_terse(Request("GET", query), route) is terse


def test_records_are_numbered_on() -> None:
    ids = RecordIds(1)
    route = ROUTES[b"/e"]
    made = [capture(Request("POST", b"", EVENT), route, Limits(), ids).record for _ in range(3)]
    assert [decode_record(record).id[-2:] for record in made] == ["-0", "-1", "-2"]


POLLS = {
    "as posthog-js 1.20 sends it": ("GET", b"ip=1&_=1694769302325&ver=1.20.0", b"", True),
    "with data": ("GET", b"ip=1&_=1&data=e30=", b"", False),
    "posted": ("POST", b"ip=1&_=1", b"", False),
    "with a body": ("GET", b"ip=1&_=1", b"{}", False),
    "without the time": ("GET", b"ip=1", b"", False),
    "nothing at all": ("GET", b"", b"", False),
    "HEAD": ("HEAD", b"ip=1&_=1", b"", True),
}


@pytest.mark.parametrize(("method", "query", "body", "empty"), POLLS.values(), ids=POLLS)
def test_a_poll_without_data_is_recognised(method: str, query: bytes, body: bytes, empty: bool) -> None:
    assert empty_poll(Request(method, query, body)) is empty


MEMBERS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["api_key", "token", "$token", "batch", "event", "properties"]),
    st.sampled_from(
        ["phc_a", "phc_b", " phc_c ", "", "phx_d", 5, None, [], [{}], [{}, {"token": "phc_f"}], {"token": "phc_e"}]
    ),
)
PLAIN = st.builds(
    lambda members, tail: msgspec.json.encode(members) + tail,
    MEMBERS | st.lists(MEMBERS, max_size=3),
    st.sampled_from([b"", b"\n", b"}"]),
)
FIELDS = st.sampled_from(
    ["ip=1", "ver=1.2", "v=2", "retry_count=1", "_=1694769302325", "_=1694769302", "_=x", "_=", "_=1.5", "beacon=1", ""]
    + [
        "verbose=1",
        "data=",
        "data=e30",
        "compression=gzip",
        "compression=gzip-js",
        "compression=lz64",
        "token=phc_q",
        "api_key=phc_q",
    ]
    + ["sent_at=5", "sentAt=5", "%5F=5", "b%65acon=1", "project_id=2"]
)
QUERIES = st.lists(FIELDS, max_size=4).map("&".join) | st.integers(95, 105).map(lambda n: "ip=1&" * n + "_=5")


@given(PLAIN, QUERIES)
@example(b'{"api_key":"phc_a","token":"phc_b","$token":"phc_c"}', "")
@example(b'{"api_key":"phc_a"}', "ip=1&" * 100 + "_=5")
def test_the_plain_way_stores_what_the_general_way_does_or_nothing(body: bytes, query: str) -> None:
    sent_at = read_plain_query(query.encode())
    found = read_plain(body)
    try:
        token = None if sent_at is None or found is None else judge_token(found[0])
    except Rejected:
        return
    if sent_at is None or found is None or token is None:
        return
    columns = [as_json(token)], [as_json("e")], [b"192.0.2.1"], [sent_at], [body]
    plain = encode_records(RecordIds(1), 7, *columns)
    route = ROUTES[b"/e/"]
    general = capture(Request("POST", query.encode(), body, {}, "192.0.2.1", 7), route, Limits(), RecordIds(1))
    stored, expected = decode_record(plain), decode_record(general.record)
    stored.data = stored.data.strip()
    assert stored == expected
    assert (general.events, general.beacon, general.terse, general.layers) == (found[1], False, False, ())


DATA = st.builds(
    lambda members, tail: msgspec.json.encode(members) + tail, MEMBERS, st.sampled_from([b"", b"\n", b"}", b" ", b"]"])
).map(b64encode)
ESCAPES: list[Callable[[bytes], bytes]] = [
    lambda data: data,
    lambda data: quote(data, safe="").encode(),
    lambda data: quote(data, safe="").lower().encode(),
    lambda data: data.rstrip(b"="),
    lambda data: data.translate(bytes.maketrans(b"+/", b"-_")),
    lambda data: data.replace(b"+", b" "),
    lambda data: data[:-1],
    lambda data: data + b"%",
    lambda data: b"".join(b"%%%02X" % byte for byte in data),
]


@given(DATA, st.sampled_from(ESCAPES), QUERIES, st.booleans())
@example(b64encode(b'{"api_key":"phc_a","a":"\xc3\xbb\xc3\xbf~~?>"}'), ESCAPES[0], "", False)
@example(b64encode(b'{"api_key":"phc_a","a":"\xc3\xbb\xc3\xbf~~?>"}'), ESCAPES[1], "_=5&ip=0", True)
def test_the_plain_way_of_a_query_stores_what_the_general_way_does_or_nothing(
    data: bytes, escape: Callable[[bytes], bytes], others: str, behind: bool
) -> None:
    pairs = [others.encode(), b"data=" + escape(data)] if behind else [b"data=" + escape(data), others.encode()]
    query = b"&".join(pairs).strip(b"&")
    found = read_data_query(query)
    if found is None:
        return
    text, sent_at = found
    read = read_plain(text)
    try:
        token = None if read is None else judge_token(read[0])
    except Rejected:
        return
    if read is None or token is None:
        return
    columns = [as_json(token)], [as_json("e")], [b"192.0.2.1"], [sent_at], [text]
    plain = encode_records(RecordIds(1), 7, *columns)
    general = capture(Request("GET", query, b"", {}, "192.0.2.1", 7), ROUTES[b"/e/"], Limits(), RecordIds(1))
    assert decode_record(plain) == decode_record(general.record)
    assert (general.events, general.beacon, general.terse, general.layers) == (read[1], False, False, ("base64",))


SEEN = {"event": "$pageview", "properties": {"token": "phc_a", "distinct_id": "u"}}
LARGE = {"event": "e", "distinct_id": "u", "properties": {"a": "b" * 32}}
CLIENTS = {
    "a server library": ({"api_key": "phc_a", "event": "e", "distinct_id": "u"}, 1),
    "its batch": ({"batch": [{"event": "e"}] * 3, "historical_migration": False, "api_key": "phc_a"}, 3),
    "a browser": (SEEN, 1),
    "a browser with several events": ([SEEN] * 2, 2),
    "as many as are looked at one by one": ({"api_key": "phc_a", "batch": [LARGE] * 500}, 500),
    "a list of as many": ([LARGE | {"token": "phc_a"}] * 500, 500),
    "today's browser library": ({"api_key": "phc_a", "batch": [SEEN] * 2, "sent_at": "2026-01-01T00:00:00Z"}, 2),
}


@pytest.mark.parametrize(("data", "events"), CLIENTS.values(), ids=CLIENTS)
def test_what_clients_send_is_plain(data: object, events: int) -> None:
    text = msgspec.json.encode(data)
    assert read_plain(text) == ("phc_a", events)
    assert read_plain_gzip(gzip.compress(text), len(text)) == text
    assert read_plain_gzip(gzip.compress(text), len(text) - 1) is None


@pytest.mark.parametrize(
    "data",
    [
        *([{"token": "phc_a"}, {"token": "phc_b"}], [{"event": "e"}], [], {"api_key": "phc_a", "batch": []}, ["phc_a"]),
        *({"api_key": "phc_a", "batch": [LARGE] * 501}, [LARGE | {"token": "phc_a"}] * 501),
    ],
)
def test_what_needs_a_further_look_is_not_plain(data: object) -> None:
    assert read_plain(msgspec.json.encode(data)) is None


def test_what_browsers_of_old_send_is_plain() -> None:
    data = b64encode(b'{"api_key":"phc_a","event":"e","a":"\xc3\xbb\xc3\xbf~~?>"}')
    assert b"+" in data
    assert data.endswith(b"=")
    query = b"data=%b&ip=0&_=1763747780248&ver=1.20.0" % quote(data, safe="").encode()
    assert read_data_query(query) == (b64decode(data), b"1763747780248")


def test_only_routes_with_one_success_are_plain() -> None:
    assert not [route.name for route in ROUTES.values() if route.plain_capture and (route.mixpanel or route.replay)]


def _with(unit: bytes, size: int) -> bytes:
    head, tail = b'{"api_key":"phc_x","event":"e","distinct_id":"d","properties":{"p":[', b"1]}}"
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


SPARSE = b'"a text that is some characters long",'
KIB = 1024
AT_ONCE: dict[str, tuple[bytes, bytes]] = {
    "plain": (b"/batch/", _with(SPARSE, 384 * KIB)),
    "gzip": (b"/batch/", gzip.compress(_with(SPARSE, 384 * KIB))),
    "dense": (b"/batch/", _with(b"1,", 32 * KIB)),
    "base64": (b"/e/", base64.b64encode(_with(SPARSE, 8 * KIB))),
    "deflate": (b"/e/?compression=deflate", zlib.compress(_with(SPARSE, 384 * KIB))),
    "query": (b"/e/?data=" + base64.b64encode(_with(SPARSE, 8 * KIB)), b""),
    "of odd types": (b"/e/", b'{"token":5,"api_key":"phc_x","event":"' + b"x" * 7 * KIB + b'"}'),
    "to be repaired": (b"/e/", _with(b"NaN,", 7 * KIB // 4)),
    "a list": (b"/e/", b"[" + b",".join([EVENT] * 500) + b"]"),
    "a batch": (b"/e/", b'{"batch":[' + b",".join([EVENT] * 500) + b"]}"),
    "a batch with its key": (b"/e/", b'{"api_key":"phc_x","batch":[' + b",".join([EVENT] * 5000) + b"]}"),
}
TOO_MUCH: dict[str, tuple[bytes, bytes]] = {
    "plain": (b"/batch/", _with(SPARSE, 385 * KIB)),
    "gzip": (b"/batch/", gzip.compress(_with(SPARSE, 385 * KIB))),
    "dense": (b"/batch/", _with(b"1,", 33 * KIB)),
    "base64": (b"/e/", base64.b64encode(_with(SPARSE, 10 * KIB))),
    "deflate": (b"/e/?compression=deflate", zlib.compress(_with(SPARSE, 385 * KIB))),
    "query": (b"/e/?data=" + base64.b64encode(_with(SPARSE, 10 * KIB)), b""),
    "a form": (b"/e/", b"data=" + base64.b64encode(_with(SPARSE, 10 * KIB))),
    "of odd types": (b"/e/", b'{"token":5,"api_key":"phc_x","event":"' + b"x" * 9 * KIB + b'"}'),
    "to be repaired": (b"/e/", _with(b"NaN,", 3 * KIB)),
    "repairs in a long text": (b"/e/", _with(b'"\\ud83c long text that is to be repaired",', 9 * KIB)),
    "a list": (b"/e/", b"[" + b",".join([EVENT] * 501) + b"]"),
    "a batch": (b"/e/", b'{"batch":[' + b",".join([EVENT] * 501) + b"]}"),
    "a bomb": (b"/e/", gzip.compress(bytes(10_000 * KIB))),
}


def captured_at_once(target: bytes, body: bytes, light: Light | None) -> Captured:
    route, query = find_route(target)
    assert route is not None
    return capture(Request("POST", query, body, {}, "203.0.113.7", AT), route, Limits(light=light), RecordIds(0xA))


@pytest.mark.parametrize("name", AT_ONCE)
def test_light_work_is_done_as_any(name: str) -> None:
    assert captured_at_once(*AT_ONCE[name], Light()) == captured_at_once(*AT_ONCE[name], None)


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_may_be_more_is_not_begun_or_not_finished(name: str) -> None:
    ids = RecordIds(0xA)
    target, body = TOO_MUCH[name]
    route, query = find_route(target)
    assert route is not None
    with pytest.raises(Heavy):
        capture(Request("POST", query, body, {}, "203.0.113.7", AT), route, Limits(light=Light()), ids)
    # Whoever does it takes the id.
    assert ids.next() == 0
