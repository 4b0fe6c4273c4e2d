"""One sink's way through the spool: read, expand, ship, and only then checkpoint.

The order is what makes it at least once: the checkpoint never passes a batch the sink has not confirmed. A refused batch is
offered again for as long as it takes; nothing else of the sink's moves meanwhile, so order is kept.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from edge.checkpoints import Checkpoint, CheckpointFile, Position
from edge.disk import Disk
from edge.drain.backoff import delay_s
from edge.drain.expand import expand
from edge.drain.reader import Chunk, SlotReader
from edge.drain.sink import Batch, Retryable, Sink
from edge.layout import Layout
from edge.metrics import Row
from edge.segment.record import decode_record

log = logging.getLogger(__name__)

CHECKPOINT_S: Final = 1.0
CHECKPOINT_BYTES: Final = 8 * 1024 * 1024


class Shipper:
    """Called by one thread. `clock` is monotonic, seconds."""

    def __init__(
        self,
        disk: Disk,
        layout: Layout,
        sink_id: str,
        sink_label: str,
        sink: Sink,
        row: Row,
        sink_index: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink_id = sink_id
        self.failures = 0
        """Attempts in a row that the sink refused."""
        self._disk = disk
        self._layout = layout
        self._sink = sink
        self._row = row
        self._index = str(sink_index)
        self._counts_drops = sink_index == 0
        self._clock = clock
        self._file = CheckpointFile(disk, str(layout.checkpoints), sink_id)
        self._checkpoint = self._file.load() or Checkpoint(sink_label)
        self._checkpoint.sink = sink_label
        self.durable: dict[int, Position] = dict(self._checkpoint.slots)
        """The positions on stable storage: what is before them may be deleted."""
        self._dirty_since_s: float | None = None
        self._dirty_bytes = 0
        self._readers: dict[int, SlotReader] = {}
        self._shipped_s: dict[int, float] = {}
        self._refused: tuple[Batch, Chunk, dict[str, int]] | None = None
        self._not_before_s = 0.0

    def step(self) -> bool:
        """Ship what is there, one batch a slot at the most. Whether anything was shipped or is still refused.

        Raises `SinkGone`, and `OSError` when the spool or the checkpoint cannot be read or written.
        """
        now = self._clock()
        if self._refused is not None:
            if now < self._not_before_s:
                return True
            moved = self._offer(*self._refused)
        else:
            moved = False
            for reader in self._slots():
                if now - self._shipped_s.get(reader.slot, float("-inf")) < self._sink.linger_s:
                    continue
                moved = self._next(reader) or moved
                if self._refused is not None:
                    break
        if self._dirty_since_s is not None and (
            self._clock() - self._dirty_since_s >= CHECKPOINT_S or self._dirty_bytes >= CHECKPOINT_BYTES
        ):
            self.save()
        return moved

    def save(self) -> None:
        """Make the positions durable. Raises `OSError`."""
        if self._dirty_since_s is None:
            return
        slots = dict(self._checkpoint.slots)
        self._file.save(self._checkpoint)
        self.durable = slots
        self._dirty_since_s = None
        self._dirty_bytes = 0

    @property
    def lingering(self) -> bool:
        """There may be records that wait for the sink's linger to pass."""
        return any(self._clock() - at < self._sink.linger_s for at in self._shipped_s.values())

    def position(self, slot: int) -> Position | None:
        """Everything before it was confirmed."""
        return self._checkpoint.slots.get(slot)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._sink.close()

    def _slots(self) -> list[SlotReader]:
        """A reader for every slot there is, those that appeared since the last time included."""
        for slot in self._layout.slots():
            if slot not in self._readers:
                position = self._checkpoint.slots.get(slot)
                self._readers[slot] = SlotReader(
                    self._disk, str(self._layout.slot(slot)), slot, position, self._sink.read_bytes
                )
        return list(self._readers.values())

    def _next(self, reader: SlotReader) -> bool:
        begins = reader.peek()
        if begins is None:
            return False
        chunk = reader.read(self._sink.already(reader.slot, *begins))
        if chunk is None:
            return False
        events = []
        dropped: dict[str, int] = {}
        for line in chunk.lines:
            try:
                expansion = expand(decode_record(line))
            except ValueError as error:
                # The frame's checksum was right, so a writer of another version, or a fault of ours, made the record.
                log.error("segment %s: a record between %d and %d: %s", chunk.name, chunk.start, chunk.end, error)
                dropped["unreadable"] = dropped.get("unreadable", 0) + 1
                continue
            events += expansion.events
            for reason, count in expansion.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        return self._offer(Batch(chunk.slot, chunk.name, chunk.start, chunk.end, events), chunk, dropped)

    def _offer(self, batch: Batch, chunk: Chunk, dropped: dict[str, int]) -> bool:
        try:
            size = self._sink.ship(batch)
        except Retryable as refusal:
            self.failures += 1
            wait = delay_s(self.failures, random.random(), refusal.retry_after_s)
            self._not_before_s = self._clock() + wait
            self._refused = batch, chunk, dropped
            self._row.add("edge_drain_retries_total", 1, self._index)
            log.warning("sink %s, attempt %d, again in %.1f s: %s", self.sink_id, self.failures, wait, refusal)
            return True
        self.failures = 0
        self._refused = None
        self._confirmed(batch, chunk, dropped, size)
        return True

    def _confirmed(self, batch: Batch, chunk: Chunk, dropped: dict[str, int], size: int) -> None:
        now = self._clock()
        totals = self._checkpoint.totals
        totals.records += len(chunk.lines)
        totals.shipped += len(batch.events)
        totals.bytes += size
        totals.damaged_bytes += chunk.damaged_bytes
        for reason, count in dropped.items():
            totals.dropped[reason] = totals.dropped.get(reason, 0) + count
        self._checkpoint.slots[batch.slot] = Position(str(batch.name), batch.end)
        if self._dirty_since_s is None:
            self._dirty_since_s = now
        self._dirty_bytes += batch.end - batch.start
        if size:
            # What needed no shipping, having been shipped before or holding no event, need not be gathered either.
            self._shipped_s[batch.slot] = now
        self._count(batch, chunk, dropped, size)

    def _count(self, batch: Batch, chunk: Chunk, dropped: dict[str, int], size: int) -> None:
        row = self._row
        row.add("edge_drain_events_total", len(batch.events), self._index, "shipped")
        row.add("edge_drain_records_total", len(chunk.lines), self._index)
        row.add("edge_drain_bytes_total", size, self._index)
        row.set("edge_last_shipped_timestamp_seconds", time.time_ns() // 1000, self._index)
        if dropped:
            row.add("edge_drain_events_total", sum(dropped.values()), self._index, "dropped")
        if self._counts_drops:
            # What is dropped is the same for every sink, and counted once.
            row.add("edge_damaged_bytes_total", chunk.damaged_bytes)
            for reason, count in dropped.items():
                row.add("capture_events_dropped_total", count, reason)
