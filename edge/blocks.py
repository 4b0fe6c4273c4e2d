"""Memory for what is large and arrives bit by bit, in blocks that the system gets back a few at a time.

malloc keeps what is freed until it is much, and then gives back all of it at once: 64 MiB take the system 3 to 7 ms, in which
the loop stands still. A block is a mapping of its own, and takes a sixtieth of that; those of a body that is let go wait for
their turn.
"""

import mmap
from collections import deque
from typing import Final

BLOCK_BYTES: Final = 1024 * 1024

_AT_ONCE: Final = 8
"""Blocks given back at a tick."""
_FOR_A_NEW_ONE: Final = 2
"""And before another is made, so that never more wait than were in use at once."""


class _Block(mmap.mmap):
    """Given back the second time that nobody has it: whoever lets go of it first only puts it among those that wait."""

    def __del__(self) -> None:
        # Called once for an object, and from whatever thread had it last.
        _waiting.append(self)


_waiting: Final[deque[_Block]] = deque()


def give_back(most: int = _AT_ONCE) -> None:
    """So many of the blocks that nobody has, to the system. To be called a few times a second."""
    for _ in range(min(most, len(_waiting))):
        _waiting.popleft()


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

    def append(self, data: bytes) -> None:
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
        """All of them. A block is held for as long as there is a view of it."""
        return [*self._whole, self._last[: self._used]] if self._used else []


def _memory(expected: int) -> memoryview:
    if 0 < expected < BLOCK_BYTES:
        return memoryview(bytearray(expected))
    give_back(_FOR_A_NEW_ONE)
    # All pages at once: one by one, as they are written to, takes twice as long.
    return memoryview(_Block(-1, BLOCK_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
