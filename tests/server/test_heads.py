"""The short way reads what the long way reads, or leaves it to the long way."""

import re
from base64 import b64encode
from itertools import permutations
from types import SimpleNamespace
from urllib.parse import quote

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.server.heads import (
    _FAMILIAR_AFTER,
    _LEARNED_BYTES_MAX,
    _LEARNED_MAX,
    _OTHERS_MAX,
    _SHAPES_MAX,
    Familiar,
    FamiliarGet,
    FamiliarPost,
    OrdinaryReader,
    by_lower_name,
    shape_of,
)
from edge.wire.capture import read_data_query, read_plain_query
from edge.wire.client_ip import FORWARDING_HEADERS
from edge.wire.routes import ROUTES

BODY = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'


def reader(head_bytes_max: int = 16_384, headers_max: int = 100, body_bytes_max: int = 1000) -> OrdinaryReader:
    return OrdinaryReader(head_bytes_max, headers_max, body_bytes_max)


def packet(line: bytes = b"POST /e/ HTTP/1.1", *headers: bytes, body: bytes = BODY) -> bytes:
    lines = (line, *(headers or (b"Host: h",)), b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(line: bytes = b"GET /e/?data=e30 HTTP/1.1", *headers: bytes) -> bytes:
    return b"\r\n".join((line, *(headers or (b"Host: h",)))) + b"\r\n\r\n"


def test_an_ordinary_get_is_taken_apart() -> None:
    reads = reader()
    read = reads.read(get(b"GET /e/?data=e30&_=5 HTTP/1.1", b"Host: h", b"Content-Encoding: gzip", b"Origin: o"))
    assert read is not None
    method, route, query, shape, headers, body = read
    assert (method, route, query, body) == ("GET", ROUTES[b"/e/"], b"data=e30&_=5", b"")
    assert headers[shape.origin] == b"o"
    assert (shape.encoded, shape.length) == (True, False)
    read = reads.read(packet())
    assert read is not None
    assert read[0] == "POST"
    assert (read[3].encoded, read[3].length) == (False, True)


def test_an_ordinary_request_is_taken_apart() -> None:
    sent = packet(
        b"POST /i/v0/e?ip=0 HTTP/1.1", b"host: h", b"Origin: https://a.example", b"X-FORWARDED-for: 1.2.3.4", b"Any: b"
    )
    read = reader().read(sent)
    assert read is not None
    method, route, query, shape, headers, body = read
    assert (method, route, query, body) == ("POST", ROUTES[b"/i/v0/e"], b"ip=0", BODY)
    assert headers[shape.origin] == b"https://a.example"
    assert headers[shape.x_forwarded_for] == b"1.2.3.4"
    assert shape.forwarded
    assert by_lower_name(headers) == {
        b"host": b"h",
        b"origin": b"https://a.example",
        b"x-forwarded-for": b"1.2.3.4",
        b"content-length": b"%d" % len(BODY),
    }


LEFT = {
    "another method": packet(b"PUT /e/ HTTP/1.1"),
    "a method of as many letters": packet(b"PATCH /e/ HTTP/1.1"),
    "a HEAD": get(b"HEAD /e/?data=e30 HTTP/1.1"),
    "a GET of an older version": get(b"GET /e/?data=e30 HTTP/1.0"),
    "a GET with a body": packet(b"GET /e/?data=e30 HTTP/1.1"),
    "a GET with a length": get(b"GET /e/?data=e30 HTTP/1.1", b"Host: h", b"Content-Length: 3"),
    "a GET in chunks": get(b"GET /e/?data=e30 HTTP/1.1", b"Host: h", b"Transfer-Encoding: chunked"),
    "a GET of what is no route": get(b"GET /x/?data=e30 HTTP/1.1"),
    "a GET of a whole URL": get(b"GET http://h/e/?data=e30 HTTP/1.1"),
    "a GET without a host": get(b"GET /e/?data=e30 HTTP/1.1", b"A: b"),
    "a GET that is the last": get(b"GET /e/?data=e30 HTTP/1.1", b"Host: h", b"Connection: close"),
    "half a GET": get()[:-1],
    "two GETs": get() * 2,
    "a GET and a POST": get() + packet(),
    "a word that begins like GET": get(b"GETS /e/?data=e30 HTTP/1.1"),
    "a GET with too large a target": get(b"GET /e/?data=" + b"x" * 16_384 + b" HTTP/1.1"),
    "an older version": packet(b"POST /e/ HTTP/1.0"),
    "a path that is no route": packet(b"POST /x/ HTTP/1.1"),
    "a route that takes no events": packet(b"POST /robots.txt HTTP/1.1"),
    "session replay": packet(b"POST /s/ HTTP/1.1"),
    "no host": packet(b"POST /e/ HTTP/1.1", b"A: b"),
    "an empty host": packet(b"POST /e/ HTTP/1.1", b"Host: "),
    "two hosts": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"Host: h"),
    "two hosts, spelled differently": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"hOST: h"),
    "a header that comes twice": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"A: b", b"A: b"),
    "blanks before a value": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"A:  b"),
    "an expectation": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"expect: 100-continue"),
    "an upgrade": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"Connection: Upgrade", b"Upgrade: h2c"),
    "the last of its connection, to a proxy": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"Proxy-Connection: close"),
    "the last of its connection": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"Connection: close"),
    "chunks": b"POST /e/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "no body": b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "half a head": packet()[:30],
    "half a body": packet()[:-1],
    "two requests": packet() * 2,
    "a request and the beginning of another": packet() + b"PO",
    "an empty line and a request": b"\r\n" + packet(),
    "a request and an empty line": packet() + b"\r\n",
    "a name twice, and a blank missing for each byte of it": packet(
        b"POST /e/ HTTP/1.1", b"Host: h", b"Host: i", *(b"A%d:b" % n for n in range(len(b"Host: i\r\n")))
    ),
    "a GET whose body has begun, and a blank missing for its first byte": (
        b"GET /e/?data=e30%3D HTTP/1.1\r\nHost:h\r\nContent-Length: 9\r\n\r\nx"
    ),
    "no HTTP": b"POST \x00\x01\x02",
    "a body above the limit": packet(body=b"x" * 1001),
    "too many headers": packet(b"POST /e/ HTTP/1.1", b"Host: h", *(b"A%d: b" % n for n in range(100))),
    "too large a head": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"A: " + b"b" * 16_384),
}


