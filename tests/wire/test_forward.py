import pytest

from edge.wire.forward import (
    Framing,
    Upstream,
    answer_head,
    hides_capture,
    is_asset,
    is_sdk_path,
    origin_form,
    parse_upstream,
    request_fields,
)
from edge.wire.routes import CAPTURE_PATHS, V1_PATHS

# --- upstreams

UPSTREAMS = {
    "a host": ("http://h", Upstream("http://h", "h", "")),
    "a port": (" https://h.example:8443/ ", Upstream("https://h.example:8443", "h.example:8443", "")),
    "a path": ("http://h:1/a/b/", Upstream("http://h:1", "h:1", "/a/b")),
    "an address": ("http://[::1]:8080", Upstream("http://[::1]:8080", "[::1]:8080", "")),
}


@pytest.mark.parametrize(("text", "expected"), UPSTREAMS.values(), ids=UPSTREAMS)
def test_an_upstream_is_a_url(text: str, expected: Upstream) -> None:
    assert parse_upstream(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h:80",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://u:p@h",
        "http://h?a",
        "http://h#a",
        "http://h h",
        "http://ü",
    ],
)
def test_what_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        parse_upstream(text)


# --- targets

TARGETS = {
    b"/a?b": b"/a?b",
    b"/a#b?c": b"/a",
    b"//a": b"//a",
    b"http://h/a?b=/": b"/a?b=/",
    b"HTTP://h:1": b"/",
    b"http://h?a=b/c": b"/?a=b/c",
    b"*": b"",
    b"ftp://h/a": b"",
    b"": b"",
}


@pytest.mark.parametrize(("target", "expected"), TARGETS.items())
def test_a_target_in_origin_form(target: bytes, expected: bytes) -> None:
    assert origin_form(target) == expected


def test_assets_are_below_two_folders() -> None:
    assert is_asset(b"/static/x.js?v=1")
    assert is_asset(b"/array/phc/config")
    assert not is_asset(b"/statics/x")
    assert not is_asset(b"/api/static/x")


def test_libraries_call_known_paths() -> None:
    for path in (b"/flags", b"/flags/definitions", b"/decide/", b"/static/x", b"/api/surveys/", b"/i/v1/logs"):
        assert is_sdk_path(path)
    for path in (b"/", b"/api/projects/", b"/flagship", b"/login", b"/api"):
        assert not is_sdk_path(path)


@pytest.mark.parametrize("path", [*CAPTURE_PATHS, *V1_PATHS])
def test_capture_is_found_in_disguise(path: str) -> None:
    name = path.encode()
    escaped = b"".join(b"%%%02x" % byte for byte in name)
    for disguise in (
        *(
            b"/" + escaped,
            b"//" + name,
            b"/./" + name + b"/",
            b"/x/../" + name,
            b"/x/%2e%2E/" + name,
            b"/" + name + b";x=1",
        ),
        *(b"/" + name + b"//", b"/../" + name, b"/x\\..\\" + name),
    ):
        assert hides_capture(disguise), disguise


@pytest.mark.parametrize(
    "path", [b"/", b"/flags/", b"/x/e", b"/e/x", b"/e/../x", b"/static/e.js", b"/E/", b"/..", b"/%"]
)
def test_other_paths_are_no_disguise(path: bytes) -> None:
    assert not hides_capture(path)


# --- the request's fields


def fields_of(*fields: tuple[bytes, bytes], peer: str = "192.0.2.1", trusted: bool = False) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in request_fields(fields, authority="up:1", peer=peer, trusted=trusted):
        found.setdefault(name, []).append(value)
    return found


def test_end_to_end_fields_keep_order_spelling_and_number() -> None:
    given = [(b"B-b", b"1"), (b"a-A", b"2"), (b"B-b", b"3"), (b"Content-Length", b"4"), (b"Content-Encoding", b"gzip")]
    made = request_fields(given, authority="up", peer="", trusted=False)
    assert made[1 : len(given) + 1] == [(name.decode(), value.decode()) for name, value in given]


@pytest.mark.parametrize(
    "name",
    ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "UPGRADE", "HTTP2-Settings"],
)
def test_what_is_for_one_hop_stays_there(name: str) -> None:
    assert set(fields_of((name.encode(), b"x"))) == {"Host", "X-Forwarded-For", "X-Forwarded-Proto", "Via"}


def test_connection_names_what_is_for_one_hop() -> None:
    found = fields_of(
        (b"X-One", b"1"), (b"x-two", b"2"), (b"X-Three", b"3"), (b"Connection", b"close, X-ONE"), (b"connection", b"X-Two"),
        (b"Content-Length", b"3"), (b"Connection", b"Content-Length"),
    )  # fmt: skip
    assert set(found) == {"Host", "X-Three", "Content-Length", "X-Forwarded-For", "X-Forwarded-Proto", "Via"}


def test_the_upstream_is_called_by_its_own_name() -> None:
    found = fields_of((b"host", b"edge.example:8000"), (b"Expect", b"100-continue"))
    assert found["Host"] == ["up:1"]
    assert found["X-Forwarded-Host"] == ["edge.example:8000"]
    assert "Expect" not in found


