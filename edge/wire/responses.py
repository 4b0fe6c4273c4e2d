"""Complete response bytes. CORS headers are on every answer: without them a page sees a network error and sends again.

`Access-Control-Allow-Origin` mirrors the request's Origin, because clients that send credentials refuse `*`.
"""

from http import HTTPStatus
from typing import Final

import msgspec

from edge.wire.rejections import REFUSALS, Reason

SUCCESS_BODY: Final = b'{"status":1}'
TERSE_SUCCESS_BODY: Final = b"1"
"""What Mixpanel's libraries compare with, unless they ask for JSON by `verbose=1`."""
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_ORIGIN_BYTES_MAX: Final = 512
_PREFLIGHT_SECONDS: Final = 86400
_ALLOW_METHODS: Final = b"GET,POST,OPTIONS"

_encode: Final = msgspec.json.Encoder().encode


def cors_headers(origin: bytes) -> bytes:
    """The header lines every answer carries, for this Origin; an unusable Origin counts as none."""
    mirrored = b""
    if origin and len(origin) <= _ORIGIN_BYTES_MAX and origin.isascii():
        mirrored = b"access-control-allow-origin: " + origin + b"\r\naccess-control-expose-headers: Retry-After\r\n"
    return (
        mirrored + b"access-control-allow-credentials: true\r\n"
        b"vary: origin, access-control-request-method, access-control-request-headers\r\n"
    )


def render(
    status: int,
    body: bytes,
    cors: bytes,
    date: bytes,
    *,
    content_type: bytes = _JSON,
    extra: bytes = b"",
    close: bool = False,
    head: bool = False,
    more_bytes: int = 0,
) -> bytes:
    """One response. `cors` and `extra` are complete header lines; `head` leaves the body out and its length in.

    `more_bytes` of the body are sent behind it by the caller.
    """
    return b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n%b%bdate: %b\r\n%b\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        b"content-type: " + content_type + b"\r\n" if body else b"",
        len(body) + more_bytes,
        cors,
        extra,
        date,
        b"connection: close\r\n" if close else b"",
        b"" if head else body,
    )


def render_success(cors: bytes, date: bytes, *, terse: bool = False, close: bool = False, head: bool = False) -> bytes:
    return render(200, TERSE_SUCCESS_BODY if terse else SUCCESS_BODY, cors, date, close=close, head=head)


def render_beacon(cors: bytes, date: bytes, *, close: bool = False) -> bytes:
    """204 for `beacon=1`: nobody reads it."""
    connection = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 204 No Content\r\n" + cors + b"date: " + date + b"\r\n" + connection + b"\r\n"


def render_refusal(
    reason: Reason,
    detail: str,
    cors: bytes,
    date: bytes,
    *,
    retry_after: int = 0,
    allow: str = "",
    body: bytes = b"",
    extra: bytes = b"",
    close: bool = False,
    head: bool = False,
) -> bytes:
    """An error in the documented JSON form, unless a `body` in another is given.

    `retry_after` in seconds is sent where the table says a retry helps; `extra` are complete header lines.
    """
    refusal = REFUSALS[reason]
    body = body or _encode({"type": refusal.type, "code": refusal.code, "detail": detail, "attr": refusal.attr})
    if refusal.retry_after:
        extra += b"retry-after: %d\r\n" % retry_after
    if allow:
        extra += b"allow: " + allow.encode() + b"\r\n"
    return render(refusal.status, body, cors, date, extra=extra, close=close, head=head)


def render_preflight(cors: bytes, date: bytes, request_headers: bytes, *, private_network: bool, close: bool) -> bytes:
    """Any `OPTIONS`, on any path: what was asked for is allowed."""
    extra = b"access-control-allow-methods: %b\r\naccess-control-max-age: %d\r\n" % (_ALLOW_METHODS, _PREFLIGHT_SECONDS)
    if request_headers and request_headers.isascii():
        extra += b"access-control-allow-headers: " + request_headers + b"\r\n"
    if private_network:
        extra += b"access-control-allow-private-network: true\r\n"
    return render(200, b"", cors, date, extra=extra, close=close)


def render_text(status: int, text: str, cors: bytes, date: bytes, *, close: bool = False, head: bool = False) -> bytes:
    return render(status, text.encode(), cors, date, content_type=_TEXT, close=close, head=head)
