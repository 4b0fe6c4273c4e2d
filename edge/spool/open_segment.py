"""One segment while it is written: created, appended to, synced, sealed. Used by one thread at a time.

After an error the file is never appended to again, and a descriptor whose sync failed is never synced again: what such a sync
left in the page cache is unknown.
"""

import contextlib
import errno

from edge.disk import Disk, write_all
from edge.segment.frame import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, Packed, encode_segment_header
from edge.segment.name import SegmentName, State


class OpenSegment:
    """Raises `OSError` from every method; the caller then calls `abandon`."""

    def __init__(self, disk: Disk, directory: str, name: SegmentName, slot: int, created_us: int) -> None:
        self.name = name
        self._disk = disk
        self._directory = directory
        self._sequence = 0
        self._previous_bytes = 0
        self._sync_failed = False
        self._cut_failed = False
        self._closed = False
        self._state = State.OPEN
        self._fd = disk.create(self._path(State.OPEN))
        self.size = SEGMENT_HEADER_BYTES
        """Bytes of whole commits."""
        try:
            write_all(disk, self._fd, encode_segment_header(name, slot, created_us), 0)
        except OSError:
            disk.close(self._fd)
            disk.unlink(self._path(State.OPEN))
            raise

    def append(self, frames: list[Packed]) -> int:
        """Write the frames; the bytes written. After an error the file is cut back to the last whole commit."""
        pieces: list[bytes] = []
        previous = self._previous_bytes
        for sequence, packed in enumerate(frames, self._sequence):
            pieces += packed.header(sequence, previous, self.name.incarnation), packed.frame
            previous = FRAME_HEADER_BYTES + len(packed.frame)
        data = b"".join(pieces)
        try:
            write_all(self._disk, self._fd, data, self.size)
        except OSError:
            self._cut_failed = True
            self._disk.truncate(self._fd, self.size)
            self._cut_failed = False
            raise
        self.size += len(data)
        self._sequence += len(frames)
        self._previous_bytes = previous
        return len(data)

    def sync(self) -> None:
        """Everything appended is on stable storage when this returns. Once it has failed it fails for ever."""
        if self._sync_failed:
            raise OSError(errno.EIO, "an earlier sync of this segment failed, and no second one is tried")
        try:
            self._disk.sync(self._fd)
        except OSError:
            self._sync_failed = True
            # At once: until the name says so, a successor could take what only the page cache holds for stable.
            self._set_aside()
            raise

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
            self._set_aside()
            self._close()
            raise

    def _finish(self, state: State) -> None:
        self.sync()
        self._rename(state)
        self._disk.sync_directory(self._directory)
        self._close()

    def _set_aside(self) -> None:
        # If this fails the name stays `.open`; recovery at the next start finds it under either.
        if self._state is State.OPEN:
            with contextlib.suppress(OSError):
                self._rename(State.SUSPECT)

    def _rename(self, state: State) -> None:
        self._disk.rename(self._path(self._state), self._path(state))
        self._state = state

    def _close(self) -> None:
        self._closed = True
        self._disk.close(self._fd)

    def _path(self, state: State) -> str:
        return f"{self._directory}/{self.name.file_name(state)}"
