from pathlib import Path

import pytest

from edge.disk import RealDisk
from edge.layout import Layout
from edge.segment.frame import SEGMENT_HEADER_BYTES, encode_room_header
from edge.segment.name import SegmentName, State
from edge.segment.scan import Damage, Frame
from edge.spool.inspect import (
    Extent,
    SegmentFile,
    Summary,
    all_segments,
    count_events,
    extent,
    frames,
    frames_back,
    named_segment,
    newest_first,
    read,
    segment_files,
    slot_state,
    summarise,
)
from tests.drain.spools import Slot
from tests.fakes import FaultyDisk
from tests.segments import CREATED_US, NAME, OTHER, flipped, pair, records, segment

GROUPS = [records(1), records(2, first=1), records(1, first=3)]
DATA, OFFSETS = segment(GROUPS, slot=7)
RAW_BYTES = sum(len(line) for group in GROUPS for line in group)


def put(layout: Layout, slot: int, name: SegmentName, state: State, data: bytes) -> Path:
    layout.slot(slot).mkdir(parents=True, exist_ok=True)
    path = layout.slot(slot) / name.file_name(state)
    path.write_bytes(data)
    return path


def only(layout: Layout) -> SegmentFile:
    (file,) = all_segments(layout)
    return file


def test_segments_are_found_in_order_slot_by_slot_and_other_files_are_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    names = [SegmentName(counter, 2**63 - counter) for counter in (1, 2, 3, 4)]
    for name, state in zip(names, (State.BAD, State.SUSPECT, State.SEALED, State.OPEN), strict=True):
        put(layout, 1, name, state, bytes(name.counter))
    put(layout, 0, SegmentName(9, 9), State.SEALED, b"")
    (layout.slot(0) / ".lock").touch()
    (layout.slot(0) / "notes.txt").touch()
    found = all_segments(layout)
    assert [(file.slot, file.name.counter, file.state, file.size) for file in found] == [
        (0, 9, State.SEALED, 0),
        (1, 1, State.BAD, 1),
        (1, 2, State.SUSPECT, 2),
        (1, 3, State.SEALED, 3),
        (1, 4, State.OPEN, 4),
    ]
    assert segment_files(layout, 1) == found[1:]
    assert extent(layout) == Extent(
        bytes=sum(file.size for file in found),
        segments={State.BAD: 1, State.SUSPECT: 1, State.SEALED: 2, State.OPEN: 1},
        written_s=min(file.path.stat().st_mtime for file in found),
    )
    assert all(file.path.is_file() for file in found)


def test_summary_counts_what_the_segment_holds(tmp_path: Path) -> None:
    put(Layout(tmp_path), 0, NAME, State.SEALED, DATA)
    assert summarise(only(Layout(tmp_path))) == Summary(
        frames=3, records=4, events=4, raw_bytes=RAW_BYTES, end=len(DATA), oldest_us=CREATED_US
    )


def test_summary_from_an_offset_counts_what_lies_behind_it(tmp_path: Path) -> None:
    put(Layout(tmp_path), 0, NAME, State.SEALED, DATA)
    file = only(Layout(tmp_path))
    assert [summarise(file, offset).records for offset in (0, *OFFSETS)] == [4, 4, 3, 1, 0]
    assert [summarise(file, offset).end for offset in (0, *OFFSETS)] == [len(DATA)] * 5
    assert [summarise(file, offset).damaged_bytes for offset in (0, *OFFSETS)] == [0] * 5


