"""Every rule for a request's head, before its body is read: pure, from what the parser found in it."""

import msgspec

from edge.server.heads import Headers
from edge.server.service import ServerSettings
from edge.wire.rejections import Reason
from edge.wire.routes import Kind, Route, allow


class Head(msgspec.Struct, gc=False):
    """What the rules are about."""

    version: str
    """Without `HTTP/`."""
    method: str
    """One of `METHODS`, or `CONNECT`."""
    url: bytes
    route: Route | None
    headers: Headers
    fields: int
    """Number of header fields."""
    bytes: int
    """All of the header fields; 0 where they came in one small packet."""


class Refusal(msgspec.Struct, gc=False, frozen=True):
    reason: Reason
    found: str = ""
    allowed: str = ""
    """The methods there are."""
    closes: bool = False
    """Where the next message begins is not known, or not worth finding out."""


def judge_head(head: Head, settings: ServerSettings) -> Refusal | None:
    """The first rule that is broken, in the order in which they are told."""
    route = head.route
    capture_route = route is not None and route.kind is Kind.CAPTURE
    transfer_encoding = head.headers.get(b"transfer-encoding")
    if len(head.url) > settings.target_bytes_max:
        return Refusal(Reason.URI_TOO_LONG, closes=True)
    if head.fields > settings.headers_max or head.bytes > settings.header_bytes_max:
        return Refusal(Reason.HEADERS_TOO_LARGE, closes=True)
    if head.version not in ("1.0", "1.1"):
        return Refusal(Reason.HTTP_VERSION, closes=True)
    if head.version == "1.1" and not head.headers.get(b"host"):
        return Refusal(Reason.BAD_REQUEST, "Expected exactly one Host header.", closes=True)
    if transfer_encoding is not None and (head.version == "1.0" or transfer_encoding.strip().lower() != b"chunked"):
        return Refusal(Reason.TRANSFER_ENCODING, closes=True)
    if head.method == "CONNECT":
        return Refusal(Reason.METHOD_NOT_ALLOWED, closes=True)
    if not capture_route and len(head.url) > settings.other_target_bytes_max:
        return Refusal(Reason.URI_TOO_LONG)
    if route is not None and head.method != "OPTIONS" and head.method not in route.methods:
        return Refusal(Reason.METHOD_NOT_ALLOWED, allowed=allow(route))
    return None


def body_bytes_max(route: Route | None, settings: ServerSettings) -> int:
    """What a body on the wire may have, of a request that is not forwarded."""
    if route is not None and route.replay:
        return settings.replay_body_bytes_max
    if route is not None and route.kind is Kind.CAPTURE_V1:
        return settings.v1_body_bytes_max
    return settings.body_bytes_max
