"""Requests that are committed together, with whoever waits for that."""

from collections.abc import Iterator
from typing import Protocol

import msgspec


class Waiter(Protocol):
    """A request whose answer depends on its commit. Called on the event loop, exactly one of the two, once."""

    def stored(self) -> None:
        """The record is as safe as the durability mode says."""
        ...

    def not_stored(self) -> None:
        """The record could not be stored, or may not have been; the client must send again."""
        ...


class Group(msgspec.Struct, gc=False):
    """Records in arrival order; the lists run in parallel."""

    lines: list[bytes] = []
    events: list[int] = []
    received_us: list[int] = []
    waiters: list[Waiter] = []
    raw_bytes: int = 0

    @property
    def oldest_us(self) -> int:
        return min(self.received_us)

    def parts(self, raw_bytes_max: int, records_max: int) -> Iterator["Group"]:
        """The group cut into frames: a record larger than `raw_bytes_max` is a part of its own."""
        if self.raw_bytes <= raw_bytes_max and len(self.lines) <= records_max:
            yield self
            return
        part = Group()
        for line, events, received_us in zip(self.lines, self.events, self.received_us, strict=True):
            if part.lines and (part.raw_bytes + len(line) > raw_bytes_max or len(part.lines) == records_max):
                yield part
                part = Group()
            part.lines.append(line)
            part.events.append(events)
            part.received_us.append(received_us)
            part.raw_bytes += len(line)
        yield part
