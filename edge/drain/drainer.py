"""The drainer: a thread per sink, and between them the slots of dead workers and the segments everybody is done with.

A process of its own. It may crash, stall or be stopped without one request noticing, and takes up where its checkpoints say.
Several of them share the slots between them, and nothing else.
"""

import gc
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from edge.checkpoints import Checkpoint, CheckpointFile, Position, Trouble, clear_trouble, list_files
from edge.disk import Disk
from edge.drain.backoff import CAP_S, pause_s
from edge.drain.quarantine import list_quarantined
from edge.drain.retire import DELETE, retire
from edge.drain.shipper import Shipper
from edge.drain.sink import Sink, SinkGone, without_secrets
from edge.drain.sinks.table import make_sink
from edge.drain.slots import ClaimedSlots, InUse, share_lock
from edge.layout import LOCK_NAME, Layout
from edge.metrics import SINKS_MAX, Row
from edge.notation import Retention, Share
from edge.process import EXIT_FAULT, refuse_signals
from edge.segment.name import State
from edge.spool.inspect import segment_files, summarise
from edge.spool.recover import is_unsealed, recover_slot

log = logging.getLogger(__name__)

POLL_S: Final = 0.05
ADOPT_S: Final = 2.0
RETIRE_S: Final = 1.0
LOOK_RATIO: Final = 20
"""Times as long as a look at the spool took are waited before the next."""
SPOOL_ERROR_S: Final = 1.0
FINISH_S: Final = 5.0
"""How long what is left is still shipped after the order to stop, as long as the sink takes it."""
STOP_S: Final = 10.0
"""How long a sink that is in the middle of a batch is waited for."""
RECURSION_LIMIT: Final = 5000
STACK_BYTES: Final = 64 * 1024 * 1024
COLLECT_EVERY: Final = 100_000
"""Objects that may hold others, made and not gone, between two looks for cycles, of which nothing here makes any."""
IDLE_ONCE_S: Final = 2.0
"""`--once`: time without anything to read, though the end is not reached, before somebody else must have taken it away."""
ATTEMPTS_ONCE: Final = 5
"""`--once`: attempts in a row before a sink counts as unavailable."""
ERRORS_ONCE: Final = 20
"""`--once`: refusals of our own disk in a row of the same kind before it is given up. More than it takes to set a segment aside
that cannot be read."""
WAIT_ONCE_S: Final = 60.0
"""`--once`: a sink that asks for a longer pause counts as unavailable."""


WHOLE: Final = Share(0, 1)


