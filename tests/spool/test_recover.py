import contextlib
import logging
import os
from pathlib import Path
from random import Random

import pytest

from edge.checkpoints import Checkpoint, CheckpointFile, Position
from edge.disk import RealDisk
from edge.layout import SPARE_NAME, Layout
from edge.segment.frame import encode_room_header
from edge.segment.name import SegmentName, State
from edge.spool.recover import Recovered, next_counter, open_slot, recover_slot
from tests.fakes import EIO, ENOSPC, Fault, FaultyDisk, MemoryDisk
from tests.segments import NAME, OTHER, flipped, found, pair, records, segment

GROUPS = [records(1), records(2, first=1), records(1, first=3)]
DATA, OFFSETS = segment(GROUPS)
LAYOUT = Layout(Path("/data"))
SLOT = str(LAYOUT.slot(0))
THIRD = SegmentName(44, 0x77AA0C1D2E3F4A5B)
FOURTH = SegmentName(45, 0x0F1E2D3C4B5A6978)


def path(state: State, name: SegmentName = NAME) -> str:
    return f"{SLOT}/{name.file_name(state)}"


def torn_path(offset: int, name: SegmentName = NAME) -> str:
    return f"/data/torn/slot-00-{name}-{offset}.bin"


def memory(files: dict[str, bytes]) -> MemoryDisk:
    disk = MemoryDisk()
    disk.makedirs(SLOT)
    for name, data in files.items():
        disk.write(name, data)
    disk.settle()
    return disk


