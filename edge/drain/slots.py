"""Which slots a drainer ships: those of its share, each locked for it, so that a slot is shipped by one drainer whatever the
number of drainers is or was.

    DATA/ckpt/.lock            held by the only drainer, or the first of several
    DATA/ckpt/.lock-1          by the second, and so on
    DATA/ckpt/.lock-slot-00    by whoever ships the slot
"""

import os
import threading
import time
from pathlib import Path
from typing import Final

from edge.disk import Disk
from edge.layout import LOCK_NAME, Layout
from edge.notation import Share
from edge.process import lock_holder

LOCK_WAIT_S: Final = 10.0


class InUse(Exception):
    """Another drainer ships this share of the data folder, or a slot of it."""


def share_lock(layout: Layout, index: int) -> str:
    """The path of the lock of the drainer with this place among several."""
    return str(layout.checkpoints / (f"{LOCK_NAME}-{index}" if index else LOCK_NAME))


class ClaimedSlots:
    """The slots of one share. Used by several threads. Raises `InUse`, `OSError`; a predecessor is waited for at first."""

    def __init__(self, disk: Disk, layout: Layout, share: Share) -> None:
        self._disk = disk
        self._layout = layout
        self._share = share
        self._mutex = threading.Lock()
        self._locks: dict[int, int] = {}
        self._share_lock = self._lock(share_lock(layout, share.index), LOCK_WAIT_S)
        try:
            self._claim(LOCK_WAIT_S)
        except (InUse, OSError):
            self.release()
            raise

    def __call__(self) -> list[int]:
        """All there are, lowest first; new ones are claimed."""
        with self._mutex:
            self._claim(0.0)
            return sorted(self._locks)

    def release(self) -> None:
        for lock in (self._share_lock, *self._locks.values()):
            os.close(lock)
        self._locks.clear()

    def _claim(self, wait_s: float) -> None:
        for slot in self._layout.slots():
            if slot % self._share.count == self._share.index and slot not in self._locks:
                name = f"{LOCK_NAME}-{self._layout.slot(slot).name}"
                self._locks[slot] = self._lock(str(self._layout.checkpoints / name), wait_s)

    def _lock(self, path: str, wait_s: float) -> int:
        deadline = time.monotonic() + wait_s
        while (lock := self._disk.lock(path)) is None:
            if time.monotonic() >= deadline:
                raise InUse(f"another drainer, {lock_holder(Path(path))}, holds {path}")
            time.sleep(0.05)
        return lock
