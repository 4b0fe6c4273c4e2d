"""`edge tail`: events as they are committed, out of the segments, so that it costs the server nothing."""

import argparse
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from select import poll
from typing import Final

from edge.commands.segments import add_filters
from edge.config import ALL, DATA, ConfigError, add_options, load
from edge.disk import RealDisk
from edge.drain.readable import dropped_text, event_text
from edge.drain.selection import Selection, select
from edge.drain.shapes import event_line
from edge.drain.tail import Show, Tail
from edge.layout import existing_layout
from edge.process import EXIT_BAD_DATA, EXIT_UNUSABLE
from edge.segment.record import Record

POLL_MS: Final = 200
WRITE_BYTES: Final = 64 * 1024
_TOLD_MAX: Final = 1000
_WHOLE: Final = re.compile(r"[0-9]{1,18}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, (DATA,))
    add_filters(parser)
    parser.add_argument(
        "--sample",
        metavar="N",
        default="1",
        help="one event of N, on every edge and every time the same ones: those whose uuid's XXH3-64, divided by N, leaves 0",
    )
    parser.add_argument(
        "--lines", metavar="N", default="10", help="begin with the last N that are still in the spool (default: 10)"
    )
    parser.add_argument("--no-follow", action="store_true", help="end behind those, instead of waiting for more")
    parser.add_argument(
        "--json",
        action="store_true",
        help="machine-readable, events as they are shipped, one a line; none that is dropped",
    )


def run(arguments: argparse.Namespace) -> int:
    settings = load((DATA,), arguments, os.environ, ALL)
    layout = existing_layout(Path(settings["data"]))
    lines = _whole("--lines", arguments.lines, 0)
    sample = _whole("--sample", arguments.sample, 1)
    selection = select(arguments.token, arguments.event, arguments.uuid, None, None, 0, sample)
    log = logging.getLogger("edge")
    log.addHandler(_Once())
    log.propagate = False
    tail = Tail(RealDisk(), layout, _events(selection) if arguments.json else _texts(selection))
    if not arguments.no_follow:
        signal.signal(signal.SIGTERM, _end)
    _write(tail.last(lines))
    if not tail.slots:
        print("edge tail: nothing was accepted here yet", file=sys.stderr)
    if arguments.no_follow:
        return EXIT_UNUSABLE if tail.unreadable else EXIT_BAD_DATA if tail.damaged else 0
    while True:
        _write(tail.more())
        _wait(0 if tail.behind else POLL_MS)


def _whole(flag: str, text: str, least: int) -> int:
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise ConfigError(f"{flag}: expected a whole number{' above zero' if least else ''}, found {text!r}")
    return int(text)


def _events(selection: Selection) -> Show:
    return lambda record: [event_line(event) + b"\n" for event in selection.events(record)]


def _texts(selection: Selection) -> Show:
    encoding = sys.stdout.encoding
    in_terminal = sys.stdout.isatty()

    def show(record: Record) -> list[bytes]:
        # Each time: a window may change its size.
        columns = shutil.get_terminal_size().columns if in_terminal else None
        events, dropped = selection.outcome(record)
        texts = [event_text(event, columns) for event in events]
        if dropped:
            texts.append(dropped_text(record, dropped, columns))
        return [f"{text}\n".encode(encoding, "backslashreplace") for text in texts]

    return show


class _Once(logging.Handler):
    """Writes on standard error what it has not written lately: what cannot be read is met at every look."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in self._told:
            return
        if len(self._told) >= _TOLD_MAX:
            del self._told[next(iter(self._told))]
        self._told[message] = None
        print(f"edge tail: {message}", file=sys.stderr)


def _write(lines: Iterable[bytes]) -> None:
    waiting = bytearray()
    for line in lines:
        waiting += line
        if len(waiting) >= WRITE_BYTES:
            _write_all(waiting)
            waiting.clear()
    _write_all(waiting)


def _write_all(data: bytearray) -> None:
    """Past the buffer of `sys.stdout`: nothing waits in it at the end for a reader that has stopped to read."""
    fd = sys.stdout.fileno()
    done = 0
    try:
        while done < len(data):
            done += os.write(fd, data[done : done + WRITE_BYTES])
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}") from error


def _wait(timeout_ms: int) -> None:
    """Until there may be more. Raises `BrokenPipeError` when nobody reads any more: a pipe tells that without a write, too."""
    polling = poll()
    polling.register(sys.stdout.fileno(), 0)
    if polling.poll(timeout_ms):
        raise BrokenPipeError


def _end(number: int, frame: object) -> None:
    raise SystemExit(0)
