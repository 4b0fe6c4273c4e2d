"""What all connections of a worker share: the spool, the limits, the counters, the clock, and ready-made answers."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from edge.blocks import give_back
from edge.metrics import Histogram, Row
from edge.segment.record import RecordIds
from edge.server.admission import ServerSettings
from edge.server.heads import OrdinaryReader
from edge.server.heavy import HeavyRequests
from edge.spool.writer import SpoolWriter
from edge.wire.capture import Choose
from edge.wire.client_ip import is_trusted, normalise_ip, parse_networks
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.request import Light
from edge.wire.responses import cors_headers, render, render_beacon, render_success
from edge.wire.v1 import V1Answer

if TYPE_CHECKING:
    from edge.server.upstream import Forwarder

_ORIGINS_MAX: Final = 1024
"""Ready-made answers kept at a time; they are dropped every second anyway, when the date changes."""

HEAD_PACKET_BYTES_MAX: Final = 16 * 1024
"""Larger packets are cut before the parser sees a head in them: then a head is small, or its size is known to the byte."""

_PEERS_MAX: Final = 8192

_EXPIRED_TOGETHER: Final = 64
"""Connections. To close one takes some twenty microseconds, and ten thousand may have become idle at once."""

RETRY_AFTER_S: Final = (1, 30)
"""Bounds of the `Retry-After` of our own faults, drawn evenly so that clients do not come back together."""


CallSoon = Callable[[Callable[[], None]], object]


class Kept(Protocol):
    """A client's connection, as the clock has it and the end of the worker."""

    deadline_s: float

    def expire(self) -> None:
        """The deadline has passed."""

    def stop(self) -> bool:
        """Close it if it has nothing under way; whether it had nothing."""

    def refuse_unfinished(self) -> None:
        """Refuse what has not come whole."""


