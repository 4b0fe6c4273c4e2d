"""What arrives in one turn of the event loop, taken together at its end.

A turn reads from many connections, and nearly every packet is one ordinary request that holds an event or a few. Taken one
after the other in one loop they find the processor's caches warm, share the clock, and become the text of their records in one
step; answered one after the other they do so again. Nobody waits for it: a commit takes what its turn has read in any case.

Whatever is not such a request goes back to its connection as it came (`Sender.receive`).
"""

import logging
from typing import Final, Protocol, TypeVar

import msgspec

from edge.segment.frame import FRAME_RAW_BYTES_MAX
from edge.segment.record import as_json, encode_records
from edge.server.exchange import Connection, Exchange
from edge.server.heads import Familiar, Headers, Plain, by_lower_name
from edge.server.service import CallSoon, Service
from edge.wire.capture import read_data_query, read_plain_query
from edge.wire.client_ip import read_address
from edge.wire.encoding import GZIP_MAGIC, read_plain_gzip
from edge.wire.payload import read_plain
from edge.wire.rejections import Rejected
from edge.wire.routes import PLAIN_ROUTES, Route
from edge.wire.validate import judge_token

log = logging.getLogger(__name__)

K = TypeVar("K")

PACKET_BYTES_MAX: Final = 32 * 1024
"""The most that a packet has which waits for the end of its turn."""
TEXT_BYTES_MAX: Final = 64 * 1024
"""The most that gzip in a packet becomes."""
PACKETS_MAX: Final = 256
"""More packets than these end the turn, which bounds the memory they take."""
_HEAD_BYTES: Final = 512
"""Of a record, but for odd ones."""
_TALLIED_TOGETHER: Final = 2048
"""Requests. Ten thousand at a tick would take a millisecond, for which everybody waits."""
_REMEMBERED_MAX: Final = 8192
"""Of each kind: the keys and the addresses that come again and again."""

_STARTS: Final = b"{[" + GZIP_MAGIC[:1]
_GZIP: Final = GZIP_MAGIC[0]
_NAMES: Final = {route.name: as_json(route.name) for route in PLAIN_ROUTES.values()}


class Sender(Connection, Protocol):
    """A connection, of which a packet waits for the end of the turn."""

    packet: bytes
    familiar: Familiar | None
    """How the head of its last ordinary request was read."""
    peer: str
    trusted: bool
    """What it says of other addresses is believed."""
    deadline_s: float

    def receive(self, data: bytes) -> None:
        """Read what is no ordinary request."""

    def capture(self, method: str, route: Route, query: bytes, headers: Headers, body: bytes) -> None:
        """Take an ordinary one that is no event in plain JSON."""

    def refuse_arrived(self, packet: bytes) -> None:
        """Answer for one that met a fault of ours."""


class Taken(msgspec.Struct, gc=False):
    """The waiter of the requests that one turn took."""

    service: Service
    exchanges: list[Exchange]

    def stored(self) -> None:
        service = self.service
        if service.stopping:
            for exchange in self.exchanges:
                exchange.stored()
            return
        answers = service.answers
        count_posted, count_got = service.posted, service.got
        for exchange in self.exchanges:
            connection = exchange.connection
            queue = connection.queue
            if exchange.special or connection.hindered or len(queue) != 1:
                exchange.stored()
                continue
            queue.clear()
            (count_posted if exchange.method == "POST" else count_got)(exchange.route.name)
            connection.transport.write(  # type: ignore[union-attr]
                answers.get(exchange.origin) or service.success(exchange.origin)
            )

    def not_stored(self) -> None:
        for exchange in self.exchanges:
            exchange.not_stored()


_Request = tuple[Sender, Route, str, bytes, bytes, bytes, bytes, bytes, int]
"""Of a request that was taken: its connection, route, method and Origin; the key and the address of its record, both as they
are written there, and `_` of the query; its text; and the bytes of its body."""


def _remember(kept: dict[K, bytes], key: K, value: bytes) -> bytes:
    if len(kept) >= _REMEMBERED_MAX:
        kept.clear()
    kept[key] = value
    return value