class TestSegment:
    def test_cut_at_every_offset_keeps_exactly_its_whole_frames(self, tmp_path: Path) -> None:
        """On the real file system, every cut a segment of its own in one slot."""
        layout = Layout(tmp_path)
        layout.slot(0).mkdir(parents=True)
        cuts = {}
        for cut in range(len(DATA) + 1):
            name = SegmentName(cut + 1, NAME.incarnation)
            cuts[name] = cut
            (layout.slot(0) / name.file_name(State.OPEN)).write_bytes(DATA[:cut])
        total = recover_slot(_without_syncs(), layout, 0)
        left = {entry.name for entry in layout.slot(0).iterdir()}
        torn = {entry.name: entry.read_bytes() for entry in layout.torn.iterdir()}
        for name, cut in cuts.items():
            whole = sum(end <= cut for end in OFFSETS[1:])
            end = OFFSETS[whole]
            if whole:
                left.remove(name.file_name(State.SEALED))
                data = (layout.slot(0) / name.file_name(State.SEALED)).read_bytes()
                assert data == DATA[:end], cut
                assert found(data) == GROUPS[:whole], cut
            if cut > end:
                start = end if whole else 0
                assert torn.pop(f"slot-00-{name}-{start}.bin") == DATA[start:cut], cut
        assert (left, torn) == (set(), {})
        assert total.segments == sum(cut >= OFFSETS[1] for cut in cuts.values())
        assert total.torn_bytes == sum(
            cut - max(end for end in OFFSETS if end <= cut) for cut in range(48, 1 + len(DATA))
        )
        assert total.damaged_bytes == total.unread == 0

    def test_whole_segment_is_synced_before_it_is_sealed(self) -> None:
        inner = memory({path(State.OPEN): DATA})
        disk = FaultyDisk(inner)
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=4)
        assert disk.methods("truncate", "sync", "rename", "sync_directory") == ["sync", "rename", "sync_directory"]
        assert inner.after_power_loss().tree() == {path(State.SEALED): DATA}
        assert inner.open_descriptors == []

    def test_torn_bytes_are_kept_and_on_stable_storage_before_they_are_cut_off(self) -> None:
        inner = memory({path(State.OPEN): DATA[:-1]})
        seen: list[bool] = []

        def look() -> None:
            tree = inner.after_power_loss().tree()
            whole = any(data == DATA[:-1] for data in tree.values())
            seen.append(whole or tree.get(torn_path(OFFSETS[2])) == DATA[OFFSETS[2] : -1])

        disk = FaultyDisk(inner, look)
        torn_bytes = len(DATA) - OFFSETS[2] - 1
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=3, torn_bytes=torn_bytes)
        assert all(seen)
        assert inner.after_power_loss().tree() == {
            path(State.SEALED): DATA[: OFFSETS[2]],
            torn_path(OFFSETS[2]): DATA[OFFSETS[2] : -1],
        }

    @pytest.mark.parametrize("zeroes", [1, 4096])
    def test_zeroes_at_the_end_are_cut_off_and_not_kept(self, zeroes: int) -> None:
        disk = memory({path(State.OPEN): DATA + bytes(zeroes)})
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=4, torn_bytes=zeroes)
        assert disk.tree() == {path(State.SEALED): DATA}

    @pytest.mark.parametrize("state", [State.OPEN, State.SUSPECT])
    def test_room_behind_the_last_frame_is_cut_off_and_is_nothing_torn(self, state: State) -> None:
        disk = memory({path(state): DATA + encode_room_header(300_000) + bytes(300_000 - 8)})
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=4)
        assert disk.after_power_loss().tree() == {path(State.SEALED): DATA}

    def test_of_a_frame_torn_in_the_middle_of_room_what_was_written_is_kept(self) -> None:
        disk = memory({path(State.OPEN): DATA[:-1] + bytes(300_000)})
        recovered = recover_slot(disk, LAYOUT, 0)
        assert (recovered.segments, recovered.records) == (1, 3)
        torn = disk.read(torn_path(OFFSETS[2]))
        assert torn.rstrip(b"\0") == DATA[OFFSETS[2] : -1].rstrip(b"\0")
        assert len(DATA) - OFFSETS[2] - 1 <= len(torn) == recovered.torn_bytes < 10_000
        assert disk.read(path(State.SEALED)) == DATA[: OFFSETS[2]]

    def test_a_frame_behind_zeroes_is_found(self) -> None:
        """A disk lost some blocks, of what may have been acknowledged."""
        data = DATA[: OFFSETS[1]] + bytes(20_000) + DATA[OFFSETS[2] :] + encode_room_header(5000) + bytes(5000 - 8)
        disk = memory({path(State.OPEN): data})
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=2, damaged_bytes=20_000)
        assert disk.read(path(State.SEALED)) == data[:-5000]

    def test_a_spare_nobody_used_is_deleted(self, caplog: pytest.LogCaptureFixture) -> None:
        disk = memory({path(State.OPEN): DATA, f"{SLOT}/{SPARE_NAME}": bytes(5000)})
        faulty = FaultyDisk(disk)
        faulty.fail_next("unlink", Fault(EIO))
        assert recover_slot(faulty, LAYOUT, 0) == Recovered(segments=1, records=4)
        assert "spare cannot be deleted" in caplog.text
        recover_slot(faulty, LAYOUT, 0)
        assert disk.tree() == {path(State.SEALED): DATA}

    @pytest.mark.parametrize("size", [0, 1, 47, 48])
    def test_open_segment_without_records_vanishes(self, size: int) -> None:
        disk = memory({path(State.OPEN): DATA[:size]})
        assert recover_slot(disk, LAYOUT, 0) == Recovered()
        assert disk.after_power_loss().tree() == {}

    def test_segment_of_zeroes_vanishes(self) -> None:
        disk = memory({path(State.OPEN): bytes(8192)})
        recover_slot(disk, LAYOUT, 0)
        assert disk.tree() == {}

    def test_file_whose_frames_do_not_fit_its_name_is_kept_whole(self) -> None:
        """Its header says whose they are."""
        disk = memory({path(State.OPEN, OTHER): DATA})
        assert recover_slot(disk, LAYOUT, 0) == Recovered(torn_bytes=len(DATA) - 48)
        assert disk.tree() == {torn_path(0, OTHER): DATA}

    def test_damage_between_good_frames_stays_and_is_counted(self) -> None:
        data = flipped(DATA, (OFFSETS[1] + 60) * 8)
        disk = memory({path(State.OPEN): data})
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=2, damaged_bytes=OFFSETS[2] - OFFSETS[1])
        assert disk.tree() == {path(State.SEALED): data}
        assert found(disk.read(path(State.SEALED))) == [GROUPS[0], GROUPS[2]]

    def test_damaged_segment_header_costs_nothing(self) -> None:
        data = bytes(48) + DATA[48:]
        disk = memory({path(State.OPEN): data})
        assert recover_slot(disk, LAYOUT, 0).records == 4
        assert disk.tree() == {path(State.SEALED): data}

    def test_frames_of_another_segment_at_the_end_are_torn_bytes(self) -> None:
        foreign = pair(records(1), OTHER.incarnation, 3)
        disk = memory({path(State.OPEN): DATA + foreign})
        assert recover_slot(disk, LAYOUT, 0) == Recovered(segments=1, records=4, torn_bytes=len(foreign))
        assert disk.tree() == {path(State.SEALED): DATA, torn_path(len(DATA)): foreign}

    def test_suspect_segment_is_copied_as_the_page_cache_holds_it(self) -> None:
        """What a failed sync left there is not on the device, and no sync of this file will ever bring it there."""
        inner = memory({path(State.SUSPECT): DATA[: OFFSETS[2]]})
        fd = inner.open(path(State.SUSPECT), write=True)
        inner.pwrite(fd, DATA[OFFSETS[2] :], OFFSETS[2])
        inner.forget(fd)
        inner.close(fd)
        assert recover_slot(inner, LAYOUT, 0) == Recovered(segments=1, records=4)
        assert inner.after_power_loss().tree() == {path(State.SEALED): DATA}

    def test_copy_of_a_suspect_segment_is_not_made_again_from_less(self) -> None:
        """A power cut after the copy was stable: the file it was made from lost what only the page cache had held."""
        disk = memory({path(State.SUSPECT): DATA[: OFFSETS[2]], path(State.SEALED): DATA})
        assert recover_slot(disk, LAYOUT, 0) == Recovered()
        assert disk.after_power_loss().tree() == {path(State.SEALED): DATA}

    def test_finished_segments_and_other_files_are_left_alone(self) -> None:
        files = {
            path(State.SEALED): DATA[:-1],
            path(State.BAD, OTHER): DATA[:-1],
            f"{SLOT}/.lock": b"",
            f"{SLOT}/notes.open.zst": b"mine",
        }
        disk = memory(files)
        assert recover_slot(disk, LAYOUT, 0) == Recovered()
        assert disk.tree() == files


