"""The spool against a model of it: programs of appends, commits, rolls, faults, crashes, shipments and clock jumps.

The model is two sets: what was issued, and what the mode promises to be there. After every crash, and at the end, the real
spool is compared with it.
"""

import asyncio
from collections import Counter
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge.drain.retire import retire
from edge.drain.shipper import Shipper
from edge.segment.record import RecordIds, encode_record
from edge.spool.recover import next_counter, open_slot
from edge.spool.writer import Durability, SpoolSettings, SpoolWriter
from tests.explorer import CHECKPOINTS, FAULTS, LAYOUT, SINK, SLOT, NamingSink, names_in, new_row
from tests.fakes import FakeClock, Fault, FaultyDisk, MemoryDisk, RecordingWaiter, until

YEAR_US = 365 * 86_400 * 10**6


class SpoolMachine(RuleBasedStateMachine):
    """One slot, through any number of lives."""

    programs = 0
    """How many were begun in this process."""

    @initialize(durability=st.sampled_from(Durability), segment_bytes_max=st.sampled_from((600, 3000, 10**6)))
    def begin(self, durability: Durability, segment_bytes_max: int) -> None:
        SpoolMachine.programs += 1
        self.loop = asyncio.new_event_loop()
        self.durability = durability
        self.settings = SpoolSettings(durability, segment_bytes_max=segment_bytes_max)
        self.clock = FakeClock()
        self.random = Random(7)
        self.issued: list[str] = []
        self.acknowledged: list[str] = []
        self.promised: set[str] = set()
        """Of those acknowledged, what a power cut may not take."""
        self.sink = NamingSink()
        self.faults: list[BaseException] = []
        self.seen: Counter[str] = Counter()
        self.record_ids: set[str] = set()
        inner = MemoryDisk()
        inner.makedirs(CHECKPOINTS)
        inner.settle()
        self._start(inner)

    def _start(self, inner: MemoryDisk) -> None:
        """A new process finds this disk."""
        self.inner = inner
        opened = open_slot(inner, LAYOUT, 0)
        assert opened is not None
        assert opened[1].unread == 0
        self.disk = FaultyDisk(inner)
        self.row = new_row()
        self.ids = RecordIds(self.random.getrandbits(64))
        self.waiters: list[RecordingWaiter] = []
        self.shipper = Shipper(self.disk, LAYOUT, SINK, SINK, self.sink, self.row, 0, lambda: self.clock.monotonic_s)

        async def make() -> SpoolWriter:
            return SpoolWriter(
                asyncio.get_running_loop(),
                self.disk,
                SLOT,
                0,
                next_counter(inner, LAYOUT, 0),
                lambda: self.random.getrandbits(64),
                self.settings,
                self.clock.clock,
                self.row,
                self.faults.append,
            )

        self.writer = self.loop.run_until_complete(make())

    # --- what happens

    @rule(count=st.integers(1, 4), size=st.sampled_from((0, 0, 50, 700)), wait=st.booleans())
    def append(self, count: int, size: int, wait: bool) -> None:
        async def play() -> None:
            for _ in range(count):
                self._append(size)
            if wait:
                await self._told()
            else:
                await asyncio.sleep(0)

        self.loop.run_until_complete(play())

    def _append(self, size: int) -> None:
        name = f"e{len(self.issued)}"
        self.issued.append(name)
        acknowledged, promised, fsync = self.acknowledged, self.promised, self.durability is Durability.FSYNC

        def told(how: str) -> None:
            if how == "stored":
                acknowledged.append(name)
                if fsync:
                    promised.add(name)

        waiter = RecordingWaiter(told)
        self.waiters.append(waiter)
        body = f'{{"event":"{name}","distinct_id":"d","f":"{self.random.randbytes(size).hex()}"}}'.encode()
        at = self.clock.wall_us
        line = encode_record(self.ids, at, "phc_x", "e", "203.0.113.7", body)
        identity = line.split(b",", 1)[0].decode()
        assert identity not in self.record_ids
        self.record_ids.add(identity)
        self.writer.append(line, 1, at, waiter)

    @rule(seconds=st.sampled_from((0.0, 0.3, 1.1, 61.0)))
    def tick(self, seconds: float) -> None:
        async def play() -> None:
            self.clock.advance(seconds)
            before = list(self.acknowledged)
            self.writer.tick()
            await self._idle()
            if not (self.writer._unsynced or self.writer._owed):
                self.promised.update(before)

        self.loop.run_until_complete(play())

    @rule(jump_us=st.sampled_from((3_600 * 10**6, -3_600 * 10**6, 10 * YEAR_US, -10 * YEAR_US, -1)))
    def jump(self, jump_us: int) -> None:
        """The wall clock only."""
        self.clock.wall_us = max(0, self.clock.wall_us + jump_us)

    @rule(times=st.integers(1, 4), save=st.booleans(), delete=st.booleans())
    def ship(self, times: int, save: bool, delete: bool) -> None:
        try:
            for _ in range(times):
                self.shipper.step()
            if save:
                self.shipper.save()
            if delete:
                retire(self.disk, LAYOUT, {0: [self.shipper.durable.get(0)]})
        except OSError:
            self.seen["shipping failed"] += 1

    @rule(
        method=st.sampled_from(("create", "pwrite", "sync", "sync_directory", "rename", "truncate", "unlink")),
        fault=st.sampled_from(FAULTS),
    )
    def fail(self, method: str, fault: Fault) -> None:
        self.disk.fail_next(method, fault)

    @rule(budget_full=st.booleans())
    def fill(self, budget_full: bool) -> None:
        self.writer.full = budget_full

    # --- how it ends, and begins again

    @rule()
    def kill(self) -> None:
        left = self.inner.after_kill()
        expected = set(self.acknowledged)
        self._bury()
        self._resume(left, expected)

    @rule(seed=st.one_of(st.none(), st.integers(0, 2**32)))
    def cut(self, seed: int | None) -> None:
        left = self.inner.after_power_loss(None if seed is None else Random(seed), self.seen)
        expected = set(self.promised)
        self._bury()
        self._resume(left, expected)

    @rule()
    def stop(self) -> None:
        self.disk.heal()
        self.loop.run_until_complete(self.writer.close())
        self.promised.update(self.acknowledged)
        self.shipper.close()
        self._resume(self.inner.after_power_loss(), set(self.acknowledged))

    def _bury(self) -> None:
        """What the process would have done is of no interest any more."""
        self.disk.heal()
        self.writer._thread.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.shipper.close()

    def _resume(self, left: MemoryDisk, expected: set[str]) -> None:
        delivered = set(self.sink.names)
        self._start(left)
        found = names_in(left, self.seen)
        assert found.keys() <= set(self.issued)
        assert expected <= found.keys() | delivered, f"lost {sorted(expected - found.keys() - delivered)}"
        # What was not promised may be gone for good; what survived is stable now.
        self.acknowledged = [name for name in self.acknowledged if name in found or name in delivered]
        self.promised = set(self.acknowledged)

    @invariant()
    def no_fault_of_ours(self) -> None:
        assert not getattr(self, "faults", [])

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.stop()
        while self.shipper.step():
            pass
        assert set(self.acknowledged) <= set(self.sink.names)
        assert set(self.sink.names) <= set(self.issued)
        self.writer._thread.close()
        self.shipper.close()
        self.loop.close()

    async def _told(self) -> None:
        await until(lambda: all(waiter.told for waiter in self.waiters))
        assert all(len(waiter.told) == 1 for waiter in self.waiters)
        self.waiters.clear()

    async def _idle(self) -> None:
        await self._told()
        for _ in range(3):
            turn: list[Any] = []
            self.writer._thread.submit(lambda: None, turn.append)
            await until(lambda turn=turn: bool(turn))  # type: ignore[misc]
