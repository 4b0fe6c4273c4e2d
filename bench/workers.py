"""What a second worker brings: CPU per request, and how evenly the requests fall on the workers.

The load generator needs a core of its own, so on a machine of two cores the wall clock cannot show what two workers on two
cores take. What it shows is what they would: a worker's capacity is the inverse of the CPU a request costs it, and several
workers are together as many times that as the busiest of them leaves room for:

    capacity = 1 / (CPU of the busiest worker per request answered by all of them together)

So an uneven split and a dearer request both count against it. All workers run on the server's core here.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import CpuMeter, pinned, processes, two_cores
from bench.results import Goal, Result, Table, Value, environment, options, report
from bench.servers import Failed, Server, edge, running

WORKERS: Final = (1, 2, 4)
GOAL: Final = 1.8
CONNECTIONS: Final = 256
"""The kernel spreads them by a hash of their addresses; of few, some worker always gets too many."""


def main(argv: Sequence[str]) -> int:
    """Run, print, write the result. 1 when a server failed, or with `--strict` when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench workers", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=12, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.6, metavar="S", help="for one server in one round")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N")
    parser.add_argument("--durability", choices=("page", "fsync"), default="page")
    options(parser)
    args = parser.parse_args(argv)
    args.data.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="workers-", dir=args.data) as scratch:
            result = measure(args, Path(scratch).resolve())
    except Failed as failure:
        print(f"bench workers: {failure}", file=sys.stderr)
        return 1
    return report(result, args)


def measure(args: argparse.Namespace, scratch: Path) -> Result:
    server_core, load_core = two_cores()
    payload = payloads.build("A", "127.0.0.1:8000")
    costs: dict[int, list[tuple[float, float]]] = {count: [] for count in WORKERS}
    with ExitStack() as stack:
        servers = {
            count: stack.enter_context(
                running(edge(f"{count} workers", args.durability, workers=count), scratch, {server_core})
            )
            for count in WORKERS
        }
        stack.enter_context(pinned({load_core}))
        for server in servers.values():
            server.sample(payload, args.connections, 1.0)
        for _ in range(args.rounds):
            for count, server in servers.items():
                costs[count].append(_cost(server, payload, args))
    rows: list[dict[str, Value]] = []
    for count, found in costs.items():
        capacity = median(1e6 / busiest for _, busiest in found)
        ratios = [one / other for (_, one), (_, other) in zip(costs[1], found, strict=True)]
        rows.append(
            {
                "workers": count,
                "us per request, all": median(total for total, _ in found),
                "us per request, busiest": median(busiest for _, busiest in found),
                "capacity on as many cores, requests/s": capacity,
                "x one worker": median(ratios),
            }
        )
    columns = {"workers": "d", "us per request, all": ".1f", "us per request, busiest": ".1f"}
    columns |= {"capacity on as many cores, requests/s": ",.0f", "x one worker": ".2f"}
    dearer = median(two / one for (one, _), (two, _) in zip(costs[1], costs[2], strict=True))
    goals = [
        Goal("two workers on two cores take", GOAL, "x one", float(rows[1]["x one worker"] or 0), at_least=True),
        Goal("CPU per request with two workers is", 1.1, "x that with one", dearer),
    ]
    title = f"{payload.about}, {args.durability}, {args.connections} connections, medians of {args.rounds} rounds"
    return Result("workers", environment(args.data), [Table(title, columns, rows)], goals)


def _cost(server: Server, payload: payloads.Payload, args: argparse.Namespace) -> tuple[float, float]:
    """CPU us per request: of all processes, and of the busiest one, both over the requests of all."""
    meters = [CpuMeter(worker) for worker in processes(server.pid)[1:]]
    sample = server.sample(payload, args.connections, args.seconds)
    # What opening the connections cost is in the busiest one's, and next to nothing.
    busiest_ns = max(meter.read_ns() for meter in meters)
    return sample.us_per_request, busiest_ns / 1000 / sample.requests
