"""A worker's side of the spool: append to memory, commit in groups, roll, seal.

Group commit has no timer: what arrives while one commit is on its way to the disk forms the next. A lone request commits at
the end of the loop turn it arrived in; under load the groups grow by themselves. Behind a commit of several requests the next
one waits for one look at the sockets: clients answered together send together, and would otherwise take turns with the rest,
two half groups where one whole one costs the same.

Durability:

- `fsync`: waiters are told after `fdatasync` of the group, and of the directory for a new segment. Groups are compressed,
  written and synced in the disk thread. For a small group on a fast disk the loop waits: what it would read meanwhile has to
  wait for the next commit in any case, and is read in one turn this way instead of in many. Segments are written into room
  that was made for them (`spare.py`), and end where it does if there is room for the next one.
- `page`: waiters are told after the write. Small groups are written on the loop, a write to the page cache being cheaper than
  a change of thread; the thread syncs once a second, or behind so many bytes, and until then the records are kept in memory so
  that a failed sync can be answered by writing them again into a new segment.

When the disk refuses: the group's waiters are told that it was not stored, the segment is finished and never touched again,
commits are refused for a second, and the next one opens a new segment. Records of `page` mode that lost their sync are
written and synced with it before anything more is acknowledged. A disk that hangs is like one that refuses. A segment whose
file the disk refuses to rename, or to delete, would be waited for by readers: it is asked again until it does.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import Final

import msgspec

from edge.disk import Disk
from edge.metrics import Histogram, Row, slot
from edge.segment.frame import Compressor, Packed
from edge.segment.name import SegmentName
from edge.spool.disk_thread import DiskThread
from edge.spool.group import Group, PackedRecord, Pending, Waiter
from edge.spool.open_segment import LeftOpen, OpenSegment, delete_unbegun, set_aside
from edge.spool.spare import Spares, next_room

log = logging.getLogger(__name__)

INLINE_BYTES_MAX: Final = 64 * 1024
"""Groups above this are compressed and written in the disk thread in `page` mode too, and not waited for in `fsync` mode: zstd
takes about 2 ms per MiB."""

REFUSE_SECONDS: Final = 1.0
"""After it refused the disk is left alone for so long."""

WAITED_RECORDS_MAX: Final = 16
"""In `fsync` mode the loop waits for a group of so few records."""

_SEVERAL: Final = 4
"""Records of a commit behind which the next one gathers for a turn of the loop."""

STALL_SECONDS: Final = 30.0
"""A disk that has not finished anything for so long hangs: whoever waits for it is told to send again."""


_NOTHING: Final = Group()


class Durability(Enum):
    FSYNC = "fsync"
    PAGE = "page"


class SpoolSettings(msgspec.Struct, frozen=True):
    durability: Durability = Durability.FSYNC
    segment_bytes_max: int = 64 * 1024 * 1024
    """Compressed size at which a segment is rolled."""
    segment_age_max_s: float = 60.0
    """Age, from its first record, at which a segment is rolled."""
    sync_interval_s: float = 1.0
    """`page` mode: how long records may be in the page cache only."""
    unsynced_bytes_max: int = 8 * 1024 * 1024
    """`page` mode: a sync behind so many compressed bytes does not wait for that, which bounds the memory they are kept in."""
    wait_s: float = 0.001
    """`fsync` mode: how long the loop waits for the commit of a small group, unless the last sync took longer."""
    room_bytes_max: int = segment_bytes_max
    """`fsync` mode: the most that is made for a segment beforehand."""


class Clock(msgspec.Struct, frozen=True):
    """The seam at which tests inject time."""

    monotonic_s: Callable[[], float]
    wall_us: Callable[[], int]


class SpoolWriter:
    """One slot's only writer. Every method is called on the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        directory: str,
        slot_number: int,
        next_counter: int,
        incarnations: Callable[[], int],
        settings: SpoolSettings,
        clock: Clock,
        row: Row,
        on_fault: Callable[[BaseException], None],
        spares: Spares | None = None,
        left_open: Iterable[SegmentName] = (),
    ) -> None:
        """`left_open`: segments of the slot that recovery could not finish."""
        self._loop = loop
        self._disk = disk
        self._directory = directory
        self._slot = slot_number
        self._incarnations = incarnations
        self._settings = settings
        self._clock = clock
        self._thread = DiskThread(loop, on_fault)
        self._compressor = Compressor()

        self._row = row
        self._records_histogram = Histogram(row, "edge_commit_records")
        self._sync_histogram = Histogram(row, "edge_fsync_duration_seconds")
        self._events_histogram = Histogram(row, "edge_batch_events")
        self._duration_histogram = Histogram(row, "http_requests_duration_seconds")
        self._slots = row.slots
        self._received_slot = slot("capture_events_received_total")
        self._ingested_slot = slot("capture_events_ingested_total")
        self._commits_slot = slot("edge_commits_total")
        self._written_slot = slot("edge_spool_written_bytes_total")

        self._next_counter = next_counter
        self._segment: OpenSegment | None = None
        self._segment_since_s = 0.0
        self._spares = spares
        """Where segments have their room from, if they have any."""
        self._next_room = next_room(0, 0.0, 0, settings.room_bytes_max)
        if spares is not None:
            spares.want(self._next_room)

        self._pending: list[Pending] = []
        self._packed: list[PackedRecord] = []
        self.pending_bytes = 0
        """Bytes appended and not yet committed or refused."""
        self._scheduled = False
        self._gathering = False
        """The next commit waits for what the clients of the last one send now."""
        self._gathers_next = False
        """It will, if it comes."""
        self._sync_s = 0.0
        """How long the last sync took."""
        self._busy = False
        """The disk thread has a commit, and with it the open segment."""
        self._refuse_until_s = 0.0
        self._under_way = _NOTHING
        """The group the disk thread has."""
        self._progress_s = 0.0
        """When the disk thread last finished a job, or was given one after a rest."""
        self._stalling = False
        """The last tick found the disk hanging; if it was this process that slept, the results are in by the next."""

        self.full = False
        """Set from outside: there is no room for more, commits are refused."""

        # `page` mode only: records that were acknowledged and are not yet on stable storage.
        self._unsynced: list[Packed] = []
        self._unsynced_bytes = 0
        self._owed: list[Packed] = []
        """Those of a segment whose sync failed; written again before anything else."""
        self._sync_due_s = 0.0

        self._left_open: list[Callable[[], None]] = [partial(set_aside, disk, directory, name) for name in left_open]
        """What takes the `.open` name from segments that are written no more and have it still, oldest first."""
        self._finish_due_s = 0.0

        self._outstanding = 0
        """Jobs given to the disk thread whose results have not come back."""
        self._quiet: asyncio.Future[None] | None = None

    # --- appending and committing

    @property
    def unfinished(self) -> int:
        """Segments that the disk would not let be finished, which refuses nobody; what they hold is not shipped."""
        return len(self._left_open)

    @property
    def refusing(self) -> bool:
        """What is appended now is refused."""
        return self.full or self.failing

    @property
    def failing(self) -> bool:
        """The disk refused within the last second."""
        return self._refuse_until_s > 0.0 and self._clock.monotonic_s() < self._refuse_until_s

    def append(self, lines: bytes, events: int, received_us: int, waiter: Waiter, records: int = 1) -> None:
        """Take records into the next commit, all of one moment and alike in events. `waiter` hears of it later, never from
        within this call."""
        if not self._pending:
            self._commit_soon()
        self.put(lines, events, received_us, waiter, records)

    def put(self, lines: bytes, events: int, received_us: int, waiter: Waiter, records: int = 1) -> None:
        """The same for a caller that calls `commit` itself before its turn of the loop is over."""
        self._pending.append((lines, records, events, received_us, waiter))
        self.pending_bytes += len(lines)

    def append_packed(self, record: PackedRecord) -> None:
        """The same for a record that comes as a frame of its own."""
        record.place = len(self._pending)
        self._packed.append(record)
        self.pending_bytes += record.frame_bytes
        self._commit_soon()

    def tick(self) -> None:
        """To be called a few times a second: rolls an aged segment, syncs in `page` mode, writes again what is owed."""
        self._sync_histogram.fold()
        stalling = bool(self._outstanding) and self._clock.monotonic_s() - self._progress_s >= STALL_SECONDS
        if stalling and self._stalling:
            self._give_up_waiting()
        self._stalling = stalling
        if self._left_open and self._clock.monotonic_s() >= self._finish_due_s:
            self._finish_left_open()
        if self._busy:
            return
        if self._segment is not None and self._aged():
            self._roll("age")
        if self._owed and not self.failing:
            self._commit_soon()
        if self._unsynced and self._clock.monotonic_s() >= self._sync_due_s:
            self._sync_later()

    async def close(self) -> None:
        """Commit what was appended, seal, end the thread. The waiters have all been told when this returns."""
        await self._until_quiet()
        if self._owed:
            # The last chance, refusing or not.
            self._refuse_until_s = self._clock.monotonic_s()
            self._commit_soon()
            await self._until_quiet()
        while self._segment is not None:
            # More than once when it fails and what it held was written again: that is synced, so the next time is the last.
            self._roll("shutdown")
            await self._until_quiet()
        if self._left_open:
            self._finish_left_open()
            await self._until_quiet()
        if self._owed:
            log.error("%d frames of acknowledged records could not be synced", len(self._owed))
        self._thread.close()
        if self._spares is not None:
            self._spares.close()
        self._sync_histogram.fold()

    def _commit_soon(self) -> None:
        if not self._busy and not self._scheduled:
            # At the end of this turn of the loop: everything read in the turn is in one group.
            self._scheduled = True
            self._loop.call_soon(self.commit)

    def commit(self) -> None:
        """Commit what was appended, unless a commit is on its way to the disk."""
        self._scheduled = False
        if self._busy or self._gathering or not (self._pending or self._packed or self._owed):
            return
        if self._gathers_next:
            self._gather()
            return
        if self._packed:
            group = Group.of(self._pending, self._packed)
            self._packed = []
        else:
            group = Group.of(self._pending)
        self._pending = []
        self._slots[self._received_slot] += group.all_events
        if self.failing or self.full:
            self._refused(group)
            if self.failing or not self._owed:
                return
            # Acknowledged long ago, and so written whatever the budget says.
            group = Group()
        if self._segment is not None:
            if self._aged():
                self._roll("age")
            elif self._segment.size >= self._settings.segment_bytes_max or self._has_better_room(self._segment):
                self._roll("size")
        if self._settings.durability is Durability.FSYNC:
            self._busy = True
            self._under_way = group
            small = group.all_records <= WAITED_RECORDS_MAX and group.raw_bytes <= INLINE_BYTES_MAX
            wait_s = self._settings.wait_s if small and self._sync_s < self._settings.wait_s else 0.0
            self._submit(lambda: self._store_durably(group), lambda error: self._committed(group, error), wait_s)
        else:
            self._commit_to_page_cache(group)

    def _commit_to_page_cache(self, group: Group) -> None:
        owed, self._owed = self._owed, []
        written: list[Packed] = []

        def store() -> None:
            segment = self._segment or self._open()
            written.extend(owed)
            if group.lines or group.packed:
                written.extend(group.pack(self._compressor))
            self._slots[self._written_slot] += segment.append(written)
            if owed:
                # Acknowledged long ago: not left to the page cache a second time, and no more is taken until this works.
                segment.sync()
                segment.sync_creation()

        def done(error: OSError | None) -> None:
            if error is not None:
                self._owed = owed + self._owed
            elif owed:
                pass  # all of it is synced
            elif self._segment is not None:
                self._unsynced += written
                self._unsynced_bytes += sum(packed.frame_bytes for packed in written)
            else:
                # The segment's sync failed while this was being written to it.
                self._owed += written
            self._committed(group, error)

        if group.raw_bytes > INLINE_BYTES_MAX or owed:
            self._busy = True
            self._under_way = group
            self._submit(store, done)
            return
        try:
            store()
        except OSError as error:
            done(error)
        else:
            done(None)

    def _committed(self, group: Group, error: OSError | None) -> None:
        self._busy = False
        self._under_way = _NOTHING
        if error is None:
            self._stored(group)
        else:
            self._failed(group, error)
        several = group.all_records >= _SEVERAL
        if not (self._pending or self._packed or self._owed):
            # Nothing that was read meanwhile waits, as the loop did. Writing to the page cache gives nobody time to send.
            self._gathers_next = several and self._settings.durability is Durability.FSYNC
        elif several:
            self._gather()
        else:
            self._commit_soon()
        if self._unsynced_bytes >= self._settings.unsynced_bytes_max:
            self._sync_later()

    def _gather(self) -> None:
        self._gathers_next = False
        # The first call comes before the loop looks at its sockets, the second one behind that.
        self._gathering = True
        self._loop.call_soon(self._loop.call_soon, self._gathered)

    def _gathered(self) -> None:
        self._gathering = False
        self._commit_soon()

    def _give_up_waiting(self) -> None:
        """The disk hangs. What is under way may still be stored, and is not acknowledged any more."""
        log.error("the disk has not finished anything for %.0f s", self._clock.monotonic_s() - self._progress_s)
        self._refuse_until_s = self._clock.monotonic_s() + REFUSE_SECONDS
        waiters, self._under_way.waiters = self._under_way.waiters, ()
        for waiter in waiters:
            waiter.not_stored()
        pending, self._pending = self._pending, []
        packed, self._packed = self._packed, []
        self._refused(Group.of(pending, packed))

    def _stored(self, group: Group) -> None:
        self.pending_bytes -= group.raw_bytes
        if not group.waiters:
            # Nothing but what was owed, or nobody was left waiting.
            return
        self._slots[self._commits_slot] += 1
        self._slots[self._ingested_slot] += group.all_events
        self._records_histogram.count(group.all_records)
        now_us = self._clock.wall_us()
        for records, events, received_us in zip(group.records, group.events, group.received_us, strict=True):
            self._events_histogram.count(events // records, records)
            self._duration_histogram.count(now_us - received_us, records)
        for waiter in group.waiters:
            waiter.stored()

    def _refused(self, group: Group) -> None:
        self.pending_bytes -= group.raw_bytes
        for waiter in group.waiters:
            waiter.not_stored()

    def _failed(self, group: Group, error: OSError) -> None:
        log.error("a commit of %d records failed: %s", group.all_records, error)
        self._row.add("edge_segment_write_errors_total", 1)
        self._refuse_until_s = self._clock.monotonic_s() + REFUSE_SECONDS
        if self._segment is not None:
            self._abandon(self._segment)
        self._refused(group)

    # --- storing: on the loop or, while busy, in the disk thread

    def _store_durably(self, group: Group) -> None:
        fresh = self._segment is None
        segment = self._segment or self._open()
        self._slots[self._written_slot] += segment.append(group.pack(self._compressor))
        started = self._clock.monotonic_s()
        segment.sync()
        if fresh:
            segment.sync_creation()
        self._sync_s = self._clock.monotonic_s() - started
        self._sync_histogram.observe(int(self._sync_s * 1e6))

    def _open(self) -> OpenSegment:
        name = SegmentName(self._next_counter, self._incarnations())
        self._next_counter += 1
        spare = None if self._spares is None else self._spares.take()
        try:
            self._segment = OpenSegment(self._disk, self._directory, name, self._slot, self._clock.wall_us(), spare)
        except LeftOpen:
            self._left_open.append(partial(delete_unbegun, self._disk, self._directory, name))
            raise
        if self._spares is not None and self._next_room:
            # Only now, as the one that was taken had the name.
            self._spares.want(self._next_room)
        self._segment_since_s = self._clock.monotonic_s()
        self._sync_due_s = self._segment_since_s + self._settings.sync_interval_s
        return self._segment

    # --- finishing segments, always in the disk thread

    def _has_better_room(self, segment: OpenSegment) -> bool:
        return segment.outgrown and self._spares is not None and self._spares.ready

    def _aged(self) -> bool:
        return self._clock.monotonic_s() - self._segment_since_s >= self._settings.segment_age_max_s

    def _roll(self, reason: str) -> None:
        segment, self._segment = self._segment, None
        assert segment is not None
        age_s = self._clock.monotonic_s() - self._segment_since_s
        self._next_room = next_room(segment.size, age_s, segment.room, self._settings.room_bytes_max)
        retained = self._take_unsynced()

        def sealed(error: OSError | None) -> None:
            if error is None:
                self._row.add("edge_segment_sealed_total", 1, reason)
            else:
                self._lost_sync(segment, retained, error)

        self._submit(segment.seal, sealed)

    def _sync_later(self) -> None:
        segment = self._segment
        assert segment is not None
        retained = self._take_unsynced()
        self._sync_due_s = self._clock.monotonic_s() + self._settings.sync_interval_s

        def sync() -> None:
            started = self._clock.monotonic_s()
            segment.sync()
            segment.sync_creation()
            segment.drop_behind()
            self._sync_histogram.observe(int((self._clock.monotonic_s() - started) * 1e6))

        def synced(error: OSError | None) -> None:
            if error is not None:
                self._lost_sync(segment, retained, error)

        self._submit(sync, synced)

    def _take_unsynced(self) -> list[Packed]:
        retained, self._unsynced = self._unsynced, []
        self._unsynced_bytes = 0
        return retained

    def _lost_sync(self, segment: OpenSegment, retained: list[Packed], error: OSError) -> None:
        log.error("a sync failed, %d frames are written again: %s", len(retained), error)
        self._row.add("edge_segment_write_errors_total", 1)
        self._owed += retained
        self._abandon(segment)
        self._commit_soon()

    def _abandon(self, segment: OpenSegment) -> None:
        retained: list[Packed] = []
        if segment is self._segment:
            self._segment = None
            retained = self._take_unsynced()
        self._row.add("edge_segment_sealed_total", 1, "error")

        def abandoned(error: OSError | None) -> None:
            if segment.left_open:
                self._left_open.append(segment.set_aside)
            if error is not None and retained:
                self._owed += retained
                self._commit_soon()

        self._submit(segment.abandon, abandoned)

    def _finish_left_open(self) -> None:
        self._finish_due_s = float("inf")

        def finish() -> None:
            while self._left_open:
                # Readers come to the oldest first.
                self._left_open[0]()
                del self._left_open[0]

        def finished(error: OSError | None) -> None:
            self._finish_due_s = self._clock.monotonic_s() + REFUSE_SECONDS
            if error is not None:
                log.error("a segment that is not written any more is still called open: %s", error)
                self._row.add("edge_segment_write_errors_total", 1)

        self._submit(finish, finished)

    # --- the disk thread

    def _submit(self, job: Callable[[], None], done: Callable[[OSError | None], None], wait_s: float = 0.0) -> None:
        if not self._outstanding:
            self._progress_s = self._clock.monotonic_s()
        self._outstanding += 1

        def finished(error: OSError | None) -> None:
            self._outstanding -= 1
            self._progress_s = self._clock.monotonic_s()
            done(error)
            if not self._outstanding and self._quiet is not None and not self._quiet.done():
                self._quiet.set_result(None)

        self._thread.submit(job, finished, wait_s)

    async def _until_quiet(self) -> None:
        """Everything appended was committed or refused, and the disk thread has nothing to do."""
        while self._pending or self._packed or self._scheduled or self._busy or self._outstanding:
            if self._outstanding:
                self._quiet = self._loop.create_future()
                await self._quiet
            await asyncio.sleep(0)
