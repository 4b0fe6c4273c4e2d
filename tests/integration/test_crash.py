"""kill -9 at any moment, again and again: what was acknowledged is delivered, once, and nothing else is.

A cycle is one kill under load: of everything at once, of everything while it starts, of the supervisor alone, of a worker, or
of drainers. All cycles work on one data folder, with both durability modes, with one drainer or several, and with segments that
finish by age, by size and not at all. After some kills the last frame of an open segment is written a second time and not to
its end, as a power cut leaves it.
"""

import asyncio
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from edge.layout import Layout
from edge.segment.name import State
from edge.segment.scan import Frame
from edge.spool.inspect import all_segments, frames
from tests.integration.edge_process import EdgeProcess, send_signal, wait_until_gone
from tests.integration.load import MANY, Ledger, Load
from tests.integration.scale import scaled

WORKER_KILLS: Final = scaled(100, 1000)
DRAINER_KILLS: Final = scaled(20, 100)
"""Beside everything else; `test_drainer_crash.py` kills nothing but drainers."""
PARTS: Final = 4
"""Kills of parts between two of everything."""
EVERYTHING_KILLS: Final = scaled(36, 300)
STARTING_KILLS: Final = scaled(6, 30)
SUPERVISOR_KILLS: Final = scaled(4, 20)
CYCLES: Final = WORKER_KILLS + DRAINER_KILLS + EVERYTHING_KILLS + STARTING_KILLS + SUPERVISOR_KILLS
ACKNOWLEDGED_EVENTS_MIN: Final = scaled(1_000_000, 10_000_000)
CUT_REQUESTS_MIN: Final = CYCLES // 2
CONNECTIONS: Final = 6
WORKERS: Final = scaled(2, 4)
BACK_S: Final = 15.0
"""For the supervisor to put back what was killed."""
SHARE_S: Final = 300.0


class Round(msgspec.Struct, frozen=True):
    """One start of the program and what is killed until it has to be started again."""

    options: tuple[str, ...]
    drainers: int
    parts: tuple[str, ...]
    """`worker` or `drainer`: killed one after the other while everything else goes on."""
    end: str
    """`everything`, `supervisor`, or `starting`: everything, before it accepts."""


DURABILITY: Final = (("--durability", "fsync"), ("--durability", "page"))
ROLLING: Final = (
    (),
    ("--segment-age-max", "2s"),
    ("--segment-bytes-max", "64KiB"),
)
DRAINERS: Final = (1, 2, 3)


