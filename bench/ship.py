"""CPU per event from the spool to a sink: `edge drain --once` on a spool made beforehand, all its threads and children counted.

What starting costs is measured on an empty spool and taken off. Sinks take turns, so that what else the machine does hits all
of them alike; the best run of each is printed, for the rest is other people's work.
"""

import argparse
import gzip
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import payloads
from edge.disk import RealDisk
from edge.layout import Layout
from edge.segment.frame import Compressor
from edge.segment.name import SegmentName
from edge.segment.record import RecordIds, encode_record
from edge.spool.open_segment import OpenSegment

PAYLOADS: Final = ("A", "B", "C")
FRAME_BYTES: Final = 64 * 1024
_AT_US: Final = 1_763_690_000_000_000


class Run(msgspec.Struct):
    cpu_s: float
    wall_s: float


def main(argv: Sequence[str]) -> int:
    args = _arguments(argv)
    print(
        f"Python {sys.version.split()[0]}; CPU of the whole drainer process, its threads included; best of {args.runs} runs"
    )
    print(f"| {'payload':7} | {'sink':44} | µs CPU per event | events/s | segment bytes per event |")
    print("| --- | --- | --- | --- | --- |")
    for name in args.payload:
        with tempfile.TemporaryDirectory(prefix="edge-ship-", dir=args.dir) as folder:
            payload = payloads.build(name)
            spool = Path(folder) / "full"
            size = make_spool(spool, payload, args.events)
            idle = min(drain(_copy(Path(folder), None), "null:").cpu_s for _ in range(args.runs))
            best: dict[str, Run] = {}
            for _ in range(args.runs):
                for url in args.to:
                    run = drain(_copy(Path(folder), spool), url)
                    best[url] = min(best.get(url, run), run, key=lambda each: each.cpu_s)
            for url, run in best.items():
                each_us = (run.cpu_s - idle) / args.events * 1e6
                shown = url.partition("&topic.")[0]
                print(
                    f"| {name:7} | {shown:44} | {each_us:.2f} | {args.events / run.wall_s:,.0f} | {size / args.events:.0f} |"
                )
    return 0


def make_spool(data: Path, payload: payloads.Payload, events: int) -> int:
    """A sealed segment of `events` events in frames as busy workers write them; the bytes of it."""
    directory = Layout(data).slot(0)
    directory.mkdir(parents=True)
    (directory / ".lock").touch()
    segment = OpenSegment(RealDisk(), str(directory), SegmentName(1, 0xBE7C4), 0, _AT_US)
    ids = RecordIds(1)
    compressor = Compressor()
    bodies = [_body(request) for request in payload.requests]
    lines: list[bytes] = []
    path = "e" if payload.events == 1 else "batch"
    events_each = int(payload.events)
    assert events % events_each == 0, f"expected a multiple of {events_each} events"
    for number in range(events // events_each):
        at_us = _AT_US + number * 1000
        lines.append(encode_record(ids, at_us, payloads.TOKEN, path, "203.0.113.7", bodies[number % len(bodies)]))
        if sum(map(len, lines)) >= FRAME_BYTES or number == events // events_each - 1:
            text = b"".join(lines)
            segment.append([compressor.pack(text, len(lines), len(lines) * events_each, at_us)])
            lines = []
    segment.seal()
    return sum(path.stat().st_size for path in directory.iterdir())


def drain(data: Path, url: str) -> Run:
    """Ship everything in `data`. Raises `CalledProcessError`."""
    command = [sys.executable, "-P", "-m", "edge", "drain", "--once", "--data", str(data), "--to", url]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.monotonic()
    subprocess.run(command, check=True)
    wall_s = time.monotonic() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s)


def _copy(folder: Path, spool: Path | None) -> Path:
    """A data folder with the segments of `spool`, which drain deletes when it is done."""
    data = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    if spool is not None:
        directory = Layout(data).slot(0)
        directory.mkdir(parents=True)
        for path in Layout(spool).slot(0).iterdir():
            (directory / path.name).hardlink_to(path)
    return data


def _body(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    return gzip.decompress(body) if b"Content-Encoding: gzip" in head else body


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench ship", description="CPU per event from the spool to a sink")
    parser.add_argument("--to", action="append", metavar="URL", help="a sink, may be repeated (default: null:)")
    parser.add_argument("--events", type=int, default=100_000, help="a multiple of 50 (default: 100000)")
    parser.add_argument("--payload", action="append", choices=PAYLOADS, help="may be repeated (default: all)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", help="where the spool is made (default: the folder for temporary files)")
    args = parser.parse_args(argv)
    args.to = args.to or ["null:?shape=captured"]
    args.payload = args.payload or list(PAYLOADS)
    return args