@pytest.mark.parametrize("next_one", [packet(), get()], ids=["POST", "GET"])
@pytest.mark.parametrize("sent", LEFT.values(), ids=LEFT)
def test_what_is_not_ordinary_is_left_alone_and_harms_nothing_that_follows(sent: bytes, next_one: bytes) -> None:
    reads = reader()
    assert reads.read(sent) is None
    # At most one ordinary packet is left to the long way for it.
    assert any(reads.read(next_one) for _ in range(2))
    assert reads.read(next_one)


@pytest.mark.parametrize(
    "sent", [b"2\r\n{}\r\n9\r\n{", b"2\r\n{}\r\n2\r\n{}\r\n"], ids=["in a chunk", "between chunks"]
)
def test_a_body_that_stops_in_the_middle_is_not_gone_on_with(sent: bytes) -> None:
    reads = reader()
    assert reads.read(b"POST /e/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + sent) is None
    assert reads.read(packet())


NAMES = st.sampled_from(
    [
        b"Host",
        b"host",
        b"HOST",
        b"Proxy-Connection",
        b"Origin",
        b"origin",
        b"oRigin",
        b"X-Forwarded-For",
        b"Accept",
        b"Content-encoding",
        b"Cookie",
        b"Forwarded",
    ]
    + [b"Connection", b"connection", b"Expect", b"expecT", b"Content-Type", b"Upgrade", b"X"]
)
VALUES = st.sampled_from([b"a", b"", b" ", b"close", b"keep-alive", b"Keep-Alive", b"1.2.3.4", b"a: b", b"\t", b"a "])
LINES = st.sampled_from(
    [b"POST /e/ HTTP/1.1", b"POST /batch?a=b HTTP/1.1", b"POST /e/ HTTP/1.0", b"GET /e/ HTTP/1.1", b"POST //e HTTP/1.1"]
)
GET_LINES = st.sampled_from(
    [b"GET /e/?data=e30 HTTP/1.1", b"GET /batch HTTP/1.1", b"GET /e/ HTTP/1.0", b"GETS /e HTTP/1.1"]
)
HEADERS = st.lists(st.builds(lambda name, value: name + b": " + value, NAMES, VALUES), max_size=6)


def long_way(sent: bytes, method: bytes = b"POST") -> tuple[bytes, dict[bytes, list[bytes]], bytes, int]:
    """Target, all values of each header, body and number of messages. Raises when it is no kept request of HTTP/1.1."""
    found: dict[bytes, list[bytes]] = {}
    targets: list[bytes] = []
    pieces: list[bytes] = []
    ends: list[None] = []
    keeps: list[bool] = []
    parser: httptools.HttpRequestParser = httptools.HttpRequestParser(
        SimpleNamespace(
            on_url=targets.append,
            on_header=lambda name, value: found.setdefault(name.lower(), []).append(value),
            on_body=pieces.append,
            on_headers_complete=lambda: keeps.append(parser.should_keep_alive()),
            on_message_complete=lambda: ends.append(None),
        )
    )
    parser.feed_data(sent)
    assert keeps == [True]
    assert parser.get_method() == method
    assert parser.get_http_version() == "1.1"
    return b"".join(targets), found, b"".join(pieces), len(ends)


@given(LINES, HEADERS, st.sampled_from([b"", BODY, b"\n\r\n", BODY + BODY]), st.sampled_from([b"", b"\r\n", b"POST"]))
@example(b"POST /e/ HTTP/1.1", [b"Host: h", b"Origin: a", b"origin: b"], BODY, b"")
def test_what_is_read_the_short_way_is_what_the_long_way_reads(
    line: bytes, headers: list[bytes], body: bytes, behind: bytes
) -> None:
    _compare(packet(line, b"Host: h", *headers, body=body) + behind)


@given(GET_LINES, HEADERS, st.sampled_from([b"", b"\r\n", b"GET", BODY]))
def test_a_get_that_is_read_the_short_way_is_what_the_long_way_reads(
    line: bytes, headers: list[bytes], behind: bytes
) -> None:
    _compare(get(line, b"Host: h", *headers) + behind)


def _compare(sent: bytes) -> None:
    read = reader().read(sent)
    if read is None:
        return
    method, route, query, shape, found, text = read
    target, values, long_body, messages = long_way(sent, method.encode())
    assert messages == 1
    assert (ROUTES[target.partition(b"?")[0]], target.partition(b"?")[2], long_body) == (route, query, text)
    assert all(len(each) == 1 for each in values.values())
    assert {name.lower(): [value] for name, value in found.items()} == values
    assert found.get(shape.origin, b"") == values.get(b"origin", [b""])[0]
    assert found.get(shape.x_forwarded_for, b"") == values.get(b"x-forwarded-for", [b""])[0]
    assert shape.forwarded == bool(values.keys() & FORWARDING_HEADERS)
    assert shape.encoded == (b"content-encoding" in values)
    assert not values.keys() & {b"expect", b"upgrade", b"transfer-encoding"}
    assert values.get(b"connection", [b"keep-alive"])[0].lower() == b"keep-alive"


def test_most_of_what_browsers_and_libraries_send_is_ordinary() -> None:
    library = (b"Host: h", b"User-Agent: posthog-python/7", b"Accept: */*", b"Connection: keep-alive", b"X-Any: thing")
    browser = (b"host: h", b"origin: https://a.example", b"sec-fetch-mode: cors", b"cookie: a=b; c=d")
    for headers in (library, browser):
        assert reader().read(packet(b"POST /e/ HTTP/1.1", *headers)) is not None


def test_shapes_are_remembered_within_bounds() -> None:
    reads = reader()
    for number in range(2 * _SHAPES_MAX):
        assert reads.read(packet(b"POST /e/ HTTP/1.1", b"Host: h", b"N%d: v" % number))
    assert len(reads._shapes) <= _SHAPES_MAX


def test_shape_of_names_that_are_not_an_ordinary_requests() -> None:
    assert shape_of([b"Accept"]) is None
    assert shape_of([b"Host", b"HOST"]) is None
    assert shape_of([b"Host", b"Expect"]) is None


def familiar(*names: bytes) -> FamiliarPost:
    return FamiliarPost(names)


FAMILIAR_NAMES = (b"Host", b"Connection", b"Origin", b"X-Forwarded-For", b"Any", b"Content-Length")
FAMILIAR_HEADERS = (
    b"Host: h",
    b"Connection: keep-alive",
    b"Origin: o",
    b"X-Forwarded-For: 1.2.3.4, 5.6.7.8",
    b"Any: b ",
)


def test_a_familiar_head_is_read_like_any_other() -> None:
    sent = packet(b"POST /e?_=1 HTTP/1.1", *FAMILIAR_HEADERS)
    form = familiar(*FAMILIAR_NAMES)
    for _ in range(2):
        assert form.read(sent) == ("POST", ROUTES[b"/e"], b"1", b"o", b"1.2.3.4", BODY)
    assert familiar(b"Host", b"Content-Length").read(packet()) == ("POST", ROUTES[b"/e"], None, b"", b"", BODY)


DATA = b64encode(BODY)
assert DATA.endswith(b"=")


PARTS_OF_HEAD = {
    b"Content-Length": b"%d" % len(BODY),
    b"Origin": b"o",
    b"X-Forwarded-For": b"1.2.3.4",
    b"Cookie": b"a=b",
}


@pytest.mark.parametrize(
    "names", [names for count in range(5) for names in permutations(PARTS_OF_HEAD, count)], ids=str
)
def test_the_parts_of_a_familiar_head_stand_in_any_order_or_not_at_all(names: tuple[bytes, ...]) -> None:
    origin, address = (PARTS_OF_HEAD[name] if name in names else b"" for name in (b"Origin", b"X-Forwarded-For"))
    headers = [b"Host: h", *(b"%b: %b" % (name, PARTS_OF_HEAD[name]) for name in names)]
    if b"Content-Length" not in names:
        get_form = FamiliarGet((b"Host", *names))
        sent = get(b"GET /e?data=%b&_=1 HTTP/1.1" % DATA, *headers)
        assert get_form.read(sent) == ("GET", ROUTES[b"/e"], b"1", origin, address, BODY)
        assert (get_form.read(sent.replace(b"a=b", b"a\rb")) is None) == (b"Cookie" in names)
        return
    form = familiar(b"Host", *names)
    for target, sent_at in [(b"/e?_=1", b"1"), *[(b"/e", None)] * (_OTHERS_MAX + 2)]:
        sent = get(b"POST %b HTTP/1.1" % target, *headers) + BODY
        assert form.read(sent) == ("POST", ROUTES[b"/e"], sent_at, origin, address, BODY)
        assert (form.read(sent.replace(b"a=b", b"a\rb")) is None) == (b"Cookie" in names)


def test_a_familiar_get_is_read_like_any_other() -> None:
    line = b"GET /e/?ip=0&data=%b&ver=1&_=1763690000100&v=2 HTTP/1.1" % quote(DATA, safe="").encode()
    expected = ("GET", ROUTES[b"/e/"], b"1763690000100", b"o", b"1.2.3.4", BODY)
    assert FamiliarGet(FAMILIAR_NAMES[:-1]).read(get(line, *FAMILIAR_HEADERS)) == expected
    least = b"GET /e?data=%b&ip=0 HTTP/1.1" % DATA
    assert FamiliarGet([b"Host"]).read(get(least)) == ("GET", ROUTES[b"/e"], None, b"", b"", BODY)


GET_TARGET = b"/e?data=%b&ip=0" % DATA
NOT_FAMILIAR_GETS = {
    "nothing behind the data": get(b"GET /e?data=%b HTTP/1.1" % DATA),
    "no data": get(b"GET /e?ip=0&_=5 HTTP/1.1"),
    "data twice": get(b"GET %b&data=%b HTTP/1.1" % (GET_TARGET, DATA)),
    "a field that is not silent": get(b"GET %b&beacon=1 HTTP/1.1" % GET_TARGET),
    "no base64": get(b"GET /e?data={}&ip=0 HTTP/1.1"),
    "a plus": get(b"GET /e?data=%b&ip=0 HTTP/1.1" % b64encode(BODY[:-2] + b'~~?>\xfb\xff"}').replace(b"/", b"+")),
    "base64 of another alphabet": get(b"GET /e?data=eyJ-_w==&ip=0 HTTP/1.1"),
    "base64 without its end": get(b"GET /e?data=%b&ip=0 HTTP/1.1" % DATA.rstrip(b"=")),
    "base64 of no object": get(b"GET /e?data=%b&ip=0 HTTP/1.1" % b64encode(b"[{}]")),
    "an escape of another kind": get(b"GET /e?data=%b&ip=0 HTTP/1.1" % DATA.replace(b"=", b"%3d")),
    "no route": get(b"GET /x?data=%b&ip=0 HTTP/1.1" % DATA),
    "an older version": get(b"GET %b HTTP/1.0" % GET_TARGET),
    "a header more": get(b"GET %b HTTP/1.1" % GET_TARGET, b"Host: h", b"A: b"),
    "something behind it": get(b"GET %b HTTP/1.1" % GET_TARGET) + b"G",
    "half of it": get(b"GET %b HTTP/1.1" % GET_TARGET)[:-1],
    "a HEAD": get(b"HEAD %b HTTP/1.1" % GET_TARGET),
    "a head in the data": get(b"GET /e?data=eyJ9 HTTP/1.1\r\nHost: h&ip=0 HTTP/1.1"),
}


@pytest.mark.parametrize("sent", NOT_FAMILIAR_GETS.values(), ids=NOT_FAMILIAR_GETS)
def test_what_only_looks_like_a_familiar_get_is_left_alone(sent: bytes) -> None:
    assert FamiliarGet([b"Host"]).read(get(b"GET %b HTTP/1.1" % GET_TARGET)) is not None
    assert FamiliarGet([b"Host"]).read(sent) is None


NOT_FAMILIAR = LEFT | {
    "one header less": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS[:-1]),
    "one header more": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS, b"C: d"),
    "another order": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS[::-1]),
    "another spelling": packet(b"POST /e/ HTTP/1.1", b"host: h", *FAMILIAR_HEADERS[1:]),
    "half of it": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS)[:-1],
    "more than it": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS) + b"P",
    "two of them": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS) * 2,
    "its last": packet(b"POST /e/ HTTP/1.1", b"Host: h", b"Connection: close", *FAMILIAR_HEADERS[2:]),
    "an empty host in it": packet(b"POST /e/ HTTP/1.1", b"Host: ", *FAMILIAR_HEADERS[1:]),
    "no route in it": packet(b"POST /x/ HTTP/1.1", *FAMILIAR_HEADERS),
    "no body in it": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS, body=b""),
    "a body that is a form": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS, body=b"data=e30"),
    "a forwarding entry that is a word": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS).replace(
        b"1.2.3.4", b"unknown"
    ),
    "a field in the query that is not silent": packet(b"POST /e/?compression=lz64 HTTP/1.1", *FAMILIAR_HEADERS),
    "a time that is no number": packet(b"POST /e/?_=1a HTTP/1.1", *FAMILIAR_HEADERS),
    "two times": packet(b"POST /e/?_=1&ip=0&_=1 HTTP/1.1", *FAMILIAR_HEADERS),
    "nothing behind the path": packet(b"POST /e/? HTTP/1.1", *FAMILIAR_HEADERS),
    "a byte no header may hold": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS[:-1], b"Any: \x00"),
    "a line break in a value": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS[:-1], b"Any: b\nC: d"),
    "a length that is no number": packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS).replace(b"Length: ", b"Length: +"),
    "a blank in the target": packet(b"POST /e/? HTTP/1.1 HTTP/1.1", *FAMILIAR_HEADERS),
}


