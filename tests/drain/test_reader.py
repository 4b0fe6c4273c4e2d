import errno
import json
import os
import re
from pathlib import Path

import pytest

from edge.checkpoints import Position
from edge.disk import RealDisk
from edge.drain.reader import RAW_BYTES_MAX, Chunk, SlotReader
from edge.segment.frame import ROOM_MAGIC
from edge.segment.name import State, parse_name
from edge.segment.record import decode_record
from edge.spool.recover import recover_slot
from tests.drain.spools import Slot
from tests.fakes import EIO, EMFILE, Fault, FaultyDisk, UnreadableDisk


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path)


def reader(slot: Slot, position: Position | None = None) -> SlotReader:
    return SlotReader(RealDisk(), str(slot.directory), slot.slot, position)


def names(chunk: Chunk | None) -> list[str]:
    assert chunk is not None
    return [decode_record(line).data.decode().split('"')[3] for line in chunk.lines]


def damaged(slot: Slot, at: int) -> bytes:
    """The slot's first segment, of which one byte is another now."""
    data = bytearray(slot.files[0].read_bytes())
    data[at] ^= 1
    slot.files[0].write_bytes(data)
    return bytes(data)


def next_chunk(reading: SlotReader, end: int | None = None) -> Chunk | None:
    return reading.read(end) if reading.peek() is not None else None


def drained(reading: SlotReader) -> list[str]:
    found: list[str] = []
    while (chunk := next_chunk(reading)) is not None:
        found += names(chunk)
    reading.close()
    return found


def test_records_come_in_order_across_segments(slot: Slot) -> None:
    slot.commit("a", "b")
    slot.commit("c")
    slot.seal()
    slot.commit("d")
    assert drained(reader(slot)) == ["a", "b", "c", "d"]


def test_an_open_segment_is_read_as_it_grows(slot: Slot) -> None:
    slot.commit("a")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    assert next_chunk(reading) is None
    slot.commit("b")
    assert names(next_chunk(reading)) == ["b"]
    slot.seal()
    assert next_chunk(reading) is None
    slot.commit("c")
    assert names(next_chunk(reading)) == ["c"]
    reading.close()


def assert_waits_for_b(slot: Slot, half: bytes, whole: bytes) -> None:
    """Of a segment whose second frame is there in part, and then whole."""
    [path] = slot.files
    path.write_bytes(half)
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    assert next_chunk(reading) is None
    path.write_bytes(whole)
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


def test_half_a_frame_at_the_end_of_an_open_segment_is_waited_for(slot: Slot) -> None:
    slot.commit("a")
    slot.commit("b")
    path = slot.files[0]
    whole = path.read_bytes()
    for size in range(len(whole) - 1, len(whole) - 60, -7):
        assert_waits_for_b(slot, whole[:size], whole)


class CountingDisk(RealDisk):
    read_bytes = 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data = super().pread(fd, size, offset)
        self.read_bytes += len(data)
        return data


class TestRoom:
    """Behind what is written, a segment may hold room that is not used yet."""

    ROOM = 64 * 1024 * 1024

    def test_what_is_written_is_read_as_it_comes_and_the_room_is_not(self, tmp_path: Path) -> None:
        slot = Slot(tmp_path, room=self.ROOM)
        disk = CountingDisk()
        reading = SlotReader(disk, str(slot.directory), 0, None)
        for names_of in (["a"], ["b", "c"], ["d"]):
            slot.commit(*names_of)
            disk.read_bytes = 0
            assert names(next_chunk(reading)) == names_of
            assert next_chunk(reading) is None
            assert disk.read_bytes < 100_000
        slot.commit(*(f"e{number}" for number in range(20_000)))
        assert len(names(next_chunk(reading))) == 20_000
        slot.seal()
        slot.commit("f")
        assert names(next_chunk(reading)) == ["f"]
        reading.close()

    def test_there_is_no_end_of_it_while_the_segment_is_open(self, tmp_path: Path) -> None:
        slot = Slot(tmp_path, room=100_000)
        slot.commit()
        reading = reader(slot)
        assert next_chunk(reading) is None
        slot.commit("a")
        assert names(next_chunk(reading)) == ["a"]
        assert next_chunk(reading) is None
        assert reading.position is not None
        assert reading.position.offset < 500
        reading.close()

    def test_half_a_frame_in_it_is_waited_for(self, tmp_path: Path) -> None:
        slot = Slot(tmp_path, room=100_000)
        slot.commit("a")
        path = slot.files[0]
        before = path.read_bytes()
        slot.commit("b")
        whole = path.read_bytes()
        for size in range(before.index(ROOM_MAGIC), whole.index(ROOM_MAGIC), 7):
            assert_waits_for_b(slot, whole[:size] + before[size:], whole)

    def test_in_a_segment_that_was_set_aside_it_is_no_damage(self, tmp_path: Path) -> None:
        slot = Slot(tmp_path, room=100_000)
        slot.commit("a")
        path = slot.files[0]
        path.rename(str(path).replace(".open.zst", ".suspect.zst"))
        reading = reader(slot)
        chunk = next_chunk(reading)
        assert names(chunk) == ["a"]
        assert chunk is not None
        assert chunk.damaged_bytes == 0
        assert next_chunk(reading) is None
        assert reading.position is not None
        assert reading.position.offset == 100_000
        reading.close()


