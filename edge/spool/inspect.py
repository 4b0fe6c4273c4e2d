"""Look at a spool from outside, live or not: which segments there are and what they hold. Reads only.

Whoever only looks reads `around` what the disk refuses: it stands as damage. Whoever decides by what is there must not.
"""

import errno
import heapq
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edge.disk import Disk, RealDisk, pread_all, pread_around
from edge.layout import LOCK_NAME, Layout
from edge.process import is_held
from edge.segment.frame import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    is_room,
    parse_frame_header,
    parse_segment_header,
)
from edge.segment.name import LIFE, SegmentName, State, parse_name, parse_state
from edge.segment.scan import Damage, Frame, scan

_HEADERS_READ_BYTES: Final = 4096
_NAMES_MAX: Final = 1000


class SegmentFile(msgspec.Struct, frozen=True):
    """A segment found on disk."""

    path: Path
    slot: int
    name: SegmentName
    state: State
    size: int


class Summary(msgspec.Struct):
    """What a segment holds. Lengths in bytes, times in microseconds since the Unix epoch, 0 where there are none."""

    frames: int = 0
    records: int = 0
    events: int = 0
    raw_bytes: int = 0
    end: int = 0
    """End of the last good frame."""
    damaged_bytes: int = 0
    """Between good frames, and after the last one in a finished segment."""
    tail_bytes: int = 0
    """After the last good frame of an open segment: being written, or torn."""
    oldest_us: int = 0
    missing_frames: int = 0
    """Gaps in the sequence that no damaged bytes account for."""
    room_bytes: int = 0
    """After the last good frame: made beforehand, and not used yet."""


def segment_files(layout: Layout, slot: int) -> list[SegmentFile]:
    """The slot's segments in order. Files that vanish meanwhile are left out."""
    found = []
    for path in layout.slot(slot).iterdir():
        parsed = parse_name(path.name)
        file = None if parsed is None else _segment_file(path, slot, *parsed)
        if file is not None:
            found.append(file)
    return sorted(found, key=lambda file: file.name)