@pytest.mark.parametrize("sent", NOT_FAMILIAR.values(), ids=NOT_FAMILIAR)
def test_what_only_looks_familiar_is_left_alone(sent: bytes) -> None:
    form = familiar(*FAMILIAR_NAMES)
    assert form.read(sent) is None
    assert form.read(packet(b"POST /e/ HTTP/1.1", *FAMILIAR_HEADERS)) is not None
    assert form.read(sent) is None, "behind one that began the same way"


BYTES = st.sampled_from([bytes([value]) for value in (0, 9, 10, 13, 31, 32, 34, 35, 58, 60, 62, 126, 127, 128, 255)])
PIECES = st.lists(BYTES | st.sampled_from([b"a", b"/", b"keep-alive", b"49", b"1.2.3.4"]), max_size=4).map(b"".join)
USUAL = st.sampled_from([b"h", b"keep-alive", b"1.2.3.4", b"49"])
FIELDS = st.sampled_from(
    [b"ip=0", b"ver=1.2", b"_=12", b"_=x", b"_=", b"compression=gzip", b"&", b"ip", b"v=%26", b"retry_count=1"]
)
QUERIES = st.lists(FIELDS, max_size=10).map(b"&".join).map(lambda query: b"?" + query) | PIECES | st.just(b"")
LEARNABLE = st.lists(NAMES, max_size=5, unique_by=bytes.lower).map(lambda names: [b"Host", *names, b"Content-Length"])


