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
from edge.wire.routes import PLAIN_ROUTES, Route

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
_PLAIN: Final = {path: (route, _METHOD + path + _VERSION, b"") for path, route in PLAIN_ROUTES.items()}
"""Target -> route, request line, query."""
_PARTS: Final = 4
"""What the parser calls for an ordinary request: its beginning, its target, its body, its end."""


_FAMILIAR_AFTER: Final = 16
"""Requests of one shape before it is worth the millisecond that an expression takes to make."""
_RECENT_MAX: Final = 4
_LEARNED_MAX: Final = 4
"""Expressions made between two sweeps of the worker: an attacker's ever new shapes must not become its main work."""

# What the parser takes as well, and in a few places less.
_VALUE: Final = rb"[ -~]*+"
_VALUES: Final = {
    b"connection": rb"(?:keep-alive|Keep-Alive)",
    b"content-length": rb"([0-9]{1,9}+)",
    b"host": rb"[!-~]++",
    b"origin": rb"([!-~]++)",
    b"x-forwarded-for": rb"([0-9A-Fa-f.:]++) *+(?:,[ -~]*+)?",
}
_SILENT_FIELD: Final = rb"(?:ip|ver|v|retry_count)=[!$%'-;=?-~]*+"
"""What browsers put into the query for the server that is not there any more, or for people."""
_QUERY: Final = rb"(?:\?(?:%b&){0,8}+(?:_=([0-9]++)(?:&%b){0,8}+|%b))?" % ((_SILENT_FIELD,) * 3)
_TAKEN_OUT: Final = (b"content-length", b"origin", b"x-forwarded-for")
_REQUEST_LINE: Final = _METHOD + rb"(/[0-9a-z/]++)" + _QUERY + re.escape(_VERSION)
_OBJECT_AHEAD: Final = rb"(?=\{)"


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

    def forwarded_for(self, headers: Headers) -> bytes | None:
        """The first entry of X-Forwarded-For, empty where no header holds one; `None` where several have to be looked at."""
        if not self.forwarded:
            return b""
        if not self.x_forwarded_for:
            return None
        return headers[self.x_forwarded_for].partition(b",")[0].strip() or None


Plain = tuple[Route, bytes | None, bytes, bytes, bytes]
"""Route, `_` of the query, Origin, first entry of X-Forwarded-For, body; empty, or `None`, for what is not there."""


class Familiar:
    """Reads the packets whose head has these names, in this order, and whose body begins an object.

    Made of an ordinary request's names only.
    """

    __slots__ = ("_match", "_parts")

    def __init__(self, names: Sequence[bytes]) -> None:
        places = {b"path": 1, b"_": 2}
        lines = []
        for name in names:
            known = name.lower()
            lines.append(re.escape(name) + b": " + _VALUES.get(known, _VALUE) + rb"\r\n")
            if known in _TAKEN_OUT:
                places[known] = len(places) + 1
        self._match = re.compile(_REQUEST_LINE + b"".join(lines) + rb"\r\n" + _OBJECT_AHEAD + b"()").match
        nothing = len(places) + 1
        self._parts = (1, 2, *(places.get(name, nothing) for name in _TAKEN_OUT))

    def read(self, packet: bytes) -> Plain | None:
        """The request that `packet` is; `None` when it is not one whole request of this form.

        The caller bounds the packet, by what a head and a body may have.
        """
        head = self._match(packet)
        if head is None:
            return None
        path, sent_at, length, origin, forwarded_for = head.group(*self._parts)
        body = packet[head.end() :]
        route = PLAIN_ROUTES.get(path)
        if route is None or int(length) != len(body):
            return None
        return route, sent_at, origin, forwarded_for, body


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
        self.recent: tuple[Familiar, ...] = ()
        """The forms learned last."""
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
            shape.familiar = Familiar(names)
            self.recent = (shape.familiar, *self.recent[: _RECENT_MAX - 1])

    def sweep(self) -> None:
        """To be called a few times a second."""
        self._learnable = _LEARNED_MAX
