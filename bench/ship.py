"""CPU per event from the spool to a sink: `edge drain --once` on a spool made beforehand, all its threads and children counted.

What starting costs is measured on an empty spool and taken off. Sinks take turns, so that what else the machine does hits all
of them alike; the best run of each is printed, for the rest is other people's work. With `--drainers N` so many drainers, each
with a slot as full as that of the one, stand beside it.

Beside them, in the same run, what a worker takes: a drainer keeps up when an event costs it no more CPU than it cost the
worker. Kafka is measured where `--to kafka://HOST:PORT` tells of a broker, or one of `make kafka` runs, beside a floor: the
producer alone, given one ready message again and again.
"""

import argparse
import gzip
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Final

import msgspec

from bench import payloads
from bench.cpu import pinned, two_cores
from bench.results import Goal, Result, Table, Value, environment, options, report
from bench.servers import Failed, edge, running
from edge.disk import RealDisk
from edge.drain.expand import expand
from edge.drain.messages import TOPICS, Messages
from edge.drain.sink import split_url
from edge.layout import Layout
from edge.segment.frame import Compressor
from edge.segment.name import SegmentName
from edge.segment.record import RecordIds, decode_record, encode_record
from edge.segment.scan import Frame
from edge.spool.inspect import frames, segment_files
from edge.spool.open_segment import OpenSegment

PAYLOADS: Final = ("A", "B", "C", "H")
KAFKA_GOAL_US: Final = 8.0
BROKER: Final = "127.0.0.1:9092"
"""Where `make kafka` listens."""
FRAME_BYTES: Final = 64 * 1024
_AT_US: Final = 1_763_690_000_000_000
_PRODUCED_TOGETHER: Final = 1000
"""With more, librdkafka's thread asks without a pause whether it may send them."""
_TURN_REQUESTS: Final = 16
_TURN_US: Final = 320
_LATE_US: Final = 10_000_000
_TIMESTAMP: Final = re.compile(rb'"timestamp":"[^"]*"')


class Run(msgspec.Struct):
    cpu_s: float
    wall_s: float


def main(argv: Sequence[str]) -> int:
    """Run, print, write the result. 1 when something failed, or with `--strict` when a goal was missed."""
    args = _arguments(argv)
    args.data.mkdir(parents=True, exist_ok=True)
    try:
        result = measure(args)
    except (Failed, subprocess.CalledProcessError) as failure:
        print(f"bench ship: {failure}", file=sys.stderr)
        return 1
    return report(result, args)


def measure(args: argparse.Namespace) -> Result:
    rows: list[dict[str, Value]] = []
    kafka = next((url for url in args.to if url.startswith("kafka:")), "")
    single: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ship-", dir=args.data) as scratch:
        folder = Path(scratch).resolve()
        worker_us = _worker_us(folder)
        for name in args.payload:
            spool = folder / name
            size = make_spool(spool, payloads.build(name), args.events)
            idle_s = min(drain(_copy(folder, None), "null:").cpu_s for _ in range(args.runs))
            best: dict[tuple[str, int], Run] = {}
            floor_s = float("inf")
            for _ in range(args.runs):
                if kafka and name == "A":
                    floor_s = min(floor_s, _producer_s(kafka, spool, args.events))
                for case in product(args.to, sorted({1, args.drainers})):
                    url, drainers = case
                    data = _copy(folder, spool, drainers)
                    run = drain(data, url.replace("{data}", str(data)), drainers)
                    best[case] = min(best.get(case, run), run, key=lambda each: each.cpu_s)
            if floor_s < float("inf"):
                rows.append(
                    {"payload": name, "sink": "librdkafka alone", "us CPU per event": floor_s / args.events * 1e6}
                )
            for (url, drainers), run in best.items():
                each_us = (run.cpu_s / drainers - idle_s) / args.events * 1e6
                if name == "A" and drainers == 1:
                    single[url] = each_us
                rows.append(
                    {
                        "payload": name,
                        "sink": url.partition("&topic.")[0] + (f", {drainers} drainers" if drainers > 1 else ""),
                        "us CPU per event": each_us,
                        "events/s": args.events * drainers / run.wall_s,
                        "segment bytes per event": size / args.events,
                    }
                )
    columns = {
        "payload": "",
        "sink": "",
        "us CPU per event": ".2f",
        "events/s": ",.0f",
        "segment bytes per event": ".0f",
    }
    title = f"CPU of the whole drainer process, its threads included; best of {args.runs} runs"
    return Result("ship", environment(args.data), [Table(title, columns, rows)], _goals(single, worker_us))


def _producer_s(url: str, spool: Path, count: int) -> float:
    """CPU seconds of producing the first event's message so many times, by a producer as the sink has it, threads included."""
    from edge.drain.sinks.kafka import DEFAULTS, PROMISES, open_producer

    (file,) = segment_files(Layout(spool), 0)
    (event, *_) = expand(
        decode_record(next(item for item in frames(file) if isinstance(item, Frame)).lines()[0])
    ).events
    message = Messages(TOPICS).of(event)
    sink = split_url(url)
    topic = sink.options.get("topic.main", message.topic)
    brokers = {"bootstrap.servers": sink.target.removeprefix("//")}
    producer = open_producer({**DEFAULTS, **PROMISES, **brokers}, lambda error, message: None, lambda error: None)
    try:
        # Connecting is not what is measured.
        producer.produce(topic, message.value, message.key, headers=message.headers)
        producer.flush()
        before = resource.getrusage(resource.RUSAGE_SELF)
        for number in range(1, count + 1):
            producer.produce(topic, message.value, message.key, headers=message.headers)
            if number % _PRODUCED_TOGETHER == 0:
                producer.flush()
        producer.flush()
        after = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        producer.close()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _goals(single: Mapping[str, float], worker_us: float) -> list[Goal]:
    """`single`: CPU us per event of payload A by sink."""
    to_kafka = min((us for url, us in single.items() if url.startswith("kafka:")), default=None)
    shipping = to_kafka if to_kafka is not None else max(single.values(), default=None)
    where = "Kafka" if to_kafka is not None else "the dearest sink measured"
    return [
        Goal("a 350 B event expanded and produced to Kafka costs", KAFKA_GOAL_US, "us", to_kafka),
        Goal(
            f"a 350 B event shipped to {where} costs",
            1.0,
            f"x the worker's {worker_us:.1f} us, fsync,",
            shipping / worker_us if shipping is not None else None,
        ),
    ]


