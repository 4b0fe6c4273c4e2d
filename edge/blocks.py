"""Memory for what is large and arrives bit by bit, in blocks that the system gets back one at a time.

malloc keeps what is freed until it is much, and then gives back all of it at once: 64 MiB take the system 3 to 7 ms, in which
the loop stands still. A block is a mapping of its own, and takes a sixtieth of that.
"""

import asyncio
import mmap
from collections.abc import Sequence
from typing import Final

BLOCK_BYTES: Final = 1024 * 1024


class Blocks:
    """The bytes that were put in, in order."""

    __slots__ = ("_expected", "_last", "_used", "_whole", "size")

    def __init__(self, expected: int = 0) -> None:
        """`expected`: bytes to come, if that is known, so that there is no room for more."""
        self._expected = expected
        self._whole: list[memoryview] = []
        self._last = memoryview(b"")
        self._used = 0
        """Of the last one, bytes."""
        self.size = 0

    def append(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        while rest:
            room = self.room()
            size = min(len(room), len(rest))
            room[:size] = rest[:size]
            self.took(size)
            rest = rest[size:]

    def room(self) -> memoryview:
        """Where the next bytes go, one at least; `took` is told how many did."""
        if self._used == len(self._last):
            if self._used:
                self._whole.append(self._last)
            self._last = _memory(self._expected - self.size)
            self._used = 0
        return self._last[self._used :]

    def took(self, size: int) -> None:
        self._used += size
        self.size += size

    def views(self) -> list[memoryview]:
        """All of them. A block goes back to the system when the last view of it is gone."""
        return [*self._whole, self._last[: self._used]] if self._used else []


def _memory(expected: int) -> memoryview:
    if 0 < expected < BLOCK_BYTES:
        return memoryview(bytearray(expected))
    # All pages at once: one by one, as they are written to, takes twice as long.
    return memoryview(mmap.mmap(-1, BLOCK_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))


def let_go(pieces: Sequence[object]) -> None:
    """Of one in each turn of the loop. The caller keeps none of them."""
    if pieces:
        asyncio.get_running_loop().call_soon(let_go, pieces[:-1])
