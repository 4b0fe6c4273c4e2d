import bisect
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.commands.top_screen import lines_of
from edge.exposition import parse_exposition
from edge.layout import Layout
from edge.metrics import METRICS, ROW_SLOTS, Board, Histogram, Metric, Row
from edge.segment.name import State
from edge.spool.inspect import Extent
from edge.status import spool_gauges
from edge.top import Frame, Heard, Reading, make_frame, quantile

NOW_S = 1_763_690_100.0
INTERVAL_S = 4.0


class Edge:
    """What a supervisor with workers and drainers would answer."""

    def __init__(self, workers: int = 1, drainers: int = 1, sinks: Sequence[str] = ("null",)) -> None:
        self.board = Board.create(2 * workers + drainers + 1)
        self.sinks = sinks if drainers else ()
        self.spool = Extent()
        names = [f"worker-{index}" for index in range(workers)]
        names += ["drainer"] if drainers == 1 else [f"drainer-{index}" for index in range(drainers)]
        self.processes = dict.fromkeys(names, 9.0)

    @property
    def worker(self) -> Row:
        return self.board.rows[0]

    @property
    def drainer(self) -> Row:
        return self.board.rows[-2]

    @property
    def supervisor(self) -> Row:
        return self.board.rows[-1]

    def text(self) -> str:
        lines = ["# TYPE process_cpu_seconds_total counter", "# TYPE process_resident_memory_bytes gauge"]
        lines += [f'process_cpu_seconds_total{{process="{name}"}} {value}' for name, value in self.processes.items()]
        lines += [f'process_resident_memory_bytes{{process="{name}"}} 1' for name in self.processes]
        exposition = self.board.exposition({"version": "1.2.3", "python": "3.11.7"}, self.sinks)
        return exposition + spool_gauges(Layout(Path("/nowhere")), self.spool) + "\n".join(lines) + "\n"


def reading(text: str, taken_s: float) -> Reading:
    return Reading(taken_s, parse_exposition(text))


def heard(before: str, last: str) -> Heard:
    return Heard("127.0.0.1:8001").answered(reading(before, 10.0)).answered(reading(last, 10.0 + INTERVAL_S))


def frame_of(before: str, last: str) -> Frame:
    return make_frame(NOW_S, heard(before, last), None)


def observe(row: Row, histogram: str, *values: int) -> None:
    for value in values:
        Histogram(row, histogram).count(value)


# --- traffic


def test_rates_are_what_counters_grew_by_in_the_interval() -> None:
    edge = Edge()
    edge.worker.add("http_requests_total", 1000, "POST", "e", "200")
    edge.worker.add("capture_events_ingested_total", 1000)
    observe(edge.worker, "edge_request_body_bytes", 5000)
    before = edge.text()
    edge.worker.add("http_requests_total", 6, "POST", "e", "200")
    edge.worker.add("http_requests_total", 2, "GET", "e", "400")
    edge.worker.add("capture_events_ingested_total", 30)
    observe(edge.worker, "edge_request_body_bytes", 100, 300)
    traffic = frame_of(before, edge.text()).traffic
    assert (traffic.requests_per_s, traffic.events_per_s, traffic.body_bytes_per_s) == (2.0, 7.5, 100.0)


def test_refusals_and_drops_are_told_by_cause_the_most_frequent_first() -> None:
    edge = Edge()
    edge.worker.add("edge_rejected_requests_total", 50, "stopping")
    edge.drainer.add("capture_events_dropped_total", 50, "no_event_name")
    before = edge.text()
    for count, cause in enumerate(("no_token", "bad_json", "storage", "bad_gzip", "no_data", "not_found"), 1):
        edge.worker.add("edge_rejected_requests_total", 4 * count, cause)
    edge.drainer.add("capture_events_dropped_total", 8, "no_distinct_id")
    frame = frame_of(before, edge.text())
    assert frame.traffic.refused_per_s == 21
    refused = {"not_found": 6, "no_data": 5, "bad_gzip": 4, "storage": 3, "bad_json": 2, "no_token": 1}
    assert list(frame.traffic.refused_by_cause_per_s.items()) == list(refused.items())
    assert frame.traffic.dropped_events_per_s == 2
    assert frame.traffic.dropped_events_by_cause_per_s == {"no_distinct_id": 2}
    text = " ".join(" ".join(lines_of(frame)).split())
    named = "not_found 6.00/s, no_data 5.00/s, bad_gzip 4.00/s, storage 3.00/s, bad_json 2.00/s, other 1.00/s"
    assert f"refused {named} dropped no_distinct_id 2.00/s worker" in text