@pytest.mark.parametrize(
    ("data", "state", "expected"),
    [
        pytest.param(b"", State.OPEN, Summary(), id="empty"),
        pytest.param(DATA[:20], State.OPEN, Summary(), id="half a header"),
        pytest.param(DATA[:48], State.OPEN, Summary(), id="header alone"),
        pytest.param(DATA[:60], State.OPEN, Summary(tail_bytes=12), id="torn first frame"),
        pytest.param(DATA[:60], State.SEALED, Summary(damaged_bytes=12), id="sealed with a torn frame"),
        pytest.param(
            DATA[: OFFSETS[2]] + DATA[OFFSETS[2] : -1],
            State.OPEN,
            Summary(2, 3, 3, RAW_BYTES - len(GROUPS[2][0]), OFFSETS[2], 0, len(DATA) - OFFSETS[2] - 1, CREATED_US),
            id="torn last frame",
        ),
        pytest.param(
            DATA + bytes(100),
            State.SUSPECT,
            Summary(3, 4, 4, RAW_BYTES, len(DATA), 100, 0, CREATED_US),
            id="zeroes behind the last frame",
        ),
        pytest.param(
            flipped(DATA, OFFSETS[0] * 8 + 80),
            State.SEALED,
            Summary(2, 3, 3, RAW_BYTES - len(GROUPS[0][0]), len(DATA), OFFSETS[1] - OFFSETS[0], 0, CREATED_US),
            id="damaged first frame",
        ),
        pytest.param(
            DATA[: OFFSETS[0]] + DATA[OFFSETS[1] :],
            State.SEALED,
            Summary(
                2,
                3,
                3,
                RAW_BYTES - len(GROUPS[0][0]),
                len(DATA) - OFFSETS[1] + OFFSETS[0],
                oldest_us=CREATED_US,
                missing_frames=1,
            ),
            id="first frame gone without a trace",
        ),
    ],
)
def test_summary_tells_damage_tail_and_gaps_apart(tmp_path: Path, data: bytes, state: State, expected: Summary) -> None:
    put(Layout(tmp_path), 0, NAME, state, data)
    assert summarise(only(Layout(tmp_path))) == expected


def test_frames_are_read_from_an_offset_on(tmp_path: Path) -> None:
    put(Layout(tmp_path), 0, NAME, State.SEALED, flipped(DATA, OFFSETS[1] * 8))
    file = only(Layout(tmp_path))
    assert [(type(item) is Damage, item.offset) for item in frames(file)] == [
        (False, OFFSETS[0]),
        (True, OFFSETS[1]),
        (False, OFFSETS[2]),
    ]
    assert [item.offset for item in frames(file, OFFSETS[2])] == [OFFSETS[2]]


@pytest.mark.parametrize("state", [State.SEALED, State.SUSPECT])
def test_segment_that_was_finished_since_it_was_found_is_read_under_its_new_name(tmp_path: Path, state: State) -> None:
    path = put(Layout(tmp_path), 0, NAME, State.OPEN, DATA)
    file = only(Layout(tmp_path))
    path.rename(path.with_name(NAME.file_name(state)))
    assert read(file) == DATA
    assert read(file, OFFSETS[1]) == DATA[OFFSETS[1] :]


def test_segment_that_was_deleted_since_it_was_found_holds_nothing(tmp_path: Path) -> None:
    path = put(Layout(tmp_path), 0, NAME, State.SEALED, DATA)
    file = only(Layout(tmp_path))
    path.unlink()
    assert read(file) == b""
    assert list(frames(file)) == []
    assert summarise(file) == Summary()


class TestSingleFile:
    def test_name_says_which_segment_it_is_even_when_the_header_is_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / NAME.file_name(State.OPEN)
        path.write_bytes(bytes(48) + DATA[48:])
        file = named_segment(path)
        assert (file.name, file.state, file.slot, file.size) == (NAME, State.OPEN, -1, len(DATA))
        assert summarise(file).records == 4

    def test_renamed_copy_is_known_by_its_header(self, tmp_path: Path) -> None:
        path = tmp_path / "copy.bin"
        path.write_bytes(DATA)
        file = named_segment(path)
        assert (file.name, file.state, file.slot) == (NAME, State.SEALED, 7)
        assert summarise(file).records == 4

    def test_file_that_is_no_segment_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "copy.bin"
        path.write_bytes(b"something else" * 10)
        with pytest.raises(ValueError, match="expected a segment"):
            named_segment(path)
        with pytest.raises(FileNotFoundError):
            named_segment(tmp_path / "missing")

    def test_frames_under_a_foreign_name_are_damage(self, tmp_path: Path) -> None:
        path = tmp_path / OTHER.file_name(State.SEALED)
        path.write_bytes(DATA + pair(GROUPS[0], OTHER.incarnation))
        found = summarise(named_segment(path))
        assert (found.records, found.damaged_bytes) == (1, len(DATA) - 48)


