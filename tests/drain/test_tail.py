import errno
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.disk import Disk, RealDisk
from edge.drain.selection import Selection
from edge.drain.tail import LAST_BYTES_MAX, READ_BYTES, Tail
from edge.segment.frame import Compressor, encode_segment_header
from edge.segment.name import SegmentName, State
from edge.segment.record import Record, RecordIds, encode_record
from edge.spool.open_segment import OpenSegment
from tests.drain.spools import Slot
from tests.fakes import EIO, Fault, FaultyDisk, UnreadableDisk


def show(record: Record) -> list[bytes]:
    return [event.event.encode() for event in Selection().events(record)]


def tail_of(slot: Slot, disk: Disk | None = None) -> Tail:
    return Tail(disk or RealDisk(), slot.layout, show)


def names(lines: Iterator[bytes] | list[bytes]) -> list[str]:
    return [line.decode() for line in lines]


def rest(tail: Tail) -> list[str]:
    """Everything there is now."""
    found = names(tail.more())
    while tail.behind:
        found += names(tail.more())
    return found


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path)


def test_it_goes_on_behind_the_last_across_segments(slot: Slot) -> None:
    slot.commit("a", "b")
    slot.commit("c")
    tail = tail_of(slot)
    assert names(tail.last(2)) == ["b", "c"]
    assert rest(tail) == []
    slot.commit("d")
    slot.seal()
    slot.commit("e")
    assert rest(tail) == ["d", "e"]
    tail.close()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_is_looked_at_behind_what_is_wanted(count: int, slot: Slot, caplog: pytest.LogCaptureFixture) -> None:
    """What lies there is damaged, which would be told."""
    for number in range(12):
        slot.commit(f"e{number}")
        slot.seal()
    for path in slot.files[: 12 - 5]:
        path.write_bytes(b"damaged" * 20)
    tail = tail_of(slot)
    assert names(tail.last(count)) == [f"e{number}" for number in range(12 - count, 12)]
    assert (caplog.text, tail.damaged) == ("", False)
    assert rest(tail) == []
    tail.close()


def test_what_is_rare_is_found_however_far_back(slot: Slot) -> None:
    slot.commit("rare")
    slot.seal()
    for counter in range(2, 2500):
        name = SegmentName(counter, counter)
        (slot.directory / name.file_name(State.SEALED)).write_bytes(encode_segment_header(name, 0, 0))
    tail = Tail(RealDisk(), slot.layout, lambda record: [line for line in show(record) if line == b"rare"])
    assert names(tail.last(1)) == ["rare"]
    assert rest(tail) == []
    tail.close()


def commit_at(slot: Slot, *received: tuple[str, int]) -> None:
    """A sealed segment of a frame for each event with its time of receipt."""
    segment = OpenSegment(RealDisk(), str(slot.directory), SegmentName(1, 1), slot.slot, 1)
    ids = RecordIds(slot.slot)
    for name, at_us in received:
        line = encode_record(ids, at_us, "k", "e", "", json.dumps({"event": name, "distinct_id": "u"}).encode())
        segment.append([Compressor().pack(line, 1, 1, at_us)])
    segment.seal()


def test_the_last_of_all_slots_are_those_received_last_in_the_order_of_each_slot(tmp_path: Path) -> None:
    first, second, third = (Slot(tmp_path, number) for number in range(3))
    commit_at(first, ("a10", 10), ("a40", 40), ("a60", 60))
    # The clock was set back.
    commit_at(second, ("b50", 50), ("b30", 30), ("b35", 35))
    commit_at(third, ("c1", 1), ("c55", 55))
    assert names(tail_of(first).last(100)) == ["c1", "a10", "a40", "b50", "b30", "b35", "c55", "a60"]
    assert names(tail_of(first).last(2)) == ["c55", "a60"]
    assert names(tail_of(first).last(3)) == ["b35", "c55", "a60"]


def test_a_slot_with_nothing_newer_than_what_is_kept_is_not_searched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (Slot(tmp_path, number) for number in range(2))
    commit_at(first, *((f"a{at}", at) for at in range(100, 110)))
    commit_at(second, *((f"b{at}", at) for at in range(10)))
    path = second.files[0]
    data = bytearray(path.read_bytes())
    data[48 + 60] ^= 1
    path.write_bytes(data)
    assert names(tail_of(first).last(10)) == [f"a{at}" for at in range(100, 110)]
    assert caplog.text == ""