def _without_syncs() -> RealDisk:
    """The real file system; what syncs do is not seen without a power cut, and takes most of the time."""

    class Unsynced(RealDisk):
        def sync(self, fd: int) -> None:
            os.fstat(fd)

        def sync_directory(self, path: str) -> None:
            os.stat(path)

    return Unsynced()


BEFORE = {
    path(State.OPEN): DATA[:-1],
    path(State.SUSPECT, OTHER): segment(GROUPS, OTHER)[0],
    path(State.OPEN, THIRD): segment([], THIRD)[0],
    path(State.SEALED, FOURTH): segment(GROUPS, FOURTH)[0],
}
AFTER = {
    path(State.SEALED): DATA[: OFFSETS[2]],
    path(State.SEALED, OTHER): segment(GROUPS, OTHER)[0],
    path(State.SEALED, FOURTH): segment(GROUPS, FOURTH)[0],
    torn_path(OFFSETS[2]): DATA[OFFSETS[2] : -1],
}


def settled(disk: MemoryDisk) -> dict[str, bytes]:
    """Without what an interrupted copy left behind."""
    return {name: data for name, data in disk.tree().items() if not name.endswith(".tmp")}


def recovered(disk: MemoryDisk) -> MemoryDisk:
    recover_slot(disk, LAYOUT, 0)
    return disk


