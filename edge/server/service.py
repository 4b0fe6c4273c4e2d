"""What all connections of a worker share: the spool, the limits, the counters, the clock, and ready-made answers."""

import random
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import msgspec

from edge.metrics import Histogram, Row, slot
from edge.spool.writer import SpoolWriter
from edge.wire.client_ip import parse_networks
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.request import MIB, Limits
from edge.wire.responses import cors_headers, render_beacon, render_success
from edge.wire.routes import ROUTE_NAMES

if TYPE_CHECKING:
    from edge.server.protocol import CaptureConnection

_ORIGINS_MAX: Final = 1024
"""Ready-made answers kept at a time; they are dropped every second anyway, when the date changes."""

RETRY_AFTER_S: Final = (1, 30)
"""Bounds of the `Retry-After` of our own faults, drawn evenly so that clients do not come back together."""


class ServerSettings(msgspec.Struct, frozen=True):
    """Limits of one worker's connections. Sizes in bytes, times in seconds."""

    body_bytes_max: int = 20 * MIB
    replay_body_bytes_max: int = 64 * MIB
    decoded: Limits = Limits()
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


class Service:
    """One worker's shared state. `now_s` is the monotonic clock as of the last tick: exact enough for deadlines."""

    def __init__(
        self,
        settings: ServerSettings,
        writer: SpoolWriter,
        row: Row,
        record_ids: Callable[[], bytes],
        wall_us: Callable[[], int],
    ) -> None:
        self.settings = settings
        self.trusted_proxies = parse_networks(settings.trusted_proxies)
        self.writer = writer
        self.record_ids = record_ids
        self.wall_us = wall_us
        self.now_s = 0.0
        self.date = b""
        self.stopping = False
        self.connections: set[CaptureConnection] = set()
        self.inflight_bytes = 0
        self._success: dict[bytes, bytes] = {}

        self.row = row
        self.slots = row.slots
        self.duration = Histogram(row, "http_requests_duration_seconds")
        self.body_bytes = Histogram(row, "edge_request_body_bytes")
        self.batch_events = Histogram(row, "edge_batch_events")
        self.received_slot = slot("capture_events_received_total")
        self.ingested_slot = slot("capture_events_ingested_total")
        self.accepted_slots = {
            (method, name): slot("http_requests_total", method, name, "200")
            for method in ("POST", "GET")
            for name in ROUTE_NAMES
        }

    def tick(self, now_s: float) -> None:
        """A few times a second: move the clock, drop dated answers, close what is past its deadline."""
        self.now_s = now_s
        self.date = formatdate(self.wall_us() / 1e6, usegmt=True).encode()
        self._success.clear()
        for connection in list(self.connections):
            if connection.deadline_s <= now_s:
                connection.expire()
        self.row.set("edge_connections", len(self.connections))
        self.row.set("edge_inflight_bytes", self.inflight_bytes + self.writer.pending_bytes)

    def success(self, origin: bytes) -> bytes:
        """The 200 of a kept connection, ready-made."""
        answer = self._success.get(origin)
        if answer is None:
            answer = render_success(cors_headers(origin), self.date)
            if len(self._success) < _ORIGINS_MAX:
                self._success[origin] = answer
        return answer

    def special_success(self, origin: bytes, *, close: bool, head: bool, beacon: bool) -> bytes:
        cors = cors_headers(origin)
        if beacon:
            return render_beacon(cors, self.date, close=close)
        return render_success(cors, self.date, close=close, head=head)

    def retry_after(self) -> int:
        return random.randint(*RETRY_AFTER_S)

    def overload(self, body_bytes: int) -> Reason | None:
        """Why a body of this size is not taken in now, `None` when it is."""
        if self.writer.failing:
            return Reason.STORAGE
        if self.inflight_bytes + self.writer.pending_bytes + body_bytes > self.settings.inflight_bytes_max:
            return Reason.OVERLOADED
        return None

    def count_answer(self, method: str, route_name: str, status: int) -> None:
        self.row.add("http_requests_total", 1, method, route_name, str(status))

    def count_refusal(self, reason: Reason, method: str, route_name: str) -> None:
        self.row.add("edge_rejected_requests_total", 1, reason.value)
        self.count_answer(method, route_name, REFUSALS[reason].status)
