import logging
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from edge.checkpoints import CheckpointFile, Totals, load_all
from edge.disk import RealDisk
from edge.drain.backoff import CAP_S
from edge.drain.event import Event
from edge.drain.quarantine import list_quarantined, load
from edge.drain.reader import RAW_BYTES_MAX
from edge.drain.shipper import CHECKPOINT_S, REST_S, Shipper
from edge.drain.sink import READ_BYTES, Batch, Paused, Refusal, Refused, Retryable
from edge.metrics import Board, Row
from edge.segment.name import SegmentName, State
from tests import segments
from tests.drain.spools import Slot
from tests.fakes import EIO, FaultyDisk


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class MemorySink:
    """Keeps what it confirmed, and refuses as often as it is told to."""

    linger_s = 0.0
    read_bytes = READ_BYTES
    by_range = False

    def __init__(self) -> None:
        self.names: list[str] = []
        self.batches: list[tuple[int, str, int, int]] = []
        self.offered = 0
        self.refusals = 0
        self.retry_after_s = 0.0
        self.at_most_s = CAP_S
        self.never: set[str] = set()
        """Names of events that are refused for good."""
        self.takes_s = 0.0
        self.clock = Clock()
        self.refuse_all: Refusal | None = None
        self.cannot_tell: Refusal | None = None

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        if self.cannot_tell is not None:
            raise self.cannot_tell
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def probe(self) -> str:
        raise AssertionError("not asked by whoever ships")

    def close(self) -> None:
        pass

    def ship(self, batch: Batch) -> int:
        self.offered += 1
        if self.refusals:
            self.refusals -= 1
            raise Retryable("not now", self.retry_after_s, at_most_s=self.at_most_s)
        if self.refuse_all is not None and batch.events:
            raise self.refuse_all
        if self.never & {event.event for event in batch.events}:
            raise Refused("status 400: bad")
        self.clock.now += self.takes_s
        self.names += [event.event for event in batch.events]
        self.batches.append((batch.slot, str(batch.name), batch.start, batch.end))
        return len(batch.events)


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def clock(sink: MemorySink) -> Clock:
    return sink.clock


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
    shipping.save()
    assert sink.names == ["a", "b", "c"]
    assert row.get("edge_drain_events_total", "0", "shipped") == 3
    assert row.get("edge_drain_records_total", "0") == 3
    shipping.close()


def test_a_batch_is_as_large_as_the_sink_wants_it_now(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper]
) -> None:
    for number in range(30):
        slot.commit(f"{number}")
    sink.read_bytes = 1000
    shipping = shipper()
    shipping.step()
    ((_, _, _, end),) = sink.batches
    assert 500 < end <= 1000
    sink.read_bytes = READ_BYTES
    shipping.step()
    assert sink.names == slot.written
    shipping.close()


def test_nothing_is_gathered_behind_a_batch_as_large_as_it_was_to_be(slot: Slot, row: Row) -> None:
    class Growing(MemorySink):
        linger_s = 60.0
        read_bytes = 1000

        def ship(self, batch: Batch) -> int:
            self.read_bytes *= 4
            return super().ship(batch)

    for number in range(30):
        slot.commit(f"{number}")
    slot.layout.checkpoints.mkdir(exist_ok=True)
    sink = Growing()
    shipping = Shipper(RealDisk(), slot.layout, "growing", "growing:", sink, row, 0, sink.clock)
    shipping.step()
    assert len(sink.names) < 30
    shipping.step()
    assert sink.names[:10] == slot.written[:10]
    assert len(sink.batches) == 2
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