def test_workers_are_told_with_both_of_their_slots_and_nobody_else_is_one() -> None:
    edge = Edge(workers=2, drainers=2)
    for row, (connections, inflight) in zip(edge.board.rows, [(1, 10), (2, 20), (4, 40), (8, 80)], strict=False):
        row.set("edge_connections", connections)
        row.set("edge_inflight_bytes", inflight)
        row.set("edge_heavy_requests_waiting", connections)
    edge.board.rows[1].set("edge_storage_failing", 1)
    edge.board.rows[3].set("edge_unfinished_segments", 2)
    for gone in ("", "worker-1", "drainer-1"):
        edge.processes.pop(gone, None)
        frame = frame_of(edge.text(), edge.text())
        found = [
            (w.worker, w.connections, w.inflight_bytes, w.heavy_waiting, w.storage_failing)
            for w in frame.traffic.workers
        ]
        assert found == [(0, 5, 50, 5, False), (1, 10, 100, 10, True)]
        assert (frame.traffic.connections, frame.traffic.inflight_bytes, frame.traffic.heavy_waiting) == (15, 150, 15)
        assert (frame.disk.storage_failing, frame.disk.unfinished_segments) == (1, 2)


def test_restarts_are_told_of_the_interval_and_since_the_start() -> None:
    edge = Edge()
    edge.supervisor.add("edge_worker_restarts_total", 3)
    before = edge.text()
    edge.supervisor.add("edge_worker_restarts_total", 2)
    frame = frame_of(before, edge.text())
    assert (frame.traffic.restarts, frame.traffic.restarts_total) == (2, 5)
    assert any(line.endswith("5 (+2)") for line in lines_of(frame))


# --- quantiles


def test_quantiles_are_of_the_interval_alone() -> None:
    edge = Edge()
    observe(edge.worker, "http_requests_duration_seconds", *[50_000_000] * 1000)
    observe(edge.worker, "edge_fsync_duration_seconds", *[50_000_000] * 1000)
    observe(edge.worker, "edge_event_loop_lag_seconds", *[50_000_000] * 1000)
    before = edge.text()
    # Half of them between 1 and 2.5 ms, half between 10 and 25.
    observe(edge.worker, "http_requests_duration_seconds", *[2_000] * 50, *[20_000] * 50)
    observe(edge.worker, "edge_fsync_duration_seconds", *[300] * 100)
    observe(edge.worker, "edge_event_loop_lag_seconds", *[600] * 100)
    frame = frame_of(before, edge.text())
    assert frame.traffic.answer_p50_s == pytest.approx(0.0025)
    assert frame.traffic.answer_p99_s == pytest.approx(0.010 + 0.015 * 49 / 50)
    assert frame.disk.fsync_p99_s == pytest.approx(0.00025 + 0.00025 * 0.99)
    assert frame.traffic.loop_lag_p99_s == pytest.approx(0.0005 + 0.0005 * 0.99)
    quiet = frame_of(edge.text(), edge.text())
    assert (quiet.traffic.answer_p50_s, quiet.traffic.answer_p99_s, quiet.disk.fsync_p99_s) == (None, None, None)


