from pathlib import Path

import pytest

from edge.disk import RealDisk
from edge.drain.drainer import Drainer
from edge.metrics import Board
from edge.segment.name import State
from edge.spool.inspect import SegmentFile, all_segments, named_segment, summarise
from edge.spool.mend import Busy, examine, is_locked, mend
from tests.drain.spools import Slot
from tests.fakes import EIO, Fault, FaultyDisk


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    made = Slot(tmp_path)
    made.commit("a", "b")
    made.commit("c")
    return made


def only(slot: Slot) -> SegmentFile:
    [file] = all_segments(slot.layout)
    return file


def test_a_segment_left_open_is_cut_and_sealed_and_what_was_cut_is_kept(slot: Slot) -> None:
    [path] = slot.files
    whole = path.read_bytes()
    path.write_bytes(whole + b"torn")
    finding = examine(only(slot))
    assert (finding.action, finding.records, finding.cut_bytes, finding.kept_bytes) == (
        "cut and seal",
        3,
        4,
        len(whole),
    )
    assert path.read_bytes() == whole + b"torn"
    assert mend(RealDisk(), only(slot), slot.layout.torn) == finding
    assert only(slot).state is State.SEALED
    assert only(slot).path.read_bytes() == whole
    [torn] = slot.layout.torn.iterdir()
    assert torn.read_bytes() == b"torn"
    assert torn.name == f"slot-00-{only(slot).name}-{len(whole)}.bin"


def test_zeroes_at_the_end_are_worth_nothing(slot: Slot) -> None:
    [path] = slot.files
    path.write_bytes(path.read_bytes() + bytes(4096))
    mend(RealDisk(), only(slot), slot.layout.torn)
    assert not slot.layout.torn.exists()
    assert summarise(only(slot)).damaged_bytes == 0


@pytest.mark.parametrize("suffix", [".open.zst", ".suspect.zst"])
def test_room_at_the_end_is_worth_nothing(tmp_path: Path, suffix: str) -> None:
    slot = Slot(tmp_path, room=300_000)
    slot.commit("a", "b")
    [path] = slot.files
    path.rename(str(path).replace(".open.zst", suffix))
    finding = mend(RealDisk(), only(slot), slot.layout.torn)
    assert (finding.records, finding.kept_bytes + finding.cut_bytes, finding.skipped_bytes) == (2, 300_000, 0)
    assert only(slot).state is State.SEALED
    assert only(slot).path.stat().st_size == finding.kept_bytes
    assert not slot.layout.torn.exists()


def test_a_finished_segment_without_fault_is_left_alone(slot: Slot) -> None:
    slot.seal()
    [path] = slot.files
    before = path.stat().st_mtime_ns
    assert mend(RealDisk(), only(slot), slot.layout.torn).action == "none"
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("suffix", [".suspect.zst", ".bad"])
def test_what_was_set_aside_and_reads_again_is_sealed(slot: Slot, suffix: str) -> None:
    [path] = slot.files
    path.rename(path.with_name(path.name.removesuffix(".open.zst") + suffix))
    assert mend(RealDisk(), only(slot), slot.layout.torn).action == "seal"
    assert only(slot).state is State.SEALED


def test_damage_inside_stays_and_is_told(slot: Slot) -> None:
    [path] = slot.files
    data = bytearray(path.read_bytes())
    data[120] ^= 0xFF
    path.write_bytes(data)
    finding = mend(RealDisk(), only(slot), slot.layout.torn)
    assert (finding.action, finding.records, finding.cut_bytes) == ("seal", 1, 0)
    assert finding.skipped_bytes > 0


def test_a_file_without_a_good_frame_is_left_alone(slot: Slot) -> None:
    [path] = slot.files
    path.write_bytes(path.read_bytes()[:60])
    assert mend(RealDisk(), only(slot), slot.layout.torn).action == "unreadable"
    assert slot.files == [path]


