import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.checkpoints import Checkpoint, CheckpointFile, Position, Trouble, load_all
from edge.disk import RealDisk
from edge.drain import drainer as drainer_module
from edge.drain import slots as slots_module
from edge.drain.drainer import Drainer
from edge.drain.event import Event
from edge.drain.reader import Chunk
from edge.drain.retire import DELETE
from edge.drain.sink import Batch
from edge.drain.sinks.null import NullSink
from edge.drain.slots import InUse
from edge.layout import Layout
from edge.metrics import Board, Row
from edge.notation import Retention, Share
from edge.process import EXIT_FAULT
from edge.segment.name import parse_name
from tests.downstream import Downstream, Reply
from tests.drain.spools import Slot
from tests.fakes import EIO, Fault, FaultyDisk


@pytest.fixture
def row() -> Row:
    return Board.create(1).rows[0]


def drainer(data: Path, row: Row, *urls: str) -> Drainer:
    return Drainer(RealDisk(), Layout(data), urls or (f"file:{data}/events",), row)


def delivered(folder: Path) -> list[str]:
    return [
        json.loads(line)["event"] for path in sorted(folder.glob("*.ndjson")) for line in path.read_text().splitlines()
    ]


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_once_ships_everything_committed_and_deletes_what_is_finished(tmp_path: Path, row: Row) -> None:
    living = Slot(tmp_path, 0, locked=True)
    living.commit("a")
    living.seal()
    living.commit("b")
    assert drainer(tmp_path, row).run_once()
    assert delivered(tmp_path / "events") == ["a", "b"]
    assert [path.name for path in living.files] == [path.name for path in living.files if ".open." in path.name]
    living.release()


def test_a_slot_that_cannot_be_recovered_holds_up_no_other(tmp_path: Path, row: Row) -> None:
    dead = [Slot(tmp_path, slot, locked=True) for slot in (3, 5)]
    for each in dead:
        each.commit(f"of {each.slot}")
        each.release()
    disk = FaultyDisk(RealDisk())
    draining = Drainer(disk, Layout(tmp_path), ("null:",), row)
    disk.fail_next("lock", Fault(EIO))
    draining._adopt()
    assert [".open." in each.files[0].name for each in dead] == [True, False]
    draining._adopt()
    assert [".open." in each.files[0].name for each in dead] == [False, False]
    draining.close()


def test_once_recovers_and_ships_the_slots_of_dead_workers(tmp_path: Path, row: Row) -> None:
    dead = Slot(tmp_path, 5, locked=True)
    dead.commit("a")
    dead.commit("b")
    with dead.files[0].open("ab") as file:
        file.write(b"torn by the crash")
    dead.release()
    assert drainer(tmp_path, row).run_once()
    assert delivered(tmp_path / "events") == ["a", "b"]
    assert dead.files == []
    [torn] = (tmp_path / "torn").iterdir()
    assert torn.read_bytes() == b"torn by the crash"


