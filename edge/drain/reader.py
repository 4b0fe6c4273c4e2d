"""Read one slot's segments in order, from a position on, while its worker may still be writing.

The newest segment is read as it grows: what is not a whole frame yet is waited for, never an error. A segment is finished
when its name says so and everything in it was read. A finished one that the disk refuses to read again and again is renamed
`.bad`: nothing waits for it, and it is never deleted. What can be read of such a one is read around what cannot, which costs
the frames it touches. A reader that only observes reads as much and renames nothing; whatever it may not open it passes over.
"""

import heapq
import logging
import time
from typing import Final

import msgspec

from edge.checkpoints import Position
from edge.disk import MEDIUM_ERRORS, Disk, pread_all, pread_around
from edge.drain.sink import READ_BYTES
from edge.segment.frame import ROOM_HEADER_BYTES, SEGMENT_HEADER_BYTES, is_room
from edge.segment.name import LIFE, SegmentName, State, parse_name
from edge.segment.scan import Damage, Frame, scan, written_end

log = logging.getLogger(__name__)

RAW_BYTES_MAX: Final = 64 * 1024 * 1024
"""Records of a chunk: what bounds the drainer's memory where a few bytes of file hold many. No usual `read_bytes` hold more."""

_REREAD_S: Final = 0.01
_REREADS: Final = 3
_ATTEMPTS: Final = 5
_AHEAD_MAX: Final = 1000
_SETTLED_NS: Final = 1_000_000_000
_FINISHED: Final = (State.SEALED, State.SUSPECT, State.BAD)


class _Unreadable(OSError):
    """The disk refused to read an open file."""


class Chunk(msgspec.Struct, gc=False):
    """Records of one segment between two offsets, both of them frame boundaries."""

    slot: int
    name: SegmentName
    start: int
    end: int
    lines: list[bytes]
    oldest_us: int
    damaged_bytes: int
    events: int = 0
    """Events in readable frames, as counted when they were accepted."""
    unreadable_events: int = 0
    """Those of them in frames that do not hold what they say."""
    damages: list[tuple[int, bytes]] = []
    """What could not be read, each with its offset in the segment. Zeroes are left out: nothing is in them."""


def _beginning(items: list[Frame | Damage], raw_bytes_max: int) -> list[Frame | Damage]:
    """Those of the first frames whose records are together no larger, at least one frame."""
    raw_bytes = 0
    for index, item in enumerate(items):
        if isinstance(item, Frame):
            if raw_bytes and raw_bytes + item.header.raw_bytes > raw_bytes_max:
                return items[:index]
            raw_bytes += item.header.raw_bytes
    return items


