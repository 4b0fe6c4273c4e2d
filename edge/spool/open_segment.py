"""One segment while it is written: created, appended to, synced, sealed. Used by one thread at a time.

After an error the file is never appended to again, and a descriptor whose sync failed is never synced again: what such a sync
left in the page cache is unknown.
"""

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from edge.disk import Disk, write_all
from edge.segment.frame import (
    FRAME_HEADER_BYTES,
    ROOM_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Packed,
    encode_room_header,
    encode_segment_header,
)
from edge.segment.name import SegmentName, State
from edge.spool.spare import Spare, discard

_RUN_BYTES: Final = 1024 * 1024
"""Written at once. A frame that came in pieces is not put together: it may be as large as a body."""


class LeftOpen(OSError):
    """A segment could not be begun, nor what was made of it be deleted: `delete_unbegun` is to be called until it succeeds."""


class OpenSegment:
    """Raises `OSError` from every method; the caller then calls `abandon`, and while it is `left_open` `set_aside`.

    `LeftOpen` when there is a file for a segment that there is not.

    A `spare` is written into, and what of it is left is cut off at the end. Behind it the file grows.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        name: SegmentName,
        slot: int,
        created_us: int,
        spare: Spare | None = None,
    ) -> None:
        self.name = name
        self._disk = disk
        self._directory = directory
        self._sequence = 0
        self._previous_bytes = 0
        self._dropped = self._dropped_next = 0
        """Where `drop_behind` went to, and where it goes to when it is called again."""
        self._sync_failed = False
        self._cut_failed = False
        self._closed = False
        self._state = State.OPEN
        self._fd = disk.create(self._path(State.OPEN)) if spare is None else self._use(spare)
        self.room = 0 if spare is None else spare.size
        """What the file had, or has, without growing."""
        self.size = SEGMENT_HEADER_BYTES
        """Bytes of whole commits."""
        try:
            self._write([encode_segment_header(name, slot, created_us)], 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                disk.close(self._fd)
            try:
                delete_unbegun(disk, directory, name)
            except OSError:
                raise LeftOpen(*error.args) from error
            raise

    def append(self, frames: list[Packed]) -> int:
        """Write the frames; the bytes written. After an error the file is cut back to the last whole commit."""
        pieces: list[bytes | memoryview] = []
        previous = self._previous_bytes
        for sequence, packed in enumerate(frames, self._sequence):
            pieces.append(packed.header(sequence, previous, self.name.incarnation))
            pieces += packed.pieces
            previous = FRAME_HEADER_BYTES + packed.frame_bytes
        try:
            size = self._write(pieces, self.size)
        except OSError:
            self._cut_failed = True
            self._disk.truncate(self._fd, self.size)
            self._cut_failed = False
            raise
        self.size += size
        self._sequence += len(frames)
        self._previous_bytes = previous
        return size

    @property
    def outgrown(self) -> bool:
        """It had room and has none left."""
        return 0 < self.room <= self.size

    def sync(self) -> None:
        """Everything appended is on stable storage when this returns. Once it has failed it fails for ever."""
        if self._sync_failed:
            raise OSError(errno.EIO, "an earlier sync of this segment failed, and no second one is tried")
        try:
            self._disk.sync(self._fd)
        except OSError:
            self._sync_failed = True
            # At once: until the name says so, a successor could take what only the page cache holds for stable.
            self._try_to_set_aside()
            raise

    def drop_behind(self) -> None:
        """What had been appended at the last call, and was synced since, leaves the page cache.

        Whoever ships it has read it by now or is far behind, and new pages cost more than those that become free.
        """
        size = self._dropped_next - self._dropped
        if size:
            self._disk.drop_cached(self._fd, self._dropped, size)
        self._dropped, self._dropped_next = self._dropped_next, self.size

    def sync_creation(self) -> None:
        """The file's name is on stable storage when this returns."""
        self._disk.sync_directory(self._directory)

    def seal(self) -> None:
        """Sync, then say by the name that the segment is finished."""
        self._finish(State.SEALED)

    def abandon(self) -> None:
        """Finish a segment that had an error: sealed if it still can be, else set aside under the `.suspect` name.

        Raises `OSError` when what was appended may not be on stable storage.
        """
        if self._closed:
            return
        try:
            # What could not be cut off is for recovery to cut: a sealed segment ends in a whole frame.
            self._finish(State.SUSPECT if self._cut_failed else State.SEALED)
        except OSError:
            self._try_to_set_aside()
            self._close()
            raise

    @property
    def left_open(self) -> bool:
        """Nothing is written to it any more, and its name does not say so: readers wait there for ever."""
        return self._closed and self._state is State.OPEN

    def set_aside(self) -> None:
        """Say by the name that it is finished, after an error."""
        if self._state is State.OPEN:
            set_aside(self._disk, self._directory, self.name)
            self._state = State.SUSPECT

    def _use(self, spare: Spare) -> int:
        try:
            self._disk.rename(spare.path, self._path(State.OPEN))
        except OSError:
            discard(self._disk, spare)
            raise
        return spare.fd

    def _write(self, pieces: list[bytes | memoryview], offset: int) -> int:
        """The bytes written, those that describe the room behind them left out."""
        size = sum(map(len, pieces))
        left = self.room - offset - size
        if left >= ROOM_HEADER_BYTES:
            # Before every commit and behind it the file is a whole one to zstd tools.
            pieces.append(encode_room_header(left))
        if size <= _RUN_BYTES:
            write_all(self._disk, self._fd, b"".join(pieces), offset)
        else:
            at = offset
            for run in _runs(pieces):
                write_all(self._disk, self._fd, run, at)
                at += len(run)
        if 0 < left < ROOM_HEADER_BYTES:
            self._disk.truncate(self._fd, offset + size)
        return size

    def _finish(self, state: State) -> None:
        if self.room > self.size and not self._cut_failed:
            self._disk.truncate(self._fd, self.size)
        self.sync()
        self._rename(state)
        self._disk.sync_directory(self._directory)
        self._close()

    def _try_to_set_aside(self) -> None:
        # If this fails the name stays `.open`, and it is `left_open` in the end.
        with contextlib.suppress(OSError):
            self.set_aside()

    def _rename(self, state: State) -> None:
        self._disk.rename(self._path(self._state), self._path(state))
        self._state = state

    def _close(self) -> None:
        self._closed = True
        self._disk.close(self._fd)

    def _path(self, state: State) -> str:
        return f"{self._directory}/{self.name.file_name(state)}"


def set_aside(disk: Disk, directory: str, name: SegmentName) -> None:
    """Say by the name of a segment left open that nothing is written to it. Raises `OSError`."""
    # A rename that failed may have been made.
    with contextlib.suppress(FileNotFoundError):
        disk.rename(f"{directory}/{name.file_name(State.OPEN)}", f"{directory}/{name.file_name(State.SUSPECT)}")


def delete_unbegun(disk: Disk, directory: str, name: SegmentName) -> None:
    """Delete the file of a segment whose header could not be written, if it is there. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(f"{directory}/{name.file_name(State.OPEN)}")


def _runs(pieces: list[bytes | memoryview]) -> Iterator[bytes]:
    """The pieces, put together as far as is cheap."""
    run: list[bytes | memoryview] = []
    run_bytes = 0
    for piece in pieces:
        run.append(piece)
        run_bytes += len(piece)
        if run_bytes >= _RUN_BYTES:
            yield b"".join(run)
            run, run_bytes = [], 0
    if run:
        yield b"".join(run)
