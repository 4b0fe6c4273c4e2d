import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.checkpoints import load_all
from edge.disk import RealDisk
from edge.drain.expand import Event
from edge.drain.shipper import CHECKPOINT_S, Shipper
from edge.drain.sink import READ_BYTES, Batch, Retryable
from edge.metrics import Board, Row
from edge.segment.name import SegmentName
from tests.drain.spools import Slot


class MemorySink:
    """Keeps what it confirmed, and refuses as often as it is told to."""

    linger_s = 0.0
    read_bytes = READ_BYTES

    def __init__(self) -> None:
        self.names: list[str] = []
        self.batches: list[tuple[int, str, int, int]] = []
        self.offered = 0
        self.refusals = 0
        self.retry_after_s = 0.0

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def close(self) -> None:
        pass

    def ship(self, batch: Batch) -> int:
        self.offered += 1
        if self.refusals:
            self.refusals -= 1
            raise Retryable("not now", self.retry_after_s)
        self.names += [event.event for event in batch.events]
        self.batches.append((batch.slot, str(batch.name), batch.start, batch.end))
        return len(batch.events)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def row() -> Row:
    return Board.create(1).rows[0]


@pytest.fixture
def shipper(slot: Slot, sink: MemorySink, clock: Clock, row: Row) -> Callable[[], Shipper]:
    slot.layout.checkpoints.mkdir(exist_ok=True)
    return lambda: Shipper(RealDisk(), slot.layout, "memory", "memory:", sink, row, 0, clock)


def test_records_are_shipped_in_order_and_counted(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], row: Row
) -> None:
    slot.commit("a", "b")
    slot.seal()
    slot.commit("c")
    shipping = shipper()
    while shipping.step():
        pass
    assert sink.names == ["a", "b", "c"]
    assert row.get("edge_drain_events_total", "0", "shipped") == 3
    assert row.get("edge_drain_records_total", "0") == 3
    shipping.close()


def test_a_refused_batch_is_offered_again_unchanged_and_nothing_overtakes_it(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    sink.refusals = 3
    shipping = shipper()
    for _ in range(8):
        shipping.step()
        clock.now += 61
    assert sink.names == ["a", "b"]
    assert sink.offered == 5
    assert shipping.failures == 0
    shipping.close()


def test_the_wait_after_a_refusal_is_as_long_as_the_sink_asked(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    sink.refusals = 1
    sink.retry_after_s = 90
    shipping = shipper()
    shipping.step()
    clock.now += 89
    shipping.step()
    assert sink.offered == 1
    clock.now += 1.1
    shipping.step()
    assert sink.names == ["a"]
    shipping.close()


def test_a_restart_goes_on_where_the_checkpoint_says(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    first = shipper()
    first.step()
    first.save()
    first.close()
    slot.commit("b")
    second = shipper()
    second.step()
    assert sink.names == ["a", "b"]
    second.close()


def test_a_crash_before_the_checkpoint_ships_the_same_batch_again(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper]
) -> None:
    slot.commit("a")
    crashed = shipper()
    crashed.step()
    crashed.close()
    again = shipper()
    again.step()
    assert sink.names == ["a", "a"]
    assert sink.batches[0] == sink.batches[1]
    again.close()


def test_a_refused_batch_does_not_move_the_checkpoint(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    shipping = shipper()
    shipping.step()
    slot.commit("b")
    sink.refusals = 10**6
    shipping.step()
    shipping.save()
    position = shipping.durable[0]
    assert position.offset == sink.batches[0][3]
    shipping.close()


def test_the_checkpoint_is_written_a_second_after_the_first_unsaved_batch(
    slot: Slot, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    shipping = shipper()
    shipping.step()
    assert load_all(RealDisk(), str(slot.layout.checkpoints)) == {}
    clock.now += CHECKPOINT_S
    shipping.step()
    saved = load_all(RealDisk(), str(slot.layout.checkpoints))["memory"]
    assert saved.totals.shipped == 1
    assert saved.slots == shipping.durable
    shipping.close()


def test_events_that_are_not_delivered_are_counted_by_reason_for_ever(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], row: Row
) -> None:
    slot.commit("batch", body=b'{"batch":[{"event":"good","distinct_id":"u"},{"event":"no id"},{"distinct_id":"u"}]}')
    first = shipper()
    first.step()
    first.save()
    first.close()
    slot.commit("batch", body=b'[{"event":"no id"}]')
    second = shipper()
    second.step()
    second.save()
    second.close()
    assert sink.names == ["good"]
    totals = load_all(RealDisk(), str(slot.layout.checkpoints))["memory"].totals
    assert totals.dropped == {"no_distinct_id": 2, "no_event_name": 1}
    assert row.get("capture_events_dropped_total", "no_distinct_id") == 2


def test_a_record_that_is_none_is_counted_and_its_neighbours_are_shipped(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], caplog: pytest.LogCaptureFixture
) -> None:
    slot.commit("odd", body=b"this is no JSON")
    slot.commit("good")
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        while shipping.step():
            pass
    shipping.save()
    assert sink.names == ["good"]
    assert load_all(RealDisk(), str(slot.layout.checkpoints))["memory"].totals.dropped == {"unreadable": 1}
    shipping.close()


def test_new_slots_are_found(slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock) -> None:
    slot.commit("a")
    shipping = shipper()
    shipping.step()
    other = Slot(slot.layout.data, 7)
    other.commit("b")
    shipping.step()
    assert sink.names == ["a", "b"]
    shipping.close()


def test_a_sink_that_lingers_gets_larger_batches(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    sink.linger_s = 0.4
    slot.commit("a")
    shipping = shipper()
    shipping.step()
    for name in "bcd":
        slot.commit(name)
        assert not shipping.step()
    assert shipping.lingering
    clock.now += 0.5
    shipping.step()
    assert sink.names == ["a", "b", "c", "d"]
    assert len(sink.batches) == 2
    shipping.close()
