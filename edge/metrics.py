"""Every metric, declared once; counted in memory that all processes share; printed in the Prometheus text format.

The supervisor makes one anonymous mapping with a row of 64-bit slots per process, and its children inherit it. A process adds
to its own row only, so nothing locks; whoever serves `/metrics` sums the rows. A restarted process goes on in the row of its
predecessor, so counters never go back. What a process may do again, its predecessor having died before that was known for good,
is not added: such a counter follows a total that was written down. Times are kept as whole microseconds and printed as seconds.
"""

import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final

import msgspec

from edge.wire.drops import DROP_REASONS, MENDED_FIELDS
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.routes import ROUTE_NAMES

METHODS: Final = ("POST", "GET", "OPTIONS", "HEAD", "other")
STATUSES: Final = tuple(str(s) for s in sorted({200, 204, *(refusal.status for refusal in REFUSALS.values())}))
LAYERS: Final = ("gzip", "deflate", "br", "zstd", "lz64", "base64", "form", "repair")
LANES: Final = ("main", "historical", "ai", "exceptions", "heatmaps", "warnings", "replay")
DOUBTS: Final = (Reason.UNKNOWN_KEY.value, Reason.UNKNOWN_PERSONAL_KEY.value, Reason.BAD_PROJECT.value)
SEAL_REASONS: Final = ("size", "age", "shutdown", "error")
UPSTREAMS: Final = ("main", "assets")
UPSTREAM_STATUSES: Final = ("2xx", "3xx", "4xx", "5xx", "other")
UPSTREAM_FAILURES: Final = ("unreachable", "disconnected", "malformed", "timeout", "busy", "cut", "client_gone")
SINKS_MAX: Final = 8
"""Sinks are numbered in the order given; the label carries the configured name."""

_DURATION_BUCKETS_US: Final = (
    *(250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 60_000_000),
)
_SIZE_BUCKETS: Final = (256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 20_971_520, 104_857_600)
_BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000)


