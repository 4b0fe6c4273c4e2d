"""How long an answer takes at shares of a server's capacity, beside what the disk itself takes, in one run.

Capacity is what a closed loop gets; then requests fall due at shares of it (`bench/open_loop.py`). Between them the disk is
asked by itself: 4 KiB appended and fdatasync, again and again, on the same file system, by a process on the server's core.
What one such sync takes is the yardstick of the goal. A request waits longer for the same disk, were there nothing but the
disk: for the sync under way to end, and for the next one. And of a disk that stands still for some milliseconds twice a
second one sync in thousands knows, but every request that falls due meanwhile. What is left for a server to be better at
says `durable-c`, asked at the rates of `fsync`: some lines of C that sync what a turn of theirs brought, in room made
beforehand as `fsync` has it, and answer.

Rounds are short and many, and percentiles are medians over the rounds. Whatever else runs on a machine takes the core from a
server now and then, on the one these words were written on for 1 ms every half second and for 3 every second, and every
request that falls due meanwhile waits for that, whoever answers it; in most rounds of a tenth of a second there is none of it.
What that hides is in the columns over all rounds together.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import pinned, two_cores
from bench.open_loop import PERCENTILES, Latencies, OpenLoop, percentile
from bench.peers import commands
from bench.peers.commands import DURABLE_FLOOR, Missing
from bench.results import Goal, Result, Table, Value, environment, options, report
from bench.servers import Failed, Server, edge, floor, running

SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
GOAL_SHARE: Final = 0.5
GOAL_RATIO: Final = 3.0
OF_A_ROUND: Final = (50.0, 90.0, 99.0)
OF_ALL_ROUNDS: Final = (99.0, 99.9)
SYNC_BYTES: Final = 4096
SYNC_SECONDS: Final = 0.1
ARRIVAL_S: Final = 0.00005
WARM_SECONDS: Final = 1.0
CAPACITY_ROUNDS: Final = 5
CAPACITY_SECONDS: Final = 0.4


def main(argv: Sequence[str]) -> int:
    """Run, print, write the result. 1 when a server failed, or with `--strict` when the goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench latency", description=__doc__.partition("\n")[0])
    parser.add_argument("--payload", choices=payloads.NAMES, default="A")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--rounds", type=int, default=64, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=0.1, metavar="S", help="for one share of one server in one round"
    )
    options(parser)
    parser.add_argument("--sync", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.sync is not None:
        print(" ".join(f"{each:.6f}" for each in sync_times(Path(args.sync), args.seconds)))
        return 0
    args.data.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="latency-", dir=args.data) as scratch:
            result = measure(args, Path(scratch).resolve())
    except Failed as failure:
        print(f"bench latency: {failure}", file=sys.stderr)
        return 1
    return report(result, args)