def odd_cookie(names: list[bytes], values: list[bytes]) -> bool:
    """One that holds what the parser takes in no header, and is nevertheless of no consequence."""
    cookies = [value for name, value in zip(names, values, strict=True) if name == b"Cookie"]
    return bool(re.search(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", b"".join(cookies)))


@given(LEARNABLE, st.data(), QUERIES, st.sampled_from([b"", BODY, b"\n\r\n"]), st.sampled_from([b"", b"\r\n", b"P"]))
def test_what_is_familiar_is_what_the_long_way_reads(
    names: list[bytes], data: st.DataObject, target: bytes, body: bytes, behind: bytes
) -> None:
    shape = shape_of(names)
    if shape is None:
        return
    values = [b"%d" % len(body) if name == b"Content-Length" else data.draw(PIECES) for name in names]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in zip(names, values, strict=True))
    sent = b"POST /e" + target + b" HTTP/1.1\r\n" + lines + b"\r\n" + body + behind
    read = FamiliarPost(names).read(sent)
    if read is None:
        return
    method, route, sent_at, origin, address, text = read
    long_target, found, long_body, messages = long_way(sent)
    assert messages == 1
    path, _, query = long_target.partition(b"?")
    assert (method, ROUTES[path], read_plain_query(query), long_body) == ("POST", route, sent_at or b"", text)
    assert origin == found.get(b"origin", [b""])[0]
    assert address == found.get(b"x-forwarded-for", [b""])[0].partition(b",")[0].strip()
    if b":  " not in lines and not odd_cookie(names, values):
        assert reader().read(sent) is not None, "each way takes a part of what the next one does"


@given(LEARNABLE, st.data(), st.lists(QUERIES, min_size=2, max_size=4))
def test_what_was_read_before_changes_nothing(names: list[bytes], data: st.DataObject, targets: list[bytes]) -> None:
    if shape_of(names) is None:
        return
    values = [b"%d" % len(BODY) if name == b"Content-Length" else data.draw(USUAL) for name in names]
    form = FamiliarPost(names)
    for target in targets:
        changed = data.draw(st.integers(0, len(names) - 1))
        values[changed] = data.draw(PIECES | USUAL)
        head = b"".join(name + b": " + value + b"\r\n" for name, value in zip(names, values, strict=True))
        sent = b"POST /e" + target + b" HTTP/1.1\r\n" + head + b"\r\n" + BODY
        # As if the last one that began otherwise were always the one that is remembered.
        form._others = _OTHERS_MAX
        assert form.read(sent) == FamiliarPost(names).read(sent)
        assert form.read(sent) == FamiliarPost(names).read(sent)


def test_a_familiar_head_is_read_from_its_first_change_on() -> None:
    form = familiar(b"Host", b"Origin", b"Content-Length", b"X-Forwarded-For")

    def read(host: bytes, origin: bytes, address: bytes) -> object:
        lines = (b"POST /e HTTP/1.1", b"Host: " + host, b"Origin: " + origin, b"Content-Length: %d" % len(BODY))
        return form.read(b"\r\n".join((*lines, b"X-Forwarded-For: " + address, b"", BODY)))

    assert read(b"h", b"o", b"1.1.1.1") == ("POST", ROUTES[b"/e"], None, b"o", b"1.1.1.1", BODY)
    assert form._begin == b"POST /e HTTP/1.1\r\nHost: h\r\nOrigin: o\r\nContent-Length: "
    assert read(b"h", b"o", b"2.2.2.2") == ("POST", ROUTES[b"/e"], None, b"o", b"2.2.2.2", BODY)
    assert read(b"h", b"o", b"word") is None
    for number in range(_OTHERS_MAX + 1):
        assert form._begin.endswith(b"Origin: o\r\nContent-Length: ")
        origin = b"p%d" % number
        assert read(b"h", origin, b"1.1.1.1") == ("POST", ROUTES[b"/e"], None, origin, b"1.1.1.1", BODY)
    assert form._begin.endswith(b"Origin: %b\r\nContent-Length: " % origin)


def test_a_cookie_is_whatever_stands_on_its_line() -> None:
    for cookie, taken in (
        (b'a="b"; c=\xff\x01', True),
        (b"", True),
        (b"a\rb", False),
        (b"a\r", False),
        (b"a\0", False),
        (b"a\nb", False),
        (b"a\nX-Forwarded-For: 1.2.3.4", False),
        (b"a\n", False),
    ):
        sent = packet(b"POST /e HTTP/1.1", b"Host: h", b"Cookie: " + cookie)
        assert (familiar(b"Host", b"Cookie", b"Content-Length").read(sent) is not None) == taken
    sent = packet(b"POST /e HTTP/1.1", b"Host: h", b"Cookie: a\nb").replace(b"b\r\n", b"b\n")
    assert familiar(b"Host", b"Cookie", b"Content-Length").read(sent) is None


DATA_FIELDS = FIELDS | st.sampled_from(
    [b"data=" + DATA, b"data=" + quote(DATA, safe="").encode(), b"data=eyJ9", b"data=ey"]
)


@given(LEARNABLE, st.data(), st.lists(DATA_FIELDS, max_size=6), st.sampled_from([b"", b"\r\n", b"G"]))
@example([b"Host"], None, [b"data=" + DATA, b"_=12"], b"")
def test_a_familiar_get_is_what_the_long_way_reads(
    names: list[bytes], data: st.DataObject | None, fields: list[bytes], behind: bytes
) -> None:
    names = [name for name in names if name != b"Content-Length"]
    if shape_of(names) is None:
        return
    values = [b"h" if data is None else data.draw(PIECES) for _ in names]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in zip(names, values, strict=True))
    sent = b"GET /e?" + b"&".join(fields) + b" HTTP/1.1\r\n" + lines + b"\r\n" + behind
    read = FamiliarGet(names).read(sent)
    if read is None:
        return
    method, route, sent_at, origin, address, text = read
    long_target, found, long_body, messages = long_way(sent, b"GET")
    assert (method, messages, long_body) == ("GET", 1, b"")
    path, _, query = long_target.partition(b"?")
    assert (ROUTES[path], read_data_query(query)) == (route, (text, sent_at or b""))
    assert origin == found.get(b"origin", [b""])[0]
    assert address == found.get(b"x-forwarded-for", [b""])[0].partition(b",")[0].strip()
    if b":  " not in lines and not odd_cookie(names, values):
        assert reader().read(sent) is not None, "each way takes a part of what the next one does"