def test_the_wait_after_many_refusals_is_no_longer_than_the_sink_says(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    sink.refusals = 60
    sink.at_most_s = 5.0
    shipping = shipper()
    waits = []
    while not sink.names:
        shipping.step()
        waits.append(shipping.wait_s)
        clock.now += shipping.wait_s
    assert len(waits) == 61
    assert 2.5 < max(waits) <= 5.0
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


def test_nothing_may_be_deleted_for_a_position_that_is_not_on_stable_storage(
    slot: Slot, shipper: Callable[[], Shipper], monkeypatch: pytest.MonkeyPatch
) -> None:
    shipping = shipper()
    ends = []
    for name in ("a", "b", "c"):
        slot.commit(name)
        shipping.step()
        ends.append(shipping.position(0))
        # Shipped, but a power cut now would begin with the checkpoint before.
        assert shipping.durable.get(0) == (ends[-2] if len(ends) > 1 else None)
        if name == "c":
            monkeypatch.setattr(RealDisk, "sync", fail)
            with pytest.raises(OSError, match="no sync"):
                shipping.save()
            assert shipping.durable[0] == ends[-2]
            monkeypatch.undo()
        shipping.save()
        assert shipping.durable[0] == ends[-1]
    # What a restart begins with was durable from the start.
    again = shipper()
    assert again.durable[0] == ends[-1]
    slot.commit("d")
    again.step()
    assert again.durable[0] == ends[-1] != again.position(0)
    shipping.close()
    again.close()


def fail(disk: RealDisk, fd: int) -> None:
    raise OSError(5, "no sync")


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


ODD = (
    b'{"batch":[{"event":"good","distinct_id":"u","timestamp":"never"},{"event":"no id"},{"distinct_id":"u"},'
    b'{"distinct_id":"v"}]}'
)


def counted(row: Row) -> dict[str, int]:
    return {
        "shipped": row.get("edge_drain_events_total", "0", "shipped"),
        "dropped": row.get("edge_drain_events_total", "0", "dropped"),
        "records": row.get("edge_drain_records_total", "0"),
        "no_event_name": row.get("capture_events_dropped_total", "no_event_name"),
        "no_distinct_id": row.get("capture_events_dropped_total", "no_distinct_id"),
        "mended": row.get("capture_events_mended_total", "timestamp"),
    }


def test_what_is_shipped_again_after_a_drainer_was_killed_is_counted_once(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, row: Row
) -> None:
    """The row outlives the process."""
    each = {"shipped": 1, "dropped": 3, "records": 1, "no_event_name": 2, "no_distinct_id": 1, "mended": 1}
    for turn in range(3):
        slot.commit("batch", body=ODD)
        killed = shipper()
        assert killed.step()
        killed.close()
        assert counted(row) == {name: 2 * turn * count for name, count in each.items()}
        again = shipper()
        run(again, clock)
        slot.commit("batch", body=ODD)
        run(again, clock)
        again.close()
        assert counted(row) == {name: 2 * (turn + 1) * count for name, count in each.items()}
    assert sink.names == ["good"] * 9


def test_a_drainer_that_is_killed_behind_its_checkpoint_is_counted_by_the_next_one(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, row: Row
) -> None:

    def kill_after_the_rename() -> None:
        if (slot.layout.checkpoints / "memory.json").exists():
            raise Killed

    slot.commit("batch", body=ODD)
    disk = FaultyDisk(RealDisk(), kill_after_the_rename)
    killed = Shipper(disk, slot.layout, "memory", "memory:", sink, row, 0, clock)
    killed.step()
    with pytest.raises(Killed):
        killed.save()
    killed.close()
    assert set(counted(row).values()) == {0}
    again = shipper()
    assert not again.step()
    assert counted(row) == {
        "shipped": 1,
        "dropped": 3,
        "records": 1,
        "no_event_name": 2,
        "no_distinct_id": 1,
        "mended": 0,
    }
    again.close()


def test_counters_begin_with_the_program_and_not_with_the_checkpoint(
    slot: Slot, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    slot.commit("a")
    first = shipper()
    run(first, clock)
    first.close()
    row = Board.create(1).rows[0]
    later = Shipper(RealDisk(), slot.layout, "memory", "memory:", MemorySink(), row, 0, clock)
    slot.commit("b", "c")
    run(later, clock)
    later.close()
    assert row.get("edge_drain_events_total", "0", "shipped") == 2


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
    clock.now += 0.5
    shipping.step()
    assert sink.names == ["a", "b", "c", "d"]
    assert len(sink.batches) == 2
    shipping.close()


def test_a_sink_that_lingers_does_not_hold_up_the_end_or_a_large_batch(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    sink.linger_s = 60.0
    slot.commit("a")
    shipping = shipper()
    shipping.step()
    slot.commit("b")
    assert not shipping.step()
    assert shipping.step(linger=False)
    assert sink.names == ["a", "b"]
    sink.read_bytes = 64
    slot.commit("c")
    shipping.step(linger=False)
    slot.commit("d")
    assert shipping.step()
    assert sink.names == ["a", "b", "c", "d"]
    shipping.close()


PACKED = b'{"event":"packed","distinct_id":"u","properties":{"x":"%b"}}' % (b"a" * (RAW_BYTES_MAX // 2))
"""Next to nothing of a segment."""


def test_a_batch_that_is_as_large_as_memory_allows_is_no_reason_to_linger(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper]
) -> None:
    sink.linger_s = 60.0
    slot.commit("packed", body=PACKED)
    slot.commit("packed", body=PACKED)
    slot.commit("a")
    shipping = shipper()
    assert [shipping.step() for _ in range(3)] == [True, True, False]
    assert sink.names == ["packed", "packed", "a"]
    shipping.close()


def test_a_paused_sink_gathers_no_more_than_memory_allows(
    slot: Slot, shipper: Callable[[], Shipper], clock: Clock
) -> None:
    for _ in range(5):
        slot.commit("packed", body=PACKED)
    offered: list[int] = []

    class Watching(MemorySink):
        def ship(self, batch: Batch) -> int:
            offered.append(len(batch.events))
            return super().ship(batch)

    watching = Watching()
    watching.refuse_all = Paused("status 401")
    shipping = shipper()
    shipping._sink = watching
    run(shipping, clock, 20)
    watching.refuse_all = None
    run(shipping, clock)
    assert max(offered) == 2
    assert watching.names == ["packed"] * 5
    shipping.close()


def test_a_slot_that_cannot_be_read_rests_and_holds_up_no_other(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    slot.commit("a")
    other = Slot(slot.layout.data, 7)
    shipping = shipper()

    class Refusing(RealDisk):
        attempts = 0

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if "/slot-00/" in os.readlink(f"/proc/self/fd/{fd}"):
                self.attempts += 1
                raise OSError(EIO, os.strerror(EIO))
            return super().pread(fd, size, offset)

    refusing = Refusing()
    shipping._disk = refusing
    with caplog.at_level(logging.ERROR):
        for name in "bcd":
            other.commit(name)
            assert shipping.step()
        assert not shipping.step()
    assert sink.names == ["b", "c", "d"]
    assert refusing.attempts == len(caplog.records) == 1
    clock.now += REST_S
    assert not shipping.step()
    assert refusing.attempts == 2
    # Nothing is waited for.
    with pytest.raises(OSError, match=os.strerror(EIO)):
        shipping.step(linger=False)
    shipping.close()


@pytest.mark.parametrize("refusal", [Retryable("a"), Paused("b")], ids=["busy", "not allowed"])
def test_a_sink_that_cannot_tell_what_it_has_is_asked_again(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, refusal: Refusal
) -> None:
    sink.cannot_tell = refusal
    slot.commit("a")
    shipping = shipper()
    assert shipping.step()
    assert shipping.failures == 1
    sink.cannot_tell = None
    clock.now += 100
    assert shipping.step()
    assert sink.names == ["a"]
    assert shipping.failures == 0
    shipping.close()


# --- what is refused for good


def quarantine_of(slot: Slot) -> list[str]:
    """Names of the events in quarantine."""
    folder = str(slot.layout.quarantine / "memory")
    return sorted(load(RealDisk(), folder, name).event for name in list_quarantined(RealDisk(), folder))


def totals_of(slot: Slot) -> Totals:
    return load_all(RealDisk(), str(slot.layout.checkpoints))["memory"].totals


def run(shipping: Shipper, clock: Clock, steps: int = 200) -> None:
    """Until nothing is left to do; every wait passes at once."""
    for _ in range(steps):
        if not shipping.step():
            break
        if shipping.wait_s:
            clock.now += 61
    shipping.save()


def test_exactly_the_bad_event_is_quarantined_and_everything_is_accounted_for(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slot.commit(*"abcdefgh")
    slot.seal()
    slot.commit("i")
    sink.never = {"f"}
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
    assert sink.names == list("abcdeghi")
    assert quarantine_of(slot) == ["f"]
    totals = totals_of(slot)
    assert (totals.accepted, totals.shipped, totals.quarantined, totals.imbalance) == (9, 8, 1, 0)
    assert row.get("edge_drain_events_total", "0", "quarantined") == 1
    assert row.get("edge_drain_splits_total", "0", "refused") == 3
    assert row.get("edge_drain_imbalance_events", "0") == 0
    shipping.close()


def test_a_crash_after_the_quarantine_and_before_the_checkpoint_quarantines_nothing_twice(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    slot.commit("a", "bad", "c")
    sink.never = {"bad"}
    crashed = shipper()
    with caplog.at_level(logging.CRITICAL):
        while crashed.step():
            pass
        crashed.close()
        again = shipper()
        run(again, clock)
    assert sink.names == ["a", "c", "a", "c"]
    assert quarantine_of(slot) == ["bad"]
    assert (totals_of(slot).quarantined, totals_of(slot).imbalance) == (1, 0)
    again.close()


def test_an_event_that_is_taken_after_such_a_crash_leaves_the_quarantine(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    slot.commit("a", "bad", "c")
    sink.never = {"bad"}
    crashed = shipper()
    with caplog.at_level(logging.CRITICAL):
        while crashed.step():
            pass
    crashed.close()
    assert quarantine_of(slot) == ["bad"]
    sink.never = set()
    again = shipper()
    run(again, clock)
    assert quarantine_of(slot) == []
    assert (totals_of(slot).quarantined, totals_of(slot).shipped) == (0, 3)
    again.close()


def test_a_destination_that_refuses_everything_costs_next_to_nothing_and_is_waited_for(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [f"e{n}" for n in range(300)]
    slot.commit(*names[:200])
    sink.refuse_all = Refused("status 400: maintenance")
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        for _ in range(2000):
            shipping.step()
            clock.now += 61 if shipping.wait_s else 0
        slot.commit(*names[200:])
        for _ in range(2000):
            shipping.step()
            clock.now += 61 if shipping.wait_s else 0
        assert quarantine_of(slot) == []
        assert row.get("edge_sink_paused", "0") == 1
        shipping.save()
        trouble = load_all(RealDisk(), str(slot.layout.checkpoints))["memory"].trouble
        assert trouble is not None
        assert trouble.kind == "breaker"
        sink.refuse_all = None
        run(shipping, clock)
    assert sink.names == names
    assert quarantine_of(slot) == []
    assert row.get("edge_sink_paused", "0") == 0
    assert load_all(RealDisk(), str(slot.layout.checkpoints))["memory"].trouble is None
    assert totals_of(slot).imbalance == 0
    shipping.close()


def test_single_events_refused_one_after_the_other_trip_the_breaker_too(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """On a quiet edge every batch is a single event, so none is there to compare with."""
    sink.refuse_all = Refused("status 400: maintenance")
    shipping = shipper()
    names = [f"e{n}" for n in range(12)]
    with caplog.at_level(logging.CRITICAL):
        for name in names:
            slot.commit(name)
            for _ in range(20):
                shipping.step()
                clock.now += 61 if shipping.wait_s else 0
        assert len(quarantine_of(slot)) <= 3
        sink.refuse_all = None
        run(shipping, clock)
    assert sorted(sink.names + quarantine_of(slot)) == sorted(names)
    shipping.close()


def test_many_bad_events_are_believed_beside_a_good_one_that_comes_later(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [f"bad{n}" for n in range(8)]
    slot.commit(*bad)
    sink.never = set(bad)
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        for _ in range(100):
            shipping.step()
            clock.now += 61 if shipping.wait_s else 0
        assert quarantine_of(slot) == []
        slot.commit("good")
        for _ in range(100):
            shipping.step()
            clock.now += 61 if shipping.wait_s else 0
        shipping.save()
    assert sink.names == ["good"]
    assert quarantine_of(slot) == bad
    assert totals_of(slot).imbalance == 0
    shipping.close()


def test_a_paused_sink_keeps_everything_says_so_and_goes_on_by_itself(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slot.commit("a")
    sink.refuse_all = Paused("status 401: no such key")
    shipping = shipper()
    for _ in range(50):
        shipping.step()
        clock.now += 61 if shipping.wait_s else 0
    assert any(record.levelno == logging.ERROR and "paused" in record.message for record in caplog.records)
    assert row.get("edge_sink_paused", "0") == 1
    assert row.get("edge_drain_retries_total", "0", "paused") == shipping.failures > 5
    sink.refuse_all = None
    run(shipping, clock)
    assert sink.names == ["a"]
    assert quarantine_of(slot) == []
    assert row.get("edge_sink_paused", "0") == 0
    shipping.close()


def test_a_pause_for_one_project_is_told_from_a_pause_for_all_by_what_comes_later(
    slot: Slot, shipper: Callable[[], Shipper], clock: Clock, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    class ByKey(MemorySink):
        def cut(self, events: list[Event]) -> list[list[Event]]:
            return [[event] for event in events]

        def ship(self, batch: Batch) -> int:
            if any(event.token == "unknown" for event in batch.events):
                raise Paused("status 401")
            return super().ship(batch)

    picky = ByKey()
    shipping = Shipper(RealDisk(), slot.layout, "memory", "memory:", picky, row, 0, clock)
    slot.commit("strange", token="unknown")
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock, 20)
        assert quarantine_of(slot) == []
        assert row.get("edge_sink_paused", "0") == 1
        slot.commit("known")
        run(shipping, clock)
    assert picky.names == ["known"]
    assert quarantine_of(slot) == ["strange"]
    assert row.get("edge_sink_paused", "0") == 0
    assert totals_of(slot).imbalance == 0
    shipping.close()


def test_a_restart_remembers_that_the_sink_is_paused(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slot.commit("a")
    sink.refuse_all = Paused("status 401: no such key")
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        shipping.step()
    shipping.save()
    shipping.close()
    row.set("edge_sink_paused", 0, "0")
    again = shipper()
    assert row.get("edge_sink_paused", "0") == 1
    again.close()


def test_events_that_the_reader_passed_over_are_missed_loudly(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A position that is further than what was read, as a fault of ours would leave it."""
    slot.commit("a")
    shipping = shipper()
    run(shipping, clock)
    slot.commit("never read")
    reader = shipping._readers[0]
    reader._offset = slot.files[0].stat().st_size
    slot.commit("c")
    slot.seal()
    slot.commit("d")
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
    assert sink.names == ["a", "c", "d"]
    assert row.get("edge_drain_imbalance_events", "0") == 1
    assert totals_of(slot).imbalance == 1
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)
    shipping.close()


def test_they_are_missed_as_well_when_the_segment_goes_before_the_next_one_comes(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slot.commit("a")
    shipping = shipper()
    run(shipping, clock)
    slot.commit("never read")
    shipping._readers[0]._offset = slot.files[0].stat().st_size
    slot.commit("c")
    slot.seal()
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
    assert shipping.durable[0].offset == slot.files[0].stat().st_size
    assert row.get("edge_drain_imbalance_events", "0") == 1
    assert totals_of(slot).imbalance == 1
    shipping.close()


def test_a_restart_does_not_miss_them_once_more(
    slot: Slot, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    other = Slot(slot.layout.data, 1)
    slot.commit("a")
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
        slot.commit("never read")
        shipping._readers[0]._offset = slot.files[0].stat().st_size
        slot.commit("c")
        slot.seal()
        run(shipping, clock)
        shipping.close()
        for name in "xy":
            again = shipper()
            other.commit(name)
            run(again, clock)
            again.close()
    assert totals_of(slot).imbalance == 1


@pytest.mark.parametrize("next_comes", [True, False], ids=["another segment follows", "none follows"])
def test_events_that_were_shipped_before_a_power_cut_took_them_are_not_missed(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, row: Row, *, next_comes: bool
) -> None:
    """Frames are read as soon as they are written, so one that was never synced can be with the sink."""
    other = Slot(slot.layout.data, 1)
    slot.commit("a")
    kept = slot.files[0].stat().st_size
    slot.commit("b", "c")
    shipping = shipper()
    run(shipping, clock)
    shipping.close()
    slot.seal()
    slot.files[0].write_bytes(slot.files[0].read_bytes()[:kept])
    again = shipper()
    (slot if next_comes else other).commit("d")
    run(again, clock)
    again.close()
    assert sink.names == ["a", "b", "c", "d"]
    totals = totals_of(slot)
    assert (totals.accepted, totals.shipped, totals.uncounted, totals.imbalance) == (4, 4, 0, 0)
    assert row.get("edge_drain_imbalance_events", "0") == 0


def test_accounts_that_a_power_cut_upset_once_are_set_right(
    slot: Slot, shipper: Callable[[], Shipper], clock: Clock, row: Row
) -> None:
    slot.commit("a")
    shipping = shipper()
    run(shipping, clock)
    shipping.close()
    file = CheckpointFile(RealDisk(), str(slot.layout.checkpoints), "memory")
    checkpoint = file.load()
    assert checkpoint is not None
    checkpoint.totals.uncounted = -2
    file.save(checkpoint)
    again = shipper()
    slot.commit("b")
    run(again, clock)
    again.close()
    assert totals_of(slot).imbalance == 0
    assert row.get("edge_drain_imbalance_events", "0") == 0


def test_totals_and_position_move_together_though_a_finished_segment_cannot_be_compared(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"event":"a","distinct_id":"u","properties":{"p":"%b"}}' % Random(1).randbytes(20_000).hex().encode()
    slot.commit("a", body=body)
    slot.commit("b")
    shipping = shipper()
    run(shipping, clock)
    slot.seal()
    # The reader has it open; whoever opens it now is refused. It is larger than the folder in its place.
    path = slot.files[0]
    path.unlink()
    path.mkdir()
    slot.commit("c")
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
    assert sink.names == ["a", "b", "c"]
    assert totals_of(slot).shipped == 3
    assert shipping.durable[0].segment != path.name.removesuffix(".zst")
    shipping.close()
    again = shipper()
    slot.commit("d")
    run(again, clock)
    again.close()
    assert sink.names == ["a", "b", "c", "d"]
    assert (totals_of(slot).accepted, totals_of(slot).shipped, totals_of(slot).imbalance) == (4, 4, 0)


def test_slots_take_turns(slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock) -> None:
    other = Slot(slot.layout.data, 1)
    shipping = shipper()
    for turn in range(4):
        slot.commit(f"a{turn}")
        other.commit(f"b{turn}")
        sink.refusals = 1
        shipping.step()
        clock.now += 61
        shipping.step()
        clock.now += 61
    assert {batch[0] for batch in sink.batches} == {0, 1}
    shipping.close()


def test_after_an_outage_the_sink_is_left_alone_between_batches(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sink.takes_s = 1.0
    slot.commit("a")
    shipping = shipper()
    shipping.step()
    assert not shipping.wait_s
    slot.commit("b")
    sink.refusals = 3
    with caplog.at_level(logging.CRITICAL):
        for _ in range(3):
            shipping.step()
            clock.now += 61
        shipping.step()
    assert sink.names == ["a", "b"]
    assert shipping.wait_s
    assert shipping.failures == 0
    clock.now += 40
    for name in "cd":
        slot.commit(name)
        shipping.step()
    assert sink.names == list("abcd")
    assert not shipping.wait_s
    shipping.close()


def test_what_cannot_be_read_is_copied_before_its_segment_may_go(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in "abc":
        slot.commit(name)
    slot.commit("odd", body=b"this is no JSON")
    slot.seal()
    path = slot.files[0]
    data = bytearray(path.read_bytes())
    second = data.index(b"\x5e\x2a\x4d\x18", 60)
    data[second + 70] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        shipping = shipper()
        with caplog.at_level(logging.CRITICAL):
            run(shipping, clock)
        shipping.close()
        for checkpoint in slot.layout.checkpoints.glob("*.json"):
            checkpoint.unlink()
    assert sink.names == ["a", "c"] * 2
    odd, damaged = sorted(slot.layout.damaged.iterdir())
    assert odd.name.startswith("record-")
    assert b'"data":this is no JSON}' in odd.read_bytes()
    assert damaged.name == f"slot-00-{path.name.removesuffix('.zst')}-{second:012d}.bin"
    assert damaged.read_bytes() in bytes(data)
    assert row.get("edge_drain_imbalance_events", "0") == 0


def test_a_line_that_is_no_record_is_kept_and_its_frame_shipped(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = segments.records(2)
    data, _ = segments.segment([[first, b'{"id":"of another version","data":{}}\n', second]])
    slot.directory.joinpath(segments.NAME.file_name(State.SEALED)).write_bytes(data)
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
    shipping.close()
    assert sink.names == ["0", "1"]
    [kept] = slot.layout.damaged.iterdir()
    assert kept.read_bytes() == b'{"id":"of another version","data":{}}\n'
    assert row.get("capture_events_dropped_total", "unreadable") == 1
    assert row.get("edge_drain_imbalance_events", "0") == 0


def test_what_records_hold_and_frames_say_is_compared(
    slot: Slot,
    sink: MemorySink,
    shipper: Callable[[], Shipper],
    clock: Clock,
    row: Row,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As if expansion lost an event: the record holds two, the worker counted three."""
    slot.commit("a")
    slot.commit("batch", body=b'[{"event":"x","distinct_id":"u"},{"event":"y","distinct_id":"u"}]', events=3)
    shipping = shipper()
    with caplog.at_level(logging.CRITICAL):
        run(shipping, clock)
    assert sink.names == ["a", "x", "y"]
    assert row.get("edge_drain_imbalance_events", "0") == 1
    assert "1 accepted events are unaccounted for" in caplog.text
    shipping.close()


def test_recordings_balance_although_many_become_one(
    slot: Slot, sink: MemorySink, shipper: Callable[[], Shipper], clock: Clock, row: Row
) -> None:
    snapshot = b'{"event":"$snapshot","distinct_id":"u","properties":{"$session_id":"s","$snapshot_data":[1]}}'
    slot.commit("recording", body=b"[%b,%b,%b]" % (snapshot, snapshot, snapshot), path="s")
    shipping = shipper()
    run(shipping, clock)
    assert sink.names == ["$snapshot_items"]
    totals = totals_of(slot)
    assert (totals.accepted, totals.shipped, totals.merged, totals.imbalance) == (3, 1, 2, 0)
    shipping.close()


# --- a crash at every moment


class Killed(BaseException):
    """Nothing of the program's may catch it."""


def test_a_crash_at_every_moment_of_halving_and_setting_aside_loses_nothing_and_makes_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The moments: before every call to the disk, before a request arrives, and after it was taken and before anybody knew."""
    good = [f"g{n}" for n in range(12)]
    bad = ["bad1", "bad2", "bad3"]
    finished = False
    aside_early = duplicates = 0
    moment = 0
    while not finished:
        slot = Slot(tmp_path / str(moment))
        slot.layout.checkpoints.mkdir()
        slot.commit(*good[:3], "bad1", *good[3:5], "bad2", *good[5:8])
        slot.seal()
        slot.commit(*good[8:], "bad3")
        left = [moment]

        def pass_moment(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise Killed

        class Fragile(MemorySink):
            def ship(self, batch: Batch) -> int:
                pass_moment()
                size = super().ship(batch)
                pass_moment()
                return size

        sink = Fragile()
        sink.never = set(bad)
        row = Board.create(1).rows[0]
        with caplog.at_level(logging.CRITICAL):
            try:
                disk = FaultyDisk(RealDisk(), pass_moment)
                crashed = Shipper(disk, slot.layout, "memory", "memory:", sink, row, 0, sink.clock)
            except Killed:
                continued = None
            else:
                continued = crashed
                try:
                    run(crashed, sink.clock)
                    finished = True
                except Killed:
                    known = load_all(RealDisk(), str(slot.layout.checkpoints))
                    aside_early += bool(quarantine_of(slot)) and not known
            left[0] = -1
            if continued is not None:
                continued.close()
            again = Shipper(RealDisk(), slot.layout, "memory", "memory:", sink, row, 0, sink.clock)
            run(again, sink.clock)
            again.close()
        assert set(sink.names) == set(good), moment
        assert quarantine_of(slot) == bad, moment
        totals = totals_of(slot)
        assert (totals.accepted, totals.shipped, totals.quarantined, totals.imbalance) == (15, 12, 3, 0), moment
        duplicates += len(sink.names) - len(good)
        moment += 1
    # Without these, nothing was proved.
    assert moment > 80
    assert aside_early > 0
    assert duplicates > 0