class Metric(msgspec.Struct, frozen=True):
    """One declaration. `seconds`: slots hold microseconds. Rows are summed unless `per_process`, which prints each, or
    `largest`. `follows`: a counter of what a total has grown."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    """The closed list of values of each label."""
    buckets: tuple[int, ...] = ()
    seconds: bool = False
    per_process: bool = False
    largest: bool = False
    follows: bool = False

    @property
    def series(self) -> list[tuple[str, ...]]:
        return list(product(*self.values))

    @property
    def slots_per_series(self) -> int:
        # A histogram's slots: one per bucket, one above them all, the sum.
        if self.kind == "histogram":
            return len(self.buckets) + 2
        # Behind what is printed, what the total was when counting began.
        return 2 if self.follows else 1

    @property
    def slots(self) -> int:
        return len(self.series) * self.slots_per_series


_SINK_LABEL: Final = tuple(str(index) for index in range(SINKS_MAX))

METRICS: Final = (
    Metric(
        "http_requests_total",
        "counter",
        "Requests answered.",
        ("method", "path", "status"),
        (METHODS, ROUTE_NAMES, STATUSES),
    ),
    Metric(
        "http_requests_duration_seconds",
        "histogram",
        "Time from the last byte of an accepted request to its commit, which its answer follows at once.",
        buckets=_DURATION_BUCKETS_US,
        seconds=True,
    ),
    Metric("capture_events_received_total", "counter", "Events in requests that were read as events."),
    Metric("capture_events_ingested_total", "counter", "Events acknowledged: on disk as the durability mode says."),
    Metric(
        "capture_events_dropped_total",
        "counter",
        "Events of accepted requests that are not delivered, by cause.",
        ("cause",),
        (DROP_REASONS,),
        follows=True,
    ),
    Metric(
        "capture_events_mended_total",
        "counter",
        "Events that are delivered as if a field they have were absent, being unusable.",
        ("field",),
        (MENDED_FIELDS,),
    ),
    Metric(
        "edge_rejected_requests_total",
        "counter",
        "Requests refused, by cause.",
        ("cause",),
        (tuple(reason.value for reason in Reason),),
    ),
    Metric(
        "edge_projects_dry_run_total",
        "counter",
        'Requests accepted that `mode = "enforce"` of the project registry would refuse, by cause.',
        ("cause",),
        (DOUBTS,),
    ),
    Metric(
        "edge_projects_loads_total",
        "counter",
        "Readings of the project registry's file.",
        ("outcome",),
        (("ok", "failed"),),
    ),
    Metric(
        "edge_projects_stale",
        "gauge",
        "1 while the project registry's file cannot be used and an older state of it, or none, is in force.",
        per_process=True,
    ),
    Metric("edge_slow_path_total", "counter", "Encoding layers unwrapped, by kind.", ("layer",), (LAYERS,)),
    Metric("edge_request_body_bytes", "histogram", "Body sizes on the wire.", buckets=_SIZE_BUCKETS),
    Metric("edge_batch_events", "histogram", "Events per accepted request.", buckets=_BATCH_BUCKETS),
    Metric("edge_connections", "gauge", "Open connections.", per_process=True),
    Metric("edge_connections_total", "counter", "Connections accepted."),
    Metric("edge_inflight_bytes", "gauge", "Bytes of bodies being read or waiting for their commit.", per_process=True),
    Metric(
        "edge_event_loop_lag_seconds",
        "histogram",
        "How late the worker's periodic sweep ran.",
        buckets=_DURATION_BUCKETS_US,
        seconds=True,
    ),
    Metric(
        "edge_gc_pause_seconds",
        "histogram",
        "How long a garbage collection held the worker's loop.",
        buckets=_DURATION_BUCKETS_US,
        seconds=True,
    ),
    Metric("edge_heavy_requests_total", "counter", "Requests handed to a decoder, being much work for an event loop."),
    Metric("edge_heavy_requests_waiting", "gauge", "Requests that wait for the decoder.", per_process=True),
    Metric("edge_decoder_failures_total", "counter", "Decoders that died, hung or could not be started."),
    Metric("edge_commits_total", "counter", "Group commits."),
    Metric("edge_commit_records", "histogram", "Records per group commit.", buckets=_BATCH_BUCKETS),
    Metric("edge_spool_written_bytes_total", "counter", "Compressed bytes appended to segments."),
    Metric("edge_fsync_duration_seconds", "histogram", "Time a sync took.", buckets=_DURATION_BUCKETS_US, seconds=True),
    Metric("edge_segment_sealed_total", "counter", "Segments sealed, by reason.", ("reason",), (SEAL_REASONS,)),
    Metric("edge_segment_write_errors_total", "counter", "Writes, syncs and renames of segments that failed."),
    Metric("edge_recovered_segments_total", "counter", "Segments left open by a crash and sealed at start."),
    Metric("edge_torn_bytes_total", "counter", "Bytes cut off the end of segments left open by a crash."),
    Metric("edge_damaged_bytes_total", "counter", "Bytes inside segments that are not readable.", follows=True),
    Metric(
        "edge_upstream_answers_total",
        "counter",
        "Answers of upstreams passed on, by class of status.",
        ("upstream", "status"),
        (UPSTREAMS, UPSTREAM_STATUSES),
    ),
    Metric(
        "edge_upstream_failures_total",
        "counter",
        "Forwarded requests without a complete answer, by cause.",
        ("upstream", "cause"),
        (UPSTREAMS, UPSTREAM_FAILURES),
    ),
    Metric("edge_upstream_requests", "gauge", "Forwarded requests under way.", per_process=True),
    Metric(
        "edge_heartbeat_timestamp_seconds",
        "gauge",
        "When the process last turned its loop.",
        seconds=True,
        per_process=True,
    ),
    Metric("edge_disk_pressure", "gauge", "0 ok, 1 high, 2 shedding session replays, 3 full: everything is refused."),
    Metric("edge_disk_available_bytes", "gauge", "Bytes available to the program on the disk of the data folder."),
    Metric("edge_spool_budget_bytes", "gauge", "What the spool may grow to."),
    Metric("edge_storage_failing", "gauge", "1 while the disk refuses commits.", per_process=True),
    Metric("edge_unfinished_segments", "gauge", "Segments that the disk does not let be finished.", per_process=True),
    Metric("edge_worker_restarts_total", "counter", "Workers and drainers that died and were started again."),
    Metric(
        "edge_drain_events_total",
        "counter",
        "Events per sink and outcome.",
        ("sink", "outcome"),
        (_SINK_LABEL, ("shipped", "dropped", "quarantined", "limited")),
        follows=True,
    ),
    Metric("edge_drain_records_total", "counter", "Records per sink.", ("sink",), (_SINK_LABEL,), follows=True),
    Metric("edge_drain_bytes_total", "counter", "Bytes handed to the sink.", ("sink",), (_SINK_LABEL,), follows=True),
    Metric(
        "edge_drain_retries_total",
        "counter",
        "Attempts after which the sink was left alone for a while, by cause.",
        ("sink", "kind"),
        (_SINK_LABEL, ("retryable", "paused", "breaker")),
    ),
    Metric(
        "edge_drain_splits_total",
        "counter",
        "Batches that were offered again in parts, by cause.",
        ("sink", "reason"),
        (_SINK_LABEL, ("too_large", "refused")),
    ),
    Metric(
        "edge_drain_imbalance_events",
        "gauge",
        "Accepted events that are neither shipped, dropped, merged, quarantined nor waiting: 0, or something is wrong.",
        ("sink",),
        (_SINK_LABEL,),
    ),
    Metric(
        "edge_sink_paused",
        "gauge",
        "1 while the destination's settings have to be mended, or it refuses everything.",
        ("sink",),
        (_SINK_LABEL,),
        largest=True,
    ),
    Metric(
        "edge_last_shipped_timestamp_seconds",
        "gauge",
        "When the sink last confirmed.",
        ("sink",),
        (_SINK_LABEL,),
        seconds=True,
        largest=True,
    ),
)


def _starts() -> tuple[dict[str, int], int]:
    starts: dict[str, int] = {}
    total = 0
    for metric in METRICS:
        starts[metric.name] = total
        total += metric.slots
    return starts, total


_START, ROW_SLOTS = _starts()
_BY_NAME: Final = {metric.name: metric for metric in METRICS}
_SLOT_BYTES: Final = 8
_BEGUN: Final = 1 << 62
"""Added to what a total was when counting began, so that 0 says that it has not."""


def slot(name: str, *values: str) -> int:
    """The index in a row of one counter's or gauge's series. Raises `KeyError` or `ValueError` for what is not declared."""
    metric = _BY_NAME[name]
    index = 0
    for value, allowed in zip(values, metric.values, strict=True):
        index = index * len(allowed) + allowed.index(value)
    return _START[name] + index * metric.slots_per_series


class Histogram:
    """Observations of one histogram into one row: counted, or gathered, which is cheaper for single values, until `fold`."""

    __slots__ = ("_buckets", "_gathered", "_row", "_start", "_sum", "observe", "observe_all")

    def __init__(self, row: "Row", name: str) -> None:
        self._row = row.slots
        self._start = slot(name)
        self._buckets = _BY_NAME[name].buckets
        self._sum = self._start + len(self._buckets) + 1
        self._gathered: list[int] = []
        self.observe = self._gathered.append
        """Take one value; thread-safe, being a single call into C."""
        self.observe_all = self._gathered.extend
        """Take several."""

    def count(self, value: int, times: int = 1) -> None:
        """Count one value that was observed so many times, at once; by one thread only."""
        self._row[self._start + bisect_left(self._buckets, value)] += times
        self._row[self._sum] += value * times

    def fold(self) -> None:
        """Count what was gathered. To be called a few times a second."""
        count = len(self._gathered)
        if not count:
            return
        values = self._gathered[:count]
        del self._gathered[:count]
        self._row[self._sum] += sum(values)
        # In order, a step per bucket instead of one per value: a busy quarter of a second gathers ten thousand.
        values.sort()
        counted = 0
        for bucket, bound in enumerate(self._buckets, self._start):
            behind = bisect_right(values, bound, counted)
            self._row[bucket] += behind - counted
            counted = behind
        self._row[self._start + len(self._buckets)] += count - counted


class Row:
    """One process's slots. `row.slots[slot(...)] += n` is the hot way to count."""

    __slots__ = ("slots",)

    def __init__(self, slots: memoryview) -> None:
        self.slots = slots

    def add(self, name: str, amount: int, *values: str) -> None:
        self.slots[slot(name, *values)] += amount

    def follow(self, name: str, total: int, *values: str) -> None:
        """Count what a total that outlives the process has grown since the first call for the row, by whichever process.

        Of a total that went back, its file having been lost, everything counts that comes from there on. A kill at any moment
        leaves the row right: one slot is written, and the same total may be told again.
        """
        at = slot(name, *values)
        counted, begun = self.slots[at], self.slots[at + 1]
        if not begun or total - (begun - _BEGUN) < counted:
            self.slots[at + 1] = _BEGUN + total - counted
        else:
            self.slots[at] = total - (begun - _BEGUN)

    def set(self, name: str, amount: int, *values: str) -> None:
        self.slots[slot(name, *values)] = amount

    def get(self, name: str, *values: str) -> int:
        return int(self.slots[slot(name, *values)])


