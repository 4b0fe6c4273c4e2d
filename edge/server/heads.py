"""Request heads: which headers are looked at, and three ways to read a request, from the one that nearly all take.

- *Familiar*: the head's names, in this order, came over and over. One regular expression made of them reads the head, of a GET
  with the event in its target.
- *Ordinary*: one packet that is one whole POST, or GET, to a plain capture route, with nothing in its head that changes how it
  is read.
  One parser per worker reads those; its callbacks are functions written in C (`dict.setdefault`, `list.append`), so no Python
  code runs per header.
- Everything else is left to the connection, with a parser of its own and every rule there is (`server/arrival.py`).

Each way accepts a part of what the next one does, but for blanks before a value and control characters in a cookie, and reads
it alike; what it does not take the next one gets, untouched.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from types import SimpleNamespace
from typing import ClassVar, Final

import httptools
import msgspec

from edge.wire.capture import read_plain_data
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
_METHOD_OF_GET: Final = b"GET "
_VERSION: Final = b" HTTP/1.1\r\n"
_FIRST_BYTE: Final = _METHOD[0]
_FIRST_BYTE_OF_GET: Final = _METHOD_OF_GET[0]
_PLAIN: Final = {path: (route, _METHOD + path + _VERSION, b"") for path, route in PLAIN_ROUTES.items()}
"""Target -> route, request line, query."""
_PARTS: Final = 4
"""What the parser calls for an ordinary POST: its beginning, its target, its body, its end."""
_PARTS_OF_GET: Final = 3
"""The same without a body."""


_FAMILIAR_AFTER: Final = 16
"""Requests of one shape before it is worth the two milliseconds that its expressions take to make."""
_RECENT_MAX: Final = 4
_LEARNED_MAX: Final = 1
"""Shapes learned between two sweeps of the worker: an attacker's ever new ones must not become its main work."""
_LEARNED_BYTES_MAX: Final = 512
"""Of the lines of a shape, values left out. To learn one takes some microseconds a byte, for which everybody waits; browsers
behind a balancer and a content network have 400."""

# What the parser takes as well, and in a few places less. An alternative that is empty costs less than to repeat none or once.
_VALUE: Final = rb"[ -~]*+"
_VALUES: Final = {
    b"connection": rb"(?:keep-alive|Keep-Alive)",
    b"content-length": rb"(?P<length>[0-9]{1,9}+)",
    b"host": rb"[!-~]++",
    b"origin": rb"(?P<origin>[!-~]++)",
    b"x-forwarded-for": rb"(?P<forwarded_for>[0-9A-Fa-f.:]++) *+(?:,[ -~]*+|)",
}
_SILENT_FIELD: Final = rb"(?:ip|ver|v|retry_count)=[!$%'-;=?-~]*+"
"""What browsers put into the query for the server that is not there any more, or for people."""
_SILENT_FIELD_OF_POST: Final = rb"(?:%b|compression=gzip(?:-js)?)" % _SILENT_FIELD
"""What they say of the body, its first bytes tell, too."""
_SENT_AT: Final = rb"_=(?P<sent_at>[0-9]++)"
_PATH: Final = rb"(?P<path>/[0-9a-z/]++)"
_QUERY: Final = rb"(?:\?(?:%b&){0,8}+(?:%b(?:&%b){0,8}+|%b)|)" % (
    *(_SILENT_FIELD_OF_POST, _SENT_AT, _SILENT_FIELD_OF_POST, _SILENT_FIELD_OF_POST),
)
_DATA_QUERY: Final = rb"\?(?:%b&){0,8}+data=(?P<data>[^&]++)(?:&%b){0,8}+(?:&%b(?:&%b){0,8}+|)" % (
    *(_SILENT_FIELD, _SILENT_FIELD, _SENT_AT, _SILENT_FIELD),
)
"""To compare with one byte is faster than with a class; whoever decodes the data sees whether it went too far."""
_CHANGING: Final = frozenset(
    (b"content-length", b"cookie", *FORWARDING_HEADERS, b"traceparent", b"x-amzn-trace-id", b"x-request-id")
)
"""Headers of which every client, or every request, has another value."""
_OTHERS_MAX: Final = 16
"""Requests that begin otherwise than is remembered, until the last of them is remembered instead."""
_COOKIE: Final = rb"(?P<cookie>[^\r]*+)"
"""To compare with one byte is four times as fast as with a class; `_is_cookie` sees whether it went too far."""


def _behind_name(name: bytes) -> bytes:
    key = name.lower()
    return (_COOKIE if key == b"cookie" else _VALUES.get(key, _VALUE)) + rb"\r\n"


def _is_cookie(value: bytes) -> bool:
    """Whether what stands before a carriage return is a value.

    Control characters but LF and NUL, which it may hold against the rules, are of no consequence in a value that nobody reads
    (RFC 9110 section 5.5).
    """
    # As numbers: to look for a `bytes` in a `bytes` raises and catches an exception within.
    return 0x0A not in value and 0 not in value