def test_a_copy_outside_a_spool_is_mended_beside_itself(slot: Slot, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    copy.write_bytes(slot.files[0].read_bytes() + b"torn")
    assert mend(RealDisk(), named_segment(copy)).action == "cut"
    assert summarise(named_segment(copy)).records == 3
    assert [path.read_bytes() for path in tmp_path.glob("slot-*.bin")] == [b"torn"]


def test_a_living_workers_segment_is_not_touched(tmp_path: Path) -> None:
    slot = Slot(tmp_path, locked=True)
    slot.commit("a")
    assert is_locked(only(slot))
    with pytest.raises(Busy, match="in use by a worker"):
        mend(RealDisk(), only(slot), slot.layout.torn)
    slot.release()
    assert not is_locked(only(slot))
    assert mend(RealDisk(), only(slot), slot.layout.torn).action == "seal"


def test_wherever_the_disk_fails_a_second_attempt_does_it_and_nothing_is_lost(tmp_path: Path) -> None:
    for nth in range(40):
        slot = Slot(tmp_path / str(nth))
        slot.commit("a", "b")
        [path] = slot.files
        path.write_bytes(path.read_bytes() + b"torn")
        disk = FaultyDisk(RealDisk())
        disk.fail_nth(nth, Fault(EIO))
        try:
            mend(disk, only(slot), slot.layout.torn)
        except OSError:
            mend(RealDisk(), only(slot), slot.layout.torn)
        assert only(slot).state is State.SEALED
        assert summarise(only(slot)).records == 2
        assert summarise(only(slot)).damaged_bytes == 0
        assert b"torn" in [torn.read_bytes() for torn in slot.layout.torn.iterdir()]
        if not disk.failed:
            break
    else:
        pytest.fail("expected fewer calls")


def test_what_readers_have_passed_becomes_the_newest_segment_and_is_shipped(slot: Slot) -> None:
    """Under its old name it would be taken for shipped, and deleted."""
    slot.seal()
    [path] = slot.files
    path.rename(path.with_name(path.name.removesuffix(".zst") + ".bad"))
    slot.commit("d")
    slot.seal()
    sink = f"file:{slot.layout.data}/events"
    row = Board.create(1).rows[0]
    assert Drainer(RealDisk(), slot.layout, [sink], row).run_once()
    mend(RealDisk(), only(slot), slot.layout.torn)
    assert Drainer(RealDisk(), slot.layout, [sink], row).run_once()
    assert all_segments(slot.layout) == []
    delivered = b"".join(path.read_bytes() for path in sorted(slot.layout.events.iterdir()))
    assert [name for name in "abcd" if b'"event":"%b"' % name.encode() not in delivered] == []


def test_a_suspect_segment_is_copied_and_never_synced_again(slot: Slot) -> None:
    """Its page cache may hold what a failed sync has left there for good."""
    [path] = slot.files
    suspect = path.rename(path.with_name(path.name.replace(".open.zst", ".suspect.zst")))
    disk = FaultyDisk(RealDisk())
    mend(disk, only(slot), slot.layout.torn)
    assert only(slot).state is State.SEALED
    assert ("sync", suspect.name) not in disk.calls
    assert "sync" in disk.methods("sync")
    assert not suspect.exists()


def test_an_interrupted_repair_of_what_readers_have_passed_makes_no_second_copy(slot: Slot) -> None:
    [path] = slot.files
    path.rename(path.with_name(path.name.replace(".open.zst", ".bad")))
    disk = FaultyDisk(RealDisk())
    disk.fail_next("unlink", Fault(EIO))
    with pytest.raises(OSError, match="Input/output error"):
        mend(disk, only(slot), slot.layout.torn)
    [bad] = [file for file in all_segments(slot.layout) if file.state is State.BAD]
    mend(RealDisk(), bad, slot.layout.torn)
    assert summarise(only(slot)).records == 3
