"""How CPU grows: with the size of a batch, with the number of project tokens, with the backlog that waits in the spool.

    batch     CPU per event of batches of more and more events, none compressed
    tokens    CPU per request of single events, of ever more different projects
    backlog   more and more small sealed segments that a destination does not take: how long `edge serve` takes to start,
              the CPU of it and of `edge drain` in a second of doing nothing, CPU per request, CPU of one `edge status`
    shipping  CPU per segment when a backlog of so many is shipped to nowhere, starting left out

What waits is many segments of one record each: what grows with the number of files shows, and few bytes are needed for it.
The destination is a port where nobody listens.
"""

import argparse
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import CpuMeter, pinned, two_cores
from bench.payloads import Payload
from bench.results import Goal, Result, Table, Value, environment, options, report
from bench.servers import ROOT, Command, Failed, Sample, Server, edge, running
from bench.ship import drain
from edge.layout import LOCK_NAME, Layout
from edge.segment.frame import Compressor, encode_segment_header
from edge.segment.name import SegmentName, State
from edge.segment.record import RecordIds, encode_record

BATCHES: Final = (1, 10, 50, 200, 1000)
TOKENS: Final = (1, 1000, 100_000)
CONNECTIONS: Final = 64
BATCH_GOAL: Final = 1.1
TOKENS_GOAL: Final = 1.3
BACKLOG_GOAL: Final = 1.1
SHIPPING_GOAL: Final = 1.5
SHIPPED: Final = (1000, 4000)
_AT_US: Final = 1_763_690_000_000_000
_IDLE_SECONDS: Final = 3.0
_EVENTS_HELD: Final = 20_000
"""Different events of one size of batch: more JSON than a compressor's window remembers."""