@given(st.lists(st.integers(0, 199), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_value_it_stands_for(values: list[int], share: float) -> None:
    bounds = [10, 50, 100]
    buckets = {float(bound): float(sum(value <= bound for value in values)) for bound in bounds}
    found = quantile({**buckets, float("inf"): float(len(values))}, share)
    true = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert found is not None
    if true > 100:
        assert found == 100
    else:
        bucket = bisect.bisect_left(bounds, true)
        assert [0, *bounds][bucket] <= found <= bounds[bucket]


def test_a_quantile_of_nothing_is_none() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, float("inf"): 0.0}, 0.5) is None


# --- disk


def test_the_disk_is_told_with_what_is_left_at_this_rate() -> None:
    edge = Edge()
    edge.spool = Extent(250_000, {State.OPEN: 1, State.SEALED: 7, State.SUSPECT: 0, State.BAD: 2}, NOW_S)
    edge.supervisor.set("edge_spool_budget_bytes", 1_000_000)
    edge.supervisor.set("edge_disk_pressure", 2)
    before = edge.text()
    edge.worker.add("edge_commits_total", 8)
    observe(edge.worker, "edge_commit_records", *[1] * 6, 6, 8)
    edge.worker.add("edge_spool_written_bytes_total", 1000)
    disk = frame_of(before, edge.text()).disk
    assert (disk.commits_per_s, disk.records_per_commit, disk.written_bytes_per_s) == (2.0, 2.5, 250.0)
    assert (disk.spool_bytes, disk.budget_bytes, disk.budget_share) == (250_000, 1_000_000, 0.25)
    assert disk.hours_left == 750_000 / 250 / 3600
    assert disk.segments == {"open": 1, "sealed": 7, "suspect": 0, "bad": 2}
    assert disk.pressure == "shed"
    text = "\n".join(lines_of(frame_of(before, edge.text())))
    assert re.search(r"pressure +no replays$", text, re.MULTILINE)
    assert "disk  segments:  1 open, 7 sealed, 0 suspect, 2 bad" in text
    assert re.search(r"hours left +0\.83 ", text)
    assert frame_of(edge.text(), edge.text()).disk.hours_left is None


def test_a_spool_above_its_budget_has_no_time_left() -> None:
    edge = Edge()
    edge.spool = Extent(2_000)
    edge.supervisor.set("edge_spool_budget_bytes", 1_000)
    before = edge.text()
    edge.worker.add("edge_spool_written_bytes_total", 1000)
    assert frame_of(before, edge.text()).disk.hours_left == 0


# --- sinks


def test_each_sink_is_told() -> None:
    edge = Edge(sinks=("file-1", "kafka-2"))
    edge.drainer.add("edge_drain_events_total", 100, "1", "shipped")
    edge.drainer.add("edge_drain_retries_total", 100, "1", "paused")
    before = edge.text()
    for count, outcome in enumerate(("shipped", "dropped", "quarantined", "limited"), 1):
        edge.drainer.add("edge_drain_events_total", 4 * count, "1", outcome)
    edge.drainer.add("edge_drain_retries_total", 3, "1", "retryable")
    edge.drainer.add("edge_drain_retries_total", 1, "0", "breaker")
    edge.drainer.set("edge_sink_paused", 1, "1")
    edge.drainer.set("edge_last_shipped_timestamp_seconds", int((NOW_S - 30) * 1e6), "1")
    edge.drainer.set("edge_drain_imbalance_events", -7, "1")
    first, second = frame_of(before, edge.text()).sinks
    assert (first.sink, first.shipped_per_s, first.paused, first.last_shipped_age_s) == ("file-1", 0, False, None)
    assert (first.retries, first.imbalance_events) == ({"breaker": 1}, 0)
    rates = (second.shipped_per_s, second.dropped_per_s, second.quarantined_per_s, second.limited_per_s)
    assert (second.sink, *rates) == ("kafka-2", 1, 2, 3, 4)
    assert (second.retries, second.paused, second.imbalance_events) == ({"retryable": 3}, True, -7)
    assert second.last_shipped_age_s == pytest.approx(30)
    lines = [line.split() for line in lines_of(frame_of(before, edge.text()))]
    assert ["kafka-2", "1.00", "2.00", "3.00", "3", "PAUSED", "30", "s", "-7"] in lines
    assert ["retries", "3", "retryable,", "over", "quota", "4.00/s"] in lines