def measure(args: argparse.Namespace, scratch: Path) -> Result:
    server_core, load_core = two_cores()
    payload = payloads.build(args.payload, "127.0.0.1:8000")
    runs: dict[tuple[str, float], list[Latencies]] = {}
    capacity: dict[str, float] = {}
    disk: list[list[float]] = []
    notes: list[str] = []
    compared = [floor(), edge("page", "page"), edge("fsync", "fsync")]
    try:
        compared.append(commands.find(DURABLE_FLOOR).command)
    except Missing as missing:
        notes.append(f"{DURABLE_FLOOR} is missing: {missing}")
    with ExitStack() as stack:
        servers = [stack.enter_context(running(command, scratch, {server_core})) for command in compared]
        stack.enter_context(pinned({load_core}))
        for server in servers:
            server.sample(payload, args.connections, WARM_SECONDS)
        found = [
            {server.label: server.sample(payload, args.connections, CAPACITY_SECONDS) for server in servers}
            for _ in range(CAPACITY_ROUNDS)
        ]
        for server in servers:
            capacity[server.label] = median(samples[server.label].requests_per_second for samples in found)
        capacity[DURABLE_FLOOR] = capacity["fsync"]
        for _ in range(args.rounds):
            disk.append(_sync(scratch, server_core, SYNC_SECONDS))
            for share in SHARES:
                for server in servers:
                    rate = capacity[server.label] * share
                    runs.setdefault((server.label, share), []).append(_load(server, payload, rate, args))
                    # What one leaves to be written is not written while the next one is measured.
                    os.sync()
    syncs = sorted(chain.from_iterable(disk))
    waits = [sorted(waits_for(times)) for times in disk]
    rows = [_row(label, share, capacity[label], found) for (label, share), found in sorted(runs.items())]
    disk_p99_ms = percentile(syncs, 99) * 1000
    at_goal = median(found.percentile_ms(99) for found in runs["fsync", GOAL_SHARE])
    columns = {"server": "", "share": ".0%", "rate": ",.0f", **{f"p{each:g} ms": ".2f" for each in OF_A_ROUND}}
    columns |= {f"p{each:g} ms, all": ".2f" for each in OF_ALL_ROUNDS}
    columns |= {"max ms": ".1f", "generator p99 ms": ".2f", "errors": "d"}
    title = (
        f"{payload.name}: {payload.about}; open loop, {args.connections} connections, medians of {args.rounds} rounds"
    )
    own = Table(
        f"the disk by itself: append {SYNC_BYTES} bytes and fdatasync, on the server's core, {len(syncs)} times",
        {"": "", **{f"p{each:g} ms": ".2f" for each in PERCENTILES}},
        [
            {"": "a sync", **{f"p{each:g} ms": percentile(syncs, each) * 1000 for each in PERCENTILES}},
            {
                "": "until the end of the next one, medians of the rounds",
                **{f"p{each:g} ms": median(percentile(found, each) for found in waits) * 1000 for each in PERCENTILES},
            },
        ],
    )
    goal = Goal(f"p99 at {GOAL_SHARE:.0%} of capacity, fsync,", GOAL_RATIO, "x fdatasync's own", at_goal / disk_p99_ms)
    all_ms = percentile(_together(runs["fsync", GOAL_SHARE]), 99) * 1000
    notes.append(f"p99 of fsync at that rate over all rounds together: {all_ms / disk_p99_ms:.2f} x fdatasync's own")
    if (least := runs.get((DURABLE_FLOOR, GOAL_SHARE))) is not None:
        least_ms = median(found.percentile_ms(99) for found in least)
        notes.append(
            f"p99 of {DURABLE_FLOOR} at that rate: {least_ms / disk_p99_ms:.2f} x fdatasync's own; "
            f"of fsync: {at_goal / least_ms:.2f} x {DURABLE_FLOOR}'s"
        )
    return Result("latency", environment(args.data), [Table(title, columns, rows), own], [goal], notes)


def _load(server: Server, payload: payloads.Payload, rate: float, args: argparse.Namespace) -> Latencies:
    with OpenLoop(server.host, server.port, args.connections) as generator:
        generator.run(payload.requests, 0)
        found = generator.run_at(payload.requests, rate, args.seconds)
    if not found.answered:
        raise Failed(f"{server.label}: nothing was answered: {found.first_error}{server.said()}")
    return found


def _row(label: str, share: float, capacity: float, runs: Sequence[Latencies]) -> dict[str, Value]:
    together = _together(runs)
    times: dict[str, Value] = {
        f"p{each:g} ms": median(found.percentile_ms(each) for found in runs) for each in OF_A_ROUND
    }
    times |= {f"p{each:g} ms, all": percentile(together, each) * 1000 for each in OF_ALL_ROUNDS}
    return {
        "server": label,
        "share": share,
        "rate": capacity * share,
        **times,
        "max ms": max(found.percentile_ms(100) for found in runs),
        "generator p99 ms": median(found.lateness_ms for found in runs),
        "errors": sum(found.errors for found in runs),
    }


def _together(runs: Sequence[Latencies]) -> list[float]:
    """All latencies, sorted, seconds."""
    return sorted(each for found in runs for each in found.latencies_s)


def _sync(scratch: Path, core: int, seconds: float) -> list[float]:
    command = [sys.executable, "-m", "bench", "latency", "--sync", str(scratch / "sync"), "--seconds", str(seconds)]
    with pinned({core}):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


def waits_for(syncs: Sequence[float], every_s: float = ARRIVAL_S) -> list[float]:
    """Seconds from moments `every_s` apart, while one sync followed the other, to the end of the first that began later."""
    found = []
    at = begins = 0.0
    for this, following in pairwise(syncs):
        ends = begins + this
        while at < ends:
            found.append(ends + following - at)
            at += every_s
        begins = ends
    return found


def sync_times(path: Path, seconds: float) -> list[float]:
    """Seconds that an append of `SYNC_BYTES` with fdatasync takes, one after the other."""
    found = []
    block = os.urandom(SYNC_BYTES)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.perf_counter() + seconds
        while (began := time.perf_counter()) < deadline:
            os.write(fd, block)
            os.fdatasync(fd)
            found.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    return found