class Shape(msgspec.Struct):
    """What the names of an ordinary request's headers say; each name as it is spelled there, empty for one that is missing."""

    lines_bytes: int
    """What a head of these names takes beside its first line and its values."""
    host: bytes
    origin: bytes
    x_forwarded_for: bytes
    forwarded: bool
    """There are forwarding headers, of whatever kind."""
    encoded: bool
    """There is a `Content-Encoding`."""
    length: bool
    """There is a `Content-Length`, as every ordinary POST has one."""
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


Plain = tuple[str, Route, bytes | None, bytes, bytes, bytes]
"""Method, route, `_` of the query, Origin, first entry of X-Forwarded-For, and JSON or gzip of something; empty, or `None`, for
what is not there."""


class _Expression:
    """Of what begins so, goes on with headers of these names and ends so: cuts some named parts out of it."""

    __slots__ = ("arrange", "match")

    def __init__(self, begin: bytes, names: Sequence[bytes], end: bytes, parts: Sequence[str]) -> None:
        lines = [re.escape(name) + b": " + _behind_name(name) for name in names]
        pieces = [begin, *lines, rb"\r\n" + end]
        places = {
            part: place for part in parts for place, piece in enumerate(pieces) if b"(?P<%b>" % part.encode() in piece
        }
        place = 0
        for part in parts:
            place = places.get(part, place)
            if part not in places:
                # It stands for what is not there.
                pieces[place] += b"(?P<%b>)" % part.encode()
        head = re.compile(b"".join(pieces))
        order = [head.groupindex[part] - 1 for part in parts]
        self.match = head.match
        self.arrange: Callable[[tuple[bytes, ...]], tuple[bytes, ...]] | None = None
        """Puts the groups of a match into the order of the parts, where that is another one."""
        if order != sorted(order):
            self.arrange = itemgetter(*order)


class _Form:
    """Reads the requests whose head has certain names, in their order: those of an ordinary request."""

    __slots__ = ("_arrange", "_match")

    request_line: ClassVar[bytes]
    behind: ClassVar[bytes]
    parts: ClassVar[tuple[str, ...]]

    def __init__(self, names: Sequence[bytes]) -> None:
        expression = _Expression(self.request_line, names, self.behind, self.parts)
        self._match = expression.match
        self._arrange = expression.arrange


class FamiliarPost(_Form):
    """POSTs whose body begins as JSON or gzip does.

    Most heads are those of the request before, up to the first value that every request has another of. Such a one is read from
    there on.
    """

    __slots__ = (
        "_arrange_behind",
        "_begin",
        "_begin_bytes",
        "_changing",
        "_match_behind",
        "_origin",
        "_others",
        "_route",
    )

    request_line = _METHOD + _PATH + _QUERY + re.escape(_VERSION)
    behind = rb"(?P<body>[\[{\x1f](?s:.*+))"
    parts_behind: ClassVar = ("length", "origin", "forwarded_for", "cookie", "body")
    parts = ("path", "sent_at", *parts_behind)

    def __init__(self, names: Sequence[bytes]) -> None:
        super().__init__(names)
        changing = next(index for index, name in enumerate(names) if name.lower() in _CHANGING)
        rest = _Expression(_behind_name(names[changing]), names[changing + 1 :], self.behind, self.parts_behind)
        self._match_behind = rest.match
        self._arrange_behind = rest.arrange
        self._changing = b"\r\n" + names[changing] + b": "
        self._begin = self._changing
        self._begin_bytes = len(self._begin)
        self._route = next(iter(PLAIN_ROUTES.values()))
        self._origin = b""
        """How a request began, and what it had; at first how none begins."""
        self._others = _OTHERS_MAX
        """Requests since that began otherwise."""

    def read(self, packet: bytes) -> Plain | None:
        """The request that `packet` is; `None` when it is not one whole request of this form.

        The caller bounds the packet, by what a head and a body may have.
        """
        if packet.startswith(self._begin):
            head = self._match_behind(packet, self._begin_bytes)
            if head is None:
                return None
            parts = head.groups()
            if self._arrange_behind is not None:
                parts = self._arrange_behind(parts)
            length, origin, forwarded_for, cookie, body = parts
            if int(length) != len(body) or (cookie and not _is_cookie(cookie)):
                return None
            return "POST", self._route, None, origin or self._origin, forwarded_for, body
        head = self._match(packet)
        if head is None:
            return None
        parts = head.groups()
        if self._arrange is not None:
            parts = self._arrange(parts)
        path, sent_at, length, origin, forwarded_for, cookie, body = parts
        route = PLAIN_ROUTES.get(path)
        if route is None or int(length) != len(body) or (cookie and not _is_cookie(cookie)):
            return None
        if sent_at is None:
            self._others += 1
            if self._others > _OTHERS_MAX:
                self._begin_bytes = packet.index(self._changing) + len(self._changing)
                self._begin = packet[: self._begin_bytes]
                self._route = route
                self._origin = origin
                self._others = 0
        return "POST", route, sent_at, origin, forwarded_for, body