CLAIMS = (
    *((b"X-Forwarded-For", b"203.0.113.1, 10.0.0.1"), (b"x-forwarded-for", b"10.0.0.2")),
    *((b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"site"), (b"X-Forwarded-Port", b"443")),
    *((b"Forwarded", b"for=203.0.113.1"), (b"X-Real-IP", b"203.0.113.1"), (b"Host", b"edge"), (b"Via", b"1.1 front")),
)


def test_a_trusted_proxy_is_believed_and_named() -> None:
    found = fields_of(*CLAIMS, trusted=True)
    assert found["X-Forwarded-For"] == ["203.0.113.1, 10.0.0.1, 10.0.0.2, 192.0.2.1"]
    assert found["X-Forwarded-Proto"] == ["https"]
    assert found["X-Forwarded-Host"] == ["site"]
    assert found["X-Forwarded-Port"] == ["443"]
    assert found["Forwarded"] == ["for=203.0.113.1"]
    assert found["X-Real-IP"] == ["203.0.113.1"]
    assert found["Via"] == ["1.1 front, 1.1 edge"]


def test_anybody_else_is_not() -> None:
    assert fields_of(*CLAIMS) == {
        "Host": ["up:1"],
        "X-Forwarded-For": ["192.0.2.1"],
        "X-Forwarded-Host": ["edge"],
        "X-Forwarded-Proto": ["http"],
        "Via": ["1.1 front, 1.1 edge"],
    }


def test_without_an_address_none_is_told() -> None:
    assert "X-Forwarded-For" not in fields_of(peer="")


def test_text_is_passed_on_and_what_is_none_replaced() -> None:
    found = fields_of((b"X", "ü".encode()), (b"Y", b"\xfc"))
    assert (found["X"], found["Y"]) == (["ü"], ["\ufffd"])


# --- the answer's head


def head_of(
    *fields: tuple[bytes, bytes],
    status: int = 200,
    reason: str = "OK",
    method: str = "GET",
    http_1_0: bool = False,
    close: bool = False,
    cors: bytes = b"",
) -> tuple[list[bytes], Framing]:
    head, framing = answer_head(
        status, reason, fields, method=method, http_1_0=http_1_0, close=close, cors=cors, date=b"now"
    )
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n"), framing


LENGTH = (b"content-length", b"5")
CHUNKED = (b"Transfer-Encoding", b"chunked")
FRAMINGS = {
    "a length": (head_of(LENGTH), Framing.LENGTH, [b"Content-Length: 5"]),
    "chunks": (head_of(CHUNKED), Framing.CHUNKED, [b"Transfer-Encoding: chunked"]),
    "chunks count before a length": (head_of(LENGTH, CHUNKED), Framing.CHUNKED, [b"Transfer-Encoding: chunked"]),
    "neither": (head_of(), Framing.CHUNKED, [b"Transfer-Encoding: chunked"]),
    "a length to 1.0": (head_of(LENGTH, http_1_0=True), Framing.LENGTH, [b"Content-Length: 5"]),
    "chunks to 1.0": (head_of(CHUNKED, http_1_0=True), Framing.CLOSE, [b"Connection: close"]),
    "HEAD of a length": (head_of(LENGTH, method="HEAD"), Framing.EMPTY, [b"Content-Length: 5"]),
    "HEAD of chunks": (head_of(CHUNKED, method="HEAD"), Framing.EMPTY, []),
    "204": (head_of(LENGTH, status=204, reason="No Content"), Framing.EMPTY, []),
    "304": (head_of(LENGTH, status=304, reason="Not Modified"), Framing.EMPTY, [b"Content-Length: 5"]),
    "the last one": (head_of(LENGTH, close=True), Framing.LENGTH, [b"Content-Length: 5", b"Connection: close"]),
}


@pytest.mark.parametrize(("made", "framing", "lines"), FRAMINGS.values(), ids=FRAMINGS)
def test_the_end_of_a_body_is_told(made: tuple[list[bytes], Framing], framing: Framing, lines: list[bytes]) -> None:
    assert made[1] is framing
    assert [line for line in made[0][1:] if line != b"Date: now"] == lines


def test_an_answer_keeps_what_it_says() -> None:
    lines, _ = head_of(
        (b"X-a", b"1"), (b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"Keep-Alive", b"timeout=5"), (b"X-b", b"2"),
        (b"Connection", b"keep-alive, x-b"), (b"Date", b"then"), LENGTH, status=299, reason="Fine",
    )  # fmt: skip
    assert lines == [
        b"HTTP/1.1 299 Fine",
        b"X-a: 1",
        b"Set-Cookie: a",
        b"set-cookie: b",
        b"Date: then",
        b"Content-Length: 5",
    ]


def test_cors_is_added_where_there_is_none() -> None:
    cors = b"access-control-allow-origin: o\r\n"
    assert head_of(LENGTH, cors=cors)[0][-1] == b"access-control-allow-origin: o"
    theirs = (b"Access-Control-Allow-Methods", b"GET")
    assert not [line for line in head_of(LENGTH, theirs, cors=cors)[0] if line.endswith(b": o")]