class Board:
    """All rows: the memory that the processes of one supervisor share."""

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, rows * ROW_SLOTS * _SLOT_BYTES)
        self._slots = memoryview(self._map).cast("q")
        self.rows = [Row(self._slots[i * ROW_SLOTS : (i + 1) * ROW_SLOTS]) for i in range(rows)]

    @classmethod
    def create(cls, rows: int) -> "Board":
        """A new board of zeroes whose descriptor children may inherit."""
        fd = os.memfd_create("edge-metrics", os.MFD_CLOEXEC)
        os.ftruncate(fd, rows * ROW_SLOTS * _SLOT_BYTES)
        return cls(fd, rows)

    def total(self, name: str, *values: str) -> int:
        return sum(row.get(name, *values) for row in self.rows)

    def exposition(self, info: Mapping[str, str], sinks: Sequence[str]) -> str:
        """The Prometheus text format. `info` labels `edge_build_info`; `sinks` are the configured names in order."""
        lines = ["# HELP edge_build_info Version of the running program.", "# TYPE edge_build_info gauge"]
        lines.append(f"edge_build_info{_labels(info)} 1")
        for metric in METRICS:
            lines.append(f"# HELP {metric.name} {metric.help}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            rows = [(str(i), [row]) for i, row in enumerate(self.rows)] if metric.per_process else [("", self.rows)]
            for process, summed in rows:
                self._series(lines, metric, process, summed, sinks)
        return "\n".join(lines) + "\n"

    def _series(
        self, lines: list[str], metric: Metric, process: str, rows: Sequence[Row], sinks: Sequence[str]
    ) -> None:
        start = _START[metric.name]
        for index, values in enumerate(metric.series):
            labels = dict(zip(metric.labels, values, strict=True))
            if "sink" in labels:
                if int(labels["sink"]) >= len(sinks):
                    continue
                labels["sink"] = sinks[int(labels["sink"])]
            if process:
                labels["worker"] = process
            first = start + index * metric.slots_per_series
            together = max if metric.largest else sum
            slots = [together(row.slots[at] for row in rows) for at in range(first, first + metric.slots_per_series)]
            if metric.kind == "histogram":
                _histogram(lines, metric, labels, slots)
            elif slots[0] or not metric.labels or (metric.kind == "gauge" and not metric.seconds):
                # A labelled counter or moment appears with its first value: most combinations never occur.
                lines.append(f"{metric.name}{_labels(labels)} {_number(slots[0], metric)}")


def _histogram(lines: list[str], metric: Metric, labels: dict[str, str], slots: list[int]) -> None:
    seen = 0
    for bound, count in zip(metric.buckets, slots, strict=False):
        seen += count
        lines.append(f"{metric.name}_bucket{_labels({**labels, 'le': _number(bound, metric)})} {seen}")
    seen += slots[len(metric.buckets)]
    lines.append(f"{metric.name}_bucket{_labels({**labels, 'le': '+Inf'})} {seen}")
    lines.append(f"{metric.name}_sum{_labels(labels)} {_number(slots[-1], metric)}")
    lines.append(f"{metric.name}_count{_labels(labels)} {seen}")


def _number(value: int, metric: Metric) -> str:
    return repr(value / 1_000_000) if metric.seconds else str(value)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escape(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
