from http.client import HTTPResponse
from io import BytesIO
from typing import cast

import msgspec
import pytest

from edge.wire.rejections import REFUSALS, Reason
from edge.wire.responses import (
    CONTINUE,
    cors_headers,
    render_beacon,
    render_preflight,
    render_refusal,
    render_success,
    render_text,
)

DATE = b"Sat, 21 Nov 2026 03:31:54 GMT"
CORS = cors_headers(b"https://shop.example")


class _Wire:
    """What the standard library's parser reads a response from."""

    def __init__(self, data: bytes) -> None:
        self.file = BytesIO(data)

    def makefile(self, mode: str) -> BytesIO:
        return self.file


def parse(data: bytes, method: str = "POST") -> tuple[int, str, dict[str, str], bytes]:
    """Read as a client reads it, to the last byte."""
    wire = _Wire(data)
    response = HTTPResponse(wire, method=method)  # type: ignore[arg-type]
    response.begin()
    found = response.status, response.reason, dict(response.getheaders()), response.read()
    rest = wire.file.read() if not wire.file.closed else b""
    assert rest == b""
    return found


def test_success() -> None:
    assert render_success(CORS, DATE) == (
        b"HTTP/1.1 200 OK\r\n"
        b"content-type: application/json\r\n"
        b"content-length: 12\r\n"
        b"access-control-allow-origin: https://shop.example\r\n"
        b"access-control-expose-headers: Retry-After\r\n"
        b"access-control-allow-credentials: true\r\n"
        b"vary: origin, access-control-request-method, access-control-request-headers\r\n"
        b"date: Sat, 21 Nov 2026 03:31:54 GMT\r\n"
        b"\r\n"
        b'{"status":1}'
    )


def test_the_terse_success_is_one_digit() -> None:
    status, _, headers, body = parse(render_success(CORS, DATE, terse=True))
    assert (status, headers["content-type"], body) == (200, "application/json", b"1")


def test_a_head_answer_has_the_length_and_not_the_body() -> None:
    whole, head = render_success(CORS, DATE), render_success(CORS, DATE, head=True)
    assert whole == head + b'{"status":1}'


@pytest.mark.parametrize("close", [False, True], ids=["kept", "closed"])
def test_the_end_of_the_connection_is_said(close: bool) -> None:
    expected = "close" if close else None
    rendered = [
        render_success(CORS, DATE, close=close),
        render_beacon(CORS, DATE, close=close),
        render_text(200, "capture", CORS, DATE, close=close),
        render_preflight(CORS, DATE, b"", private_network=False, close=close),
        render_refusal(Reason.NO_DATA, "d", CORS, DATE, close=close),
    ]
    for response in rendered:
        status, reason, headers, _ = parse(response)
        assert headers.get("connection") == expected
        assert headers["date"] == DATE.decode()
        assert headers["access-control-allow-origin"] == "https://shop.example"
        assert reason
        assert ("content-length" in headers) == (status != 204)


def test_a_beacon_has_no_content() -> None:
    status, reason, headers, body = parse(render_beacon(CORS, DATE))
    assert (status, reason, body) == (204, "No Content", b"")
    assert not {"content-length", "content-type"} & set(headers)


def test_a_page_is_text() -> None:
    status, _, headers, body = parse(render_text(200, "capture", CORS, DATE))
    assert (status, headers["content-type"], body) == (200, "text/plain; charset=utf-8", b"capture")


ORIGINS = {
    "usual": (b"https://shop.example", True),
    "null": (b"null", True),
    "empty": (b"", False),
    "as long as may be": (b"o" * 512, True),
    "longer": (b"o" * 513, False),
    "not ASCII": (b"https://caf\xc3\xa9.example", False),
}


@pytest.mark.parametrize(("origin", "mirrored"), ORIGINS.values(), ids=ORIGINS)
def test_an_origin_is_mirrored_or_left_out_and_never_a_star(origin: bytes, mirrored: bool) -> None:
    headers = cors_headers(origin)
    assert (b"access-control-allow-origin: %b\r\n" % origin in headers) == mirrored
    assert (b"allow-origin" in headers) == mirrored
    assert b"access-control-allow-credentials: true\r\n" in headers
    assert b"vary: origin" in headers
    assert b"*" not in headers


def test_a_preflight_is_allowed_what_it_asks_for() -> None:
    rendered = render_preflight(CORS, DATE, b"content-type,x-odd", private_network=True, close=False)
    status, _, headers, body = parse(rendered, "OPTIONS")
    assert (status, body) == (200, b"")
    assert headers["access-control-allow-methods"] == "GET,POST,OPTIONS"
    assert headers["access-control-allow-headers"] == "content-type,x-odd"
    assert headers["access-control-allow-private-network"] == "true"
    assert headers["access-control-max-age"] == "86400"


@pytest.mark.parametrize("asked", [b"", b"caf\xe9"], ids=["nothing", "not ASCII"])
def test_a_preflight_that_asks_for_no_headers_is_allowed_none(asked: bytes) -> None:
    rendered = render_preflight(CORS, DATE, asked, private_network=False, close=False)
    assert not {"access-control-allow-headers", "access-control-allow-private-network"} & set(parse(rendered)[2])


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_a_refusal_is_the_four_keys_with_its_row_of_the_table(reason: Reason) -> None:
    refusal = REFUSALS[reason]
    status, _, headers, body = parse(render_refusal(reason, 'a "detail"', CORS, DATE, retry_after=7))
    assert status == refusal.status
    decoded = cast("dict[str, object]", msgspec.json.decode(body))
    assert list(decoded) == ["type", "code", "detail", "attr"]
    assert list(decoded.values()) == [refusal.type, refusal.code, 'a "detail"', refusal.attr]
    assert headers["content-type"] == "application/json"
    assert headers.get("retry-after") == ("7" if refusal.retry_after else None)


def test_a_refusal_names_the_methods_there_are() -> None:
    rendered = render_refusal(Reason.METHOD_NOT_ALLOWED, "d", CORS, DATE, allow="GET, POST")
    assert parse(rendered)[2]["allow"] == "GET, POST"


def test_continue_is_one_line() -> None:
    assert CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"