def test_a_drainer_with_an_address_of_its_own_is_told_from_there() -> None:
    edge, drainer = Edge(drainers=0), Edge(workers=0)
    before = edge.text(), drainer.text()
    edge.worker.add("edge_commits_total", 4)
    drainer.worker.add("edge_drain_events_total", 8, "0", "shipped")
    drainer.worker.add("capture_events_dropped_total", 8, "no_event_name")
    own = heard(before[0], edge.text())
    alone = make_frame(NOW_S, own, None)
    assert (alone.sinks, alone.traffic.dropped_events_per_s, alone.drain_admin) == ([], None, None)
    assert any(line.startswith("sinks  - ") for line in lines_of(alone))
    assert not own.ships()
    last = reading(drainer.text(), 18.0)
    drain = Heard("127.0.0.1:8002").answered(reading(before[1], 10.0)).answered(last)
    assert drain.ships()
    both = make_frame(NOW_S, own, drain)
    assert both.drain_admin is not None
    assert (both.admin.interval_s, both.drain_admin.interval_s) == (4, 8)
    assert both.disk.commits_per_s == 1
    assert [(sink.sink, sink.shipped_per_s) for sink in both.sinks] == [("null", 1)]
    assert both.traffic.dropped_events_by_cause_per_s == {"no_event_name": 1}
    assert [worker.worker for worker in both.traffic.workers] == [0]
    down = make_frame(NOW_S, own.silent(NOW_S, "refused"), drain)
    assert (down.traffic.requests_per_s, down.sinks[0].shipped_per_s) == (None, 1)


# --- upstreams


def test_forwarding_is_told_if_there_is_any() -> None:
    edge = Edge()
    before = edge.text()
    assert frame_of(before, before).upstream is None
    edge.worker.add("edge_upstream_answers_total", 8, "main", "2xx")
    edge.worker.add("edge_upstream_answers_total", 4, "assets", "2xx")
    edge.worker.add("edge_upstream_failures_total", 4, "main", "timeout")
    edge.worker.set("edge_upstream_requests", 5)
    frame = frame_of(before, edge.text())
    assert frame.upstream is not None
    assert (frame.upstream.under_way, frame.upstream.answers_by_status_per_s) == (5, {"2xx": 3})
    assert frame.upstream.failures_by_cause_per_s == {"timeout": 1}
    assert lines_of(frame)[-1] == "forwarded  5 under way, 2xx 3.00/s, timeout 1.00/s"


# --- what is not there


def test_counters_that_went_back_begin_anew() -> None:
    """Also those that are larger than they were, and those that were not there."""
    former, new = Edge(), Edge()
    former.worker.add("capture_events_ingested_total", 1000)
    former.worker.add("edge_commits_total", 2)
    former.worker.add("edge_rejected_requests_total", 7, "no_token")
    observe(former.worker, "edge_fsync_duration_seconds", *[50_000_000] * 10)
    new.worker.add("capture_events_ingested_total", 8)
    new.worker.add("edge_commits_total", 4)
    observe(new.worker, "edge_fsync_duration_seconds", *[300] * 20)
    frame = frame_of(former.text(), new.text())
    assert (frame.traffic.events_per_s, frame.disk.commits_per_s, frame.traffic.refused_per_s) == (2, 1, 0)
    assert frame.disk.fsync_p99_s is not None
    assert frame.disk.fsync_p99_s < 0.0005


def test_a_counter_that_is_gone_tells_a_new_edge() -> None:
    """One with labels is not there before it counts."""
    former, new = Edge(), Edge()
    former.worker.add("edge_commits_total", 4)
    former.worker.add("edge_rejected_requests_total", 7, "no_token")
    new.worker.add("edge_commits_total", 8)
    assert frame_of(former.text(), new.text()).disk.commits_per_s == 2