def _worker_us(folder: Path) -> float:
    """CPU us of `edge serve` for one request of payload A at full load, answers after fdatasync; the best of some runs."""
    server_core, load_core = two_cores()
    payload = payloads.build("A")
    with running(edge("fsync", "fsync"), folder, {server_core}) as server, pinned({load_core}):
        server.sample(payload, 64, 0.5)
        return min(server.sample(payload, 64, 1.0).us_per_request for _ in range(3))


def make_spool(data: Path, payload: payloads.Payload, events: int) -> int:
    """A sealed segment of `events` events in frames as busy workers write them; the bytes of it.

    Requests that are taken in one turn have one receive time, and what they bring has happened in the seconds before.
    """
    directory = Layout(data).slot(0)
    directory.mkdir(parents=True)
    (directory / ".lock").touch()
    segment = OpenSegment(RealDisk(), str(directory), SegmentName(1, 0xBE7C4), 0, _AT_US)
    ids = RecordIds(1)
    compressor = Compressor()
    bodies = [_body(request) for request in payload.requests]
    draw = random.Random("ship")
    lines: list[bytes] = []
    path = "batch" if payload.name == "C" else "e"
    events_each = int(payload.events)
    assert events % events_each == 0, f"expected a multiple of {events_each} events"
    for number in range(events // events_each):
        at_us = _AT_US + number // _TURN_REQUESTS * _TURN_US
        body = _of_late(bodies[number % len(bodies)], at_us, draw)
        lines.append(encode_record(ids, at_us, payloads.TOKEN, path, "203.0.113.7", body))
        if sum(map(len, lines)) >= FRAME_BYTES or number == events // events_each - 1:
            text = b"".join(lines)
            segment.append([compressor.pack(text, len(lines), len(lines) * events_each, at_us)])
            lines = []
    segment.seal()
    return sum(path.stat().st_size for path in directory.iterdir())


def _of_late(body: bytes, at_us: int, draw: random.Random) -> bytes:
    """The events of `body`, moved into the seconds before."""

    def moment(found: re.Match[bytes]) -> bytes:
        at = datetime.fromtimestamp((at_us - draw.randrange(_LATE_US)) / 1e6, UTC)
        return b'"timestamp":"%b"' % at.isoformat(timespec="microseconds").encode()

    return _TIMESTAMP.sub(moment, body)


def drain(data: Path, url: str, drainers: int = 1) -> Run:
    """Ship everything in `data`. Raises `CalledProcessError`."""
    command = [sys.executable, "-P", "-m", "edge", "drain", "--once", "--data", str(data), "--to", url]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.monotonic()
    started = [subprocess.Popen([*command, "--share", f"{place}/{drainers}"]) for place in range(1, drainers + 1)]
    for process, status in [(process, process.wait()) for process in started]:
        if status:
            raise subprocess.CalledProcessError(status, process.args)
    wall_s = time.monotonic() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s)


def _copy(folder: Path, spool: Path | None, slots: int = 1) -> Path:
    """A data folder with the segments of `spool` in each of its slots, which drain deletes when it is done."""
    data = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    files = [] if spool is None else list(Layout(spool).slot(0).iterdir())
    for slot in range(slots):
        directory = Layout(data).slot(slot)
        directory.mkdir(parents=True)
        for path in files:
            (directory / path.name).hardlink_to(path)
    return data


def _body(request: bytes) -> bytes:
    body = request.partition(b"\r\n\r\n")[2]
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


def _kafka() -> list[str]:
    """The broker that nobody had to name, if there is one."""
    host, _, port = BROKER.partition(":")
    try:
        socket.create_connection((host, int(port)), 1.0).close()
    except OSError as error:
        print(f"bench ship: Kafka is not measured, no broker of `make kafka` on {BROKER}: {error}", file=sys.stderr)
        return []
    return [f"kafka://{BROKER}"]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench ship", description="CPU per event from the spool to a sink")
    parser.add_argument(
        "--to",
        action="append",
        metavar="URL",
        help="a sink, may be repeated; `{data}` becomes a folder (default: null:, file: and Kafka)",
    )
    parser.add_argument("--events", type=int, default=100_000, help="a multiple of 50 (default: 100000)")
    parser.add_argument("--payload", action="append", choices=PAYLOADS, help="may be repeated (default: all)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--drainers", type=int, default=1, metavar="N", help="so many at once beside one (default: 1)")
    options(parser)
    args = parser.parse_args(argv)
    args.to = args.to or ["null:", "null:?shape=captured", "file:{data}/events", *_kafka()]
    args.payload = args.payload or list(PAYLOADS)
    return args
