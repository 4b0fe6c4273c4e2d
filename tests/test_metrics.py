import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge
from edge.metrics import METHODS, METRICS, ROW_SLOTS, STATUSES, Board, Histogram, Metric, Row, slot
from edge.wire.rejections import REFUSALS
from tests.exposition import Family, parse

COUNTERS = [metric for metric in METRICS if metric.kind == "counter" and not metric.labels]
INFO = {"version": "1.2.3"}


def test_every_series_has_slots_of_its_own() -> None:
    taken: list[int] = []
    for metric in METRICS:
        for values in metric.series:
            first = slot(metric.name, *values)
            taken += range(first, first + metric.slots_per_series)
    assert sorted(taken) == list(range(ROW_SLOTS))


@pytest.mark.parametrize(
    ("name", "values"),
    [("no_such_metric", ()), ("edge_rejected_requests_total", ("no such cause",)), ("edge_commits_total", ("extra",))],
    ids=["metric", "label value", "label"],
)
def test_what_is_not_declared_cannot_be_counted(name: str, values: tuple[str, ...]) -> None:
    with pytest.raises((KeyError, ValueError)):
        slot(name, *values)


def test_every_answer_has_a_series() -> None:
    for refusal in REFUSALS.values():
        assert str(refusal.status) in STATUSES
    for method in METHODS:
        for status in STATUSES:
            assert slot("http_requests_total", method, "other", status)


def test_counts_add_up_over_all_processes() -> None:
    board = Board.create(3)
    for number, row in enumerate(board.rows):
        row.add("edge_commits_total", number)
        row.add("edge_commits_total", 1)
    assert board.total("edge_commits_total") == 6
    board.rows[0].set("edge_connections", 5)
    board.rows[0].set("edge_connections", 4)
    assert board.rows[0].get("edge_connections") == 4


def test_a_counter_follows_a_total_from_where_it_was_and_never_goes_back() -> None:
    board = Board.create(1)
    row = board.rows[0]
    found = []
    for total in (1000, 1000, 1003, 1003, 1001, 1004, 0, 5):
        row.follow("edge_drain_records_total", total, "0")
        found.append(row.get("edge_drain_records_total", "0"))
    assert found == [0, 0, 3, 3, 3, 6, 6, 11]
    assert board.total("edge_drain_records_total", "0") == 11
    samples = parse(board.exposition(INFO, ["null"]))["edge_drain_records_total"].samples
    assert samples == {("edge_drain_records_total", (("sink", "null"),)): 11.0}


def test_a_child_process_counts_on_the_same_board() -> None:
    board = Board.create(2)
    board.rows[1].add("edge_commits_total", 1)
    program = (
        "import sys; from edge.metrics import Board; Board(int(sys.argv[1]), 2).rows[1].add('edge_commits_total', 41)"
    )
    subprocess.run([sys.executable, "-c", program, str(board.fd)], pass_fds=[board.fd], check=True, timeout=60)
    assert board.total("edge_commits_total") == 42
    assert not os.get_inheritable(board.fd)


# --- histograms


@given(st.lists(st.integers(0, 10**9)))
def test_a_histogram_is_what_was_observed(values: list[int]) -> None:
    board = Board.create(1)
    histogram = Histogram(board.rows[0], "edge_batch_events")
    for value in values[::2]:
        histogram.observe(value)
    histogram.fold()
    for value, times in Counter(values[1::2]).items():
        histogram.count(value, times)
    samples = parse(board.exposition(INFO, []))["edge_batch_events"].samples
    metric = next(metric for metric in METRICS if metric.name == "edge_batch_events")
    for bound in metric.buckets:
        assert samples["edge_batch_events_bucket", (("le", str(bound)),)] == sum(value <= bound for value in values)
    assert samples["edge_batch_events_bucket", (("le", "+Inf"),)] == len(values)
    assert samples["edge_batch_events_count", ()] == len(values)
    assert samples["edge_batch_events_sum", ()] == sum(values)


def test_times_are_kept_in_microseconds_and_printed_in_seconds() -> None:
    board = Board.create(1)
    histogram = Histogram(board.rows[0], "edge_fsync_duration_seconds")
    for value in (250, 251, 1_500_000, 3_600_000_000):
        histogram.count(value)
    board.rows[0].set("edge_heartbeat_timestamp_seconds", 1_763_690_000_250_000)
    families = parse(board.exposition(INFO, []))
    samples = families["edge_fsync_duration_seconds"].samples
    assert samples["edge_fsync_duration_seconds_bucket", (("le", "0.00025"),)] == 1
    assert samples["edge_fsync_duration_seconds_bucket", (("le", "60.0"),)] == 3
    assert samples["edge_fsync_duration_seconds_count", ()] == 4
    assert samples["edge_fsync_duration_seconds_sum", ()] == pytest.approx(3601.500501)
    heartbeat = families["edge_heartbeat_timestamp_seconds"].samples
    assert heartbeat == {("edge_heartbeat_timestamp_seconds", (("worker", "0"),)): 1_763_690_000.25}


