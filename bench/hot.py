"""CPU time per request of the hot path, as a multiple of a floor measured in the same run.

Every server runs alone on one core, the load generator on another. A round measures one server after the other, and every
round starts with another one of them; a ratio is the median of the ratios within the rounds. So a change of the machine's
clock or a neighbour's load meets all servers alike. Read the ratios, not the microseconds.

    floor          a canned answer, `bench/floor.py`
    page, fsync    `edge serve --durability page|fsync`, one worker
    old page, ...  the same of another checkout, named by --against

`busy` is the server's CPU time over the wall clock. Below 80 % something else was the limit (the load generator, the disk,
other work on these cores), and a request then costs more than it does in a full loop turn: measure again.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import core_speed, pinned, two_cores
from bench.payloads import Payload
from bench.results import filesystem_of, paired_ratio, speed_of_core
from bench.servers import Command, Failed, Sample, checkout, edge, floor, running

MODES: Final = ("page", "fsync")
WARM_SECONDS: Final = 1.0

Samples = dict[str, list[Sample]]
"""One list per label, one entry per round."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark. 1 when a goal was missed or a server failed."""
    args = _arguments(argv)
    try:
        with ExitStack() as stack:
            args.data.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hot-", dir=args.data))).resolve()
            commands = [floor(), *(edge(mode, mode) for mode in args.modes)]
            if args.against:
                old = checkout(args.against, scratch)
                commands += [edge(f"old {mode}", mode, checkout=old) for mode in args.modes]
            return _run(args, commands, scratch)
    except Failed as failure:
        print(f"bench hot: {failure}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, commands: Sequence[Command], scratch: Path) -> int:
    server_core, load_core = two_cores()
    filesystem = filesystem_of(scratch)
    print(f"Python {platform.python_version()}, {platform.machine()}, Linux {platform.release()}, data on {filesystem}")
    print(f"servers on core {server_core}, load on core {load_core}, {args.connections} connections")
    if server_core == load_core:
        print("only one core: servers and load share it; requests/s mean little, ratios still hold roughly")
    if filesystem in ("tmpfs", "ramfs") and "fsync" in args.modes:
        raise Failed(f"{args.data} is in memory ({filesystem}), a sync there costs nothing: choose a disk with --data")
    measured: dict[str, Samples] = {}
    missed = False
    for name in args.payloads:
        payload = payloads.build(name, "127.0.0.1:8000")
        with pinned({load_core}):
            measured[name], core_speeds = _measure(payload, commands, scratch / name, server_core, args)
        print()
        print("\n".join(table(payload, measured[name])))
        print(f"  {speed_of_core(core_speeds)}")
        if name in args.goal:
            reached = paired_ratio(measured[name]["page"], measured[name]["floor"])
            met = reached <= args.goal[name]
            missed |= not met
            verdict = "met" if met else "MISSED"
            print(f"goal: page at most {args.goal[name]:.2f} x floor: {verdict} with {reached:.2f}")
        if args.json:
            # After each payload, so that an interrupted run leaves what it has.
            _write_json(args, measured)
    return 1 if missed else 0


def _measure(
    payload: Payload, commands: Sequence[Command], folder: Path, core: int, args: argparse.Namespace
) -> tuple[Samples, list[float]]:
    samples: Samples = {command.label: [] for command in commands}
    core_speeds = []
    with ExitStack() as stack:
        servers = [stack.enter_context(running(command, folder, {core})) for command in commands]
        for server in servers:
            server.sample(payload, args.connections, WARM_SECONDS)
        for round_index in range(args.rounds):
            core_speeds.append(core_speed(core))
            first = round_index % len(servers)
            for server in servers[first:] + servers[:first]:
                samples[server.label].append(server.sample(payload, args.connections, args.seconds))
    return samples, core_speeds


def table(payload: Payload, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """The lines printed for one payload."""
    rounds = len(samples["floor"])
    seconds = median(sample.seconds for sample in samples["floor"])
    batch = payload.events > 1
    lines = [
        f"{payload.name}: {payload.about}; {rounds} rounds of {seconds:.1f} s, median (min-max) of CPU us per request",
        f"  {'':<10} {'us/req':>8} {'min-max':>16} {'us/event' if batch else '':>9} {'req/s':>9} {'busy':>5} {'x floor':>8}",
    ]
    for label, taken in samples.items():
        us = [sample.us_per_request for sample in taken]
        per_event = f"{median(us) / payload.events:.2f}" if batch else ""
        rate = median(sample.requests / sample.seconds for sample in taken)
        busy = median(sample.cpu_ns / 1e9 / sample.seconds for sample in taken)
        spread = f"({min(us):.1f}-{max(us):.1f})"
        ratio = paired_ratio(taken, samples["floor"])
        lines.append(
            f"  {label:<10} {median(us):>8.1f} {spread:>16} {per_event:>9} {rate:>9,.0f} {busy:>5.0%} {ratio:>8.2f}"
        )
    for label, taken in samples.items():
        if old := samples.get(f"old {label}"):
            ratios = [new.us_per_request / before.us_per_request for new, before in zip(taken, old, strict=True)]
            lines.append(f"  {label}, new / old: {median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
    return lines


def _write_json(args: argparse.Namespace, measured: Mapping[str, Samples]) -> None:
    run = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "connections": args.connections,
        "against": args.against,
        "payloads": {
            name: {
                label: [asdict(sample) | {"us_per_request": sample.us_per_request} for sample in taken]
                for label, taken in samples.items()
            }
            for name, samples in measured.items()
        },
    }
    args.json.write_text(json.dumps(run, indent=1) + "\n")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench hot", description=__doc__.partition("\n")[0])
    parser.add_argument("--payloads", type=one_of(payloads.NAMES), default=("A", "C"), metavar="A,B,C,F")
    parser.add_argument("--modes", type=one_of(MODES), default=MODES, metavar="page,fsync")
    parser.add_argument("--rounds", type=_whole, default=20, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.4, metavar="S", help="for one server in one round")
    parser.add_argument("--connections", type=_whole, default=64, metavar="N")
    parser.add_argument("--against", default="", metavar="REV|DIR", help="also measure another checkout's edge")
    parser.add_argument(
        "--goal", type=_goal, action="append", default=[], metavar="A=2.5", help="status 1 when page exceeds it x floor"
    )
    parser.add_argument("--data", type=Path, default=Path(".cache/bench"), metavar="DIR", help="where spools are put")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    args = parser.parse_args(argv)
    args.goal = dict(args.goal)
    if args.goal and "page" not in args.modes:
        parser.error("a goal is about the page mode, which --modes leaves out")
    if unmeasured := args.goal.keys() - set(args.payloads):
        parser.error(f"a goal for {', '.join(sorted(unmeasured))}, which --payloads leaves out")
    return args


def one_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """The type of an option that takes some of these names, with commas between them."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, found {','.join(unknown)}")
        return names

    return parse


def _goal(text: str) -> tuple[str, float]:
    name, _, ratio = text.partition("=")
    try:
        return name, float(ratio)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=RATIO, found {text}") from error


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text}")
    return int(text)