def plan(rng: random.Random) -> list[Round]:
    """Rounds with all the kills there are to be, in any order."""
    parts = ["worker"] * WORKER_KILLS + ["drainer"] * DRAINER_KILLS
    rng.shuffle(parts)
    mixed = [(tuple(parts[at : at + PARTS]), "everything") for at in range(0, len(parts), PARTS)]
    ends = ["everything"] * (EVERYTHING_KILLS - len(mixed))
    ends += ["starting"] * STARTING_KILLS + ["supervisor"] * SUPERVISOR_KILLS
    alone = [((), end) for end in ends]
    rounds = []
    for number, (killed, end) in enumerate([*alone, *mixed]):
        options = DURABILITY[number % 2] + ROLLING[number // 2 % 3]
        drainers = rng.choice(DRAINERS)
        options = ("--workers", str(WORKERS), "--drainers", str(drainers), *options)
        rounds.append(Round(options, drainers, killed, end))
    rng.shuffle(rounds)
    return rounds


@pytest.mark.soak
def test_every_acknowledged_event_survives_every_kill_and_is_delivered_once(tmp_path: Path) -> None:
    seed = time.time_ns()
    rng = random.Random(seed)
    rounds = plan(rng)
    assert sum(len(one.parts) + 1 for one in rounds) == CYCLES
    ledger = Ledger(rng, MANY)
    started_s = time.monotonic()
    with EdgeProcess(tmp_path) as edge:
        crash = Crash(edge, ledger, rng)
        asyncio.run(crash.run(rounds))
        edge.stop()
        edge.verb("drain", "--once")
        status = edge.status()
        found = ledger.reconcile(edge.each_event())
        print(
            f"\n{crash.kills.total()} cycles in {time.monotonic() - started_s:.0f} s, seed {seed}:"
            f" {', '.join(f'{count} {what}' for what, count in sorted(crash.kills.items()))}\n"
            f"{ledger.acknowledged_events} events acknowledged in {ledger.acknowledged_requests} requests,"
            f" {ledger.issued_events} issued, {found.delivered} delivered\n"
            f"{ledger.cut} requests cut before their answer, {crash.torn} torn tails made,"
            f" {len(list((edge.data / 'torn').glob('*.bin')))} cut off by recovery, refusals {dict(ledger.refusals)}"
        )
        assert not found.lost, f"{len(found.lost)} acknowledged events are lost, the first {found.lost[:5]}"
        assert not found.doubled, f"{len(found.doubled)} events are there twice, the first {found.doubled[:5]}"
        assert not found.invented, f"{len(found.invented)} events were never sent, the first {found.invented[:5]}"
        assert not found.halved, f"{len(found.halved)} requests are there in part, the first {found.halved[:5]}"
        [sink] = status["sinks"]
        assert (sink["waiting_records"], sink["damaged_bytes"], sink["dropped"]) == (0, 0, {})
        assert '"level":"critical"' not in edge.log.read_text()
    # Some hundred megabytes, which only a failure needs.
    shutil.rmtree(edge.data)
    # Without these, nothing was proved.
    assert crash.kills.total() == CYCLES
    assert ledger.acknowledged_events >= ACKNOWLEDGED_EVENTS_MIN
    assert ledger.cut >= CUT_REQUESTS_MIN
    assert crash.torn > 0


class Crash:
    """All the kills."""

    def __init__(self, edge: EdgeProcess, ledger: Ledger, rng: random.Random) -> None:
        self.kills: Counter[str] = Counter()
        self.torn = 0
        """Segments that were given a torn tail."""
        self._edge = edge
        self._ledger = ledger
        self._rng = rng
        self._orphans: list[int] = []
        self._rounds = self._planned = 0
        self._load = Load(ledger, lambda: (edge.host, edge.port), rng)

    async def run(self, rounds: list[Round]) -> None:
        """All rounds, and one start more: the program runs and nobody sends when this returns."""
        self._planned = len(rounds)
        self._load.start(CONNECTIONS)
        for one in rounds:
            await self._round(one)
            self._load.check()
            self._rounds += 1
        await self._start(("--workers", str(WORKERS)))
        await self._progress()
        await self._load.finish()

    async def _round(self, one: Round) -> None:
        if one.end == "starting":
            self._edge.launch(*one.options)
            await asyncio.sleep(self._rng.uniform(0.05, 0.8))
            self._kill_everything(one.end)
            return
        await self._start(one.options)
        for part in one.parts:
            await asyncio.sleep(self._rng.uniform(0.1, 0.4))
            await self._kill_part(part, one.drainers)
        await asyncio.sleep(self._rng.uniform(0.05, 0.6))
        await self._share()
        if one.end == "supervisor":
            # The orphans answer what they have read and end by themselves; the successor is started meanwhile and waits.
            self._orphans = self._edge.kill_supervisor()
            self.kills["supervisor"] += 1
        else:
            await self._kill_at_answer(self._edge.workers() if self._rng.random() < 0.5 else [])
            self._kill_everything(one.end)

    async def _kill_at_answer(self, pids: list[int]) -> None:
        """SIGKILL at the very moment a client has read a 200: what that answer promised has to be safe by then."""
        if pids:
            killed = asyncio.Event()

            def kill() -> None:
                for pid in pids:
                    send_signal(pid, signal.SIGKILL)
                killed.set()

            self._load.at_next_answer(kill)
            async with asyncio.timeout(BACK_S):
                await killed.wait()

    async def _start(self, options: tuple[str, ...]) -> None:
        await asyncio.to_thread(self._edge.start, *options)
        self._load.resume()

    def _kill_everything(self, name: str) -> None:
        """Without a turn of the loop between the kill and the pause: the clients find out as clients do."""
        self._edge.kill_everything()
        self._load.pause()
        self.kills[name] += 1
        wait_until_gone(self._orphans)
        if self._rng.random() < 0.3:
            self.torn += tear(Layout(self._edge.data), self._rng)

    async def _kill_part(self, part: str, drainers: int) -> None:
        # Also behind a start, which waits for the workers only.
        await _until(lambda: len(self._edge.workers()) == WORKERS and len(self._edge.drainers()) == drainers)
        pids = self._edge.workers() if part == "worker" else self._edge.drainers()
        if self._rng.random() < 0.7:
            pids = pids[:1] if self._rng.random() < 0.5 else pids[-1:]
        if self._rng.random() < 0.7:
            await self._kill_at_answer(pids)
        else:
            for pid in pids:
                send_signal(pid, signal.SIGKILL)
        self.kills[part] += 1
        await self._progress()

    async def _share(self) -> None:
        """Every round has its share of the events there have to be."""
        share = ACKNOWLEDGED_EVENTS_MIN * (self._rounds + 1) // self._planned
        await _until(lambda: self._ledger.acknowledged_events >= share, SHARE_S)

    async def _progress(self) -> None:
        """The edge goes on acknowledging."""
        before = self._ledger.acknowledged_requests
        await _until(lambda: self._ledger.acknowledged_requests >= before + 50)


def tear(layout: Layout, rng: random.Random) -> int:
    """Write the beginning of a frame behind the last one of every open segment that has one; the number of segments. Nobody
    writes them now."""
    torn = 0
    for file in all_segments(layout):
        whole = [item for item in frames(file) if isinstance(item, Frame)]
        if file.state is not State.OPEN or not whole:
            continue
        data = file.path.read_bytes()
        last = data[whole[-1].offset : whole[-1].end]
        with file.path.open("r+b") as segment:
            segment.seek(whole[-1].end)
            segment.write(last[: rng.randrange(1, len(last))])
        torn += 1
    return torn


async def _until(condition: Callable[[], bool], within_s: float = BACK_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"expected everything to be back within {within_s:.0f} s"
        await asyncio.sleep(0.02)
