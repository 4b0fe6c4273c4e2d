"""A running edge in figures, out of what its admin port answers: two readings of `/metrics` make a frame.

Rates are what counters grew by between the readings of an address, divided by the time between them; p50 and p99 are of what
histograms counted in between, interpolated within a bucket. `None` stands for what cannot be told: there are no two readings
yet, nothing answers, or the metric is not there.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edge.exposition import Exposition, Labels
from edge.metrics import METRICS
from edge.spool.budget import Pressure

_COUNTED: Final = frozenset(
    metric.name + ("_count" if metric.kind == "histogram" else "") for metric in METRICS if metric.kind != "gauge"
)
"""Samples that only grow for as long as the edge runs. Those of /proc are not among them: a process may be another one."""


class Reading(msgspec.Struct, frozen=True):
    """One answer. `taken_s` is of a clock that only goes forward."""

    taken_s: float
    exposition: Exposition


class Heard(msgspec.Struct, frozen=True):
    """What an address has answered so far: the last two readings, or since when it does not answer and why."""

    address: str
    before: Reading | None = None
    last: Reading | None = None
    unanswered_since_s: float | None = None
    """Unix time."""
    why: str = ""

    def answered(self, reading: Reading) -> "Heard":
        return Heard(self.address, self.last, reading)

    def silent(self, time_s: float, why: str) -> "Heard":
        since_s = time_s if self.unanswered_since_s is None else self.unanswered_since_s
        return Heard(self.address, self.before, self.last, since_s, why)

    def ships(self) -> bool:
        """Whether a drainer is told of there."""
        return self.last is not None and _SINK_GAUGE in self.last.exposition.samples


_SINK_GAUGE: Final = "edge_drain_imbalance_events"
"""Has a sample for every sink from the start on."""


# --- what a frame says; the names are those of `--json`, which scripts rely on


class Source(msgspec.Struct, frozen=True):
    address: str
    version: str | None
    interval_s: float | None
    """Between the two readings that rates of this address are made of."""
    unanswered_since_s: float | None
    """Unix time; what is of this address is not told then."""
    why: str


class Worker(msgspec.Struct, frozen=True):
    worker: int
    connections: int | None
    inflight_bytes: int | None
    heavy_waiting: int | None
    storage_failing: bool | None


class Traffic(msgspec.Struct, frozen=True):
    requests_per_s: float | None
    events_per_s: float | None
    """Acknowledged."""
    body_bytes_per_s: float | None
    """On the wire."""
    answer_p50_s: float | None
    answer_p99_s: float | None
    refused_per_s: float | None
    refused_by_cause_per_s: dict[str, float]
    """The most frequent first; a cause that did not occur is not there."""
    dropped_events_per_s: float | None
    """The drainer's decision, as are the causes."""
    dropped_events_by_cause_per_s: dict[str, float]
    connections: int | None
    inflight_bytes: int | None
    loop_lag_p99_s: float | None
    heavy_waiting: int | None
    restarts: int | None
    """In the interval."""
    restarts_total: int | None
    workers: list[Worker]


class Storage(msgspec.Struct, frozen=True):
    commits_per_s: float | None
    records_per_commit: float | None
    fsync_p99_s: float | None
    written_bytes_per_s: float | None
    spool_bytes: int | None
    budget_bytes: int | None
    budget_share: float | None
    hours_left: float | None
    """Until the budget is used up by what is written, if nothing is deleted; `None` also while nothing is written."""
    segments: dict[str, int]
    oldest_age_s: float | None
    pressure: str | None
    storage_failing: int | None
    """Workers."""
    quarantined_events: int | None
    unfinished_segments: int | None


class SinkFigures(msgspec.Struct, frozen=True):
    sink: str
    shipped_per_s: float | None
    limited_per_s: float | None
    """Of the shipped ones, those that downstream said it would not keep, being over quota."""
    dropped_per_s: float | None
    quarantined_per_s: float | None
    retries: dict[str, int] | None
    """In the interval, by kind; a kind that did not occur is not there."""
    paused: bool | None
    last_shipped_age_s: float | None
    imbalance_events: int | None


class Forwarded(msgspec.Struct, frozen=True):
    under_way: int | None
    answers_by_status_per_s: dict[str, float]
    failures_by_cause_per_s: dict[str, float]


class Frame(msgspec.Struct, frozen=True):
    time_s: float
    """Unix time."""
    admin: Source
    drain_admin: Source | None
    """`None` where the drainer needs no address of its own."""
    traffic: Traffic
    disk: Storage
    sinks: list[SinkFigures]
    upstream: Forwarded | None
    """`None` where nothing was ever forwarded."""


# --- readings to a frame


