"""Instructions per request of the hot path, counted by valgrind: the same whatever else the machine does.

The request path runs in this process on connections whose transports throw answers away, in loop turns of 32 requests, with
the spool in a real folder; kernel and event loop are left out. Counted are two runs of different length, and the
difference is divided by the difference of their requests, so start and end do not count.

    python -m bench instructions [--payload A] [--turn-requests 32] [--at-most N] [--check | --record]

`instructions.json` beside this file holds the last figure of each payload and the interpreter it was counted with, as another
build of Python takes other numbers. `--check` fails when a request takes three hundredths more; `--record` writes a new figure.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bench import payloads

PAYLOADS: Final = ("A", "B", "D", "F")
"""Those of which a turn is small enough to be committed without a change of thread."""
TURN_REQUESTS: Final = 32
SHORT_TURNS: Final = 50
LONG_TURNS: Final = 150
LAST: Final = Path(__file__).with_name("instructions.json")
SLACK: Final = 1.03
_TOTAL: Final = re.compile(r"Collected\s*:\s*(\d+)")


def main(argv: Sequence[str]) -> int:
    """Count and print. 1 when there are more instructions than allowed, 2 when valgrind is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench instructions", description=__doc__.splitlines()[0])
    parser.add_argument("--payload", choices=PAYLOADS, default="A")
    parser.add_argument("--at-most", type=int, metavar="N", help="status 1 when a request takes more")
    parser.add_argument("--check", action="store_true", help="status 1 when a request takes more than it last did")
    parser.add_argument("--record", action="store_true", help="keep the figure as the last one")
    parser.add_argument("--profile", metavar="FILE", help="keep callgrind's output of the longer run there")
    parser.add_argument(
        "--turn-requests", type=int, default=TURN_REQUESTS, metavar="N", help="in one turn of the loop (default: 32)"
    )
    parser.add_argument("--turns", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.turn_requests < 1 or (args.turn_requests != TURN_REQUESTS and (args.check or args.record)):
        parser.error(f"expected at least 1, and {TURN_REQUESTS} where the figure is checked or recorded")
    if args.turns is not None:
        drive(args.payload, args.turns, args.turn_requests)
        return 0
    if not valgrind_found("instructions"):
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        short, _ = count(args.payload, SHORT_TURNS, Path(scratch), args.turn_requests)
        long, profile = count(args.payload, LONG_TURNS, Path(scratch), args.turn_requests)
        if args.profile is not None:
            shutil.copyfile(profile, args.profile)
    per_request = (long - short) / ((LONG_TURNS - SHORT_TURNS) * args.turn_requests)
    print(f"{args.payload}: {per_request:,.0f} instructions per request")
    last = json.loads(LAST.read_text())
    bound = args.at_most
    if args.check:
        bound, why = allowed(last, args.payload, interpreter(), args.at_most)
        print(why)
    if args.record:
        last.setdefault(interpreter(), {})[args.payload] = round(per_request)
        LAST.write_text(json.dumps(last, indent=1) + "\n")
    return 1 if bound is not None and per_request > bound else 0


def interpreter() -> str:
    """What the counts depend on besides the code: the version of Python and how it was built."""
    return f"{platform.python_version()} {platform.machine()} {platform.python_compiler()}"


def allowed(
    last: dict[str, dict[str, int]], payload: str, counted_with: str, at_most: int | None
) -> tuple[float | None, str]:
    """The most that a request may take, and why in a sentence."""
    figure = last.get(counted_with, {}).get(payload)
    if figure is None:
        bound = "no bound" if at_most is None else f"at most {at_most:,}"
        return at_most, f"no figure was recorded with Python {counted_with}: {bound}"
    most = figure * SLACK
    return min(most, at_most or most), f"it last took {figure:,}: at most {min(most, at_most or most):,.0f}"


def valgrind_found(benchmark: str) -> bool:
    """Whether valgrind is there; says so when it is not."""
    found = shutil.which("valgrind") is not None
    if not found:
        print(f"bench {benchmark}: expected valgrind, found none", file=sys.stderr)
    return found


def count(payload: str, turns: int, scratch: Path, turn_requests: int = TURN_REQUESTS) -> tuple[int, Path]:
    """Instructions of a process that takes so many turns, and callgrind's output, in `scratch` as the spool is."""
    profile = scratch / f"{payload}-{turns}.callgrind"
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        + [sys.executable, "-m", "bench", "instructions", "--payload", payload]
        + ["--turn-requests", str(turn_requests), "--turns", str(turns)],
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = _TOTAL.search(done.stderr)
    assert found is not None, done.stderr
    return int(found[1]), profile


class _Loop:
    """As much of an event loop as the spool's writer needs: what it wants called at the end of a turn."""

    def __init__(self) -> None:
        self.due: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        self.due.append((call, arguments))

    call_soon_threadsafe = call_soon


class _Transport:
    """Throws away what is written."""

    def __init__(self) -> None:
        self.write = deque[bytes](maxlen=0).append

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("127.0.0.1", 50_000)


def drive(payload: str, turns: int, turn_requests: int = TURN_REQUESTS) -> None:
    """Take `turns` turns of so many requests through the path, `page` mode."""
    # Here, because the counting process needs none of it.
    from edge.disk import RealDisk
    from edge.metrics import Board
    from edge.segment.record import RecordIds
    from edge.server.admission import ServerSettings
    from edge.server.protocol import CaptureConnection
    from edge.server.service import Service
    from edge.server.turn import Turn
    from edge.spool.writer import Clock, Durability, SpoolSettings, SpoolWriter

    requests = payloads.build(payload).requests
    loop = _Loop()

    def fault(error: BaseException) -> None:
        raise error

    with tempfile.TemporaryDirectory() as folder:
        row = Board.create(1).rows[0]
        writer = SpoolWriter(
            loop,  # type: ignore[arg-type]
            RealDisk(),
            folder,
            0,
            1,
            lambda: 1,
            SpoolSettings(Durability.PAGE, sync_interval_s=1e9, segment_age_max_s=1e9),
            Clock(time.monotonic, lambda: time.time_ns() // 1000),
            row,
            fault,
        )
        service = Service(ServerSettings(), writer, row, RecordIds(1), time.time_ns, loop.call_soon)
        service.tick(time.monotonic())
        turn = Turn(service, loop.call_soon)
        connections = [CaptureConnection(service, turn) for _ in range(turn_requests)]
        for connection in connections:
            connection.connection_made(_Transport())  # type: ignore[arg-type]
        index = 0
        for _ in range(turns):
            for connection in connections:
                connection.data_received(requests[index % len(requests)])
                index += 1
            while loop.due:
                due, loop.due = loop.due, []
                for call, arguments in due:
                    call(*arguments)
        ingested = row.get("capture_events_ingested_total")
        assert ingested == index * payloads.build(payload, variants=1).events, ingested
