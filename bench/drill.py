"""An outage drill: `edge up` takes a constant load while its destination refuses for some seconds and comes back.

A row a second: what was accepted, what was shipped, what waits, how long clients waited for answers (open loop), memory.
The destination takes batches as a PostHog cluster does and answers 200; while it refuses, nobody listens on its port.
At the end everything that was accepted has to be shipped, and no client may have seen anything of it.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from bench import payloads
from bench.cpu import pinned, two_cores
from bench.open_loop import OpenLoop
from bench.results import Goal, Result, Table, Value, environment, options, report
from bench.servers import START_SECONDS, Command, Failed, Server, accepts, free_port, running

CATCH_UP_SECONDS: Final = 60.0
"""How long what waits may take to be shipped after the load has ended."""
_ADMIN: Final = re.compile(r"^admin on (http://\S+)", re.MULTILINE)
_ACCEPTED: Final = re.compile(r"^capture_events_ingested_total (\d+)$", re.MULTILINE)
_SHIPPED: Final = re.compile(r'^edge_drain_events_total\{[^}]*="shipped"[^}]*\} (\d+)$', re.MULTILINE)


def main(argv: Sequence[str]) -> int:
    """Run, print, write the result. 1 when a server failed, or with `--strict` when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench drill", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rate", type=float, default=1000.0, metavar="R", help="requests a second")
    parser.add_argument("--before", type=int, default=5, metavar="S", help="seconds before it refuses")
    parser.add_argument("--refuse", type=int, default=10, metavar="S", help="seconds in which it refuses")
    parser.add_argument("--after", type=int, default=15, metavar="S", help="seconds afterwards")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--durability", choices=("page", "fsync"), default="fsync")
    options(parser)
    parser.add_argument("--destination", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.destination is not None:
        serve_destination(args.destination)
        return 0
    args.data.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="drill-", dir=args.data) as scratch:
            result = measure(args, Path(scratch).resolve())
    except Failed as failure:
        print(f"bench drill: {failure}", file=sys.stderr)
        return 1
    return report(result, args)


def measure(args: argparse.Namespace, scratch: Path) -> Result:
    server_core, load_core = two_cores()
    payload = payloads.build("A")
    port = free_port()
    command = Command(
        "drill",
        (
            *(sys.executable, "-P", "-m", "edge", "up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            *("--workers", "1", "--durability", args.durability, "--data", "{data}"),
            *("--to", f"posthog+http://127.0.0.1:{port}"),
        ),
    )
    rows: list[dict[str, Value]] = []
    errors = 0
    with (
        running(command, scratch, {server_core}) as server,
        pinned({load_core}),
        OpenLoop(server.host, server.port, args.connections) as generator,
    ):
        generator.run(payload.requests, 0)
        accepted, shipped = progress(server)
        began_s = time.monotonic()

        def second() -> None:
            nonlocal accepted, shipped, errors
            from_s = time.monotonic()
            takes = accepts(port)
            found = generator.run_at(payload.requests, args.rate, 1.0, seed=len(rows))
            errors += found.errors
            before = accepted, shipped
            accepted, shipped = progress(server)
            took_s = time.monotonic() - from_s
            rows.append(
                {
                    "second": time.monotonic() - began_s,
                    "destination": "takes" if takes else "refuses",
                    "accepted/s": (accepted - before[0]) / took_s,
                    "shipped/s": (shipped - before[1]) / took_s,
                    "waiting": accepted - shipped,
                    "p50 ms": found.percentile_ms(50),
                    "p99 ms": found.percentile_ms(99),
                    "RSS MB": server.memory().rss_bytes / 1e6,
                }
            )

        with destination(port):
            wait_for_destination(port)
            for _ in range(args.before):
                second()
        for _ in range(args.refuse):
            second()
        with destination(port):
            for _ in range(args.after):
                second()
            ended_s = time.monotonic()
            while accepted > shipped and time.monotonic() < ended_s + CATCH_UP_SECONDS:
                time.sleep(0.1)
                accepted, shipped = progress(server)
            caught_up_s = time.monotonic() - ended_s
    columns = {"second": ".1f", "destination": "", "accepted/s": ",.0f", "shipped/s": ",.0f", "waiting": ",d"}
    columns |= {"p50 ms": ".2f", "p99 ms": ".2f", "RSS MB": ".0f"}
    title = f"{payload.about}, {args.rate:,.0f} due a second, {args.durability}; the destination refuses for {args.refuse} s"
    goals = [
        Goal("accepted and not shipped at the end are", 0, "events", accepted - shipped),
        Goal("requests that failed are", 0, "requests", errors),
    ]
    left = f"everything was shipped {caught_up_s:.1f} s after the load had ended"
    notes = [left] if accepted == shipped else []
    return Result("drill", environment(args.data), [Table(title, columns, rows)], goals, notes)


def progress(server: Server) -> tuple[int, int]:
    """Events accepted and events shipped so far, by the server's own metrics. Raises `Failed` where it has none."""
    admin = _ADMIN.search(server.output())
    if admin is None:
        raise Failed(f"{server.label}: no address of metrics{server.said()}")
    with urllib.request.urlopen(f"{admin[1]}/metrics", timeout=10) as response:
        text = response.read().decode()
    accepted, shipped = (sum(map(int, metric.findall(text))) for metric in (_ACCEPTED, _SHIPPED))
    return accepted, shipped


@contextmanager
def destination(port: int) -> Iterator[None]:
    """Batches are taken on `port`, as soon as a process of its own has come up: in this one it would hold up the load."""
    process = subprocess.Popen([sys.executable, "-m", "bench", "drill", "--destination", str(port)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_for_destination(port: int) -> None:
    """Raises `Failed` when it does not come up."""
    deadline_s = time.monotonic() + START_SECONDS
    while not accepts(port):
        if time.monotonic() > deadline_s:
            raise Failed("the destination of the drill does not listen")
        time.sleep(0.02)


def serve_destination(port: int) -> None:
    """Take everything and answer 200, until killed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