def make_frame(time_s: float, admin: Heard, drain: Heard | None) -> Frame:
    """`drain` is what the address of a drainer of its own answers; what `admin` tells of a drainer counts before it."""
    own = _Change(admin)
    drained = own if drain is None or own.samples(_SINK_GAUGE) else _Change(drain)
    return Frame(
        time_s,
        _source(admin, own),
        None if drain is None else _source(drain, _Change(drain)),
        _traffic(own, drained),
        _storage(own, drained),
        _sinks(time_s, drained),
        _forwarded(own),
    )


class _Change:
    """The two readings of an address, as far as there are any, and it answers now. Labels given choose among the samples."""

    def __init__(self, heard: Heard) -> None:
        before, last = heard.before, heard.last
        if heard.unanswered_since_s is not None:
            before = last = None
        self._last = last.exposition if last is not None else Exposition(frozenset(), {})
        self._before = None if before is None else before.exposition.samples
        self.interval_s = None if before is None or last is None else last.taken_s - before.taken_s
        if self._before is not None and _went_back(self._before, self._last.samples):
            # Another edge than before, which began at zero.
            self._before = {}

    def has(self, metric: str) -> bool:
        return metric in self._last.metrics

    def samples(self, name: str) -> Mapping[Labels, float]:
        return self._last.samples.get(name, {})

    def gauge(self, metric: str, **labels: str) -> float | None:
        """The sum of the samples."""
        if not self.has(metric):
            return None
        return sum(value for found, value in self.samples(metric).items() if labels.items() <= dict(found).items())

    def count(self, metric: str, **labels: str) -> int | None:
        value = self.gauge(metric, **labels)
        return None if value is None else int(value)

    def by(self, metric: str, label: str) -> dict[str, float]:
        """Gauges by the value of a label."""
        return {dict(found)[label]: value for found, value in self.samples(metric).items() if label in dict(found)}

    def grown(self, metric: str, part: str = "", **labels: str) -> float | None:
        """What a counter grew by, or of a histogram the `part` with that ending."""
        if self._before is None or not self.has(metric):
            return None
        return sum(
            (value for found, value in self._growth(metric + part) if labels.items() <= dict(found).items()), start=0.0
        )

    def grown_by(self, metric: str, label: str, part: str = "", **labels: str) -> dict[str, float]:
        """The same by the value of a label."""
        grown: dict[str, float] = {}
        for found, value in self._growth(metric + part):
            named = dict(found)
            if label in named and labels.items() <= named.items():
                grown[named[label]] = grown.get(named[label], 0.0) + value
        return grown

    def rate(self, metric: str, part: str = "", **labels: str) -> float | None:
        grown = self.grown(metric, part, **labels)
        return None if grown is None or not self.interval_s else grown / self.interval_s

    def rates_by(self, metric: str, label: str) -> dict[str, float]:
        """Largest first, without those that did not grow."""
        grown = self.grown_by(metric, label)
        ordered = sorted(grown, key=lambda value: (-grown[value], value))
        return {value: grown[value] / self.interval_s for value in ordered if grown[value] and self.interval_s}

    def mean(self, histogram: str) -> float | None:
        count = self.grown(histogram, "_count")
        total = self.grown(histogram, "_sum")
        return total / count if count and total is not None else None

    def quantile(self, histogram: str, share: float) -> float | None:
        """Of what was observed in between; `None` when nothing was."""
        buckets = self.grown_by(histogram, "le", "_bucket")
        return quantile({float(bound): value for bound, value in buckets.items()}, share)

    def _growth(self, name: str) -> Iterable[tuple[Labels, float]]:
        if self._before is None:
            return []
        before = self._before.get(name, {})
        return [(labels, value - before.get(labels, 0.0)) for labels, value in self.samples(name).items()]


