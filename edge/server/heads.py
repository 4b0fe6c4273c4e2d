"""Request heads: which headers are looked at, and the ordinary request, read without a Python call per header.

Nearly every request is *ordinary*: one packet that is one whole POST to a plain capture route, with nothing in its head that
changes how it is read. One parser per worker reads those; its callbacks are functions written in C (`dict.setdefault`,
`list.append`), and what has to be known of the headers' names is remembered by their sequence, which few clients vary. What
is not ordinary is left to the connection, which reads the same bytes again with a parser of its own and every rule there is.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Final

import httptools
import msgspec

from edge.wire.routes import ROUTES, Route

Headers = Mapping[bytes, bytes]

KEPT: Final = frozenset(
    (
        *(b"host", b"expect", b"origin", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"),
        *(b"upgrade", b"authorization", b"forwarded", b"x-forwarded-for", b"x-real-ip", b"user-agent"),
        *(b"access-control-request-headers", b"access-control-request-private-network"),
        *(b"posthog-sdk-info", b"posthog-attempt", b"posthog-request-id", b"posthog-request-timestamp"),
    )
)
"""The headers that are looked at."""

_FORWARDING: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))
_NOT_ORDINARY: Final = frozenset((b"expect", b"transfer-encoding", b"upgrade"))
_KEPT_ALIVE: Final = frozenset((b"keep-alive", b"Keep-Alive"))
_SHAPES_MAX: Final = 256
"""Sequences of names remembered: more than clients send, and few enough for those that an attacker makes up."""

_METHOD: Final = b"POST "
_VERSION: Final = b" HTTP/1.1\r\n"
_FIRST_BYTE: Final = _METHOD[0]
_PLAIN: Final = {path: (route, _METHOD + path + _VERSION, b"") for path, route in ROUTES.items() if route.plain_capture}
"""Target -> route, request line, query."""
_PARTS: Final = 4
"""What the parser calls for an ordinary request: its beginning, its target, its body, its end."""


class Shape(msgspec.Struct, frozen=True):
    """What the names of an ordinary request's headers say; each name as it is spelled there, empty for one that is missing."""

    lines_bytes: int
    """What a head of these names takes beside its first line and its values."""
    host: bytes
    origin: bytes
    x_forwarded_for: bytes
    forwarded: bool
    """There are forwarding headers, of whatever kind."""
    connection: bytes


Ordinary = tuple[Route, bytes, Shape, Headers, bytes]
"""Route, query, shape, headers by the names of the shape (good until the next packet is read), body."""


def by_lower_name(headers: Headers) -> dict[bytes, bytes]:
    """The headers that are looked at, by lower-case name; of several spellings of one name the first."""
    found: dict[bytes, bytes] = {}
    for name, value in headers.items():
        key = name.lower()
        if key in KEPT:
            found.setdefault(key, value)
    return found


def shape_of(names: Iterable[bytes]) -> Shape | None:
    """The shape of these names; `None` when they are not an ordinary request's."""
    spelled: dict[bytes, bytes] = {}
    for name in names:
        if spelled.setdefault(name.lower(), name) is not name:
            return None
    if b"host" not in spelled or not _NOT_ORDINARY.isdisjoint(spelled):
        return None
    return Shape(
        sum(len(name) + len(b": \r\n") for name in spelled) + len(b"\r\n"),
        spelled[b"host"],
        spelled.get(b"origin", b""),
        spelled.get(b"x-forwarded-for", b""),
        not _FORWARDING.isdisjoint(spelled),
        spelled.get(b"connection", b""),
    )


class OrdinaryReader:
    """Reads packets that are one ordinary request each; one for all connections of a worker."""

    def __init__(self, head_bytes_max: int, headers_max: int, body_bytes_max: int) -> None:
        self._head_bytes_max = head_bytes_max
        self._headers_max = headers_max
        self._body_bytes_max = body_bytes_max
        self._parts: list[bytes | None] = []
        self._headers: dict[bytes, bytes] = {}
        self._shapes: dict[tuple[bytes, ...], Shape | None] = {}
        self._renew()

    def _renew(self) -> None:
        """A parser that stands between two messages, as the one before does not."""
        mark = partial(self._parts.append, None)
        self._feed = httptools.HttpRequestParser(
            SimpleNamespace(
                on_message_begin=mark,
                on_url=self._parts.append,
                on_header=self._headers.setdefault,
                on_body=self._parts.append,
                on_message_complete=mark,
            )
        ).feed_data

    def read(self, packet: bytes) -> Ordinary | None:
        """The request that `packet` is; `None` when it is not one whole request, or not an ordinary one."""
        if packet[0] != _FIRST_BYTE:
            return None
        parts = self._parts
        headers = self._headers
        parts.clear()
        headers.clear()
        try:
            self._feed(packet)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._renew()
            return None
        if len(parts) != _PARTS or (body := parts[2]) is None or (target := parts[1]) is None:
            self._renew()
            return None
        try:
            route, line, query = _PLAIN[target]
        except KeyError:
            path, _, query = target.partition(b"?")
            if path not in _PLAIN:
                return None
            route = _PLAIN[path][0]
            line = _METHOD + target + _VERSION
        head_bytes = len(packet) - len(body)
        if head_bytes > self._head_bytes_max or len(body) > self._body_bytes_max or len(headers) > self._headers_max:
            return None
        names = tuple(headers)
        try:
            shape = self._shapes[names]
        except KeyError:
            shape = self._learn(names)
        if (
            shape is None
            or not packet.startswith(line)
            or not headers[shape.host]
            # It adds up: no header came twice, none was folded, and nothing stands before or after the request.
            or shape.lines_bytes + len(line) + len(b"".join(headers.values())) != head_bytes
        ):
            return None
        if shape.connection and headers[shape.connection] not in _KEPT_ALIVE:
            # The parser takes no other message after this one.
            self._renew()
            return None
        return route, query, shape, headers, body

    def _learn(self, names: tuple[bytes, ...]) -> Shape | None:
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        shape = self._shapes[names] = shape_of(names)
        return shape