class Drainer:
    """Holds the locks of its share. `is_scarce` tells whether room on the disk is.

    Raises `ValueError` for a bad sink URL, `InUse`, `OSError`.
    """

    def __init__(
        self,
        disk: Disk,
        layout: Layout,
        urls: Sequence[str],
        row: Row,
        retain: Retention = DELETE,
        is_scarce: Callable[[], bool] = lambda: False,
        share: Share = WHOLE,
    ) -> None:
        if not 0 < len(urls) <= SINKS_MAX:
            raise ValueError(f"expected 1 to {SINKS_MAX} sinks, found {len(urls)}")
        # Whatever the edge could parse must be parsed here, a few calls deeper in the stack. How deep that may be, Python says
        # by this number up to 3.11, by a number of its own in 3.12 and 3.13, and by the size of the stack since.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
        threading.stack_size(STACK_BYTES)
        gc.set_threshold(COLLECT_EVERY)
        self._disk = disk
        self._layout = layout
        self._row = row
        # Each keeps its part, so together they keep no more.
        self._retain = retain if retain.bytes is None else Retention(retain.age_s, retain.bytes // share.count)
        self._is_scarce = is_scarce
        self._urls = urls
        self._index = share.index
        for directory in (layout.spool, layout.checkpoints):
            disk.makedirs(str(directory))
        self._slots = ClaimedSlots(disk, layout, share)
        # Only now: a sink looks at what is shipped already, and a predecessor ships until it gives up its locks.
        try:
            sinks = [(url, *make_sink(url)) for url in urls]
            ids = [sink_id for _, sink_id, _ in sinks]
            if len(set(ids)) < len(ids):
                raise ValueError("expected different sinks, found the same destination twice")
            self.shippers = [self._shipper(index, *each) for index, each in enumerate(sinks)]
            if share.index == 0:
                self._forget_drainers(share.count)
        except (OSError, ValueError):
            self._slots.release()
            raise
        self._stop = threading.Event()
        self._gone: str | None = None
        self._undeleted: set[str] = set()
        """What was shipped and the disk refuses to delete, as it was told."""

    def run(self, should_stop: Callable[[], bool]) -> int:
        """Ship until told to stop; the exit status."""
        threads = [
            threading.Thread(target=self._ship_until_stopped, args=(place,), daemon=True)
            for place in range(len(self.shippers))
        ]
        for thread in threads:
            thread.start()
        adopt_at_s = retire_at_s = float("-inf")
        while not should_stop() and self._gone is None:
            now = time.monotonic()
            self._row.set("edge_heartbeat_timestamp_seconds", time.time_ns() // 1000)
            if now >= adopt_at_s:
                self._tidy(self._adopt)
                adopt_at_s = _next_look(now, ADOPT_S)
            if now >= retire_at_s:
                self._tidy(self._retire)
                retire_at_s = _next_look(now, RETIRE_S)
            if not all(thread.is_alive() for thread in threads) and self._gone is None:
                # Its last words are on standard error.
                log.critical("a sink's thread ended, and the drainer with it")
                return EXIT_FAULT
            time.sleep(POLL_S)
        self._stop.set()
        finish_s = time.monotonic() + STOP_S
        for thread in threads:
            thread.join(max(0.0, finish_s - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            # What it is waiting for was not confirmed and is offered again by the next drainer.
            log.warning("a sink has not answered for %d s and is not waited for", STOP_S)
        else:
            if self._gone is None:
                self._tidy(self._retire)
            self.close()
        if self._gone is not None:
            log.error("%s", self._gone)
            return 1
        return 0

    def run_once(self) -> bool:
        """Ship what is committed now, slots of dead workers included; whether every sink has what can be read of it.

        Raises `InUse`.
        """
        self._adopt()
        targets = {slot: self._end(slot) for slot in self._slots()}
        complete = [self._ship_to(shipper, targets) for shipper in self.shippers]
        self._retire()
        self.close()
        return all(complete)

    def left(self) -> list[str]:
        """What the data folder holds of accepted events that no drainer ships, however often it is asked: a sentence each."""
        layout = self._layout
        files = [file for slot in layout.slots() for file in segment_files(layout, slot)]
        found = [f"{file.path} could not be read wholly" for file in files if file.state is State.BAD]
        return found + set_aside(self._disk, layout)

    def close(self) -> None:
        for shipper in self.shippers:
            shipper.close()
        self._slots.release()

    def _forget_drainers(self, count: int) -> None:
        """Of drainers there are no longer nothing is in trouble."""
        directory = str(self._layout.checkpoints)
        for sink_id, drainers in list_files(self._disk, directory).items():
            for index in drainers:
                if index >= count and (lock := self._disk.lock(share_lock(self._layout, index))) is not None:
                    try:
                        clear_trouble(self._disk, directory, sink_id, index)
                    finally:
                        os.close(lock)

    def _shipper(self, place: int, url: str, sink_id: str, sink: Sink) -> Shipper:
        given = self._disk, self._layout, sink_id, without_secrets(url), sink, self._row, place
        return Shipper(*given, drainer=self._index, slots=self._slots)

    def _ship_until_stopped(self, place: int) -> None:
        """Ship to the sink that has this place among all."""
        refuse_signals()
        shipper = self.shippers[place]
        finish_s = float("inf")
        faults = 0
        forgotten_s = 0.0
        fault = ""
        while time.monotonic() < finish_s:
            moved, linger, wait_s = True, False, 0.0
            try:
                if fault:
                    shipper = self._begin_again(place, fault)
                    fault = ""
                linger = not self._stop.is_set()
                moved = shipper.step(linger=linger)
            except (SinkGone, InUse) as gone:
                self._gone = str(gone)
                break
            except OSError as error:
                log.error("sink %s: the spool or the checkpoint cannot be read or written: %s", shipper.sink_id, error)
                wait_s = SPOOL_ERROR_S
            except Exception as error:
                # Whatever it is: nobody above knows which sink met it, and it must not hold up the others.
                faults = faults + 1 if time.monotonic() < forgotten_s else 1
                wait_s = pause_s(faults, random.random())
                forgotten_s = time.monotonic() + wait_s + CAP_S
                fault = f"{type(error).__name__}: {error}"
                log.exception("sink %s met a fault of ours, again in %.1f s", shipper.sink_id, wait_s)
                self._row.add("edge_drain_retries_total", 1, str(place), "retryable")
            if self._stop.is_set():
                finish_s = min(finish_s, time.monotonic() + FINISH_S)
                if fault or shipper.failures or not (moved or linger):
                    break
                time.sleep(wait_s)
            else:
                self._stop.wait(wait_s)
            if not moved or shipper.wait_s:
                time.sleep(POLL_S)
        if not fault:
            _save(shipper)

    def _begin_again(self, place: int, fault: str) -> Shipper:
        """A new shipper for a sink, from its checkpoint on: the one before may have read what it did not ship, or counted
        what it did not confirm, so nothing of it is saved.

        Raises `OSError`, and what making a sink raises.
        """
        before = self.shippers[place]
        try:
            before.close()
        except Exception:
            # It is let go of in any case.
            log.exception("sink %s: what met a fault cannot be left in order", before.sink_id)
        url = self._urls[place]
        file = CheckpointFile(self._disk, str(self._layout.checkpoints), before.sink_id, self._index)
        checkpoint = file.load() or Checkpoint(without_secrets(url))
        checkpoint.trouble = Trouble("retryable", fault, time.time_ns() // 1000)
        file.save(checkpoint)
        self.shippers[place] = self._shipper(place, url, *make_sink(url))
        return self.shippers[place]

    def _ship_to(self, shipper: Shipper, targets: dict[int, Position | None]) -> bool:
        def behind() -> bool:
            return any(
                target is not None and not _reached(shipper.position(slot), target) for slot, target in targets.items()
            )

        idle_since_s = time.monotonic()
        errors: Counter[str] = Counter()
        while behind():
            try:
                moved = shipper.step(linger=False)
            except SinkGone as gone:
                log.error("sink %s: %s", shipper.sink_id, gone)
                break
            except OSError as error:
                log.error("sink %s: %s", shipper.sink_id, error)
                errors[str(error)] += 1
                if errors[str(error)] >= ERRORS_ONCE:
                    break
                time.sleep(POLL_S)
                continue
            except Exception:
                # As above: the other sinks' turn comes, and nothing is saved.
                log.exception("sink %s met a fault of ours", shipper.sink_id)
                return False
            if shipper.failures >= ATTEMPTS_ONCE or shipper.wait_s > WAIT_ONCE_S:
                break
            if moved:
                errors.clear()
                idle_since_s = time.monotonic()
            elif time.monotonic() - idle_since_s > IDLE_ONCE_S:
                log.error("sink %s: what was committed is not there any more", shipper.sink_id)
                break
            if not moved or shipper.wait_s:
                time.sleep(POLL_S)
        return _save(shipper) and not behind()

    def _end(self, slot: int) -> Position | None:
        """The end of what is committed in the slot."""
        for file in reversed(segment_files(self._layout, slot)):
            try:
                end = summarise(file, around=file.state is State.BAD).end
            except OSError as error:
                log.error("segment %s: %s", file.path, error)
                # Shipping finds out what can be read of it, but for one that could not even be opened.
                end = 0 if file.state is State.BAD else file.size
            if end:
                return Position(str(file.name), end)
        return None

    def _tidy(self, step: Callable[[], None]) -> None:
        try:
            step()
        except InUse as error:
            self._gone = str(error)
        except OSError as error:
            log.error("the spool cannot be tidied: %s", error)

    def _adopt(self) -> None:
        """Recover the slots nobody writes any more, so that what a dead worker left open is shipped to its end."""
        for slot in self._slots():
            try:
                self._adopt_slot(slot)
            except OSError as error:
                # The other slots' events wait for nothing.
                log.error("slot %d cannot be recovered: %s", slot, error)

    def _adopt_slot(self, slot: int) -> None:
        directory = self._layout.slot(slot)
        if not any(map(is_unsealed, self._disk.listdir(str(directory)))):
            return
        lock = self._disk.lock(str(directory / LOCK_NAME))
        if lock is None:
            return
        try:
            found = recover_slot(self._disk, self._layout, slot)
            self._row.add("edge_recovered_segments_total", found.segments)
            self._row.add("edge_torn_bytes_total", found.torn_bytes)
        finally:
            os.close(lock)

    def _retire(self) -> None:
        positions = {slot: [shipper.durable.get(slot) for shipper in self.shippers] for slot in self._slots()}
        refused = retire(self._disk, self._layout, positions, self._retain, time.time(), scarce=self._is_scarce())
        for path in refused.keys() - self._undeleted:
            # Once, not at every look.
            log.error("what was shipped cannot be deleted from %s: %s", path, refused[path])
        self._undeleted = set(refused)


def set_aside(disk: Disk, layout: Layout) -> list[str]:
    """What is kept beside the spool of accepted events, a sentence for each folder. Raises `OSError`."""
    refused = {folder: len(list_quarantined(disk, str(folder))) for folder in layout.quarantines()}
    found = [f"{folder} has {count:,} events that were refused for good" for folder, count in refused.items() if count]
    if layout.damaged.is_dir() and (damaged := len(disk.listdir(str(layout.damaged)))):
        found.append(f"{layout.damaged} has {damaged:,} files of what could not be read")
    return found


def _save(shipper: Shipper) -> bool:
    """Whether the checkpoint could be written; what is not saved is shipped again."""
    try:
        shipper.save()
    except OSError as error:
        log.error("sink %s: the checkpoint cannot be written: %s", shipper.sink_id, error)
        return False
    return True


def _next_look(began_s: float, pause_s: float) -> float:
    """When to look at the whole spool again after a look that is over now: a million segments take their time."""
    now = time.monotonic()
    return now + max(pause_s, LOOK_RATIO * (now - began_s))


def _reached(position: Position | None, target: Position) -> bool:
    return position is not None and position.place >= target.place