class TestInterruption:
    def test_second_recovery_changes_nothing(self) -> None:
        disk = memory(BEFORE)
        recover_slot(disk, LAYOUT, 0)
        assert disk.tree() == AFTER
        again = FaultyDisk(disk)
        assert recover_slot(again, LAYOUT, 0) == Recovered()
        assert [call.method for call in again.calls] == ["listdir"]
        assert disk.tree() == AFTER

    def test_killed_or_without_power_at_any_call_the_next_recovery_ends_in_the_same_state(self) -> None:
        inner = memory(BEFORE)
        crashed: list[MemoryDisk] = []

        def crash() -> None:
            crashed.append(inner.after_kill())
            crashed.append(inner.after_power_loss())
            crashed.extend(inner.after_power_loss(Random(seed)) for seed in range(3))

        recover_slot(FaultyDisk(inner, crash), LAYOUT, 0)
        assert len(crashed) > 5 * 20
        for disk in crashed:
            assert settled(recovered(disk)) == AFTER
            assert settled(recovered(disk.after_power_loss())) == AFTER

    @pytest.mark.parametrize("fault", [Fault(EIO), Fault(ENOSPC), Fault(short=5), Fault(short=0)], ids=str)
    def test_call_that_fails_neither_blocks_the_start_nor_costs_a_record(self, fault: Fault) -> None:
        """Whichever it is; and the next recovery ends in the same state."""
        n = 1  # the first is the listing of the slot, without which there is nothing to do
        while True:
            inner = memory(BEFORE)
            disk = FaultyDisk(inner)
            disk.fail_nth(n, fault)
            recover_slot(disk, LAYOUT, 0)
            if n >= len(disk.calls):
                break
            readable = [found(data, name) for name, data in _segments(inner.tree())]
            assert sorted(readable, key=repr) == sorted([GROUPS[:2], GROUPS, GROUPS], key=repr), disk.failed
            assert inner.open_descriptors == []
            recovered(inner)
            assert settled(recovered(inner.after_power_loss())) == AFTER, disk.failed
            n += 1
        assert n > 20

    def test_full_disk_does_not_cost_committed_records(self) -> None:
        """There is no room to keep the torn bytes: they stay where they are until there is."""
        inner = memory(BEFORE)
        disk = FaultyDisk(inner)
        disk.fail_always("pwrite", Fault(ENOSPC))
        assert recover_slot(disk, LAYOUT, 0).unread == 0
        assert settled(inner)[path(State.SUSPECT)] == DATA[:-1]
        recover_slot(inner, LAYOUT, 0)
        assert settled(inner) == AFTER

    @pytest.mark.parametrize(("method", "times"), [("pread", 1), ("pread", 100), ("open", 1), ("open", 100)])
    def test_segment_that_cannot_be_read_is_left_to_readers_untouched(self, method: str, times: int) -> None:
        inner = memory({path(State.OPEN): DATA[:-1]})
        disk = FaultyDisk(inner)
        disk.fail_next(method, *[Fault(EIO)] * times)
        assert recover_slot(disk, LAYOUT, 0) == Recovered(unread=1)
        assert inner.tree() == {path(State.SUSPECT): DATA[:-1]}
        assert inner.open_descriptors == []

    @pytest.mark.parametrize("state", [State.OPEN, State.SUSPECT])
    def test_segment_whose_name_cannot_be_changed_is_left_to_the_writer_if_it_is_called_open(
        self, state: State
    ) -> None:
        inner = memory({path(state): DATA[:-1]})
        disk = FaultyDisk(inner)
        disk.fail_always("rename", Fault(EIO))
        assert recover_slot(disk, LAYOUT, 0).left_open == ([NAME] if state is State.OPEN else [])

    def test_segment_that_could_not_be_read_for_a_moment_is_recovered_by_the_next_start(self) -> None:
        inner = memory(BEFORE)
        disk = FaultyDisk(inner)
        disk.fail_always("pread", Fault(EIO))
        recover_slot(disk, LAYOUT, 0)
        recover_slot(inner, LAYOUT, 0)
        assert inner.tree() == AFTER

    @pytest.mark.parametrize("method", ["open", "truncate", "sync", "rename", "unlink", "sync_directory", "makedirs"])
    def test_disk_on_which_a_call_always_fails_does_not_block_the_start(self, method: str) -> None:
        inner = memory(BEFORE)
        disk = FaultyDisk(inner)
        disk.fail_always(method, Fault(EIO))
        recover_slot(disk, LAYOUT, 0)
        assert inner.open_descriptors == []


def _segments(tree: dict[str, bytes]) -> list[tuple[SegmentName, bytes]]:
    """The segments with records: whatever their state, and one of each name, which is all that readers look at."""
    names = {str(name): name for name in (NAME, OTHER, FOURTH)}
    found = {}
    for file, data in tree.items():
        stem = Path(file).name.partition(".")[0]
        if file.startswith(SLOT) and stem in names:
            found[names[stem]] = data
    return list(found.items())