def main(argv: Sequence[str]) -> int:
    """Run, print, write the result. 1 when a server failed, or with `--strict` when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench growth", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.4, metavar="S", help="for one workload in one round")
    parser.add_argument(
        "--backlog", type=int, nargs="+", default=[0, 1000, 20_000], metavar="N", help="segments, smallest first"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), metavar="N", help="smallest first")
    options(parser)
    args = parser.parse_args(argv)
    args.data.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="growth-", dir=args.data) as scratch:
            result = measure(args, Path(scratch).resolve())
    except Failed as failure:
        print(f"bench growth: {failure}", file=sys.stderr)
        return 1
    return report(result, args)


def measure(args: argparse.Namespace, scratch: Path) -> Result:
    server_core, load_core = two_cores()
    batches = {count: batch_payload(count, max(2, _EVENTS_HELD // count)) for count in BATCHES}
    tokens = {count: token_payload(count) for count in args.tokens}
    with running(edge("page", "page"), scratch, {server_core}) as server, pinned({load_core}):
        of_batches = _interleaved({count: (server, each) for count, each in batches.items()}, args)
        of_tokens = _interleaved({count: (server, each) for count, each in tokens.items()}, args)
    backlog = _backlogs(args, scratch, server_core, load_core)
    shipping = {count: _shipping_ms(count, scratch) for count in SHIPPED}
    batch_rows: list[dict[str, Value]] = [
        {"events": count, "us per request": cost, "us per event": cost / count} for count, cost in of_batches.items()
    ]
    token_rows: list[dict[str, Value]] = [
        {"tokens": count, "us per request": cost} for count, cost in of_tokens.items()
    ]
    largest, before = of_batches[BATCHES[-1]] / BATCHES[-1], of_batches[BATCHES[-2]] / BATCHES[-2]
    empty, full = backlog[0], backlog[-1]
    goals = [
        Goal(f"an event of a batch of {BATCHES[-1]} costs", BATCH_GOAL, f"x one of {BATCHES[-2]}", largest / before),
        Goal(
            f"a request of {args.tokens[-1]:,} projects costs",
            TOKENS_GOAL,
            f"x one of {args.tokens[0]:,}",
            of_tokens[args.tokens[-1]] / of_tokens[args.tokens[0]],
        ),
        Goal(
            f"a request beside {args.backlog[-1]:,} segments that wait costs",
            BACKLOG_GOAL,
            f"x one beside {args.backlog[0]:,}",
            float(full["us per request"] or 0) / float(empty["us per request"] or 1),
        ),
        Goal(
            f"a segment of {SHIPPED[-1]} that are shipped costs",
            SHIPPING_GOAL,
            f"x one of {SHIPPED[0]}",
            shipping[SHIPPED[-1]] / shipping[SHIPPED[0]],
        ),
    ]
    tables = [
        Table(
            f"batches of 350 B events, page, medians of {args.rounds} rounds",
            {"events": ",d", "us per request": ",.1f", "us per event": ".2f"},
            batch_rows,
        ),
        Table(
            f"single 350 B events of different projects, page, medians of {args.rounds} rounds",
            {"tokens": ",d", "us per request": ".1f"},
            token_rows,
        ),
        Table(
            f"sealed segments that wait, page, medians of {args.rounds} rounds",
            {"segments": ",d", "start s": ".2f", "serve idle ms/s": ".1f", "drain idle ms/s": ".1f"}
            | {"us per request": ".1f", "status CPU s": ".2f"},
            backlog,
        ),
        Table(
            "a backlog shipped to nowhere by `edge drain --once`",
            {"segments": ",d", "ms per segment": ".2f"},
            [{"segments": count, "ms per segment": each_ms} for count, each_ms in shipping.items()],
        ),
    ]
    return Result("growth", environment(args.data), tables, goals)


def batch_payload(events: int, variants: int) -> Payload:
    """POSTs to `/batch/` of so many 350 B events each."""
    draw = random.Random(f"growth:{events}")
    bodies = [_body(request) for request in payloads.build("A", variants=min(2000, events * variants)).requests]
    requests = []
    for _ in range(variants):
        body = b'{"api_key":"%s","batch":[%s]}' % (payloads.TOKEN.encode(), b",".join(draw.choices(bodies, k=events)))
        requests.append(_post(b"/batch/", body))
    return Payload(f"batch of {events}", f"POST, batch of {events}", events, tuple(requests))


def token_payload(tokens: int) -> Payload:
    """Single events, each token in turn; as many different requests whatever their number, up to that of the tokens."""
    bodies = [_body(request) for request in payloads.build("A", variants=2000).requests]
    own = payloads.TOKEN.encode()
    requests = tuple(
        # As long as the other tokens: what is counted is how many there are.
        _post(b"/e/", bodies[index % len(bodies)].replace(own, b"phc_%07d" % (index % tokens)))
        for index in range(max(2000, tokens))
    )
    return Payload(f"{tokens} tokens", f"POST, {tokens} projects", 1, requests)


def make_backlog(data: Path, segments: int) -> None:
    """That many sealed segments in slot 0, of one record each."""
    directory = Layout(data).slot(0)
    directory.mkdir(parents=True)
    (directory / LOCK_NAME).touch()
    ids, compressor = RecordIds(1), Compressor()
    bodies = [_body(request) for request in payloads.build("A", variants=100).requests]
    for number in range(1, segments + 1):
        at_us = _AT_US + number * 1000
        line = encode_record(ids, at_us, payloads.TOKEN, "e", "203.0.113.7", bodies[number % len(bodies)])
        name = SegmentName(number, 0xBE7C4 + number)
        packed = compressor.pack(line, 1, 1, at_us)
        pair = packed.header(0, 0, name.incarnation) + b"".join(packed.pieces)
        (directory / name.file_name(State.SEALED)).write_bytes(encode_segment_header(name, 0, at_us) + pair)


def _backlogs(args: argparse.Namespace, scratch: Path, server_core: int, load_core: int) -> list[dict[str, Value]]:
    payload = payloads.build("A")
    rows: dict[int, dict[str, Value]] = {}
    servers: dict[int, Server] = {}
    with ExitStack() as stack:
        for segments in args.backlog:
            home = scratch / f"backlog-{segments}"
            make_backlog(home / "backlog", segments)
            row: dict[str, Value] = {"segments": segments}
            serve = edge("page", "page")
            began_s = time.monotonic()
            server = stack.enter_context(running(_with_data(serve, home / "backlog"), home / "run", {server_core}))
            row["start s"] = time.monotonic() - began_s
            servers[segments], rows[segments] = server, row
            with pinned({load_core}):
                server.sample(payload, CONNECTIONS, args.seconds)
            row["serve idle ms/s"] = _idle_ms(server.cpu)
            with _drainer(home / "backlog", server_core, home / "drain.log") as drain:
                row["drain idle ms/s"] = _idle_ms(CpuMeter(drain))
        with pinned({load_core}):
            costs = _interleaved({segments: (server, payload) for segments, server in servers.items()}, args)
        for segments, row in rows.items():
            row["us per request"] = costs[segments]
            row["status CPU s"] = _status_s(scratch / f"backlog-{segments}" / "backlog")
    return list(rows.values())


def _with_data(command: Command, data: Path) -> Command:
    """The same on data there is."""
    return replace(command, arguments=tuple(str(data) if part == "{data}" else part for part in command.arguments))


@contextmanager
def _drainer(data: Path, core: int, log: Path) -> Iterator[int]:
    """`edge drain` to a port where nobody listens; its process id."""
    with socket.socket() as nobody, log.open("wb") as output:
        # Bound and not listening: connections are refused, and no other program gets the port.
        nobody.bind(("127.0.0.1", 0))
        to = f"posthog+http://127.0.0.1:{nobody.getsockname()[1]}"
        with pinned({core}):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge", "drain", "--data", str(data), "--to", to],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            # Starting is not what is measured.
            time.sleep(2.0)
            if process.poll() is not None:
                raise Failed(f"edge drain ended with status {process.returncode}: {log.read_text()[-500:]}")
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def _idle_ms(meter: CpuMeter) -> float:
    """CPU milliseconds in a second of doing nothing."""
    before_ns = meter.read_ns()
    began_s = time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (meter.read_ns() - before_ns) / 1e6 / (time.monotonic() - began_s)


def _status_s(data: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-P", "-m", "edge", "status", "--json", "--data", str(data)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _shipping_ms(segments: int, scratch: Path) -> float:
    """CPU milliseconds per segment."""
    empty, full = scratch / f"ship-{segments}-0", scratch / f"ship-{segments}"
    make_backlog(empty, 0)
    make_backlog(full, segments)
    idle_s = drain(empty, "null:").cpu_s
    return (drain(full, "null:").cpu_s - idle_s) * 1000 / segments


def _interleaved(work: Mapping[int, tuple[Server, Payload]], args: argparse.Namespace) -> dict[int, float]:
    """Median CPU us per request of each."""
    samples: dict[int, list[Sample]] = {count: [] for count in work}
    for server, payload in work.values():
        server.sample(payload, CONNECTIONS, args.seconds / 2)
    for _ in range(args.rounds):
        for count, (server, payload) in work.items():
            samples[count].append(server.sample(payload, CONNECTIONS, args.seconds))
    return {count: median(each.us_per_request for each in found) for count, found in samples.items()}


def _body(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def _post(path: bytes, body: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, len(body)) + body