def test_events_are_counted_by_headers_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    path = put(layout, 7, NAME, State.SEALED, DATA)
    assert count_events(only(layout)) == summarise(only(layout)).events > 0
    # A flipped bit of content is not looked at, the end of what is whole is.
    path.write_bytes(flipped(DATA, (OFFSETS[1] + 70) * 8))
    assert count_events(only(layout)) == summarise(SegmentFile(path, 7, NAME, State.SEALED, 0)).events + 2
    path.write_bytes(DATA[: OFFSETS[1]] + b"torn")
    assert count_events(only(layout)) == 1
    path.write_bytes(b"")
    assert count_events(only(layout)) == 0


def test_a_segment_that_cannot_be_read_is_damage_to_those_who_look_and_an_error_to_those_who_decide(
    tmp_path: Path,
) -> None:
    """A folder in its place can be opened, and not read, by any user."""
    layout = Layout(tmp_path)
    (layout.slot(0) / NAME.file_name(State.SEALED)).mkdir(parents=True)
    file = only(layout)
    found = summarise(file, around=True)
    assert (found.records, found.damaged_bytes) == (0, max(0, file.size - SEGMENT_HEADER_BYTES))
    assert list(frames(file, around=True)) == []
    for decide in (summarise, read, lambda file: list(frames(file))):
        with pytest.raises(IsADirectoryError):
            decide(file)


def test_a_segment_of_which_the_disk_has_only_the_name_hides_no_other(tmp_path: Path) -> None:
    """A link to itself cannot be looked at, by any user."""
    layout = Layout(tmp_path)
    put(layout, 0, OTHER, State.SEALED, DATA)
    lost = layout.slot(0) / NAME.file_name(State.SEALED)
    lost.symlink_to(lost)
    assert {file.name: file.size for file in all_segments(layout)} == {NAME: 0, OTHER: len(DATA)}
    found = extent(layout)
    assert (found.bytes, found.segments[State.SEALED]) == (len(DATA), 2)
    [file] = [file for file in all_segments(layout) if file.name == NAME]
    with pytest.raises(OSError, match="Too many levels"):
        summarise(file)


@pytest.mark.parametrize("state", [State.OPEN, State.SUSPECT])
def test_room_that_is_not_used_is_neither_a_tail_nor_damage(tmp_path: Path, state: State) -> None:
    layout = Layout(tmp_path)
    put(layout, 0, NAME, state, DATA + encode_room_header(9000) + bytes(9000 - 8))
    found = summarise(only(layout))
    assert (found.end, found.records, found.tail_bytes, found.damaged_bytes) == (len(DATA), 4, 0, 0)
    assert found.room_bytes == 9000
    behind = summarise(only(layout), found.end)
    assert (behind.tail_bytes, behind.room_bytes) == (0, 9000)
    assert count_events(only(layout)) == 4


def test_a_slot_tells_who_has_it_and_what_is_in_which_state(tmp_path: Path) -> None:
    slot = Slot(tmp_path, 3, locked=True)
    for _ in range(2):
        slot.commit("a")
        slot.seal()
    slot.commit("b")
    (slot.directory / SegmentName(9, 9).file_name(State.BAD)).touch()
    (slot.directory / "spare").touch()
    found = slot_state(slot.layout, 3)
    assert (found.slot, found.held, found.refused) == (3, True, {})
    assert found.segments == {State.OPEN: 1, State.SEALED: 2, State.SUSPECT: 0, State.BAD: 1}
    slot.release()
    assert not slot_state(slot.layout, 3).held