class Turn:
    """The packets of one turn. `call_soon` calls back when the loop has read what there was to read."""

    def __init__(self, service: Service, call_soon: CallSoon) -> None:
        self._service = service
        settings = service.settings
        self.packet_bytes_max = min(
            PACKET_BYTES_MAX,
            *(settings.target_bytes_max, settings.header_bytes_max, settings.body_bytes_max, settings.inline_bytes_max),
            settings.decoded.decoded_bytes_max,
        )
        """Of a packet that may wait: its head, its body and what they hold are within their limits."""
        self._text_bytes_max = min(TEXT_BYTES_MAX, settings.inline_bytes_max, settings.decoded.decoded_bytes_max)
        self._call_soon = call_soon
        self._begun = False
        """The end is under way."""
        self._arrived: list[Sender] = []
        self._parts: dict[int, list[_Request]] = {}
        """What was taken, by the number of events in a request."""
        self._layers: list[str] = []
        """What the events were wrapped in, a name for each request."""
        self._tokens: dict[str, bytes] = {}
        """Project keys that are in order, and what they are in JSON."""
        self._addresses: dict[bytes, bytes] = {}
        """First entries of X-Forwarded-For, and the plain text form of the addresses they are."""

    def arrive(self, connection: Sender) -> None:
        """`connection.packet` is to be taken: a large one at once, with those before it, and committed with those behind it."""
        arrived = self._arrived
        arrived.append(connection)
        if not self._begun:
            self._begun = True
            self._call_soon(self.end)
        if len(arrived) == PACKETS_MAX:
            self.end()
        elif len(connection.packet) > self.packet_bytes_max:
            self.take()

    def end(self) -> None:
        """Take every packet that has arrived, and commit."""
        self._begun = False
        self.take()
        self._service.writer.commit()

    def take(self) -> None:
        """Take every packet that has arrived; the commit follows at the end of the turn."""
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return
        service = self._service
        received_us = service.wall_ns() // 1000
        # Where there is no room, everybody is told so by the way that knows how.
        room = service.writer.pending_bytes <= service.settings.inflight_bytes_max
        for connection in arrived:
            packet = connection.packet
            connection.packet = b""
            try:
                if connection.hindered or not room or not self._take(connection, packet):
                    connection.receive(packet)
            except Exception:
                log.exception("a request met a fault of ours")
                connection.refuse_arrived(packet)
        if self._parts:
            self._append(received_us)

    def _take(self, connection: Sender, packet: bytes) -> bool:
        """Take an ordinary request; whether `packet` is one."""
        if len(packet) > self.packet_bytes_max:
            return self._take_ordinary(connection, packet)
        familiar = connection.familiar
        plain = None if familiar is None else familiar.read(packet)
        if plain is None:
            plain = self._recognise(connection, packet)
        if plain is not None and self._take_event(connection, plain):
            return True
        return self._take_ordinary(connection, packet)

    def _take_ordinary(self, connection: Sender, packet: bytes) -> bool:
        """The same for one whose form nobody knows, or that is more than one event in plain JSON."""
        read = self._service.ordinary.read(packet)
        if read is None:
            return False
        method, route, query, shape, headers, body = read
        connection.familiar = shape.familiar
        text, sent_at = body, None
        if method == "POST":
            if body[0] in _STARTS:
                sent_at = read_plain_query(query)
        elif not shape.encoded and (found := read_data_query(query)) is not None:
            text, sent_at = found
        origin = headers.get(shape.origin, b"")
        if (
            len(packet) > self.packet_bytes_max
            or sent_at is None
            or (forwarded_for := shape.forwarded_for(headers)) is None
            or not self._take_event(connection, (method, route, sent_at, origin, forwarded_for, text))
        ):
            connection.capture(method, route, query, by_lower_name(headers), body)
        return True

    def _recognise(self, connection: Sender, packet: bytes) -> Plain | None:
        """Of a connection that is new, or has changed its form."""
        for familiar in self._service.ordinary.recent:
            if familiar is not connection.familiar and (plain := familiar.read(packet)) is not None:
                connection.familiar = familiar
                return plain
        return None

    def _take_event(self, connection: Sender, plain: Plain) -> bool:
        """Take a request whose body is, or is gzip of, well-typed events in plain JSON, and few of them.

        Whether it is such a request.
        """
        service = self._service
        method, route, sent_at, origin, forwarded_for, body = plain
        text = body if body[0] != _GZIP else read_plain_gzip(body, self._text_bytes_max)
        if text is None or (found := read_plain(text)) is None:
            return False
        key, events = found
        if service.known_keys is not None and key not in service.known_keys:
            return False
        token = self._tokens.get(key) or self._judge(key)
        if forwarded_for and connection.trusted:
            address = self._addresses.get(forwarded_for) or self._read_address(forwarded_for)
        else:
            address = connection.peer.encode()
        if not (token and address):
            return False
        size = len(body)
        if method != "POST":
            size = 0
            self._layers.append("base64")
        elif text is not body:
            self._layers.append("gzip")
        part = self._parts.get(events)
        if part is None:
            part = self._parts[events] = []
        part.append((connection, route, method, origin, token, address, sent_at or b"", text, size))
        return True

    def _judge(self, key: str) -> bytes:
        """The key as JSON, remembered; empty when something is the matter with it."""
        try:
            if judge_token(key) != key:
                return b""
        except Rejected:
            return b""
        return _remember(self._tokens, key, as_json(key))

    def _read_address(self, entry: bytes) -> bytes:
        """In plain text form, remembered; empty when it is none."""
        return _remember(self._addresses, entry, read_address(entry).encode())

    def _append(self, received_us: int) -> None:
        """Hand what was taken to the writer. The end of the turn commits."""
        parts, self._parts = self._parts, {}
        self._service.tally(_TALLIED_TOGETHER)
        for layer in set(self._layers):
            self._service.row.add("edge_slow_path_total", self._layers.count(layer), layer)
        self._layers.clear()
        for events, part in parts.items():
            self._put(part, events, received_us)

    def _put(self, part: list[_Request], events: int, received_us: int) -> None:
        """`part`: requests with so many events each."""
        service = self._service
        count = len(part)
        connections, routes, methods, origins, tokens, addresses, sent_ats, texts, sizes = zip(*part, strict=True)
        if sum(map(len, texts)) > FRAME_RAW_BYTES_MAX // 2:
            # So many make a frame, however large they are.
            step = FRAME_RAW_BYTES_MAX // (max(map(len, texts)) + _HEAD_BYTES)
            if step < count:
                for start in range(0, count, step):
                    self._put(part[start : start + step], events, received_us)
                return
        names = [_NAMES[route.name] for route in routes]
        lines = encode_records(service.ids, received_us, tokens, names, addresses, sent_ats, texts)
        service.observe_bodies(sizes)
        exchanges = list(map(Exchange, connections, routes, methods, origins))
        deadline_s = service.idle_deadline_s
        # Pipelines are not bounded here, which took 0.7 % of a request's instructions (payload A): one is long only where a
        # client sends a packet for each request while a sync takes long, and the bytes of all of them are bounded by `take`.
        for connection, exchange in zip(connections, exchanges, strict=True):
            connection.queue.append(exchange)
            connection.deadline_s = deadline_s
        service.put(lines, count * events, received_us, Taken(service, exchanges), count)