def _went_back(before: Mapping[str, Mapping[Labels, float]], last: Mapping[str, Mapping[Labels, float]]) -> bool:
    """Whether any counter is less than it was, or gone."""
    return any(
        last.get(name, {}).get(labels, 0.0) < value
        for name in _COUNTED
        for labels, value in before.get(name, {}).items()
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which this share of the observations lies, as if those of a bucket were spread evenly over it.

    `buckets` are numbers of observations by the upper bound that they do not exceed, each including those below it. Of what
    exceeds the largest bound but infinity, no more is known than that bound. `None` when nothing was observed.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted = share * buckets[bounds[-1]]
    below, counted = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted and buckets[bound] > counted:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (wanted - counted) / (buckets[bound] - counted)
        below, counted = bound, buckets[bound]
    return below


def _source(heard: Heard, change: _Change) -> Source:
    versions = change.by("edge_build_info", "version")
    return Source(heard.address, next(iter(versions), None), change.interval_s, heard.unanswered_since_s, heard.why)


def _traffic(own: _Change, drained: _Change) -> Traffic:
    restarts = own.grown("edge_worker_restarts_total")
    return Traffic(
        requests_per_s=own.rate("http_requests_total"),
        events_per_s=own.rate("capture_events_ingested_total"),
        body_bytes_per_s=own.rate("edge_request_body_bytes", "_sum"),
        answer_p50_s=own.quantile("http_requests_duration_seconds", 0.5),
        answer_p99_s=own.quantile("http_requests_duration_seconds", 0.99),
        refused_per_s=own.rate("edge_rejected_requests_total"),
        refused_by_cause_per_s=own.rates_by("edge_rejected_requests_total", "cause"),
        dropped_events_per_s=drained.rate("capture_events_dropped_total") if drained.samples(_SINK_GAUGE) else None,
        dropped_events_by_cause_per_s=drained.rates_by("capture_events_dropped_total", "cause"),
        connections=own.count("edge_connections"),
        inflight_bytes=own.count("edge_inflight_bytes"),
        loop_lag_p99_s=own.quantile("edge_event_loop_lag_seconds", 0.99),
        heavy_waiting=own.count("edge_heavy_requests_waiting"),
        restarts=None if restarts is None else int(restarts),
        restarts_total=own.count("edge_worker_restarts_total"),
        workers=_workers(own),
    )


def _workers(own: _Change) -> list[Worker]:
    """The supervisor has a row of metrics for each of the two slots of every worker, one for each drainer, one for itself.

    Of drainers all but the last of several may have no process at the moment, and the number of workers comes out the same.
    """
    rows = own.by("edge_connections", "worker")
    drainers = sum(process.startswith("drainer") for process in own.by("process_resident_memory_bytes", "process"))
    workers = (len(rows) - 1 - max(drainers, 1 if own.samples(_SINK_GAUGE) else 0)) // 2

    def count(metric: str, worker: int) -> int | None:
        """Of both slots, since the one that is being replaced still has connections."""
        found = [own.count(metric, worker=str(row)) for row in (worker, worker + workers)]
        return None if None in found else sum(value for value in found if value is not None)

    described = []
    for worker in range(workers):
        failing = count("edge_storage_failing", worker)
        described.append(
            Worker(
                worker,
                count("edge_connections", worker),
                count("edge_inflight_bytes", worker),
                count("edge_heavy_requests_waiting", worker),
                None if failing is None else failing > 0,
            )
        )
    return described


def _storage(own: _Change, drained: _Change) -> Storage:
    # The drainer measures the same folder; what the edge says of it is newer.
    measured = own if own.has("edge_spool_bytes") else drained
    written = own.rate("edge_spool_written_bytes_total")
    spool, budget = measured.count("edge_spool_bytes"), measured.count("edge_spool_budget_bytes")
    left = None if spool is None or budget is None else max(0, budget - spool)
    level = measured.count("edge_disk_pressure")
    return Storage(
        commits_per_s=own.rate("edge_commits_total"),
        records_per_commit=own.mean("edge_commit_records"),
        fsync_p99_s=own.quantile("edge_fsync_duration_seconds", 0.99),
        written_bytes_per_s=written,
        spool_bytes=spool,
        budget_bytes=budget,
        budget_share=spool / budget if spool is not None and budget else None,
        hours_left=left / written / 3600 if left is not None and written else None,
        segments={state: int(count) for state, count in measured.by("edge_spool_segments", "state").items()},
        oldest_age_s=measured.gauge("edge_spool_oldest_age_seconds"),
        pressure=Pressure(level).name.lower() if level in set(Pressure) else None,
        storage_failing=own.count("edge_storage_failing"),
        quarantined_events=measured.count("edge_quarantined_events"),
        unfinished_segments=own.count("edge_unfinished_segments"),
    )


def _sinks(time_s: float, drained: _Change) -> list[SinkFigures]:
    described = []
    for sink in drained.by(_SINK_GAUGE, "sink"):
        retries = drained.grown_by("edge_drain_retries_total", "kind", sink=sink)
        paused = drained.count("edge_sink_paused", sink=sink)
        shipped_s = drained.gauge("edge_last_shipped_timestamp_seconds", sink=sink)
        described.append(
            SinkFigures(
                sink,
                drained.rate("edge_drain_events_total", sink=sink, outcome="shipped"),
                drained.rate("edge_drain_events_total", sink=sink, outcome="limited"),
                drained.rate("edge_drain_events_total", sink=sink, outcome="dropped"),
                drained.rate("edge_drain_events_total", sink=sink, outcome="quarantined"),
                None if drained.interval_s is None else {kind: int(times) for kind, times in retries.items() if times},
                None if paused is None else paused > 0,
                max(0.0, time_s - shipped_s) if shipped_s else None,
                drained.count(_SINK_GAUGE, sink=sink),
            )
        )
    return described


def _forwarded(own: _Change) -> Forwarded | None:
    metrics = ("edge_upstream_answers_total", "edge_upstream_failures_total", "edge_upstream_requests")
    if not any(value for metric in metrics for value in own.samples(metric).values()):
        return None
    answers, failures, under_way = metrics
    return Forwarded(own.count(under_way), own.rates_by(answers, "status"), own.rates_by(failures, "cause"))
