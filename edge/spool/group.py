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


class PackedRecord(msgspec.Struct, gc=False):
    """A record that was compressed elsewhere, with who waits for it."""

    pieces: list[memoryview]
    """The zstd frame, as it arrived."""
    frame_bytes: int
    raw_bytes: int
    events: int
    received_us: int
    waiter: Waiter
    place: int = 0
    """Behind how many of its group's `lines` it comes."""

    def packed(self) -> Packed:
        return Packed(self.pieces, self.frame_bytes, 1, self.events, self.raw_bytes, self.received_us)


class Group(msgspec.Struct, gc=False):
    """What was appended, in that order; the sequences run in parallel, those of `packed` behind those of `lines`."""

    lines: Sequence[bytes] = ()
    records: Sequence[int] = ()
    events: Sequence[int] = ()
    received_us: Sequence[int] = ()
    waiters: Sequence[Waiter] = ()
    raw_bytes: int = 0
    """Length of all lines, and of the frames that came packed."""
    all_records: int = 0
    all_events: int = 0
    packed: Sequence[PackedRecord] = ()

    @classmethod
    def of(cls, pending: Sequence[Pending], packed: Sequence[PackedRecord] = ()) -> "Group":
        """What was appended, as one group."""
        if packed:
            group = cls.of(pending)
            return cls(
                group.lines,
                (*group.records, *(1 for _ in packed)),
                (*group.events, *(record.events for record in packed)),
                (*group.received_us, *(record.received_us for record in packed)),
                (*group.waiters, *(record.waiter for record in packed)),
                group.raw_bytes + sum(record.frame_bytes for record in packed),
                group.all_records + len(packed),
                group.all_events + sum(record.events for record in packed),
                packed,
            )
        if not pending:
            return cls()
        lines, records, events, received_us, waiters = zip(*pending, strict=True)
        return cls(lines, records, events, received_us, waiters, sum(map(len, lines)), sum(records), sum(events))

    def pack(self, compressor: Compressor) -> list[Packed]:
        """The group as frames: one, unless it is large. What is above the limit by itself is a frame of its own."""
        if self.packed:
            return self._pack_in_order(compressor)
        if self.raw_bytes <= FRAME_RAW_BYTES_MAX and self.all_records <= FRAME_RECORDS_MAX:
            return [compressor.pack(b"".join(self.lines), self.all_records, self.all_events, min(self.received_us))]
        return [
            compressor.pack(
                b"".join(self.lines[start:end]),
                sum(self.records[start:end]),
                sum(self.events[start:end]),
                min(self.received_us[start:end]),
            )
            for start, end in self._cuts()
        ]

    def _pack_in_order(self, compressor: Compressor) -> list[Packed]:
        frames: list[Packed] = []
        begin = 0
        for record in self.packed:
            frames += self._pack_lines(begin, record.place, compressor)
            frames.append(record.packed())
            begin = record.place
        return frames + self._pack_lines(begin, len(self.lines), compressor)

    def _pack_lines(self, begin: int, end: int, compressor: Compressor) -> list[Packed]:
        if begin == end:
            return []
        lines, records, events = self.lines[begin:end], self.records[begin:end], self.events[begin:end]
        part = Group(
            *(lines, records, events, self.received_us[begin:end], ()),
            *(sum(map(len, lines)), sum(records), sum(events)),
        )
        return part.pack(compressor)

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