class SlotReader:
    """Raises `OSError`."""

    def __init__(
        self, disk: Disk, directory: str, slot: int, position: Position | None, *, observes: bool = False
    ) -> None:
        """One that `observes` changes nothing on the disk."""
        self.slot = slot
        self.read_bytes = READ_BYTES
        """About how much of a segment becomes a chunk; to be set between reads."""
        self._disk = disk
        self._directory = directory
        self._observes = observes
        self._name: SegmentName | None = position.name if position else None
        self._offset = position.offset if position else 0
        self._fd: int | None = None
        self._reads_around = False
        """The open segment is one that the disk refused to read."""
        self._before: tuple[SegmentName | None, int] = self._name, self._offset
        """Where the segment before the open one was read to."""
        self._ahead: list[SegmentName] = []
        """Listed segments behind the position, the next one last."""
        self._empty_ns: int | None = None
        """When the directory was last changed, if there was nothing behind the position then."""
        self._refused = 0
        """Attempts in a row at the same segment."""
        self._unopenable: set[SegmentName] = set()
        """Those set aside or passed over that the disk refuses to open, until the next start."""

    @property
    def position(self) -> Position | None:
        """Everything before it was handed out by `read`."""
        return Position(str(self._name), self._offset) if self._name is not None else None

    def peek(self) -> tuple[SegmentName, int] | None:
        """Where the next chunk begins, in the next segment when this one is read to its end; `None` while there is none.

        Only this goes on to the next segment, so whoever asks knows what `read` is going to read from.
        """
        while self._fd is not None or self._open():
            assert self._name is not None
            assert self._fd is not None
            if self._vanished(self._name):
                # Deleted before anything was committed to it; the next segment may get its counter again.
                self.close()
                self._name, self._offset = self._before
                continue
            finished = self._finished(self._name)
            size = self._disk.size(self._fd)
            if finished and size <= SEGMENT_HEADER_BYTES:
                # Before anything was committed to it.
                self._offset = size
            if not finished or self._offset < size:
                return self._name, self._offset
            if not self._advance():
                return None
        return None

    def read(self, end: int | None = None) -> Chunk | None:
        """The next records of the segment `peek` told, up to about `read_bytes` of file or exactly to `end`.

        Without `end` they are no more than `RAW_BYTES_MAX` unpacked, or those of a single frame. `None` when nothing more is
        there now.
        """
        if self._name is None or self._fd is None:
            return None
        offset = self._offset
        try:
            chunk = self._read(end)
        except _Unreadable as error:
            # Nothing was handed out of what was read before that.
            self._offset = offset
            self._refused += 1
            if self._refused < _ATTEMPTS or not self._finished(self._name):
                raise
            self._set_aside(self._name)
            log.error(
                "segment %s cannot be read from %d on, it is %sread around that: %s",
                *(self._name, self._offset, "" if self._observes else "set aside and ", error),
            )
            self._reads_around = True
            chunk = self._read(end)
        self._refused = 0
        return chunk

    def _read(self, end: int | None) -> Chunk | None:
        assert self._name is not None
        assert self._fd is not None
        # Looked at before the bytes: what is finished now has all of them.
        finished = self._finished(self._name)
        file_end = self._disk.size(self._fd)
        if not finished and end is None:
            at = max(self._offset, SEGMENT_HEADER_BYTES)
            if is_room(self._pread(ROOM_HEADER_BYTES, at)):
                return None
            file_end = written_end(self._pread, at, file_end)
        limit = file_end if end is None else min(end, file_end)
        size = self.read_bytes if end is None else limit - self._offset
        raw_bytes_max = RAW_BYTES_MAX if end is None else None
        while (chunk := self._read_chunk(min(size, limit - self._offset), raw_bytes_max)) is None:
            rest = limit - self._offset
            if rest > size:
                # A frame of one large record.
                size *= 2
                continue
            if not finished or rest == 0:
                return None
            unused = is_room(self._pread(rest, self._offset))
            if self._offset + rest > SEGMENT_HEADER_BYTES and not unused:
                return self._damaged_tail(rest)
            # Finished before anything was committed to it.
            self._offset += rest
            return None
        if end is not None and finished and chunk.end < limit:
            # A chunk that ended earlier would leave frames behind the damage to be shipped under another name than before.
            self._skip_to(chunk, limit)
        return chunk

    def _read_chunk(self, size: int, raw_bytes_max: int | None) -> Chunk | None:
        assert self._name is not None
        items = self._scan(size)
        for _ in range(_REREADS):
            if not any(isinstance(item, Damage) for item in items) or self._finished(self._name):
                break
            # Perhaps seen while it was being written.
            time.sleep(_REREAD_S)
            items = self._scan(size)
        if not items:
            return None
        if raw_bytes_max is not None:
            items = _beginning(items, raw_bytes_max)
        chunk = Chunk(self.slot, self._name, self._offset, items[-1].end, [], 0, 0)
        for item in items:
            if isinstance(item, Damage):
                self._report(item)
                self._skip(chunk, item.offset, item.end)
                continue
            chunk.events += item.header.events
            chunk.oldest_us = min(chunk.oldest_us or item.header.oldest_us, item.header.oldest_us)
            try:
                chunk.lines += item.lines()
            except ValueError as error:
                log.error("segment %s: the frame at %d is not what it says: %s", self._name, item.offset, error)
                self._skip(chunk, item.offset, item.end)
                chunk.unreadable_events += item.header.events
        self._offset = chunk.end
        return chunk

    def _scan(self, size: int) -> list[Frame | Damage]:
        assert self._name is not None
        assert self._fd is not None
        data = self._pread(size, self._offset)
        return list(scan(data, self._name.incarnation, self._offset))

    def _damaged_tail(self, rest: int) -> Chunk:
        assert self._name is not None
        chunk = Chunk(self.slot, self._name, self._offset, self._offset, [], 0, 0)
        self._skip_to(chunk, self._offset + rest)
        return chunk

    def _skip_to(self, chunk: Chunk, end: int) -> None:
        """Nothing behind the chunk is readable up to `end`."""
        self._report(Damage(chunk.end, end))
        self._skip(chunk, chunk.end, end)
        chunk.end = self._offset = end

    def _skip(self, chunk: Chunk, start: int, end: int) -> None:
        data = self._pread(end - start, start)
        chunk.damaged_bytes += end - start
        if data.strip(b"\0"):
            chunk.damages.append((start, data))

    def _pread(self, size: int, offset: int) -> bytes:
        assert self._fd is not None
        try:
            return pread_all(self._disk, self._fd, size, offset)
        except OSError as error:
            if self._reads_around:
                return pread_around(self._disk, self._fd, size, offset)
            raise _Unreadable(error.errno, error.strerror, str(self._name)) from error

    def _set_aside(self, name: SegmentName) -> None:
        if self._observes:
            return
        for state in (State.SEALED, State.SUSPECT):
            if self._is_there(name, state):
                self._disk.rename(self._path(name, state), self._path(name, State.BAD))
                self._disk.sync_directory(self._directory)

    def _report(self, damage: Damage) -> None:
        log.error("segment %s: bytes %d to %d are damaged and skipped", self._name, damage.offset, damage.end)

    # --- which segment: by exact names, as a spool that nobody ships may hold a million

    def _path(self, name: SegmentName, state: State) -> str:
        return f"{self._directory}/{name.file_name(state)}"

    def _is_there(self, name: SegmentName, *states: State) -> bool:
        return any(self._disk.exists(self._path(name, state)) for state in states)

    def _finished(self, name: SegmentName) -> bool:
        """Nothing more is written to it. One that is gone was finished, shipped and deleted since this reader opened it."""
        return not self._is_there(name, State.OPEN) or self._is_there(name, *_FINISHED)

    def _vanished(self, name: SegmentName) -> bool:
        return self._offset == 0 and not self._is_there(name, *LIFE)

    def _list(self, *, itself: bool) -> None:
        """Look for the segments behind the position, or for its own one, too."""
        changed_ns = self._disk.changed_ns(self._directory)
        if changed_ns == self._empty_ns:
            return
        # Two listings that agree: a single one of a large directory can miss a file that is renamed meanwhile, and what is
        # passed over is deleted.
        files = set(self._disk.listdir(self._directory))
        while (again := set(self._disk.listdir(self._directory))) != files:
            files = again
        least = self._name
        names = (parsed[0] for parsed in map(parse_name, files) if parsed)
        found = (name for name in names if name not in self._unopenable)
        behind = (name for name in found if least is None or name > least or (itself and name == least))
        self._ahead = heapq.nsmallest(_AHEAD_MAX, behind)[::-1]
        # A change may have the time of the one before it.
        settled = time.time_ns() - changed_ns > _SETTLED_NS
        self._empty_ns = changed_ns if settled and not self._ahead else None

    def _open_next(self, *, itself: bool) -> tuple[SegmentName, int] | None:
        """The first segment that can be opened of those behind the position, and its descriptor.

        What the disk refuses to open again and again is set aside.
        """
        if not self._ahead:
            self._list(itself=itself)
        while self._ahead:
            # It stays listed while the disk refuses to open it, as what is passed over is deleted.
            name = self._ahead[-1]
            fd = self._open_file(name)
            self._ahead.pop()
            if fd is not None:
                return name, fd
        return None

    def _open_file(self, name: SegmentName) -> int | None:
        for state in LIFE:
            try:
                fd = self._disk.open(self._path(name, state))
            except FileNotFoundError:
                continue
            except OSError as error:
                if not self._observes and (state is State.OPEN or error.errno not in MEDIUM_ERRORS):
                    raise
                self._refused += 1
                if self._refused < _ATTEMPTS:
                    raise
                self._set_aside(name)
                done = "passed over" if self._observes else "set aside"
                log.error("segment %s cannot be opened, it is %s: %s", name, done, error)
                self._unopenable.add(name)
                self._refused = 0
                return None
            self._reads_around = state is State.BAD
            self._refused = 0
            return fd
        return None

    def _open(self) -> bool:
        """Open the segment of the position if it is there, else the first one after it."""
        found = self._open_next(itself=True)
        if found is None:
            return False
        name, self._fd = found
        if name != self._name:
            self._offset = 0
        self._name = name
        # A stale position may lie behind the end that recovery left.
        self._offset = min(self._offset, self._disk.size(self._fd))
        return True

    def _advance(self) -> bool:
        """The current segment is done: open the next one. Stays where it is when there is none yet."""
        found = self._open_next(itself=False)
        if found is None:
            return False
        assert self._fd is not None
        self._disk.close(self._fd)
        self._before = self._name, self._offset
        self._name, self._fd = found
        self._offset = 0
        return True

    def close(self) -> None:
        """The position stays. What is behind it is looked for anew."""
        self._ahead = []
        self._empty_ns = None
        if self._fd is not None:
            self._disk.close(self._fd)
            self._fd = None