class Service:
    """One worker's shared state. `now_s` is the monotonic clock as of the last tick: exact enough for deadlines."""

    def __init__(
        self,
        settings: ServerSettings,
        writer: SpoolWriter,
        row: Row,
        ids: RecordIds,
        wall_ns: Callable[[], int],
        call_soon: CallSoon,
        forwarder: "Forwarder | None" = None,
    ) -> None:
        self.settings = settings
        self.trusted_proxies = parse_networks(settings.trusted_proxies)
        self.head_packet_bytes_max = min(HEAD_PACKET_BYTES_MAX, settings.header_bytes_max)
        """No head that is whole in such a packet is too large."""
        self.light = Light.up_to(settings.inline_bytes_max)
        self.limits = msgspec.structs.replace(settings.decoded, light=self.light)
        self.v1_limits = msgspec.structs.replace(settings.v1_decoded, light=self.light)
        self.heavy = HeavyRequests("decoder", settings.decoded, settings.v1_decoded, row)
        self.ordinary = OrdinaryReader(
            min(self.head_packet_bytes_max, settings.target_bytes_max),
            settings.headers_max,
            min(settings.body_bytes_max, settings.inline_bytes_max),
        )
        self.writer = writer
        self._call_soon = call_soon
        self.ids = ids
        self.wall_ns = wall_ns
        self.forwarder = forwarder
        """Takes what is on no route; `None` where there is no upstream."""
        self.now_s = 0.0
        self.idle_deadline_s = 0.0
        self.date = b""
        self.stopping = False
        """Every connection's next answer is its last."""
        self.ready = True
        self.shedding = False
        """The disk is nearly full: session replays are refused."""
        self.connections: set[Kept] = set()
        self.connected = 0
        """Connections made since the last tick."""
        self._expired: list[Kept] = []
        self._peers: dict[str, tuple[str, bool]] = {}
        self.inflight_bytes = 0
        self.choose_key: Choose | None = None
        """Looks project keys up; `None` where none are looked up."""
        self.known_keys: frozenset[str] | None = None
        """Keys that need no look; `None` when none does."""
        self.answers: dict[bytes, bytes] = {}
        """Ready-made 200s of kept connections, by Origin."""

        self.row = row
        self._body_bytes = Histogram(row, "edge_request_body_bytes")
        self.observe_body = self._body_bytes.observe
        self.observe_bodies = self._body_bytes.observe_all
        self.append = writer.append
        self.put = writer.put
        self._posted: list[str] = []
        self._got: list[str] = []
        self.posted = self._posted.append
        self.got = self._got.append
        """Count the 200 of a POST, of a GET, on the route of this name, at the next tick or before."""

    def tick(self, now_s: float) -> None:
        """A few times a second: move the clock, drop dated answers, close what is past its deadline."""
        self.now_s = now_s
        self.idle_deadline_s = now_s + self.settings.idle_timeout_s
        self.date = formatdate(self.wall_ns() / 1e9, usegmt=True).encode()
        self.answers.clear()
        self.ordinary.sweep()
        if not self._expired:
            self._expired = [connection for connection in self.connections if connection.deadline_s <= now_s]
            self._expire()
        self.heavy.tick(now_s)
        give_back()
        self.tally()
        self.row.add("edge_connections_total", self.connected)
        self.connected = 0
        self.row.set("edge_connections", len(self.connections))
        self.row.set("edge_inflight_bytes", self.inflight_bytes + self.writer.pending_bytes)

    def _expire(self) -> None:
        """Some of those that were past their deadline; the others in the turns of the loop that follow."""
        some = self._expired[-_EXPIRED_TOGETHER:]
        del self._expired[-_EXPIRED_TOGETHER:]
        for connection in some:
            if connection.deadline_s <= self.now_s:
                connection.expire()
        if self._expired:
            self._call_soon(self._expire)

    def tally(self, least: int = 0) -> None:
        """Count the requests that were gathered, if they are so many."""
        if len(self._posted) + len(self._got) < least:
            return
        self._body_bytes.fold()
        for method, names in (("POST", self._posted), ("GET", self._got)):
            for route_name, count in Counter(names).items():
                self.row.add("http_requests_total", count, method, route_name, "200")
            names.clear()

    def peer(self, address: str) -> tuple[str, bool]:
        """A peer's address in plain text form, and whether it is believed what it says of other addresses. Remembered: to work
        it out takes as long as all else that is done for a new connection."""
        found = self._peers.get(address)
        if found is None:
            if len(self._peers) >= _PEERS_MAX:
                self._peers.clear()
            plain = normalise_ip(address)
            found = self._peers[address] = plain, is_trusted(plain, self.trusted_proxies)
        return found

    def success(self, origin: bytes) -> bytes:
        """The 200 of a kept connection, kept for the next who asks from there."""
        answer = render_success(cors_headers(origin), self.date)
        if len(self.answers) < _ORIGINS_MAX:
            self.answers[origin] = answer
        return answer

    def special_success(self, origin: bytes, *, close: bool, head: bool, beacon: bool, terse: bool) -> bytes:
        cors = cors_headers(origin)
        if beacon:
            return render_beacon(cors, self.date, close=close)
        return render_success(cors, self.date, terse=terse, close=close, head=head)

    def v1_success(self, origin: bytes, answer: V1Answer, *, close: bool) -> bytes:
        """The head and the first piece of the body."""
        first, *more = answer.body
        more_bytes = sum(map(len, more))
        cors = cors_headers(origin)
        return render(200, bytes(first), cors, self.date, extra=answer.headers, close=close, more_bytes=more_bytes)

    def retry_after(self) -> int:
        return random.randint(*RETRY_AFTER_S)

    def overload(self, body_bytes: int, *, replay: bool = False) -> Reason | None:
        """Why a body of this size is not taken in now, `None` when it is."""
        if self.writer.refusing or (replay and self.shedding):
            return Reason.STORAGE
        if self.inflight_bytes + self.writer.pending_bytes + body_bytes > self.settings.inflight_bytes_max:
            return Reason.OVERLOADED
        return None

    def count_layers(self, layers: Iterable[str]) -> None:
        for layer in layers:
            self.row.add("edge_slow_path_total", 1, layer)

    def count_answer(self, method: str, route_name: str, status: int) -> None:
        self.row.add("http_requests_total", 1, method, route_name, str(status))

    def count_refusal(self, reason: Reason, method: str, route_name: str) -> None:
        self.row.add("edge_rejected_requests_total", 1, reason.value)
        self.count_answer(method, route_name, REFUSALS[reason].status)