class TestOpenSlot:
    def test_slot_is_made_locked_and_its_names_are_stable(self) -> None:
        inner = MemoryDisk()
        opened = open_slot(FaultyDisk(inner), LAYOUT, 0)
        assert opened is not None
        assert opened[1] == Recovered()
        inner.close(opened[0])
        assert inner.after_power_loss().listdir(SLOT) == []

    def test_folders_are_stable_when_a_start_succeeds_whatever_interrupted_the_ones_before(self) -> None:
        """Otherwise a power cut could take the whole slot with everything acknowledged in it."""
        n = 0
        while True:
            inner = MemoryDisk()
            disk = FaultyDisk(inner)
            disk.fail_nth(n, Fault(EIO))
            with contextlib.suppress(OSError):
                open_slot(disk, LAYOUT, 0)
            if n >= len(disk.calls):
                break
            inner = inner.after_kill()
            opened = open_slot(inner, LAYOUT, 0)
            assert opened is not None
            inner.after_power_loss().listdir(SLOT)
            n += 1
        assert n > 4

    def test_folder_above_that_may_not_be_read_does_not_block_the_start(self) -> None:
        """The data folder was made by somebody else then."""
        inner = memory({})
        disk = FaultyDisk(inner)
        disk.fail_next("sync_directory", None, None, Fault(13))
        assert open_slot(disk, LAYOUT, 0) is not None
        assert [call.name for call in disk.failed] == [""]

    def test_held_slot_is_not_opened_nor_touched(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path)
        disk = RealDisk()
        first = open_slot(disk, layout, 3)
        assert first is not None
        left = layout.slot(3) / NAME.file_name(State.OPEN)
        left.write_bytes(DATA)
        assert open_slot(disk, layout, 3) is None
        assert left.read_bytes() == DATA
        other = open_slot(disk, layout, 4)
        assert other is not None
        disk.close(first[0])
        again = open_slot(disk, layout, 3)
        assert again is not None
        assert again[1].records == 4
        for lock, _ in (again, other):
            disk.close(lock)

    def test_slot_is_free_again_when_opening_it_fails(self) -> None:
        inner = memory({})
        disk = FaultyDisk(inner)
        disk.fail_next("listdir", Fault(EIO))
        with pytest.raises(OSError, match="Input"):
            open_slot(disk, LAYOUT, 0)
        assert open_slot(disk, LAYOUT, 0) is not None


class TestNextCounter:
    def test_first_counter_is_one(self) -> None:
        assert next_counter(memory({}), LAYOUT, 0) == 1

    @pytest.mark.parametrize("state", State, ids=lambda state: state.name)
    def test_it_is_above_every_file_whatever_its_state(self, state: State) -> None:
        disk = memory({path(State.SEALED): b"", path(state, FOURTH): b"", f"{SLOT}/.lock": b""})
        assert next_counter(disk, LAYOUT, 0) == FOURTH.counter + 1

    def test_it_is_above_every_sinks_checkpoint_of_the_slot(self) -> None:
        """The files may all have been shipped and deleted; a position must never point into other data."""
        disk = memory({path(State.SEALED): b""})
        disk.makedirs(str(LAYOUT.checkpoints))
        for sink, counter in (("a", 7), ("b", 100), ("c", 50)):
            slots = {0: Position(str(SegmentName(counter, 1)), 48), 1: Position(str(SegmentName(999, 1)), 48)}
            CheckpointFile(disk, str(LAYOUT.checkpoints), sink).save(Checkpoint(sink, slots))
        assert next_counter(disk, LAYOUT, 0) == 101
        assert next_counter(disk, LAYOUT, 0) > NAME.counter

    def test_damaged_checkpoint_does_not_block_the_start(self, caplog: pytest.LogCaptureFixture) -> None:
        disk = memory({path(State.SEALED): b""})
        disk.write(f"{LAYOUT.checkpoints}/a.json", b"\0\0")
        with caplog.at_level(logging.ERROR):
            assert next_counter(disk, LAYOUT, 0) == NAME.counter + 1


def test_segment_is_read_whole_when_one_call_gives_only_a_part() -> None:
    class Slow(MemoryDisk):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            return super().pread(fd, min(size, 7), offset)

    disk = Slow()
    for name, data in BEFORE.items():
        disk.write(name, data)
    recover_slot(disk, LAYOUT, 0)
    assert settled(disk) == AFTER