def test_a_get_becomes_familiar_unless_it_speaks_of_a_body() -> None:
    for more, learns in ((b"A: b", True), (b"Content-Encoding: gzip", False), (b"Content-Length: 0", False)):
        reads = reader()
        found: Familiar | None = None
        for _ in range(_FAMILIAR_AFTER):
            read = reads.read(get(b"GET /e/?data=e30&ip=0 HTTP/1.1", b"Host: h", more))
            assert read is not None
            found = read[3].familiar
        assert (type(found) is FamiliarGet) == learns


def test_a_shape_becomes_familiar_and_only_so_many_at_a_time() -> None:
    reads = reader()

    def learned(number: int) -> Familiar | None:
        found: Familiar | None = None
        for _ in range(_FAMILIAR_AFTER):
            read = reads.read(packet(b"POST /e/ HTTP/1.1", b"Host: h", b"N%d: v" % number))
            assert read is not None
            found = read[3].familiar
        return found

    assert [learned(number) is not None for number in range(_LEARNED_MAX + 1)] == [True] * _LEARNED_MAX + [False]
    reads.sweep()
    assert learned(_LEARNED_MAX)


def test_a_shape_that_takes_long_to_learn_is_not_learned() -> None:
    for size, learns in ((400, True), (_LEARNED_BYTES_MAX, False)):
        reads = reader()
        found: Familiar | None = None
        for _ in range(2 * _FAMILIAR_AFTER):
            read = reads.read(packet(b"POST /e/ HTTP/1.1", b"Host: h", b"N" * size + b": v"))
            assert read is not None
            found = read[3].familiar
        assert (found is not None) == learns


def test_a_shape_whose_address_takes_all_headers_to_find_never_does() -> None:
    reads = reader()
    for _ in range(2 * _FAMILIAR_AFTER):
        read = reads.read(packet(b"POST /e/ HTTP/1.1", b"Host: h", b"X-Real-IP: 1.2.3.4"))
        assert read is not None
        assert read[3].familiar is None
