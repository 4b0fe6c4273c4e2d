"""The limits of a worker's connections, and the rules for a request's head, before its body is read: pure, from what the parser
found in it."""

from typing import Final

import msgspec

from edge.server.heads import Headers
from edge.wire.rejections import Reason
from edge.wire.request import MIB, Limits
from edge.wire.routes import Kind, Route, allow

DESCRIPTORS_RESERVED: Final = 256
"""A worker's descriptors that are not for clients: some thirty for its loop, segments, syncs and decoder, all others for
connections that are refused for being too many, each of which is there for a second."""


class ServerSettings(msgspec.Struct, frozen=True):
    """Limits of one worker's connections. Sizes in bytes, times in seconds."""

    body_bytes_max: int = 20 * MIB
    replay_body_bytes_max: int = 64 * MIB
    v1_body_bytes_max: int = 10 * MIB
    decoded: Limits = Limits()
    v1_decoded: Limits = Limits(50 * MIB)
    """Of capture v1."""
    inline_bytes_max: int = 384 * 1024
    """Larger bodies, and those that become larger, are decoded by a process of its own."""
    target_bytes_max: int = 64 * 1024
    """Request target on capture routes, where GET carries the payload."""
    other_target_bytes_max: int = 8 * 1024
    header_bytes_max: int = 32 * 1024
    headers_max: int = 100
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 620.0
    """Above what balancers keep, so that they close first."""
    write_timeout_s: float = 30.0
    pipeline_max: int = 16
    inflight_bytes_max: int = 256 * MIB
    """Bodies being read and records waiting for their commit, per worker."""
    connections_max: int = 10_000
    """Per worker."""
    trusted_proxies: str = "127.0.0.0/8,::1/128"
    """Networks in CIDR notation, comma-separated."""


def descriptors_needed(connections_max: int, upstream_connections_max: int) -> int:
    """By a worker with so many connections of clients, and to upstreams."""
    return connections_max + upstream_connections_max + DESCRIPTORS_RESERVED


def connections_fitting(connections_max: int, upstream_connections_max: int, descriptors: int) -> int:
    """The connections of clients that a worker takes which may have so many descriptors: at most `connections_max`, so many
    that descriptors are left for all else, and where there are next to none, a quarter of them."""
    left = connections_max + descriptors - descriptors_needed(connections_max, upstream_connections_max)
    return min(connections_max, max(left, descriptors // 4, 1))


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