@pytest.mark.parametrize(
    "metric", [m for m in METRICS if m.kind in ("counter", "histogram")], ids=lambda metric: metric.name
)
def test_every_counter_tells_a_new_edge(metric: Metric) -> None:
    edge = Edge()
    for at in range(ROW_SLOTS):
        edge.worker.slots[at] = 1
    before = edge.text()
    sample = re.compile(rf"^({metric.name}(?:_bucket|_sum|_count)?(?:\{{.*\}})?) \S+$", re.MULTILINE)
    # All commits are new ones then.
    commits_per_s = frame_of(before, sample.sub(r"\1 0", before)).disk.commits_per_s
    assert commits_per_s == (0 if metric.name == "edge_commits_total" else 0.25)


def test_a_replaced_process_is_no_new_edge() -> None:
    edge = Edge()
    edge.worker.add("edge_commits_total", 1000)
    before = edge.text()
    edge.processes["worker-0"] = 0.1
    edge.worker.add("edge_commits_total", 4)
    assert frame_of(before, edge.text()).disk.commits_per_s == 1


def test_of_one_reading_gauges_are_told_and_no_rates() -> None:
    edge = Edge()
    edge.worker.set("edge_connections", 3)
    frame = make_frame(NOW_S, Heard("127.0.0.1:8001").answered(reading(edge.text(), 10.0)), None)
    assert (frame.admin.interval_s, frame.traffic.connections, frame.traffic.requests_per_s) == (None, 3, None)
    assert (frame.traffic.refused_by_cause_per_s, frame.sinks[0].retries) == ({}, None)
    assert "no rates yet" in lines_of(frame)[0]


def test_nothing_is_told_while_nothing_answers_but_since_when() -> None:
    edge = Edge()
    edge.worker.add("edge_commits_total", 1)
    before = edge.text()
    silent = heard(before, edge.text()).silent(NOW_S, "refused").silent(NOW_S + 2, "timed out")
    frame = make_frame(NOW_S + 2, silent, None)
    assert (frame.admin.unanswered_since_s, frame.admin.why, frame.admin.version) == (NOW_S, "timed out", None)
    assert (frame.traffic.connections, frame.disk.commits_per_s, frame.sinks, frame.traffic.workers) == (
        None,
        None,
        [],
        [],
    )
    lines = lines_of(frame)
    assert "127.0.0.1:8001 does not answer since 2025-11-21 01:55:00 UTC: timed out" in lines
    assert [line for line in lines if re.search(r"\d", line) and not re.search("UTC|p50|p99", line)] == []
    edge.worker.add("edge_commits_total", 8)
    again = make_frame(NOW_S + 4, silent.answered(reading(edge.text(), 22.0)), None)
    # Since it last answered.
    assert (again.admin.unanswered_since_s, again.admin.interval_s, again.disk.commits_per_s) == (None, 8, 1)


def test_what_an_older_edge_does_not_have_stands_as_unknown() -> None:
    edge = Edge()
    edge.supervisor.set("edge_spool_budget_bytes", 1)
    lines = edge.text().splitlines(keepends=True)
    for name, shown in {
        "edge_unfinished_segments": r"unfinished +-( |$)",
        "edge_request_body_bytes": r"MB/s in +-( |$)",
        "edge_heavy_requests_waiting": r"heavy waiting +-( |$)",
        "edge_spool_budget_bytes": r"of budget +-( |$)",
        "edge_disk_pressure": r"pressure +-( |$)",
        "edge_spool_segments": r"segments:  -$",
        "edge_rejected_requests_total": r"refused/s +-( |$)",
    }.items():
        text = "".join(line for line in lines if not re.match(rf"(# (HELP|TYPE) )?{name}\b|{name}_", line))
        found = "\n".join(lines_of(frame_of(text, text)))
        assert re.search(shown, found, re.MULTILINE), found
        assert not re.search(shown, "\n".join(lines_of(frame_of("".join(lines), "".join(lines)))), re.MULTILINE)