def test_nothing_is_lost_between_observing_and_folding() -> None:
    """What arrives while values are counted is counted next time."""
    board = Board.create(1)
    histogram = Histogram(board.rows[0], "edge_batch_events")
    for _ in range(3):
        histogram.observe(1)
        histogram.fold()
    assert parse(board.exposition(INFO, []))["edge_batch_events"].samples["edge_batch_events_count", ()] == 3


# --- the text


def full_board() -> Board:
    """Every series of every metric has a count."""
    board = Board.create(2)
    for row in board.rows:
        for at in range(ROW_SLOTS):
            row.slots[at] = 1
    return board


@pytest.fixture(scope="module")
def families() -> dict[str, Family]:
    return parse(full_board().exposition({**INFO, "python": "3.11.7"}, ["file-1", "null"]))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_help_type_and_its_labels(families: dict[str, Family], metric: Metric) -> None:
    family = families[metric.name]
    assert (family.help, family.kind) == (metric.help, metric.kind)
    labels = {*metric.labels, *(["worker"] if metric.per_process else []), *(["le"] if metric.buckets else [])}
    assert {name for _, pairs in family.samples for name, _ in pairs} == labels


def test_an_empty_board_has_all_metrics_and_no_labelled_series() -> None:
    families = parse(Board.create(1).exposition(INFO, []))
    assert set(families) == {metric.name for metric in METRICS} | {"edge_build_info"}
    assert families["http_requests_total"].samples == {}
    assert families["edge_commits_total"].samples == {("edge_commits_total", ()): 0.0}


def test_the_build_is_told(families: dict[str, Family]) -> None:
    assert families["edge_build_info"].samples == {
        ("edge_build_info", (("python", "3.11.7"), ("version", "1.2.3"))): 1.0
    }


def test_sinks_have_their_names_and_only_those_there_are(families: dict[str, Family]) -> None:
    samples = families["edge_drain_records_total"].samples
    assert samples == {
        ("edge_drain_records_total", (("sink", "file-1"),)): 2.0,
        ("edge_drain_records_total", (("sink", "null"),)): 2.0,
    }


def test_gauges_of_a_process_are_printed_by_process() -> None:
    board = Board.create(2)
    board.rows[0].set("edge_connections", 3)
    board.rows[1].set("edge_connections", 4)
    assert parse(board.exposition(INFO, []))["edge_connections"].samples == {
        ("edge_connections", (("worker", "0"),)): 3.0,
        ("edge_connections", (("worker", "1"),)): 4.0,
    }


def test_of_what_several_drainers_say_of_a_sink_the_largest_is_printed() -> None:
    """A pause of one is a pause, not half of one, and moments have no sum."""
    board = Board.create(3)
    for row, moment_us in zip(board.rows, (0, 1_763_690_000_500_000, 1_763_690_000_250_000), strict=True):
        row.set("edge_last_shipped_timestamp_seconds", moment_us, "0")
        row.set("edge_sink_paused", int(moment_us > 0), "0")
        row.add("edge_drain_records_total", 2, "0")
    families = parse(board.exposition(INFO, ["null"]))
    sink = (("sink", "null"),)
    moments = families["edge_last_shipped_timestamp_seconds"].samples
    assert moments == {("edge_last_shipped_timestamp_seconds", sink): 1_763_690_000.5}
    assert families["edge_sink_paused"].samples == {("edge_sink_paused", sink): 1.0}
    assert families["edge_drain_records_total"].samples == {("edge_drain_records_total", sink): 6.0}


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e")))
def test_any_label_value_is_read_back(name: str) -> None:
    board = Board.create(1)
    board.rows[0].add("edge_drain_bytes_total", 1, "0")
    samples = parse(board.exposition(INFO, [name]))["edge_drain_bytes_total"].samples
    assert samples == {("edge_drain_bytes_total", (("sink", name),)): 1.0}


def test_help_needs_no_escapes() -> None:
    assert not any("\\" in metric.help or "\n" in metric.help for metric in METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_convention(metric: Metric) -> None:
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert metric.seconds == metric.name.endswith("_seconds")
    assert metric.buckets == tuple(sorted(set(metric.buckets)))
    assert bool(metric.buckets) == (metric.kind == "histogram")


def test_every_metric_is_counted_somewhere() -> None:
    paths = [path for path in Path(edge.__file__).parent.rglob("*.py") if path.name != "metrics.py"]
    text = "".join(path.read_text() for path in paths)
    assert [metric.name for metric in METRICS if f'"{metric.name}"' not in text] == []


def test_rows_are_apart() -> None:
    board = Board.create(2)
    for metric in COUNTERS:
        board.rows[0].add(metric.name, 1)
    assert all(board.rows[1].get(metric.name) == 0 for metric in COUNTERS)
    assert isinstance(board.rows[0], Row)
