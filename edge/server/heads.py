"""Request heads: which headers are looked at, and three ways to read a request, from the one that nearly all take.

- *Familiar*: the head's names, in this order, came over and over. One regular expression made of them reads the head.
- *Ordinary*: one packet that is one whole POST to a plain capture route, with nothing in its head that changes how it is read.
  One parser per worker reads those; its callbacks are functions written in C (`dict.setdefault`, `list.append`), so no Python
  code runs per header.
- Everything else is left to the connection, with a parser of its own and every rule there is (`server/protocol.py`).

Each way accepts a part of what the next one does, and reads it alike; what it does not take the next one gets, untouched.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Final

import httptools
import msgspec

from edge.wire.client_ip import FORWARDING_HEADERS
from edge.wire.routes import ROUTES, Route

Headers = Mapping[bytes, bytes]

KEPT: Final = frozenset(
    (
        *(b"host", b"expect", b"origin", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"),
        *(b"upgrade", b"authorization", b"user-agent", *FORWARDING_HEADERS),
        *(b"access-control-request-headers", b"access-control-request-private-network"),
        *(b"posthog-sdk-info", b"posthog-attempt", b"posthog-request-id", b"posthog-request-timestamp"),
    )
)
"""The headers that are looked at."""

_NOT_ORDINARY: Final = frozenset((b"expect", b"proxy-connection", b"transfer-encoding", b"upgrade"))
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


_FAMILIAR_AFTER: Final = 16
"""Requests of one shape before it is worth the millisecond that an expression takes to make."""
_LEARNED_MAX: Final = 4
"""Expressions made between two sweeps of the worker: an attacker's ever new shapes must not become its main work."""

# What the parser takes as well, and in a few places less.
_VALUE: Final = rb"[\t -~\x80-\xff]*+"
_TARGET: Final = rb"(/[!#-;=?-~]*+)"
_VALUES: Final = {
    b"connection": rb"(?:keep-alive|Keep-Alive)",
    b"content-length": rb"[0-9]{1,9}+",
    b"host": rb"[!-~]++",
    b"origin": rb"[!-~]++",
    b"x-forwarded-for": rb"[!-~][ -~]*+",
}
_TAKEN_OUT: Final = frozenset((b"content-length", b"origin", b"x-forwarded-for"))


Plain = tuple[Route, bytes, bytes, bytes, bytes]
"""Route, query, Origin, X-Forwarded-For, body; empty for a header that is not there."""


class Shape(msgspec.Struct):
    """What the names of an ordinary request's headers say; each name as it is spelled there, empty for one that is missing."""

    lines_bytes: int
    """What a head of these names takes beside its first line and its values."""
    host: bytes
    origin: bytes
    x_forwarded_for: bytes
    forwarded: bool
    """There are forwarding headers, of whatever kind."""
    connection: bytes
    seen: int = 0
    familiar: "Familiar | None" = None


class Familiar:
    """Reads the packets whose head has these names, in this order. Made of an ordinary request's names only."""

    __slots__ = ("_body_bytes_max", "_head_bytes_max", "_length", "_match", "_origin", "_x_forwarded_for")

    def __init__(self, names: Sequence[bytes], head_bytes_max: int, body_bytes_max: int) -> None:
        self._head_bytes_max = head_bytes_max
        self._body_bytes_max = body_bytes_max
        lines = []
        taken_out = [b"target"]
        for name in names:
            value = _VALUES.get(name.lower(), _VALUE)
            if name.lower() in _TAKEN_OUT:
                taken_out.append(name.lower())
                value = b"(" + value + b")"
            lines.append(re.escape(name) + b": " + value + rb"\r\n")
        self._match = re.compile(_METHOD + _TARGET + re.escape(_VERSION) + b"".join(lines) + rb"\r\n").match
        # The place of each in the groups, of which the target is the first; 0 for what is not there.
        self._length = taken_out.index(b"content-length")
        self._origin = taken_out.index(b"origin") if b"origin" in taken_out else 0
        self._x_forwarded_for = taken_out.index(b"x-forwarded-for") if b"x-forwarded-for" in taken_out else 0

    def read(self, packet: bytes) -> Plain | None:
        """The request that `packet` is; `None` when it is not one whole request of this shape."""
        found = self._match(packet)
        if found is None:
            return None
        groups = found.groups()
        target = groups[0]
        plain = _PLAIN.get(target) or _plain_with_query(target)
        head_bytes = found.end()
        body = packet[head_bytes:]
        if (
            plain is None
            or len(body) != int(groups[self._length])
            or not 0 < len(body) <= self._body_bytes_max
            or head_bytes > self._head_bytes_max
        ):
            return None
        origin = self._origin
        x_forwarded_for = self._x_forwarded_for
        return (
            plain[0],
            plain[2],
            groups[origin] if origin else b"",
            groups[x_forwarded_for] if x_forwarded_for else b"",
            body,
        )


Ordinary = tuple[Route, bytes, Shape, Headers, bytes]
"""Route, query, shape, headers by the names of the shape (good until the next packet is read), body."""


def _plain_with_query(target: bytes) -> tuple[Route, bytes, bytes] | None:
    path, _, query = target.partition(b"?")
    found = _PLAIN.get(path)
    return None if found is None else (found[0], _METHOD + target + _VERSION, query)


def by_lower_name(headers: Headers) -> dict[bytes, bytes]:
    """The headers that are looked at, by lower-case name; of several spellings of one name the first."""
    found: dict[bytes, bytes] = {}
    for name, value in headers.items():
        key = name.lower()
        if key in KEPT:
            found.setdefault(key, value)
    return found


def shape_of(names: Sequence[bytes]) -> Shape | None:
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
        not FORWARDING_HEADERS.isdisjoint(spelled),
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
        self._learnable = _LEARNED_MAX
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
        plain = _PLAIN.get(target) or _plain_with_query(target)
        if plain is None:
            return None
        route, line, query = plain
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
        shape.seen += 1
        if shape.familiar is None and shape.seen >= _FAMILIAR_AFTER:
            self._learn_by_heart(shape, names)
        return route, query, shape, headers, body

    def _learn(self, names: tuple[bytes, ...]) -> Shape | None:
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        shape = self._shapes[names] = shape_of(names)
        return shape

    def _learn_by_heart(self, shape: Shape, names: Sequence[bytes]) -> None:
        # An address that is not in `X-Forwarded-For` takes all headers to find.
        if self._learnable and bool(shape.x_forwarded_for) == shape.forwarded:
            self._learnable -= 1
            shape.familiar = Familiar(names, self._head_bytes_max, self._body_bytes_max)

    def sweep(self) -> None:
        """To be called a few times a second."""
        self._learnable = _LEARNED_MAX