def test_reading_goes_on_at_the_position(slot: Slot) -> None:
    slot.commit("a")
    first = reader(slot)
    next_chunk(first)
    position = first.position
    first.close()
    slot.commit("b")
    slot.seal()
    slot.commit("c")
    assert drained(reader(slot, position)) == ["b", "c"]


def test_a_position_whose_segment_is_gone_means_the_next_one(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    slot.seal()
    gone = Position(slot.files[0].name, 48)
    slot.files[0].unlink()
    assert drained(reader(slot, gone)) == ["b"]


def test_a_position_behind_the_end_is_clamped(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    stale = Position(slot.files[0].name.removesuffix(".zst"), 10_000_000)
    assert drained(reader(slot, stale)) == ["b"]


def test_damage_between_frames_is_skipped_and_told(slot: Slot) -> None:
    for name in "abc":
        slot.commit(name)
    slot.seal()
    path = slot.files[0]
    data = bytearray(path.read_bytes())
    second = data.index(b"\x5e\x2a\x4d\x18", 60)
    data[second + 70] ^= 1
    path.write_bytes(data)
    reading = reader(slot)
    chunk = next_chunk(reading)
    assert names(chunk) == ["a", "c"]
    assert chunk is not None
    [(start, kept)] = chunk.damages
    assert (start, len(kept)) == (second, chunk.damaged_bytes)
    assert kept == data[second : second + chunk.damaged_bytes]
    reading.close()


def test_a_torn_tail_of_a_finished_segment_is_told_and_left_behind(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    with slot.files[0].open("ab") as file:
        file.write(b"torn")
    slot.commit("b")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    tail = next_chunk(reading)
    assert tail is not None
    assert (tail.lines, tail.damaged_bytes) == ([], 4)
    assert [data for _, data in tail.damages] == [b"torn"]
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


def test_a_frame_larger_than_one_read_is_read_whole(slot: Slot) -> None:
    noise = os.urandom(5 * 1024 * 1024).hex().encode()
    slot.commit("large", body=b'{"event":"large","distinct_id":"u","properties":{"x":"' + noise + b'"}}')
    slot.commit("after")
    assert drained(reader(slot)) == ["large", "after"]


def test_the_chunks_behind_a_large_frame_are_as_large_as_they_are_wanted(slot: Slot) -> None:
    slot.commit("large", body=b'{"event":"large","distinct_id":"%b"}' % os.urandom(4000).hex().encode())
    for number in range(100):
        slot.commit(f"{number}")
    reading = reader(slot)
    reading.read_bytes = 1000
    large, few = next_chunk(reading), next_chunk(reading)
    assert few is not None
    assert few.end - few.start <= 1000
    reading.read_bytes = 100_000
    assert names(large) + names(few) + names(next_chunk(reading)) == slot.written
    reading.close()


def test_a_chunk_can_be_asked_to_end_at_a_frame(slot: Slot) -> None:
    slot.commit("a")
    first = reader(slot)
    next_chunk(first)
    assert first.position is not None
    end = first.position.offset
    first.close()
    slot.commit("b")
    again = reader(slot)
    assert next_chunk(again, end - 1) is None
    assert names(next_chunk(again, end)) == ["a"]
    assert names(next_chunk(again)) == ["b"]
    again.close()


def test_of_segments_set_aside_is_read_what_can_be_read(slot: Slot) -> None:
    """By sinks that were not there yet when one of them was."""
    slot.commit("a")
    slot.seal()
    slot.files[0].rename(slot.files[0].with_suffix(".bad"))
    slot.commit("b")
    assert drained(reader(slot)) == ["a", "b"]


def test_reading_never_goes_on_to_a_segment_that_peek_has_not_told(slot: Slot) -> None:
    slot.commit("a")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    told = reading.peek()
    slot.seal()
    slot.commit("b")
    assert reading.read() is None
    assert reading.peek() != told
    assert names(reading.read()) == ["b"]
    reading.close()


def test_a_finished_segment_without_records_is_passed_over(slot: Slot) -> None:
    slot.commit()
    slot.seal()
    slot.commit("a")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    reading.close()


class RenamingDisk(RealDisk):
    """A directory so large that one listing misses what is renamed meanwhile."""

    def __init__(self) -> None:
        self.missing = ""

    def listdir(self, path: str) -> list[str]:
        names = [name for name in super().listdir(path) if not self.missing or self.missing not in name]
        self.missing = ""
        return names


def test_a_segment_that_a_listing_misses_is_not_passed_over(slot: Slot) -> None:
    disk = RenamingDisk()
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    slot.commit("a")
    assert names(next_chunk(reading)) == ["a"]
    slot.seal()
    for name in "bc":
        slot.commit(name)
        slot.seal()
    assert reading.read() is None

    disk.missing = "000000000002-"
    assert names(next_chunk(reading)) == ["b"]
    assert names(next_chunk(reading)) == ["c"]
    reading.close()


def test_an_open_segment_that_vanishes_empty_is_forgotten_with_its_counter(slot: Slot) -> None:
    slot.commit("a")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    slot.seal()
    empty = slot.directory / "000000000002-ffffffffffffffff.open.zst"
    empty.write_bytes(b"")
    assert next_chunk(reading) is None
    empty.unlink()
    slot.commit("b")
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


def test_a_segment_finished_and_deleted_since_the_last_look_is_done_with(slot: Slot) -> None:
    """A sink that was left alone for a while looks again when everybody else is done with the segment."""
    slot.commit("a")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    slot.seal()
    [finished] = slot.files
    finished.unlink()
    assert next_chunk(reading) is None
    slot.commit("b")
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


def test_a_segment_that_was_set_aside_while_it_was_read_is_read_to_its_end_and_passed(slot: Slot) -> None:
    slot.commit("a")
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    slot.commit("b")
    [path] = slot.files
    slot.seal()
    path.with_name(path.name.replace(".open.zst", ".zst")).rename(
        path.with_name(path.name.replace(".open.zst", ".bad"))
    )
    slot.commit("c")
    assert drained(reading) == ["b", "c"]


def refused(reading: SlotReader, times: int, end: int | None = None) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="Input/output error"):
            next_chunk(reading, end)


def test_a_block_that_cannot_be_read_costs_the_frames_it_touches_and_the_segment_is_kept(slot: Slot) -> None:
    ends = [48]
    for name in "abcdef":
        noise = os.urandom(2500).hex()
        slot.commit(name, body=json.dumps({"event": name, "distinct_id": "u", "properties": {"x": noise}}).encode())
        ends.append(slot.files[0].stat().st_size)
    slot.seal()
    slot.commit("after")
    disk = UnreadableDisk()
    disk.unreadable = range(4096, 8192)
    hit = [name for name, start, end in zip("abcdef", ends, ends[1:], strict=False) if end > 4096 and start < 8192]
    assert hit
    assert hit[-1] != "f"
    first, second = (SlotReader(disk, str(slot.directory), slot.slot, None) for _ in range(2))
    refused(first, 4)
    chunk = next_chunk(first)
    assert names(chunk) + drained(first) == [name for name in "abcdef" if name not in hit] + ["after"]
    assert chunk is not None
    damaged = slice(chunk.damages[0][0], chunk.damages[0][0] + chunk.damaged_bytes)
    [bad] = slot.directory.glob("*.bad")
    whole = bad.read_bytes()
    assert chunk.damages[0][1] == (whole[:4096] + bytes(4096) + whole[8192:])[damaged]
    # Another sink, which comes later, has the same.
    assert drained(second) == [name for name in "abcdef" if name not in hit] + ["after"]


def test_a_read_that_is_short_for_a_moment_costs_nothing(slot: Slot) -> None:
    """As before a page that cannot be read just now."""

    class OnceShort(RealDisk):
        short = True

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if size > 1000 and self.short:
                self.short = False
                size = 1000
            return super().pread(fd, size, offset)

    slot.commit("large", body=b'{"event":"large","distinct_id":"%b"}' % os.urandom(4000).hex().encode())
    slot.commit("after")
    slot.seal()
    disk = OnceShort()
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    assert names(next_chunk(reading)) == ["large", "after"]
    assert not disk.short
    assert drained(reading) == []


def test_a_segment_that_cannot_be_read_at_all_is_set_aside_and_the_next_one_read(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    size = slot.files[0].stat().st_size

    class Refusing(UnreadableDisk):
        """The first segment alone, which was opened first."""

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            self.unreadable = range(1000) if os.readlink(f"/proc/self/fd/{fd}").endswith("abc1.bad") else range(0)
            return super().pread(fd, size, offset)

    slot.files[0].rename(slot.files[0].with_suffix(".bad"))
    reading = SlotReader(Refusing(), str(slot.directory), slot.slot, None)
    chunk = next_chunk(reading)
    assert chunk is not None
    assert (chunk.lines, chunk.damaged_bytes, chunk.damages) == ([], size, [])
    assert drained(reading) == ["b"]


@pytest.mark.parametrize("state", [".zst", ".suspect.zst", ".bad"])
def test_a_finished_segment_that_the_disk_will_not_open_is_set_aside_and_the_next_one_read(
    slot: Slot, state: str
) -> None:
    for name in "abc":
        slot.commit(name)
        slot.seal()
    slot.files[1].rename(slot.files[1].with_suffix("").with_suffix(state))

    class Closed(RealDisk):
        def open(self, path: str, *, write: bool = False) -> int:
            if "000000000002-" in path and self.exists(path):
                raise OSError(EIO, os.strerror(EIO))
            return super().open(path, write=write)

    reading = SlotReader(Closed(), str(slot.directory), slot.slot, None)
    assert names(next_chunk(reading)) == ["a"]
    refused(reading, 4)
    assert names(next_chunk(reading)) == ["c"]
    assert next_chunk(reading) is None
    assert [path.name for path in slot.directory.glob("*.bad")] == ["000000000002-000000000000abc2.bad"]
    reading.close()


def test_a_newest_segment_that_the_disk_will_not_open_is_asked_for_five_times_and_no_more(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    disk = FaultyDisk(RealDisk())
    # Under none of the other names is there anything.
    disk.fail_next("open", *[None, Fault(EIO)] * 5)
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    refused(reading, 4)
    assert next_chunk(reading) is None
    opened = len(disk.methods("open"))
    assert next_chunk(reading) is None
    assert len(disk.methods("open")) == opened
    slot.commit("b")
    assert drained(reading) == ["b"]


@pytest.mark.parametrize("error", [EMFILE, errno.ENOMEM, errno.EACCES, errno.EPERM])
def test_what_is_no_fault_of_the_medium_sets_nothing_aside(slot: Slot, error: int) -> None:
    slot.commit("a")
    slot.seal()
    disk = FaultyDisk(RealDisk())
    disk.fail_next("open", *[None, Fault(error)] * 8)
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    for _ in range(8):
        with pytest.raises(OSError, match=re.escape(os.strerror(error))):
            next_chunk(reading)
    assert drained(reading) == ["a"]


@pytest.mark.parametrize("before", State)
def test_a_segment_that_recovery_renames_while_it_is_looked_for_is_found(slot: Slot, before: State) -> None:
    """What is passed over is deleted."""
    for name in "abc":
        slot.commit(name)
        slot.seal()
    parsed = parse_name(slot.files[1].name)
    assert parsed is not None
    sought = parsed[0]
    slot.files[1].rename(slot.directory / sought.file_name(State.SUSPECT))

    class Renamed(RealDisk):
        """When one of its names is asked for."""

        renamed = False

        def open(self, path: str, *, write: bool = False) -> int:
            if path.endswith(sought.file_name(before)) and not self.renamed:
                self.renamed = True
                recover_slot(RealDisk(), slot.layout, slot.slot)
            return super().open(path, write=write)

    assert drained(SlotReader(Renamed(), str(slot.directory), slot.slot, None)) == ["a", "b", "c"]


def test_a_refusal_behind_a_chunk_that_was_read_does_not_pass_it_over(slot: Slot) -> None:
    for name in "abc":
        slot.commit(name)
    slot.seal()
    data = damaged(slot, -3)
    disk = FaultyDisk(RealDisk())
    # The chunk, the damage behind it.
    disk.fail_next("pread", None, Fault(EIO))
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    refused(reading, 1, end=len(data))
    assert names(next_chunk(reading, len(data))) == ["a", "b"]
    reading.close()


def test_a_damaged_frame_that_is_a_whole_published_range_costs_nothing_behind_it(slot: Slot) -> None:
    ends = []
    for name in "abcd":
        slot.commit(name)
        ends.append(slot.files[0].stat().st_size)
    slot.seal()
    damaged(slot, ends[0] + 70)
    reading = reader(slot)
    assert names(next_chunk(reading, ends[0])) == ["a"]
    lost = next_chunk(reading, ends[1])
    assert lost is not None
    assert (lost.lines, lost.start, lost.end) == ([], ends[0], ends[1])
    assert names(next_chunk(reading, ends[2])) == ["c"]
    assert drained(reading) == ["d"]


def test_a_published_range_whose_last_frame_is_damaged_is_one_chunk_all_the_same(slot: Slot) -> None:
    ends = []
    for name in "abc":
        slot.commit(name)
        ends.append(slot.files[0].stat().st_size)
    slot.seal()
    data = damaged(slot, ends[0] + 70)
    reading = reader(slot)
    chunk = next_chunk(reading, ends[1])
    assert chunk is not None
    assert (names(chunk), chunk.end, chunk.damaged_bytes) == (["a"], ends[1], ends[1] - ends[0])
    assert chunk.damages == [(ends[0], bytes(data[ends[0] : ends[1]]))]
    assert drained(reading) == ["c"]


def test_a_published_range_that_reaches_behind_the_file_is_read_to_its_end(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    with slot.files[0].open("ab") as file:
        file.write(b"torn")
    slot.commit("b")
    reading = reader(slot)
    chunk = next_chunk(reading, 10_000_000)
    assert (names(chunk), chunk and chunk.damaged_bytes) == (["a"], 4)
    assert drained(reading) == ["b"]


def test_a_chunk_holds_no_more_than_fits_into_memory_however_little_of_the_file_that_is(slot: Slot) -> None:
    """What repeats itself takes next to no room in the file: 30 MiB of records are some KiB here."""
    large = b'{"event":"large","distinct_id":"u","properties":{"x":"%b"}}' % (b"a" * (30 << 20))
    huge = b'{"event":"huge","distinct_id":"u","properties":{"x":"%b"}}' % (b"a" * RAW_BYTES_MAX)
    for name, body in (("large", large),) * 3 + (("huge", huge), ("large", large)):
        slot.commit(name, body=body)
    slot.seal()
    assert slot.files[0].stat().st_size < 100_000
    end = slot.files[0].stat().st_size
    reading = reader(slot)
    found = [names(next_chunk(reading)) for _ in range(4)]
    assert found == [["large", "large"], ["large"], ["huge"], ["large"]]
    assert next_chunk(reading) is None
    reading.close()
    again = reader(slot)
    # What was published together stays so.
    assert names(next_chunk(again, end)) == ["large", "large", "large", "huge", "large"]
    again.close()


def test_a_disk_that_refuses_for_a_moment_costs_no_segment(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    disk = FaultyDisk(RealDisk())
    disk.fail_next("pread", *[Fault(EIO)] * 4)
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    for _ in range(4):
        with pytest.raises(OSError, match="Input/output error"):
            next_chunk(reading)
    assert drained(reading) == ["a", "b"]


def test_an_open_segment_that_cannot_be_read_is_left_to_its_writer(slot: Slot) -> None:
    slot.commit("a")
    disk = FaultyDisk(RealDisk())
    disk.fail_next("pread", *[Fault(EIO)] * 8)
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    for _ in range(8):
        with pytest.raises(OSError, match="Input/output error"):
            next_chunk(reading)
    assert drained(reading) == ["a"]


def test_what_is_listed_does_not_grow_with_what_waits(slot: Slot) -> None:
    for _ in range(50):
        slot.commit("a")
        slot.seal()
    disk = FaultyDisk(RealDisk())
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    assert len(drained(reading)) == 50
    # Two that agree at the start, and two that find nothing more.
    assert len(disk.methods("listdir")) == 4


def test_an_unchanged_directory_is_not_listed_again(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    os.utime(slot.directory, (1_000_000_000, 1_000_000_000))
    disk = FaultyDisk(RealDisk())
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    assert names(next_chunk(reading)) == ["a"]
    assert next_chunk(reading) is None
    listed = len(disk.methods("listdir"))
    assert next_chunk(reading) is None
    assert len(disk.methods("listdir")) == listed
    slot.commit("b")
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


def test_a_change_that_leaves_the_time_of_the_one_before_it_is_seen(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    reading = reader(slot)
    assert names(next_chunk(reading)) == ["a"]
    changed = slot.directory.stat().st_mtime_ns
    assert next_chunk(reading) is None
    slot.commit("b")
    os.utime(slot.directory, ns=(changed, changed))
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


def test_a_segment_that_the_disk_will_not_open_is_not_passed_over(slot: Slot) -> None:
    for name in "abc":
        slot.commit(name)
        slot.seal()
    disk = FaultyDisk(RealDisk())
    reading = SlotReader(disk, str(slot.directory), slot.slot, None)
    assert names(next_chunk(reading)) == ["a"]
    disk.fail_next("open", Fault(EIO))
    with pytest.raises(OSError, match="Input/output"):
        next_chunk(reading)
    assert drained(reading) == ["b", "c"]


def test_a_listed_segment_that_vanishes_does_not_hide_the_one_that_gets_its_counter(slot: Slot) -> None:
    slot.commit("a")
    slot.seal()
    empty = slot.directory / "000000000002-ffffffffffffffff.open.zst"
    empty.write_bytes(b"")

    class Vanishing(RealDisk):
        """It goes between the listing and its opening."""

        def open(self, path: str, *, write: bool = False) -> int:
            if path == str(empty):
                empty.unlink(missing_ok=True)
            return super().open(path, write=write)

    reading = SlotReader(Vanishing(), str(slot.directory), slot.slot, None)
    assert names(next_chunk(reading)) == ["a"]
    assert next_chunk(reading) is None
    slot.commit("b")
    assert names(next_chunk(reading)) == ["b"]
    reading.close()


class TestObserver:
    def test_what_cannot_be_read_is_read_around_under_its_name(self, slot: Slot) -> None:
        slot.commit("a")
        slot.commit("b")
        slot.seal()
        slot.commit("c")
        before = {path.name for path in slot.directory.iterdir()}
        disk = FaultyDisk(RealDisk())
        disk.fail_next("pread", *[Fault(EIO)] * 5)
        observing = SlotReader(disk, str(slot.directory), slot.slot, None, observes=True)
        refused(observing, 4)
        assert drained(observing) == ["a", "b", "c"]
        assert {path.name for path in slot.directory.iterdir()} == before

    @pytest.mark.parametrize("error", [EIO, errno.EACCES, EMFILE])
    @pytest.mark.parametrize("state", [State.OPEN, State.SEALED])
    def test_what_cannot_be_opened_is_passed_over(self, error: int, state: State, slot: Slot) -> None:
        slot.commit("a")
        slot.seal()
        [path] = slot.files
        path.rename(path.with_name(path.name.replace(".zst", state.value)))
        slot.commit("b")
        before = {path.name for path in slot.directory.iterdir()}
        disk = FaultyDisk(RealDisk())
        # A sealed one is asked for under the name it had first, where there is nothing.
        disk.fail_next("open", *([None] * (state is State.SEALED) + [Fault(error)]) * 5)
        observing = SlotReader(disk, str(slot.directory), slot.slot, None, observes=True)
        for _ in range(4):
            with pytest.raises(OSError, match=re.escape(os.strerror(error))):
                next_chunk(observing)
        assert drained(observing) == ["b"]
        assert {path.name for path in slot.directory.iterdir()} == before
