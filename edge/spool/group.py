"""Requests that are committed together, with whoever waits for that."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edge.segment.frame import FRAME_RAW_BYTES_MAX, FRAME_RECORDS_MAX, Compressor, Packed


class Waiter(Protocol):
    """The requests whose answers depend on a commit. Called on the event loop, exactly one of the two, once."""

    def stored(self) -> None:
        """The record is as safe as the durability mode says."""
        ...

    def not_stored(self) -> None:
        """The record could not be stored, or may not have been; the client must send again."""
        ...


Pending = tuple[bytes, int, int, int, Waiter]
"""What was appended at once: lines, how many there are, how many events are in them, when they were received, who waits."""


class Group(msgspec.Struct, gc=False):
    """What was appended, in that order; the sequences run in parallel."""

    lines: Sequence[bytes] = ()
    records: Sequence[int] = ()
    events: Sequence[int] = ()
    received_us: Sequence[int] = ()
    waiters: Sequence[Waiter] = ()
    raw_bytes: int = 0
    """Length of all lines."""

    @classmethod
    def of(cls, pending: Sequence[Pending]) -> "Group":
        """What was appended, as one group."""
        if not pending:
            return cls()
        lines, records, events, received_us, waiters = zip(*pending, strict=True)
        return cls(lines, records, events, received_us, waiters, sum(map(len, lines)))

    def pack(self, compressor: Compressor) -> list[Packed]:
        """The group as frames: one, unless it is large. What is above the limit by itself is a frame of its own."""
        if self.raw_bytes <= FRAME_RAW_BYTES_MAX and sum(self.records) <= FRAME_RECORDS_MAX:
            cuts = [(0, len(self.lines))]
        else:
            cuts = self._cuts()
        return [
            compressor.pack(
                b"".join(self.lines[start:end]),
                sum(self.records[start:end]),
                sum(self.events[start:end]),
                min(self.received_us[start:end]),
            )
            for start, end in cuts
        ]

    def _cuts(self) -> list[tuple[int, int]]:
        cuts = []
        start = size = records = 0
        for index, (line, count) in enumerate(zip(self.lines, self.records, strict=True)):
            if index > start and (size + len(line) > FRAME_RAW_BYTES_MAX or records + count > FRAME_RECORDS_MAX):
                cuts.append((start, index))
                start, size, records = index, 0, 0
            size += len(line)
            records += count
        cuts.append((start, len(self.lines)))
        return cuts