def test_lines_that_are_large_together_are_fewer(slot: Slot, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        slot.commit(f"e{number}")
    tail = Tail(RealDisk(), slot.layout, lambda record: [line * (LAST_BYTES_MAX // 6) for line in show(record)])
    assert [line[:2].decode() for line in tail.last(10)] == ["e1", "e2", "e3"]
    assert f"only the last 3 of the 10 asked for are shown: more are over {LAST_BYTES_MAX} bytes" in caplog.text
    tail.close()


def test_a_line_that_is_too_large_alone_is_there(slot: Slot) -> None:
    slot.commit("a")
    slot.commit("b")
    tail = Tail(RealDisk(), slot.layout, lambda record: [line * (LAST_BYTES_MAX + 1) for line in show(record)])
    assert [line[:1] for line in tail.last(10)] == [b"b"]
    tail.close()


def test_a_part_of_what_is_there_comes_at_a_time_from_every_slot(tmp_path: Path) -> None:
    slot, other = Slot(tmp_path), Slot(tmp_path, 1)
    tail = tail_of(slot)
    assert tail.last(10) == []
    for number in range(3):
        for each in (slot, other):
            each.commit(f"{each.slot}{number}")
            each.seal()
    assert names(tail.more()) == ["00", "10"]
    assert tail.behind
    assert names(tail.more()) == ["01", "11"]
    assert rest(tail) == ["02", "12"]
    assert not tail.behind
    tail.close()


def test_a_part_of_a_large_segment_comes_at_a_time(slot: Slot) -> None:
    slot.commit("first")
    tail = tail_of(slot)
    tail.last(0)
    for number in range(3):
        body = {"event": f"e{number}", "distinct_id": "u", "properties": {"x": os.urandom(READ_BYTES // 2).hex()}}
        slot.commit(f"e{number}", body=json.dumps(body).encode())
    assert names(tail.more()) == ["e0"]
    assert rest(tail) == ["e1", "e2"]
    tail.close()


def test_a_slot_that_comes_is_followed_from_its_beginning_and_one_that_goes_is_left(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    tail = tail_of(slot)
    assert names(tail.last(10)) == ["a"]
    other = Slot(tmp_path, 7)
    other.commit("b")
    assert rest(tail) == ["b"]
    assert tail.slots == [0, 7]
    away = slot.directory.rename(tmp_path / "away")
    assert rest(tail) == []
    assert tail.slots == [7]
    # As a slot that is made anew it begins with its first segment.
    away.rename(slot.directory)
    assert rest(tail) == ["a"]
    tail.close()


def test_a_segment_that_is_deleted_while_it_is_read_is_read_to_its_end(
    slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    slot.commit("a")
    tail = tail_of(slot)
    tail.last(10)
    assert rest(tail) == []
    slot.commit("b")
    slot.seal()
    slot.files[0].unlink()
    slot.commit("gone")
    slot.seal()
    slot.files[0].unlink()
    slot.commit("c")
    assert rest(tail) == ["b", "c"]
    assert caplog.text == ""
    tail.close()


def test_a_slot_that_cannot_be_read_is_told_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slot, other = Slot(tmp_path), Slot(tmp_path, 1)
    slot.commit("a")
    slot.seal()
    other.commit("b")
    disk = FaultyDisk(RealDisk())
    tail = tail_of(slot, disk)
    disk.fail_next("scan", Fault(errno.EACCES))
    assert names(tail.last(10)) == ["b"]
    assert tail.unreadable
    assert "slot 00 cannot be read: [Errno 13]" in caplog.text
    caplog.clear()
    disk.fail_next("changed_ns", Fault(EIO))
    other.commit("c")
    assert names(tail.more()) == ["c"]
    assert "slot 00 cannot be read: [Errno 5]" in caplog.text
    assert rest(tail) == ["a"]
    tail.close()


def test_a_slot_that_is_deleted_while_it_is_looked_at_is_passed_over(
    slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    slot.commit("a")
    disk = FaultyDisk(RealDisk())
    tail = tail_of(slot, disk)
    disk.fail_next("scan", Fault(errno.ENOENT))
    assert tail.last(10) == []
    disk.fail_next("changed_ns", Fault(errno.ENOENT))
    assert names(tail.more()) == []
    assert (caplog.text, tail.unreadable) == ("", False)
    tail.close()


def test_what_the_disk_refuses_is_read_around_and_no_segment_gets_another_name(
    slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    disk = UnreadableDisk()
    tail = tail_of(slot, disk)
    tail.last(10)
    for name in ("lost", "a", "b"):
        # Random, so that a frame is larger than what the disk refuses with a byte.
        body = json.dumps({"event": name, "distinct_id": "u", "properties": {"x": os.urandom(5000).hex()}})
        slot.commit(name, body=body.encode())
    slot.seal()
    disk.unreadable = range(60, 70)
    before = [path.name for path in slot.directory.iterdir()]
    found = [name for _ in range(10) for name in names(tail.more())]
    assert found == ["a", "b"]
    assert [path.name for path in slot.directory.iterdir()] == before
    assert [message for message in caplog.messages if "read around" in message]
    assert not [message for message in caplog.messages if "set aside" in message]
    tail.close()


def test_a_record_that_is_none_is_told_and_costs_itself(slot: Slot, caplog: pytest.LogCaptureFixture) -> None:
    segment = OpenSegment(RealDisk(), str(slot.directory), SegmentName(1, 1), 0, 1)
    good = encode_record(RecordIds(1), 1, "k", "e", "", b'{"event":"a","distinct_id":"u"}')
    segment.append([Compressor().pack(b"no record\n" + good, 2, 2, 1)])
    tail = tail_of(slot)
    with caplog.at_level(logging.ERROR):
        assert names(tail.last(10)) == ["a"]
    assert tail.damaged
    assert "segment 000000000001-0000000000000001: a record is not what it says" in caplog.text
    tail.close()


def test_a_frame_that_does_not_hold_what_it_says_costs_itself(slot: Slot, caplog: pytest.LogCaptureFixture) -> None:
    segment = OpenSegment(RealDisk(), str(slot.directory), SegmentName(1, 1), 0, 1)
    good = encode_record(RecordIds(1), 1, "k", "e", "", b'{"event":"a","distinct_id":"u"}')
    segment.append([Compressor().pack(good, 1, 1, 1)])
    segment.append([Compressor().pack(good, 3, 3, 1)])
    tail = tail_of(slot)
    assert names(tail.last(10)) == ["a"]
    assert tail.damaged
    assert "is not what it says: expected 3 lines" in caplog.text
    assert rest(tail) == []
    tail.close()
