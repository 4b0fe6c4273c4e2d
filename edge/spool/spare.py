"""Room made beforehand: a file of zeroes beside the segments, which the next one is written into.

A sync behind an append has more to write than the data: the file's new size and the blocks it was given, in another place of
the disk. Now and then that takes milliseconds, for which everybody waits. What is written over a block that is there already
goes to stable storage by itself.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, Protocol

import msgspec

from edge.disk import Disk, write_all
from edge.layout import SPARE_NAME
from edge.process import refuse_signals

log = logging.getLogger(__name__)

ROOM_BYTES_MIN: Final = 1024 * 1024
"""Of the first segment, and of one after little traffic; less is not made."""
_GROWTH: Final = 4
"""Times the room of a segment that was filled is the next one's."""
_BYTES_PER_S_MAX: Final = 16 * 1024 * 1024
"""What comes faster, for a second at least, comes in large groups, whose syncs take long in any case: no zeroes for that."""
_SHARE_OF_DISK: Final = 64
"""One of so many parts of what the disk has left is the most."""
_PIECE_BYTES: Final = 256 * 1024
_REST: Final = 4.0
"""Times as long as a piece took nothing is written, so that commits find the disk free."""


class Spare(msgspec.Struct, frozen=True):
    """`size` zeroes on stable storage, open for writing."""

    path: str
    fd: int
    size: int


class Spares(Protocol):
    """Where a writer has its room from."""

    @property
    def ready(self) -> bool: ...

    def want(self, size: int) -> None:
        """One of so many bytes is to be made, unless one is ready or being made. Returns at once."""
        ...

    def take(self) -> Spare | None: ...

    def close(self) -> None:
        """Nothing is left behind."""
        ...


def next_room(used: int, age_s: float, room: int, most: int) -> int:
    """Bytes for a segment after one with `room` or without, which became `used` bytes large in `age_s`; at most `most`."""
    if used > _BYTES_PER_S_MAX * max(age_s, 1.0):
        return 0
    wanted = _GROWTH * room if 0 < room <= used else 2 * used
    return min(most, max(ROOM_BYTES_MIN, wanted))


def make_spare(disk: Disk, directory: str, size: int, pause: Callable[[float], bool]) -> Spare | None:
    """`None` when `pause`, which is told for how many seconds, says to stop; raises `OSError`. Nothing is left behind then."""
    path = f"{directory}/{SPARE_NAME}"
    fd = disk.create(path)
    spare = Spare(path, fd, size)
    took_s = 0.0
    try:
        for offset in range(0, size, _PIECE_BYTES):
            if offset and pause(_REST * took_s):
                discard(disk, spare)
                return None
            started = time.monotonic()
            write_all(disk, fd, bytes(min(_PIECE_BYTES, size - offset)), offset)
            disk.sync(fd)
            took_s = time.monotonic() - started
    except OSError:
        discard(disk, spare)
        raise
    return spare


def discard(disk: Disk, spare: Spare) -> None:
    """Close and delete it. A file that cannot be deleted is deleted by the next recovery of the slot."""
    with contextlib.suppress(OSError):
        disk.close(spare.fd)
    with contextlib.suppress(OSError):
        disk.unlink(spare.path)


class SpareMaker:
    """`Spares` of one slot, made one at a time in a thread."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._making = False
        self._spare: Spare | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-spare", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        return self._spare is not None

    def want(self, size: int) -> None:
        if not (self._making or self.ready):
            self._making = True
            self._wanted.put(size)

    def take(self) -> Spare | None:
        spare, self._spare = self._spare, None
        return spare

    def close(self) -> None:
        self._stop.set()
        self._wanted.put(0)
        self._thread.join()
        if (spare := self.take()) is not None:
            discard(self._disk, spare)

    def _run(self) -> None:
        refuse_signals()
        while not self._stop.is_set():
            size = self._wanted.get()
            try:
                size = min(size, self._disk.room(self._directory)[0] // _SHARE_OF_DISK)
                if size >= ROOM_BYTES_MIN:
                    self._spare = make_spare(self._disk, self._directory, size, self._stop.wait)
            except OSError as error:
                log.warning("no room of %d bytes could be made for the next segment: %s", size, error)
            self._making = False