class FamiliarGet(_Form):
    """GETs with the event in their query's `data`, and with something behind it there.

    Made of an ordinary GET's names only, none of which speaks of a body.
    """

    __slots__ = ()

    request_line = _METHOD_OF_GET + _PATH + _DATA_QUERY + re.escape(_VERSION)
    behind = rb"\Z"
    parts = ("path", "data", "sent_at", "origin", "forwarded_for", "cookie")

    def read(self, packet: bytes) -> Plain | None:
        """As that of a POST."""
        head = self._match(packet)
        if head is None:
            return None
        parts = head.groups()
        if self._arrange is not None:
            parts = self._arrange(parts)
        path, data, sent_at, origin, forwarded_for, cookie = parts
        route = PLAIN_ROUTES.get(path)
        if route is None or (cookie and not _is_cookie(cookie)) or (text := read_plain_data(data)) is None:
            return None
        return "GET", route, sent_at, origin, forwarded_for, text


Familiar = FamiliarPost | FamiliarGet


Ordinary = tuple[str, Route, bytes, Shape, Headers, bytes]
"""Method, route, query, shape, headers by the names of the shape (good until the next packet is read), body."""


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
        b"content-encoding" in spelled,
        b"content-length" in spelled,
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
        is_get = packet[0] == _FIRST_BYTE_OF_GET
        if packet[0] != _FIRST_BYTE and not is_get:
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
        if is_get:
            return self._get(packet)
        if len(parts) != _PARTS or parts[3] is not None or (body := parts[2]) is None or (target := parts[1]) is None:
            self._renew()
            return None
        plain = _PLAIN.get(target) or _plain_with_query(target)
        if plain is None:
            return None
        route, line, query = plain
        if len(body) > self._body_bytes_max:
            return None
        shape = self._shape(packet, line, len(packet) - len(body))
        if shape is None:
            return None
        if shape.familiar is None and shape.seen >= _FAMILIAR_AFTER:
            self._learn_by_heart(shape, FamiliarPost)
        return "POST", route, query, shape, headers, body

    def _get(self, packet: bytes) -> Ordinary | None:
        """The GET that `packet` is, which was parsed."""
        parts = self._parts
        if len(parts) != _PARTS_OF_GET or parts[2] is not None or (target := parts[1]) is None:
            # Its body may have begun.
            self._renew()
            return None
        path, _, query = target.partition(b"?")
        route = PLAIN_ROUTES.get(path)
        if route is None:
            return None
        shape = self._shape(packet, _METHOD_OF_GET + target + _VERSION, len(packet))
        if shape is None:
            return None
        if shape.familiar is None and shape.seen >= _FAMILIAR_AFTER and not (shape.encoded or shape.length):
            self._learn_by_heart(shape, FamiliarGet)
        return "GET", route, query, shape, self._headers, b""

    def _shape(self, packet: bytes, line: bytes, head_bytes: int) -> Shape | None:
        """The shape of the head that was parsed, seen once more; `None` when it is not an ordinary request's, which begins with
        `line`."""
        headers = self._headers
        if head_bytes > self._head_bytes_max or len(headers) > self._headers_max:
            return None
        names = tuple(headers)
        try:
            shape = self._shapes[names]
        except KeyError:
            if len(self._shapes) >= _SHAPES_MAX:
                self._shapes.clear()
            shape = self._shapes[names] = shape_of(names)
        if (
            shape is None
            or not packet.startswith(line)
            or not headers[shape.host]
            # A line each, the first and the last one: no header came twice, none was folded. And it adds up: nothing stands
            # before or after the request, and no blank is missing for each that is one too many.
            or packet.count(b"\r\n", 0, head_bytes) != len(names) + 2
            or shape.lines_bytes + len(line) + len(b"".join(headers.values())) != head_bytes
        ):
            return None
        if shape.connection and headers[shape.connection] not in _KEPT_ALIVE:
            # The parser takes no other message after this one.
            self._renew()
            return None
        shape.seen += 1
        return shape

    def _learn_by_heart(self, shape: Shape, kind: type[FamiliarPost | FamiliarGet]) -> None:
        # An address that is not in `X-Forwarded-For` takes all headers to find.
        small = shape.lines_bytes <= _LEARNED_BYTES_MAX
        if small and self._learnable and bool(shape.x_forwarded_for) == shape.forwarded:
            self._learnable -= 1
            shape.familiar = kind(tuple(self._headers))
            self.recent = (shape.familiar, *self.recent[: _RECENT_MAX - 1])

    def sweep(self) -> None:
        """To be called a few times a second."""
        self._learnable = _LEARNED_MAX
