"""One sink's way through the spool: read, expand, deliver, set aside what is refused for good, and only then checkpoint.

The order is what makes it at least once: the checkpoint never passes an event that the sink has not confirmed and that is not
in quarantine, on stable storage. What is refused for now is offered again for as long as it takes; nothing else of the sink's
moves meanwhile, so order is kept.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import xxhash

from edge.checkpoints import Checkpoint, CheckpointFile, Position, Trouble, load_all
from edge.disk import Disk, write_durably
from edge.drain.backoff import OUTAGE_S, delay_s, pause_s, ramp_s
from edge.drain.breaker import Breaker
from edge.drain.delivery import Delivery, Tripped
from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.quarantine import Quarantine, describe, file_name
from edge.drain.reader import RAW_BYTES_MAX, Chunk, SlotReader
from edge.drain.sink import Paused, Retryable, Sink
from edge.layout import Layout
from edge.metrics import Row
from edge.segment.record import Record, decode_record, decode_records
from edge.spool.inspect import count_events, finished_segment, summarise
from edge.wire.drops import DROP_REASONS

log = logging.getLogger(__name__)

CHECKPOINT_S: Final = 1.0
REST_S: Final = 1.0
"""Of a slot that the disk refuses to read, before it is read again."""
CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
EXTEND_EVENTS_MAX: Final = 5000
"""A delivery in which everything is refused grows to this or `RAW_BYTES_MAX` of records, so that there is something to compare
with."""


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
        *,
        drainer: int = 0,
        slots: Callable[[], list[int]] | None = None,
    ) -> None:
        """`drainer`: which of several; `slots` tells those it has, all there are by default."""
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
        self._slots_now = slots or layout.slots
        self._file = CheckpointFile(disk, str(layout.checkpoints), sink_id, drainer)
        self._checkpoint = self._file.load() or Checkpoint(sink_label)
        self._checkpoint.sink = sink_label
        self._quarantine = Quarantine(disk, str(layout.quarantine / sink_id))
        self.durable: dict[int, Position] = dict(self._checkpoint.slots)
        """The positions on stable storage: what is before them may be deleted."""
        self._dirty_since_s: float | None = None
        self._dirty_bytes = 0
        self._readers: dict[int, SlotReader] = {}
        self._shipped_s: dict[int, float] = {}
        self._checked: dict[int, str] = {}
        """The segment of each slot that was compared last."""
        self._last_slot = -1
        self._rests_until_s: dict[int, float] = {}
        """Slots that the disk refused to read a moment ago."""
        self._breaker = Breaker()
        self._delivery: _UnderWay | None = None
        self._looks_further = False
        """The next offer is made beside more of the slot, to tell the events' fault from the destination's."""
        self._refused_since_s: float | None = None
        self._recovered_s: float | None = None
        self._not_before_s = 0.0
        row.set("edge_sink_paused", _is_paused(self._checkpoint.trouble), self._index)
        totals = self._checkpoint.totals
        if totals.records and not totals.accepted:
            # Written by a version that did not count them.
            totals.accepted = -totals.imbalance
        # Below 0 by a version that took events a power cut had taken from a segment for events that were made up.
        totals.uncounted = max(0, totals.uncounted)
        self._balance()
        self._mended: dict[str, int] = {}
        """Events by field, confirmed since the positions were made durable."""
        self._count()

    def step(self, *, linger: bool = True) -> bool:
        """Ship what is there, one batch a slot at the most. Whether anything was shipped or is still refused.

        A slot that cannot be read rests for a moment, and holds up no other. Without `linger` nothing is waited for, neither
        that nor what would make a larger batch.

        Raises `SinkGone`; `OSError` when the quarantine or the checkpoint cannot be read or written, and without `linger` when
        a slot cannot be read and no other has anything.
        """
        now = self._clock()
        refused: OSError | None = None
        if self._delivery is not None or self._not_before_s > now:
            if now < self._not_before_s:
                self._save_if_due()
                return True
            moved = self._drive()
        else:
            moved = False
            for reader in self._slots():
                if linger and self._is_early(reader.slot, now):
                    continue
                try:
                    found = self._read(reader)
                except (Retryable, Paused) as refusal:
                    self._hold(refusal)
                    moved = True
                except OSError as error:
                    refused = error
                    self._rests_until_s[reader.slot] = now + REST_S
                else:
                    moved = self._begin(reader.slot, found) or moved
                if self._delivery is not None or self._not_before_s > now:
                    break
        self._save_if_due()
        if refused is not None:
            if not (linger or moved):
                raise refused
            log.error("sink %s: the spool cannot be read: %s", self.sink_id, refused)
        return moved

    def save(self) -> None:
        """Make the positions durable. Raises `OSError`."""
        if self._dirty_since_s is None:
            return
        for slot in self._readers.keys() & self._checkpoint.slots.keys():
            # Before the position is durable and the segment may be deleted.
            self._check_finished(slot, self._checkpoint.slots[slot])
        slots = dict(self._checkpoint.slots)
        self._file.save(self._checkpoint)
        self._count()
        self.durable = slots
        self._dirty_since_s = None
        self._dirty_bytes = 0

    @property
    def wait_s(self) -> float:
        """How long nothing is offered."""
        return max(0.0, self._not_before_s - self._clock())

    def position(self, slot: int) -> Position | None:
        """Everything before it was confirmed."""
        return self._checkpoint.slots.get(slot)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._sink.close()

    def _save_if_due(self) -> None:
        if self._dirty_since_s is not None and (
            self._clock() - self._dirty_since_s >= CHECKPOINT_S or self._dirty_bytes >= CHECKPOINT_BYTES
        ):
            self.save()

    def _slots(self) -> list[SlotReader]:
        """A reader for every slot there is, new ones included, beginning after the one that was served last."""
        for slot in self._slots_now():
            if slot not in self._readers:
                position = self._take_over(slot)
                directory = str(self._layout.slot(slot))
                self._readers[slot] = SlotReader(self._disk, directory, slot, position)
        slots = sorted(self._readers)
        slots = [slot for slot in slots if slot > self._last_slot] + [slot for slot in slots if slot <= self._last_slot]
        return [self._readers[slot] for slot in slots]

    def _take_over(self, slot: int) -> Position | None:
        """Where to begin: another drainer may have had the slot since this one's predecessors had it."""
        of_all = load_all(self._disk, str(self._layout.checkpoints)).get(self.sink_id, self._checkpoint)
        known = [each.slots[slot] for each in (self._checkpoint, of_all) if slot in each.slots]
        position = max(known, key=lambda position: position.place, default=None)
        if position is not None:
            self._checkpoint.slots[slot] = self.durable[slot] = position
        return position

    # --- one batch

    def _is_early(self, slot: int, now: float) -> bool:
        """A larger batch is waited for, or a disk that may read by then."""
        shipped_s = self._shipped_s.get(slot, float("-inf"))
        return now - shipped_s < self._sink.linger_s or now < self._rests_until_s.get(slot, 0.0)

    def _begin(self, slot: int, found: "_UnderWay | None") -> bool:
        if found is None:
            return False
        self._last_slot = slot
        self._delivery = found
        return self._drive()

    def _read(self, reader: SlotReader) -> "_UnderWay | None":
        begins = reader.peek()
        if begins is None:
            return None
        reader.read_bytes = self._sink.read_bytes
        chunk = reader.read(self._sink.already(reader.slot, *begins))
        return None if chunk is None else _UnderWay(chunk, self._sink, self._breaker)

    def _drive(self) -> bool:
        """Offer one piece, and settle the delivery if it was the last one."""
        under_way = self._delivery
        assert under_way is not None
        delivery = under_way.delivery
        now = self._clock()
        shipped = delivery.shipped
        splits = dict(delivery.splits)
        try:
            if self._looks_further:
                self._looks_further = False
                self._look_further(under_way)
            if not delivery.offered_all:
                delivery.offer(now)
            if delivery.offered_all and delivery.suspects and not self._breaker.believes:
                raise Tripped(f"everything lately was refused, the last with: {delivery.suspects[-1].why}")
        except (Retryable, Paused, Tripped) as refusal:
            # Some of it may have been taken, which ends a row of failures.
            self._taken(now, delivery.shipped > shipped)
            self._hold(refusal)
        else:
            self._taken(now, delivery.shipped > shipped)
            if delivery.offered_all:
                self._settle(under_way)
        for reason, count in delivery.splits.items():
            self._row.add("edge_drain_splits_total", count - splits[reason], self._index, reason)
        return True

    def _look_further(self, under_way: "_UnderWay") -> None:
        """After a pause: suspects get another chance, beside whatever came in meanwhile."""
        under_way.delivery.acquit()
        if self._sink.by_range or under_way.raw_bytes >= RAW_BYTES_MAX:
            return
        if under_way.delivery.waiting < EXTEND_EVENTS_MAX:
            more = self._read(self._readers[under_way.delivery.slot])
            if more is not None:
                under_way.extend(more)

    def _hold(self, refusal: Retryable | Paused | Tripped) -> None:
        attempt = self.failures + 1
        if isinstance(refusal, Retryable):
            wait_s = delay_s(attempt, random.random(), refusal.retry_after_s, refusal.at_most_s)
            self._refused("retryable", str(refusal), wait_s)
        else:
            self._looks_further = True
            kind = "breaker" if isinstance(refusal, Tripped) else "paused"
            self._refused(kind, str(refusal), pause_s(attempt, random.random()))

    def _refused(self, kind: str, why: str, wait_s: float) -> None:
        now = self._clock()
        self.failures += 1
        self._not_before_s = now + wait_s
        if self._refused_since_s is None:
            self._refused_since_s = now
        self._row.add("edge_drain_retries_total", 1, self._index, kind)
        trouble = self._checkpoint.trouble
        if trouble is None or trouble.kind != kind:
            self._checkpoint.trouble = Trouble(kind, why, time.time_ns() // 1000)
            self._row.set("edge_sink_paused", _is_paused(self._checkpoint.trouble), self._index)
            self._touch()
        if kind == "retryable":
            log.warning("sink %s, attempt %d, again in %.1f s: %s", self.sink_id, self.failures, wait_s, why)
        else:
            what = "refuses everything" if kind == "breaker" else "is not set up for this"
            log.error(
                "sink %s is paused, the destination %s; everything is kept; attempt %d, again in %.1f s: %s",
                *(self.sink_id, what, self.failures, wait_s, why),
            )

    def _taken(self, began_s: float, moved: bool) -> None:
        """A piece was offered without the sink refusing to go on; `moved`: it took some of it."""
        if not moved:
            return
        now = self._clock()
        if self.failures:
            self.failures = 0
            self._row.set("edge_sink_paused", 0, self._index)
            assert self._refused_since_s is not None
            if now - self._refused_since_s >= OUTAGE_S:
                self._recovered_s = now
                log.info("sink %s takes events again after %.0f s", self.sink_id, now - self._refused_since_s)
            self._refused_since_s = None
        if self._checkpoint.trouble is not None:
            self._checkpoint.trouble = None
            self._touch()
        if self._recovered_s is not None:
            wait_s = ramp_s(now - self._recovered_s, now - began_s)
            self._not_before_s = now + wait_s
            if wait_s == 0.0:
                self._recovered_s = None

    def _settle(self, under_way: "_UnderWay") -> None:
        """Everything of a delivery was taken or refused for good. Raises `OSError`, and is to be called again then."""
        delivery = under_way.delivery
        now = self._clock()
        suspects = {id(suspect.event): suspect for suspect in delivery.suspects}
        if suspects and not self._breaker.allows(len(suspects), now):
            why = f"{len(suspects)} more events were refused, too many for a minute: {delivery.suspects[-1].why}"
            self._refused("breaker", why, pause_s(self.failures + 1, random.random()))
            return
        # First: what fails here is tried again, and the breaker must not hear of the same events twice.
        self._keep_damaged(under_way)
        if suspects or self._quarantine.unsettled:
            refused = []
            taken = []
            for record_id, events in delivery.records:
                for index, event in enumerate(events):
                    suspect = suspects.get(id(event))
                    if suspect is None:
                        taken.append(file_name(record_id, index))
                    else:
                        place = delivery.slot, delivery.name, record_id, index
                        refused.append(describe(suspect, self.sink_id, *place))
            assert len(refused) == len(suspects)
            self._quarantine.put(refused)
            self._quarantine.settle(taken)
            for each in refused:
                log.error("sink %s: event %s is set aside, %s: %s", self.sink_id, each.uuid, each.reason, each.why)
        if suspects:
            self._breaker.quarantined(len(suspects), now)
        self._delivery = None
        self._confirmed(under_way, len(suspects))

    def _keep_damaged(self, under_way: "_UnderWay") -> None:
        """Copy what could not be read, named by where it was: every sink finds the same, and the first one copies it."""
        copies = {
            f"slot-{chunk.slot:02d}-{chunk.name}-{start:012d}.bin": data
            for chunk in under_way.chunks
            for start, data in chunk.damages
        } | {f"record-{xxhash.xxh3_64_hexdigest(line)}.json": line + b"\n" for line in under_way.unreadable}
        if not copies:
            return
        directory = str(self._layout.damaged)
        self._disk.makedirs(directory)
        self._disk.sync_directory(str(self._layout.data))
        for name, data in copies.items():
            if name not in self._disk.listdir(directory):
                write_durably(self._disk, directory, name, data)

    def _confirmed(self, under_way: "_UnderWay", quarantined: int) -> None:
        delivery = under_way.delivery
        totals = self._checkpoint.totals
        totals.records += under_way.lines
        totals.accepted += under_way.accepted
        totals.shipped += delivery.shipped
        totals.quarantined += quarantined
        totals.merged += under_way.merged
        totals.limited += delivery.limited
        totals.bytes += delivery.bytes
        totals.damaged_bytes += under_way.damaged_bytes
        for reason, count in under_way.dropped.items():
            totals.dropped[reason] = totals.dropped.get(reason, 0) + count
        for chunk in under_way.chunks:
            self._move(chunk)
        self._touch()
        self._dirty_bytes += sum(chunk.end - chunk.start for chunk in under_way.chunks)
        if delivery.bytes:
            # What needed no shipping, having been shipped before or holding no event, need not be gathered either.
            self._shipped_s[delivery.slot] = self._clock()
        read_bytes = self._readers[delivery.slot].read_bytes
        if delivery.end - delivery.start >= read_bytes // 2 or under_way.raw_bytes >= RAW_BYTES_MAX // 2:
            # As large as it could get: there is more.
            self._shipped_s.pop(delivery.slot, None)
        for field, count in under_way.mended.items():
            self._mended[field] = self._mended.get(field, 0) + count
        self._row.set("edge_last_shipped_timestamp_seconds", time.time_ns() // 1000, self._index)
        self._balance()

    def _move(self, chunk: Chunk) -> None:
        before = self._checkpoint.slots.get(chunk.slot)
        same = before is not None and before.segment == str(chunk.name)
        counted = before.events if before is not None and same else 0 if chunk.start == 0 else -1
        if before is not None and not same:
            self._check_finished(chunk.slot, before)
        events = counted + chunk.events if counted >= 0 else -1
        self._checkpoint.slots[chunk.slot] = Position(str(chunk.name), chunk.end, events)

    def _check_finished(self, slot: int, position: Position) -> None:
        """Compare what was read of a finished segment with what is in it, once, while it is still there.

        Raises nothing: totals and positions move together, and neither waits for a comparison that the disk does not allow.
        """
        if position.events < 0 or self._checked.get(slot) == position.segment:
            return
        try:
            file = finished_segment(self._layout, slot, position.name)
            if file is None or (position.offset < file.size and self._checkpoint.slots[slot] == position):
                # There is more to read, or will be.
                return
            # Headers may be those of damaged frames: only the checksums tell.
            held = position.events if count_events(file) == position.events else summarise(file).events
        except OSError as error:
            log.error("what was read of segment %s cannot be compared with what is in it: %s", position.segment, error)
            held = position.events
        self._checked[slot] = position.segment
        # Fewer are what a power cut leaves of a segment whose frames were shipped before they were synced.
        missed = held - position.events
        if missed > 0:
            log.critical("segment %s holds %d events more than were read from it", position.segment, missed)
            self._checkpoint.totals.uncounted += missed
            if self._checkpoint.slots[slot] == position:
                # Or the next drainer would find them missing, too.
                self._checkpoint.slots[slot] = Position(position.segment, position.offset, held)
            self._balance()

    def _balance(self) -> None:
        """Accepted = shipped + dropped + merged + quarantined, looked at after every batch."""
        totals = self._checkpoint.totals
        if totals.imbalance != self._row.get("edge_drain_imbalance_events", self._index):
            log.critical("sink %s: %d accepted events are unaccounted for", self.sink_id, totals.imbalance)
            self._row.set("edge_drain_imbalance_events", totals.imbalance, self._index)

    def _touch(self) -> None:
        if self._dirty_since_s is None:
            self._dirty_since_s = self._clock()

    def _count(self) -> None:
        """Count what is behind the durable positions: what a crash lets be shipped again counts once."""
        row = self._row
        totals = self._checkpoint.totals
        row.follow("edge_drain_events_total", totals.shipped, self._index, "shipped")
        row.follow("edge_drain_events_total", sum(totals.dropped.values()), self._index, "dropped")
        row.follow("edge_drain_events_total", totals.quarantined, self._index, "quarantined")
        row.follow("edge_drain_events_total", totals.limited, self._index, "limited")
        row.follow("edge_drain_records_total", totals.records, self._index)
        row.follow("edge_drain_bytes_total", totals.bytes, self._index)
        if self._counts_drops:
            # What is dropped is the same for every sink, and counted once.
            row.follow("edge_damaged_bytes_total", totals.damaged_bytes)
            for reason in DROP_REASONS:
                row.follow("capture_events_dropped_total", totals.dropped.get(reason, 0), reason)
            for field, count in self._mended.items():
                row.add("capture_events_mended_total", count, field)
        self._mended.clear()


class _UnderWay:
    """A delivery and what becomes of the rest of its chunks."""

    def __init__(self, chunk: Chunk, sink: Sink, breaker: Breaker) -> None:
        self.chunks = [chunk]
        self.lines = len(chunk.lines)
        self.raw_bytes = sum(map(len, chunk.lines))
        self.accepted = chunk.events
        self.damaged_bytes = chunk.damaged_bytes
        self.merged = 0
        self.dropped: dict[str, int] = {}
        self.mended: dict[str, int] = {}
        self.unreadable: list[bytes] = []
        """Records that are none, or whose events cannot be told apart."""
        self._records: list[tuple[str, list[Event]]] = []
        self._expand(chunk)
        self.delivery = Delivery(sink, breaker, chunk, self._records)
        chunk.lines = []

    def extend(self, more: "_UnderWay") -> None:
        self.chunks += more.chunks
        self.lines += more.lines
        self.raw_bytes += more.raw_bytes
        self.accepted += more.accepted
        self.damaged_bytes += more.damaged_bytes
        self.unreadable += more.unreadable
        self.merged += more.merged
        for reason, count in more.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        for field, count in more.mended.items():
            self.mended[field] = self.mended.get(field, 0) + count
        self.delivery.extend(more.chunks[-1], more.delivery.records)

    def _expand(self, chunk: Chunk) -> None:
        dropped = self.dropped
        records = self._records
        accounted = 0
        for line, record in self._decode(chunk):
            expansion = expand(record)
            records.append((record.id, expansion.events))
            accounted += len(expansion.events)
            if expansion.merged:
                self.merged += expansion.merged
                accounted += expansion.merged
            if expansion.mended:
                for field, count in expansion.mended.items():
                    self.mended[field] = self.mended.get(field, 0) + count
            if expansion.dropped:
                if "unreadable" in expansion.dropped:
                    self.unreadable.append(line)
                for reason, count in expansion.dropped.items():
                    dropped[reason] = dropped.get(reason, 0) + count
                    accounted += count
        missing = chunk.events - accounted
        if missing > 0 and (self.unreadable or chunk.unreadable_events):
            # What a frame or record that cannot be read held is known only as a number.
            dropped["unreadable"] = dropped.get("unreadable", 0) + missing

    def _decode(self, chunk: Chunk) -> Iterable[tuple[bytes, Record]]:
        try:
            return zip(chunk.lines, decode_records(chunk.lines), strict=True)
        except ValueError:
            return self._decode_each(chunk)

    def _decode_each(self, chunk: Chunk) -> Iterator[tuple[bytes, Record]]:
        """Without those lines that are no record."""
        for line in chunk.lines:
            try:
                yield line, decode_record(line)
            except ValueError as error:
                # The frame's checksum was right, so a writer of another version, or a fault of ours, made the record.
                log.error("segment %s: a record between %d and %d: %s", chunk.name, chunk.start, chunk.end, error)
                self.unreadable.append(line)


def _is_paused(trouble: Trouble | None) -> bool:
    return trouble is not None and trouble.kind != "retryable"
