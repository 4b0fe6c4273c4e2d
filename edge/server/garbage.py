"""When a worker's garbage is collected: often and a little at a time, and never all of it while that would hold the loop.

Nearly all that a worker has lives as long as a connection does, and goes when its last reference does. A full collection looks
at all of it, which with ten thousand connections open takes some fifty milliseconds, and finds next to nothing. So what has
survived a young collection is set aside a few times a second (`gc.freeze`), where no collection looks. Cycles among what was
set aside are garbage that stays: only when clearly more memory is in use than connections account for, everything is looked at
once.
"""

import gc
import sys
import time
from typing import Final

from edge.metrics import Histogram, Row

_NEVER: Final = 1_000_000
"""Collections of the middle generation before one of the oldest."""
BLOCKS_OF_A_CONNECTION: Final = 64
"""More than one has, its requests included: some sixteen."""
UNACCOUNTED_MAX: Final = 1_000_000
"""Blocks in use that no connection accounts for: some hundred megabytes at the most."""
LOOK_S: Final = 10.0
"""How often they are counted: a tenth of a millisecond with ten thousand connections, as it goes from pool to pool. To count
what was set aside (`gc.get_freeze_count`) goes from object to object, and held the loop for eight."""


class Garbage:
    """Of this process: make one when everything is loaded."""

    def __init__(self, row: Row) -> None:
        self._pauses = Histogram(row, "edge_gc_pause_seconds")
        self._began_ns = 0
        self._looked_s = 0.0
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, _NEVER)
        self._loaded = self._collect_all()
        # From here on there is a loop to hold.
        gc.callbacks.append(self._on_collection)

    def tick(self, now_s: float, connections: int) -> None:
        """A few times a second. `now_s` is the monotonic clock."""
        self._pauses.fold()
        if gc.get_count()[2]:
            gc.freeze()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            accounted = self._loaded + connections * BLOCKS_OF_A_CONNECTION
            if sys.getallocatedblocks() > accounted + UNACCOUNTED_MAX:
                self._loaded = self._collect_all() - connections * BLOCKS_OF_A_CONNECTION

    def close(self) -> None:
        """Back to how Python does it."""
        gc.callbacks.remove(self._on_collection)
        gc.unfreeze()

    def _collect_all(self) -> int:
        """The number of objects that are left."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return sys.getallocatedblocks()

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began_ns = time.perf_counter_ns()
        else:
            self._pauses.observe((time.perf_counter_ns() - self._began_ns) // 1000)