def test_segments_of_a_slot_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    odd = slot.directory / SegmentName(9, 9).file_name(State.SEALED)
    odd.symlink_to(odd)
    found = slot_state(slot.layout, 0)
    assert list(found.refused) == [odd.name]
    assert "symbolic link" in str(found.refused[odd.name])
    assert found.segments[State.OPEN] == 1


def test_a_slot_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    lock = slot.directory / ".lock"
    lock.unlink()
    lock.symlink_to(lock)
    with pytest.raises(OSError, match="symbolic link"):
        slot_state(slot.layout, 0)


class TestBackwards:
    def test_segments_come_newest_first_each_once_however_many(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path)
        names = [SegmentName(counter, 2**63 - counter) for counter in range(1, 2100)]
        for name in names:
            put(layout, 3, name, State.SEALED, b"")
        put(layout, 3, SegmentName(9999, 1), State.OPEN, DATA)
        (layout.slot(3) / ".lock").touch()
        found = list(newest_first(RealDisk(), layout, 3))
        assert [file.name for file in found] == [SegmentName(9999, 1), *reversed(names)]
        assert found == segment_files(layout, 3)[::-1]

    def test_no_more_is_listed_than_is_asked_for(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path)
        for counter in range(1, 1100):
            put(layout, 0, SegmentName(counter, 1), State.SEALED, b"")
        disk = FaultyDisk(RealDisk())
        files = newest_first(disk, layout, 0)
        assert [next(files).name.counter for _ in range(1000)] == list(range(1099, 99, -1))
        assert disk.methods("scan") == ["scan"]
        assert len(list(files)) == 99

    def test_one_that_is_renamed_or_deleted_behind_the_listing_is_found_or_left_out(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path)
        put(layout, 0, SegmentName(3, 3), State.SEALED, b"")
        renamed = put(layout, 0, SegmentName(2, 2), State.OPEN, b"")
        deleted = put(layout, 0, SegmentName(1, 1), State.SEALED, b"")
        files = newest_first(RealDisk(), layout, 0)
        next(files)
        renamed.rename(renamed.with_name(SegmentName(2, 2).file_name(State.SEALED)))
        deleted.unlink()
        assert [(file.name.counter, file.state) for file in files] == [(2, State.SEALED)]

    @pytest.mark.parametrize(
        ("data", "state", "expected"),
        [
            (DATA, State.SEALED, [(False, 2), (False, 1), (False, 0)]),
            (flipped(DATA, OFFSETS[1] * 8), State.SEALED, [(False, 2), (True, 1), (False, 0)]),
            (flipped(DATA, OFFSETS[0] * 8), State.OPEN, [(False, 2), (False, 1), (True, 0)]),
            (DATA + b"torn", State.OPEN, [(False, 2), (False, 1), (False, 0)]),
            (DATA + b"torn", State.SEALED, [(True, 3), (False, 2), (False, 1), (False, 0)]),
            (DATA + encode_room_header(900) + bytes(892), State.SUSPECT, [(False, 2), (False, 1), (False, 0)]),
            (DATA[:48], State.SEALED, []),
            (b"", State.SEALED, []),
        ],
        ids=["whole", "damage", "damage first", "being written", "torn", "room", "header", "empty"],
    )
    def test_frames_and_damage_come_from_the_last_to_the_first(
        self, data: bytes, state: State, expected: list[tuple[bool, int]], tmp_path: Path
    ) -> None:
        put(Layout(tmp_path), 0, NAME, state, data)
        starts = [*OFFSETS, len(DATA)]
        found = list(frames_back(only(Layout(tmp_path))))
        assert [(type(item) is Damage, starts.index(item.offset)) for item in found] == expected
        forward = [item for item in frames(only(Layout(tmp_path))) if item.offset < len(DATA)]
        assert [(item.offset, item.end) for item in found if item.offset < len(DATA)] == [
            (item.offset, item.end) for item in reversed(forward)
        ]
        assert [item.lines() for item in found if isinstance(item, Frame)] == [
            item.lines() for item in reversed(forward) if isinstance(item, Frame)
        ]