def _segment_file(path: Path, slot: int, name: SegmentName, state: State) -> SegmentFile | None:
    """`None` for a file that is gone."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError:
        # The disk has lost all but its name, and whoever opens it hears of that.
        size = 0
    return SegmentFile(path, slot, name, state, size)


def newest_first(disk: Disk, layout: Layout, slot: int) -> Iterator[SegmentFile]:
    """The slot's segments from the last one on, those that vanish meanwhile left out. Raises `OSError`.

    Holds a thousand names, and lists the directory again behind them: a spool that nobody ships may have a million.
    """
    directory = layout.slot(slot)
    before: SegmentName | None = None
    while names := _names_before(disk, str(directory), before):
        for name, state in names.items():
            # Under its next name when it was renamed since.
            for each in (state, *LIFE):
                file = _segment_file(directory / name.file_name(each), slot, name, each)
                if file is not None:
                    yield file
                    break
            before = name


def _names_before(disk: Disk, directory: str, before: SegmentName | None) -> dict[SegmentName, State]:
    """The last ones of those before, or of all, the last one first."""
    parsed = filter(None, map(parse_name, disk.scan(directory)))
    found = (pair for pair in parsed if before is None or pair[0] < before)
    # One that is renamed meanwhile may be listed twice.
    return dict(heapq.nlargest(_NAMES_MAX, found, key=lambda pair: pair[0]))


def finished_segment(layout: Layout, slot: int, name: SegmentName) -> SegmentFile | None:
    """The sealed or suspect segment of that name, found without looking at any other."""
    for state in (State.SEALED, State.SUSPECT):
        path = layout.slot(slot) / name.file_name(state)
        try:
            return SegmentFile(path, slot, name, state, path.stat().st_size)
        except FileNotFoundError:
            continue
    return None


class SlotState(msgspec.Struct):
    """Who has a slot, and what is in it."""

    slot: int
    held: bool
    """A living process writes it."""
    segments: dict[State, int] = msgspec.field(default_factory=lambda: dict.fromkeys(State, 0))
    """Number by state."""
    refused: dict[str, OSError] = {}
    """Segments that may not be opened, by name, and why."""


def slot_state(layout: Layout, slot: int) -> SlotState:
    """Opens every segment, reads none. Raises `OSError` for a slot that cannot be listed, locked or written."""
    directory = layout.slot(slot)
    require_writable(directory)
    found = SlotState(slot, is_held(directory / LOCK_NAME))
    with os.scandir(directory) as entries:
        for entry in entries:
            state = parse_state(entry.name)
            if state is None:
                continue
            found.segments[state] += 1
            try:
                os.close(os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                # Shipped, or finished under another name, since it was listed.
                found.segments[state] -= 1
            except OSError as error:
                found.refused[entry.name] = error
    return found


def require_writable(directory: Path) -> None:
    """Raises `PermissionError` where files could not be made or taken away."""
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))


class Extent(msgspec.Struct):
    """How much there is of a spool."""

    bytes: int = 0
    segments: dict[State, int] = msgspec.field(default_factory=lambda: dict.fromkeys(State, 0))
    """Number by state."""
    written_s: float = float("inf")
    """When the segment that was longest without a write was written, Unix time."""


def extent(layout: Layout) -> Extent:
    """Stats files, reads none, and keeps none: a spool that nobody ships may have a million."""
    found = Extent()
    for slot in layout.slots():
        with os.scandir(layout.slot(slot)) as entries:
            for entry in entries:
                state = parse_state(entry.name)
                if state is None:
                    continue
                try:
                    stat = entry.stat()
                except FileNotFoundError:
                    continue
                except OSError:
                    # The disk has lost all but its name.
                    found.segments[state] += 1
                    continue
                found.bytes += stat.st_size
                found.segments[state] += 1
                found.written_s = min(found.written_s, stat.st_mtime)
    return found


def all_segments(layout: Layout) -> list[SegmentFile]:
    return [file for slot in layout.slots() for file in segment_files(layout, slot)]


def named_segment(path: Path) -> SegmentFile:
    """A single file, which may have been copied and renamed: its own header then says what it is.

    Raises `OSError`, and `ValueError` when it is no segment.
    """
    parsed = parse_name(path.name)
    with path.open("rb") as file:
        header = parse_segment_header(file.read(SEGMENT_HEADER_BYTES))
    size = path.stat().st_size
    if parsed is not None:
        return SegmentFile(path, header.slot if header else -1, *parsed, size)
    if header is None:
        raise ValueError(f"expected a segment: neither the name nor the first bytes of {path} are those of one")
    return SegmentFile(path, header.slot, header.name, State.SEALED, size)


def frames(file: SegmentFile, offset: int = 0, *, around: bool = False) -> Iterator[Frame | Damage]:
    """Frames from `offset` on, which must be 0 or a frame boundary. Nothing for a file that is gone. Raises `OSError`."""
    yield from scan(read(file, offset, around=around), file.name.incarnation, offset)


def frames_back(file: SegmentFile) -> Iterator[Frame | Damage]:
    """All frames, the last one first, and damage, which in a finished segment may be the last.

    Reads around what the disk refuses. Holds the bytes of the segment and where its frames begin. Nothing for a file that is
    gone. Raises `OSError`.
    """
    data = read(file, around=True)
    starts = array("Q")
    end = SEGMENT_HEADER_BYTES
    for item in scan(data, file.name.incarnation):
        starts.append(item.offset)
        end = item.end
    if file.state is not State.OPEN and len(data) > end and not is_room(data[end:]):
        yield Damage(end, len(data))
    for start in reversed(starts):
        yield next(scan(data[start:end], file.name.incarnation, start), Damage(start, end))
        end = start


def read(file: SegmentFile, offset: int = 0, *, around: bool = False) -> bytes:
    """The file's bytes from `offset` on, also when it was finished or deleted since it was found. Raises `OSError`."""
    disk = RealDisk()
    for path in (file.path, *(file.path.with_name(file.name.file_name(state)) for state in LIFE)):
        try:
            fd = disk.open(str(path))
        except FileNotFoundError:
            continue
        try:
            size = max(0, disk.size(fd) - offset)
            try:
                return pread_all(disk, fd, size, offset)
            except OSError:
                if not around:
                    raise
                return pread_around(disk, fd, size, offset)
        finally:
            disk.close(fd)
    return b""


def count_events(file: SegmentFile) -> int:
    """Events as the headers tell, from the start to the first thing that is no header. Checks and holds nothing else."""
    events = 0
    offset = SEGMENT_HEADER_BYTES
    with file.path.open("rb", buffering=_HEADERS_READ_BYTES) as opened:
        while True:
            opened.seek(offset)
            header = parse_frame_header(opened.read(FRAME_HEADER_BYTES), 0)
            if header is None:
                return events
            events += header.events
            offset += header.pair_bytes


def summarise(file: SegmentFile, offset: int = 0, *, around: bool = False) -> Summary:
    """What the segment holds from `offset` on. Raises `OSError`."""
    found = Summary(end=offset)
    data = read(file, offset, around=around)
    expected: int | None = None if offset else 0
    for item in scan(data, file.name.incarnation, offset):
        if isinstance(item, Damage):
            found.damaged_bytes += item.end - item.offset
            expected = None
            continue
        header = item.header
        if expected is not None:
            found.missing_frames += header.sequence - expected
        expected = header.sequence + 1
        found.frames += 1
        found.records += header.records
        found.events += header.events
        found.raw_bytes += header.raw_bytes
        found.oldest_us = min(found.oldest_us or header.oldest_us, header.oldest_us)
        found.end = item.end
    end = max(found.end, 0 if offset else SEGMENT_HEADER_BYTES)
    tail = offset + len(data) - end
    if tail > 0:
        if is_room(data[end - offset :]):
            found.room_bytes = tail
        elif file.state is State.OPEN:
            found.tail_bytes = tail
        else:
            found.damaged_bytes += tail
    return found
