"""What connections cost: idle ones their memory, busy ones the CPU, short ones their opening and closing, all of them garbage
collections.

    idle     bytes of memory for each of many kept connections that do nothing, over the server without them
    busy     CPU per request with more and more connections
    short    CPU per connection that is opened for one request and closed by the client
    pauses   the longest garbage collection while the idle ones were open, by the worker's own metric

Kernel memory, such as that of sockets, is not counted. The limit of open files bounds how many there can be.
"""

import argparse
import re
import resource
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import pinned, two_cores
from bench.load import LoadGenerator
from bench.payloads import Payload
from bench.results import Goal, Result, Table, Value, environment, options, report
from bench.servers import Failed, Sample, Server, edge, floor, running

BUSY: Final = (10, 64, 512, 1000, 5000)
IDLE_GOAL_BYTES: Final = 4096
SHORT_GOAL: Final = 2.0
PAUSE_GOAL_MS: Final = 5.0
_SPARE_FILES: Final = 200
_SETTLE_SECONDS: Final = 1.5
_ADMIN: Final = re.compile(r"^admin on (http://\S+)", re.MULTILINE)
_PAUSE_BUCKET: Final = re.compile(r'^edge_gc_pause_seconds_bucket\{le="([^"]+)"\} (\d+)$', re.MULTILINE)


def main(argv: Sequence[str]) -> int:
    """Run, print, write the result. 1 when a server failed, or with `--strict` when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench connections", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--idle", type=int, default=10_000, metavar="N", help="kept connections that do nothing")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for one server in one round")
    options(parser)
    args = parser.parse_args(argv)
    args.data.mkdir(parents=True, exist_ok=True)
    args.idle, notes = within_limit(args.idle)
    try:
        with tempfile.TemporaryDirectory(prefix="connections-", dir=args.data) as scratch:
            result = measure(args, Path(scratch).resolve(), notes)
    except (Failed, OSError) as failure:
        print(f"bench connections: {failure}", file=sys.stderr)
        return 1
    return report(result, args)


def within_limit(wanted: int) -> tuple[int, list[str]]:
    """As many connections as the limit of open files allows, which is raised as far as it goes; and a note where it is less."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = hard - _SPARE_FILES
    if hard == resource.RLIM_INFINITY or wanted <= allowed:
        return wanted, []
    return allowed, [f"{allowed} idle connections instead of {wanted}: the limit of open files is {hard}"]


def measure(args: argparse.Namespace, scratch: Path, notes: list[str]) -> Result:
    server_core, load_core = two_cores()
    payload = payloads.build("A", "127.0.0.1:8000")
    more = ("--connections-max", str(args.idle + 1000))
    busy: dict[tuple[str, int], list[Sample]] = {}
    short: dict[str, list[float]] = {}
    # On servers of their own: what busy connections needed before would count as theirs.
    idle = []
    for command in (floor(), edge("page", "page", extra=more)):
        with running(command, scratch / "idle", {server_core}) as server, pinned({load_core}):
            idle.append(_idle(server, payload, args.idle))
    with ExitStack() as stack:
        commands = [floor(), edge("page", "page", extra=more), edge("fsync", "fsync", extra=more)]
        servers = [stack.enter_context(running(command, scratch, {server_core})) for command in commands]
        stack.enter_context(pinned({load_core}))
        for server in servers:
            server.sample(payload, 64, args.seconds)
        for _ in range(args.rounds):
            for count in BUSY:
                for server in servers:
                    busy.setdefault((server.label, count), []).append(server.sample(payload, count, args.seconds))
            for server in servers:
                short.setdefault(server.label, []).append(short_us(server, payload, args.seconds))
    by_label = {str(row["server"]): row for row in idle}
    ratio = median(one / other for one, other in zip(short["page"], short["floor"], strict=True))
    pause_ms = by_label["page"]["longest collection ms, at most"]
    tables = [
        Table(
            "idle kept connections, one request answered on each",
            {"server": "", "connections": ",d", "base MB": ".1f", "with them MB": ".1f", "bytes each": ",.0f"}
            | {"longest collection ms, at most": ".1f"},
            idle,
        ),
        Table(
            f"busy connections: {payload.about}, CPU us per request, medians of {args.rounds} rounds",
            {"server": "", **{f"{count:,}": ".1f" for count in BUSY}},
            [
                {"server": server.label}
                | {f"{count:,}": median(each.us_per_request for each in busy[server.label, count]) for count in BUSY}
                for server in servers
            ],
        ),
        Table(
            f"a connection for each request, CPU us per connection, medians of {args.rounds} rounds",
            {"server": "", "us": ".1f"},
            [{"server": label, "us": median(found)} for label, found in short.items()],
        ),
    ]
    goals = [
        Goal("an idle kept connection takes", IDLE_GOAL_BYTES, "bytes", float(by_label["page"]["bytes each"] or 0)),
        Goal(
            "a garbage collection with them open takes",
            PAUSE_GOAL_MS,
            "ms",
            None if pause_ms is None else float(pause_ms),
        ),
        Goal("a short connection, page, costs", SHORT_GOAL, "x floor", ratio),
    ]
    return Result("connections", environment(args.data), tables, goals, notes)


def short_us(server: Server, payload: Payload, seconds: float) -> float:
    """CPU us of the server per connection that is opened, asks once, and is closed when the answer came."""
    before_ns = server.cpu.read_ns()
    deadline = time.monotonic() + seconds
    answered = number = 0
    while time.monotonic() < deadline:
        # Some at a time, as a server that waits for one client alone is never busy.
        with LoadGenerator(server.host, server.port, 16) as generator:
            part = [payload.requests[(number + index) % len(payload.requests)] for index in range(16)]
            answers = generator.run(part, 0)
        if answers.errors:
            raise Failed(f"{server.label}: short connections: {answers.first_error}{server.said()}")
        number += 16
        answered += answers.answered
    return (server.cpu.read_ns() - before_ns) / 1000 / answered


def _idle(server: Server, payload: Payload, connections: int) -> dict[str, Value]:
    server.sample(payload, 10, _SETTLE_SECONDS)
    base = server.memory().pss_bytes
    with LoadGenerator(server.host, server.port, connections) as generator:
        answers = generator.run(payload.requests, 0)
        if answers.errors:
            raise Failed(f"{server.label}: idle connections: {answers.first_error}{server.said()}")
        time.sleep(_SETTLE_SECONDS)
        held = server.memory().pss_bytes
        # Young garbage makes the collector work while they are open.
        active = generator.run(payload.requests, 1.0)
        time.sleep(_SETTLE_SECONDS)
        if active.errors:
            raise Failed(f"{server.label}: many connections: {active.first_error}{server.said()}")
        pause_ms = longest_pause_ms(server)
    return {
        "server": server.label,
        "connections": connections,
        "base MB": base / 1e6,
        "with them MB": held / 1e6,
        "bytes each": (held - base) / connections,
        "longest collection ms, at most": pause_ms,
    }


def longest_pause_ms(server: Server) -> float | None:
    """The upper bound of the highest bucket of the worker's metric that holds anything; `None` where there is no metric."""
    admin = _ADMIN.search(server.output())
    if admin is None:
        return None
    with urllib.request.urlopen(f"{admin[1]}/metrics", timeout=10) as response:
        buckets = _PAUSE_BUCKET.findall(response.read().decode())
    seen = 0
    longest = 0.0
    for bound, count in buckets:
        if int(count) > seen:
            seen = int(count)
            longest = float(bound) * 1000
    return longest