def test_once_twice_ships_nothing_twice(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    assert drainer(tmp_path, row).run_once()
    slot.commit("b")
    assert drainer(tmp_path, row).run_once()
    assert delivered(tmp_path / "events") == ["a", "b"]
    slot.release()


def test_an_empty_spool_is_drained_at_once(tmp_path: Path, row: Row) -> None:
    assert drainer(tmp_path, row).run_once()


def test_a_lost_checkpoint_makes_no_line_twice_in_the_file_sink(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    assert drainer(tmp_path, row).run_once()
    before = {path.name: path.read_bytes() for path in (tmp_path / "events").iterdir()}
    slot.commit("b")
    for path in (tmp_path / "ckpt").glob("*.json"):
        path.unlink()
    assert drainer(tmp_path, row).run_once()
    assert delivered(tmp_path / "events") == ["a", "b"]
    assert {name: (tmp_path / "events" / name).read_bytes() for name in before} == before
    slot.release()


def test_once_says_when_a_sink_could_not_be_written(tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    draining = drainer(tmp_path, row)
    (tmp_path / "events").rmdir()
    (tmp_path / "events").write_text("in the way")
    monkeypatch.setattr(drainer_module, "ATTEMPTS_ONCE", 2)
    assert not draining.run_once()
    (tmp_path / "events").unlink()
    assert drainer(tmp_path, row).run_once()
    assert delivered(tmp_path / "events") == ["a"]
    slot.release()


def test_once_ends_when_what_was_committed_is_taken_away_meanwhile(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    slot.seal()
    draining = drainer(tmp_path, row)

    monkeypatch.setattr(drainer_module, "IDLE_ONCE_S", 0.2)
    slot.files[0].rename(tmp_path / "elsewhere")
    targets: dict[int, Position | None] = {0: Position("000000000001-000000000000abc1", 10**6)}
    assert not draining._ship_to(draining.shippers[0], targets)
    draining.close()
    slot.release()


def test_several_sinks_each_get_everything_and_the_slowest_keeps_the_segments(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    slot.seal()
    first = f"file:{tmp_path}/first"
    assert drainer(tmp_path, row, first).run_once()
    slot.commit("b")
    slot.seal()
    assert drainer(tmp_path, row, first, f"file:{tmp_path}/second").run_once()
    assert delivered(tmp_path / "first") == ["a", "b"]
    assert delivered(tmp_path / "second") == ["b"]
    assert slot.files == []
    slot.release()


def test_a_second_drainer_is_refused(tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "LOCK_WAIT_S", 0.1)
    first = drainer(tmp_path, row)
    with pytest.raises(InUse, match=f"another drainer, process {os.getpid()}, holds"):
        drainer(tmp_path, row)
    first.close()
    drainer(tmp_path, row).close()


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["mail:x"], "expected a sink URL that begins with file:, .*, found 'mail:x'"),
        (["mail://me:secret@h"], r"expected a sink URL that begins with file:, .*, found 'mail://\*\*\*@h'"),
        (["null"], "expected a sink URL"),
        (["null:", "null:"], "the same destination twice"),
        ([], "expected 1 to 8 sinks, found 0"),
    ],
)
def test_bad_sinks_are_told_apart(tmp_path: Path, row: Row, urls: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Drainer(RealDisk(), Layout(tmp_path), urls, row)


def test_running_it_ships_what_is_committed_meanwhile_and_what_is_left_when_it_stops(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    stop = threading.Event()
    draining = drainer(tmp_path, row)
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(draining.run(stop.is_set)))
    thread.start()
    until(lambda: delivered(tmp_path / "events") == ["a"])
    slot.commit("b")
    slot.seal()
    until(lambda: delivered(tmp_path / "events") == ["a", "b"])
    slot.commit("c")
    stop.set()
    thread.join()
    assert status == [0]
    assert delivered(tmp_path / "events") == ["a", "b", "c"]
    [checkpoint] = load_all(RealDisk(), str(tmp_path / "ckpt")).values()
    assert checkpoint.totals.shipped == 3
    assert slot.files == [path for path in slot.files if ".open." in path.name]
    slot.release()


def test_a_thread_that_ends_ends_the_drainer(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that died in silence would leave everything unshipped and nobody told."""
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    draining = drainer(tmp_path, row, "null:")
    faults: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: faults.append(arguments.exc_value))

    class Broken(NullSink):
        def ship(self, batch: Batch) -> int:
            raise GeneratorExit("no mere fault")

    draining.shippers[0]._sink = Broken("event")
    with caplog.at_level(logging.CRITICAL):
        assert draining.run(lambda: False) == EXIT_FAULT
    assert [str(fault) for fault in faults] == ["no mere fault"]
    draining.close()
    slot.release()


@contextmanager
def running(draining: Drainer) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=draining.run, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Faulty(NullSink):
    """Meets a fault of ours with the second batch, which was read by then."""

    def __init__(self) -> None:
        super().__init__("event")
        self.batches = 0

    def cut(self, events: list[Event]) -> list[list[Event]]:
        self.batches += 1
        if self.batches > 1:
            raise AssertionError("a fault of ours")
        return super().cut(events)


def test_a_fault_of_a_sink_is_told_holds_up_no_other_and_passes_nothing_over(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drainer_module, "CAP_S", 0.0)
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    slot.seal()
    draining = drainer(tmp_path, row, "null:", f"file:{tmp_path}/events")
    draining.shippers[0]._sink = Faulty()
    faulty = draining.shippers[0]

    def confirmed() -> Checkpoint:
        found = load_all(RealDisk(), str(tmp_path / "ckpt")).get("null")
        return found or Checkpoint("null:")

    with caplog.at_level(logging.ERROR), running(draining):
        until(lambda: delivered(tmp_path / "events") == ["a"] and faulty.position(0) is not None)
        # Read by a shipper that will never ship it.
        slot.commit("b")
        slot.seal()
        until(lambda: delivered(tmp_path / "events") == ["a", "b"])
        until(lambda: row.get("edge_drain_retries_total", "0", "retryable") == 1)
        slot.commit("c")
        slot.seal()
        until(lambda: delivered(tmp_path / "events") == ["a", "b", "c"])
        until(lambda: confirmed().totals.shipped == 3)
        until(lambda: slot.files == [])
    assert confirmed().trouble is None
    assert confirmed().totals.imbalance == 0
    [told] = caplog.records
    assert told.exc_info is not None
    assert "sink null met a fault of ours" in told.getMessage()
    slot.release()


def test_a_fault_between_totals_and_positions_counts_nothing_twice(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer_module, "CAP_S", 0.0)
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    slot.seal()
    draining = drainer(tmp_path, row)
    broken = draining.shippers[0]

    move = broken._move

    def fault(chunk: Chunk) -> None:
        if broken.position(0) is not None:
            raise AssertionError("a fault of ours")
        move(chunk)

    monkeypatch.setattr(broken, "_move", fault)
    with running(draining):
        until(lambda: broken.position(0) is not None)
        # Before the checkpoint knows the first one.
        slot.commit("b")
        slot.seal()
        until(lambda: draining.shippers[0] is not broken)
    [checkpoint] = load_all(RealDisk(), str(tmp_path / "ckpt")).values()
    assert (checkpoint.totals.shipped, checkpoint.totals.accepted) == (2, 2)
    assert delivered(tmp_path / "events") == ["a", "b"]
    slot.release()


def test_what_can_be_said_of_a_fault_is_in_the_checkpoint_before_the_sink_is_tried_again(
    tmp_path: Path, row: Row
) -> None:
    draining = drainer(tmp_path, row, "null:")
    draining._begin_again(0, "AssertionError: a fault of ours")
    [checkpoint] = load_all(RealDisk(), str(tmp_path / "ckpt")).values()
    assert checkpoint.trouble is not None
    assert (checkpoint.trouble.kind, checkpoint.trouble.why) == ("retryable", "AssertionError: a fault of ours")
    draining.close()


def test_a_shipper_that_cannot_be_made_again_is_never_asked_for_more(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read what it did not ship, and would go on behind that."""
    monkeypatch.setattr(drainer_module, "SPOOL_ERROR_S", 0.05)
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    disk = FaultyDisk(RealDisk())
    draining = Drainer(disk, Layout(tmp_path), ["null:"], row)
    broken = draining.shippers[0]._sink = Faulty()
    broken.batches = 1
    disk.fail_next("create", *[Fault(EIO)] * 3)
    with running(draining):
        until(lambda: draining.shippers[0].position(0) is not None)
    assert broken.batches == 2
    assert len([call for call in disk.failed if call.method == "create"]) == 3
    [checkpoint] = load_all(RealDisk(), str(tmp_path / "ckpt")).values()
    assert (checkpoint.totals.shipped, checkpoint.trouble) == (1, None)
    slot.release()


def test_once_a_fault_of_a_sink_is_told_by_the_status_and_holds_up_no_other(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    draining = drainer(tmp_path, row, "null:", f"file:{tmp_path}/events")
    broken = draining.shippers[0]._sink = Faulty()
    broken.batches = 1
    assert not draining.run_once()
    assert delivered(tmp_path / "events") == ["a"]
    assert len(slot.files) == 1


def test_a_sink_that_does_not_answer_does_not_keep_the_drainer_from_stopping(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drainer_module, "STOP_S", 0.2)
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    draining = drainer(tmp_path, row, "null:")
    asked, answer = threading.Event(), threading.Event()

    class Hanging(NullSink):
        def ship(self, batch: Batch) -> int:
            asked.set()
            assert answer.wait(20)
            return super().ship(batch)

    draining.shippers[0]._sink = Hanging("event")
    with caplog.at_level(logging.CRITICAL):
        assert draining.run(asked.is_set) == 0
    answer.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(20)
    draining.close()
    slot.release()


def test_a_sink_that_takes_nothing_holds_up_no_other_and_loses_nothing(tmp_path: Path, row: Row) -> None:
    """Each has its own checkpoint, pace and quarantine; only deleting waits for all of them."""
    slot = Slot(tmp_path, 0, locked=True)
    stop = threading.Event()
    with Downstream(lambda call: Reply(503)) as blocked, Downstream() as picky:
        picky.rule = lambda call: Reply(400) if "poison" in str(call.events) else Reply()
        urls = f"file:{tmp_path}/events", blocked.url, picky.url
        draining = drainer(tmp_path, row, *urls)
        thread = threading.Thread(target=draining.run, args=(stop.is_set,))
        thread.start()
        for number in range(5):
            slot.commit(f"{number}-a", f"{number}-b", *(["poison"] if number == 2 else []))
            slot.seal()
        until(lambda: len(delivered(tmp_path / "events")) == 11)
        until(lambda: len(picky.merged) == 10)
        until(lambda: blocked.requests >= 2)
        assert len(slot.files) == 5
        blocked.rule = lambda call: Reply()
        until(lambda: len(blocked.merged) == 11)
        until(lambda: slot.files == [])
        stop.set()
        thread.join()
        totals = [load_all(RealDisk(), str(tmp_path / "ckpt"))[shipper.sink_id].totals for shipper in draining.shippers]
        assert [(each.shipped, each.quarantined, each.imbalance) for each in totals] == [
            (11, 0, 0),
            (11, 0, 0),
            (10, 1, 0),
        ]
        assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [draining.shippers[2].sink_id]
        assert (blocked.duplicates, picky.duplicates) == (0, 0)
    slot.release()


def test_what_is_kept_for_replay_is_shipped_to_a_sink_that_is_named_later(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    Drainer(RealDisk(), slot.layout, [f"file:{tmp_path}/events"], row, Retention(age_s=3600.0)).run_once()
    assert len(slot.files) == 1
    Drainer(RealDisk(), slot.layout, [f"file:{tmp_path}/later"], row, Retention(age_s=3600.0)).run_once()
    assert delivered(tmp_path / "events") == delivered(tmp_path / "later") == ["a"]
    Drainer(RealDisk(), slot.layout, [f"file:{tmp_path}/events", f"file:{tmp_path}/later"], row).run_once()
    assert slot.files == []
    assert delivered(tmp_path / "events") == ["a"]


def shared(data: Path, row: Row, index: int, count: int, retain: Retention = DELETE) -> Drainer:
    return Drainer(RealDisk(), Layout(data), (f"file:{data}/events",), row, retain, share=Share(index, count))


def test_several_drainers_ship_everything_once_whatever_their_number_was_before(tmp_path: Path, row: Row) -> None:
    """Also the first, who has another share each time, and whose own file still tells of slots that others had since.

    Segments are kept, so that whoever began too early would find them again, and count them again.
    """
    slots = [Slot(tmp_path, number, locked=True) for number in range(4)]
    written: list[str] = []
    for turn, count in enumerate((1, 3, 2, 4, 1)):
        for slot in slots:
            slot.commit(f"{turn} in {slot.slot}")
            slot.seal()
            written.append(f"{turn} in {slot.slot}")
        drainers = [shared(tmp_path, row, index, count, Retention(age_s=3600.0)) for index in range(count)]
        assert [each.run_once() for each in drainers] == [True] * count
        assert sorted(delivered(tmp_path / "events")) == sorted(written)
        assert [len(slot.files) for slot in slots] == [turn + 1] * 4
    [checkpoint] = load_all(RealDisk(), str(tmp_path / "ckpt")).values()
    assert (checkpoint.totals.shipped, checkpoint.totals.accepted, checkpoint.totals.imbalance) == (20, 20, 0)
    for slot in slots:
        slot.release()


def test_a_drainer_leaves_the_slots_of_others_alone(tmp_path: Path, row: Row) -> None:
    slots = [Slot(tmp_path, number, locked=True) for number in range(2)]
    for slot in slots:
        slot.commit(f"of {slot.slot}")
        slot.release()
    second = shared(tmp_path, row, 1, 2)
    assert second.run_once()
    assert delivered(tmp_path / "events") == ["of 1"]
    assert [".open." in path.name for path in slots[0].files] == [True]
    assert slots[1].files == []


def test_several_drainers_keep_no_more_for_replay_than_one(tmp_path: Path, row: Row) -> None:
    slots = [Slot(tmp_path, number, locked=True) for number in range(2)]
    for _ in range(4):
        for slot in slots:
            slot.commit("a")
            slot.seal()
    size = slots[0].files[0].stat().st_size
    for index in range(2):
        assert shared(tmp_path, row, index, 2, Retention(bytes=4 * size)).run_once()
    assert [len(slot.files) for slot in slots] == [2, 2]
    for slot in slots:
        slot.release()


def test_a_slot_that_another_drainer_has_ends_the_drainer(tmp_path: Path, row: Row) -> None:
    """Two are set up for different numbers: nothing is shipped twice for it."""
    (tmp_path / "spool").mkdir()
    first, stray = shared(tmp_path, row, 0, 2), shared(tmp_path, row, 2, 4)
    slot = Slot(tmp_path, 2, locked=True)
    slot.commit("a")
    assert first._slots() == [2]
    with pytest.raises(InUse, match="lock-slot-02"):
        stray.run_once()
    assert stray.run(lambda: False) == 1
    assert first.run_once()
    assert delivered(tmp_path / "events") == ["a"]
    slot.release()


def test_the_trouble_of_drainers_there_are_no_longer_is_forgotten(tmp_path: Path, row: Row) -> None:
    (tmp_path / "ckpt").mkdir()
    trouble = Trouble("paused", "no such topic", 5)
    for index in range(3):
        file = CheckpointFile(RealDisk(), str(tmp_path / "ckpt"), "kafka", index)
        file.save(Checkpoint("kafka:", {}, trouble=trouble))
    held = shared(tmp_path, row, 2, 3)
    Drainer(RealDisk(), Layout(tmp_path), ["null:"], row).close()
    found = [CheckpointFile(RealDisk(), str(tmp_path / "ckpt"), "kafka", index).load() for index in range(3)]
    # The first may be started again, and the third is still there.
    assert [each and each.trouble for each in found] == [trouble, None, trouble]
    held.close()


def test_what_cannot_be_deleted_is_told_once_and_does_not_keep_the_drainer_from_stopping(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drainer_module, "RETIRE_S", 0.0)
    slot = Slot(tmp_path, 0, locked=True)
    for name in "ab":
        slot.commit(name)
        slot.seal()
    first, second = slot.files

    class Refusing(RealDisk):
        looks = 0

        def unlink(self, path: str) -> None:
            if path == str(first):
                self.looks += 1
                raise PermissionError(1, "Operation not permitted", path)
            super().unlink(path)

    disk = Refusing()
    draining = Drainer(disk, Layout(tmp_path), [f"file:{tmp_path}/events"], row)
    with caplog.at_level(logging.ERROR):
        assert draining.run(lambda: disk.looks >= 3) == 0
    assert slot.files == [first]
    assert not second.exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"what was shipped cannot be deleted from {first}: [Errno 1] Operation not permitted: '{first}'"
    ]
    slot.release()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drainer_module, "FINISH_S", 0.4)
    monkeypatch.setattr(drainer_module, "SPOOL_ERROR_S", 0.1)


@pytest.mark.usefixtures("quick")
def test_a_spool_that_cannot_be_looked_at_does_not_keep_the_drainer_from_stopping(
    tmp_path: Path, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    disk = FaultyDisk(RealDisk())
    draining = Drainer(disk, Layout(tmp_path), [f"file:{tmp_path}/events"], row)

    def should_stop() -> bool:
        if not delivered(tmp_path / "events"):
            return False
        # There is a slot more, which cannot be locked.
        disk.fail_always("lock", Fault(EIO))
        (tmp_path / "spool" / "slot-01").mkdir(exist_ok=True)
        return True

    with caplog.at_level(logging.ERROR):
        assert draining.run(should_stop) == 0
    assert "the spool cannot be tidied" in caplog.text
    slot.release()


@pytest.mark.usefixtures("quick")
def test_a_disk_that_refuses_when_the_order_to_stop_comes_is_asked_a_few_times_more(
    tmp_path: Path, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    disk = FaultyDisk(RealDisk())
    draining = Drainer(disk, Layout(tmp_path), ["null:"], row)
    disk.fail_always("listdir", Fault(EIO))
    with caplog.at_level(logging.ERROR):
        assert draining.run(lambda: bool(disk.failed)) == 0
    refusals = [record for record in caplog.records if "cannot be read or written" in record.getMessage()]
    assert 1 <= len(refusals) <= 6
    slot.release()


@pytest.mark.usefixtures("quick")
def test_what_is_left_is_shipped_at_the_stop_by_a_disk_that_refuses_once(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0, locked=True)
    slot.commit("a")
    disk = FaultyDisk(RealDisk())
    draining = Drainer(disk, Layout(tmp_path), [f"file:{tmp_path}/events"], row)
    disk.fail_next("open", Fault(EIO))
    assert draining.run(lambda: True) == 0
    assert delivered(tmp_path / "events") == ["a"]
    slot.release()


@pytest.mark.parametrize("refused", ["open", "pread"])
def test_once_ships_what_can_be_read_and_says_that_it_was_not_all(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(drainer_module, "IDLE_ONCE_S", 0.2)
    slots = [Slot(tmp_path, number) for number in range(2)]
    for slot in slots:
        for name in "ab":
            slot.commit(f"{name}{slot.slot}")
            slot.seal()
    newest = slots[0].files[1]

    def is_newest(path: str) -> bool:
        return Path(path).with_suffix("") == newest.with_suffix("")

    class Refusing(RealDisk):
        def open(self, path: str, *, write: bool = False) -> int:
            if refused == "open" and is_newest(path) and self.exists(path):
                raise OSError(EIO, "Input/output error")
            return super().open(path, write=write)

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if refused == "pread" and is_newest(os.readlink(f"/proc/self/fd/{fd}")):
                raise OSError(EIO, "Input/output error")
            return super().pread(fd, size, offset)

    draining = Drainer(Refusing(), Layout(tmp_path), [f"file:{tmp_path}/events"], row)
    # Of one that cannot be opened nobody knows whether another attempt would.
    assert draining.run_once() is (refused == "pread")
    assert sorted(delivered(tmp_path / "events")) == ["a0", "a1", "b1"]
    aside = newest.with_suffix(".bad")
    assert [path.name for path in slots[0].directory.glob("0*")] == [aside.name]
    assert f"{aside} could not be read wholly" in draining.left()


def test_once_a_sink_whose_checkpoint_cannot_be_written_holds_up_no_other(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0)
    slot.commit("a")
    slot.seal()

    class Refusing(RealDisk):
        def create(self, path: str) -> int:
            if "ckpt/.null" in path:
                raise OSError(EIO, "Input/output error")
            return super().create(path)

    assert not Drainer(Refusing(), Layout(tmp_path), ["null:", f"file:{tmp_path}/events"], row).run_once()
    assert delivered(tmp_path / "events") == ["a"]
    assert load_all(RealDisk(), str(tmp_path / "ckpt")).keys() != {"null"}
    assert len(slot.files) == 1


def test_once_a_bad_segment_in_every_slot_holds_up_none_of_them(tmp_path: Path, row: Row) -> None:
    slots = [Slot(tmp_path, number) for number in range(6)]
    for slot in slots:
        for name in ("bad", "good"):
            slot.commit(name)
            slot.seal()

    class Refusing(RealDisk):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if "/000000000001-" in os.readlink(f"/proc/self/fd/{fd}"):
                raise OSError(EIO, "Input/output error")
            return super().pread(fd, size, offset)

    draining = Drainer(Refusing(), Layout(tmp_path), [f"file:{tmp_path}/events"], row)
    assert draining.run_once()
    assert delivered(tmp_path / "events") == ["good"] * 6
    assert len(draining.left()) == 6


def test_once_ships_what_stands_before_a_newest_segment_of_which_nothing_can_be_told(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0)
    for name in "ab":
        slot.commit(name)
        slot.seal()
    # What no permission and no privilege makes readable.
    slot.files[1].unlink()
    (slot.directory / "000000000002-000000000000abc2.zst").mkdir()
    draining = drainer(tmp_path, row)
    assert draining.run_once()
    assert len(draining.left()) == 1
    assert delivered(tmp_path / "events") == ["a"]


def test_once_ships_what_can_be_read_of_a_newest_segment_that_was_set_aside(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0)
    for name in "ab":
        slot.commit(name)
        slot.seal()
    slot.files[1].rename(slot.files[1].with_suffix(".bad"))
    draining = drainer(tmp_path, row)
    assert draining.run_once()
    assert delivered(tmp_path / "events") == ["a", "b"]
    assert len(draining.left()) == 1


@pytest.mark.parametrize("count", [5, 30])
def test_once_gets_past_any_number_of_segments_that_cannot_be_opened(tmp_path: Path, row: Row, count: int) -> None:
    slot = Slot(tmp_path, 0)
    for name in ["refused"] * count + ["good"]:
        slot.commit(name)
        slot.seal()

    class Refusing(RealDisk):
        def open(self, path: str, *, write: bool = False) -> int:
            parsed = parse_name(Path(path).name)
            if parsed and parsed[0].counter <= count and self.exists(path):
                raise OSError(EIO, "Input/output error", path)
            return super().open(path, write=write)

    draining = Drainer(Refusing(), Layout(tmp_path), [f"file:{tmp_path}/events"], row)
    assert draining.run_once()
    assert delivered(tmp_path / "events") == ["good"]
    assert len(draining.left()) == count


def test_once_a_sink_that_asks_for_a_long_pause_is_unavailable_and_holds_up_no_other(tmp_path: Path, row: Row) -> None:
    slot = Slot(tmp_path, 0)
    slot.commit("a")
    slot.seal()
    with Downstream() as downstream:
        downstream.rule = lambda call: Reply(429, {"Retry-After": "3600"})
        assert not drainer(tmp_path, row, downstream.url, f"file:{tmp_path}/events").run_once()
        assert downstream.requests == 1
    assert delivered(tmp_path / "events") == ["a"]
