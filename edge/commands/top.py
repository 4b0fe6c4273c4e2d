"""`edge top`: a running edge, live, from its admin port alone."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final

import msgspec

from edge.commands.admin_port import TIMEOUT_S, Unanswered, ask, with_port
from edge.commands.top_screen import cut_to, lines_of
from edge.config import ALL, TOP, add_options, duration_between, load
from edge.exposition import parse_exposition
from edge.notation import Address
from edge.process import EXIT_UNAVAILABLE, EXIT_USAGE
from edge.top import Frame, Heard, Reading, Source, make_frame

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
"""The alternate screen, without a cursor, empty."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, TOP)
    parser.add_argument(
        "--interval",
        type=duration_between("100ms", "1h", "2s"),
        default=2.0,
        metavar="TIME",
        help="between two looks, which rates and quantiles are of (default: 2s)",
    )
    parser.add_argument("--once", action="store_true", help="one frame, for a report; 69 when nothing answers")
    parser.add_argument("--json", action="store_true", help="machine-readable: an object and line for every interval")


def run(arguments: argparse.Namespace) -> int:
    settings = load(TOP, arguments, os.environ, ALL)
    watched = Watched(*_addresses(settings))
    if arguments.once:
        return _once(watched, arguments.interval, as_json=arguments.json)
    if not arguments.json and not sys.stdout.isatty():
        print("edge top: expected a terminal to draw on, or --once or --json", file=sys.stderr)
        return EXIT_USAGE
    show = _print_for_ever if arguments.json else _draw_for_ever
    # The way to end it.
    with suppress(KeyboardInterrupt):
        show(watched, arguments.interval)
    return 0


def _addresses(settings: dict[str, Any]) -> tuple[Address, Address | None]:
    drain = settings["drain_admin"]
    return with_port("admin", settings["admin"]), None if drain is None else with_port("drain_admin", drain)


# --- asking


class Watched:
    """The addresses, and what they answered so far."""

    def __init__(self, admin: Address, drain: Address | None) -> None:
        self._admin_address = admin
        self._drain_address = drain
        self._admin = Heard(str(admin))
        self._drain = Heard(str(drain))

    def ask(self) -> Frame:
        """A frame of the answers up to this one. A drainer that the edge itself tells of has no other address."""
        self._admin = _heard(self._admin, self._admin_address)
        if self._drain_address is None or self._admin.ships():
            return make_frame(time.time(), self._admin, None)
        self._drain = _heard(self._drain, self._drain_address)
        return make_frame(time.time(), self._admin, self._drain)


def _heard(heard: Heard, address: Address) -> Heard:
    try:
        return heard.answered(read(address))
    except Unanswered as error:
        return heard.silent(time.time(), str(error))


def read(address: Address, timeout_s: float = TIMEOUT_S) -> Reading:
    """Raises `Unanswered`."""
    status, body = ask(address, "/metrics", timeout_s)
    taken_s = time.monotonic()
    if status != 200:
        raise Unanswered(f"expected status 200 for /metrics, found {status}")
    try:
        exposition = parse_exposition(body.decode())
    except ValueError as error:
        raise Unanswered(f"no metrics, {error}") from error
    if "edge_build_info" not in exposition.samples:
        raise Unanswered("expected the metrics of edge, found others")
    return Reading(taken_s, exposition)


# --- showing


def _once(watched: Watched, interval_s: float, *, as_json: bool) -> int:
    frame = watched.ask()
    if not _silent(frame):
        time.sleep(interval_s)
        frame = watched.ask()
    if silent := _silent(frame):
        for source in silent:
            print(f"edge top: no answer from {source.address}: {source.why}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    sys.stdout.write(_json(frame) if as_json else "\n".join(lines_of(frame)) + "\n")
    return 0


def _silent(frame: Frame) -> list[Source]:
    sources = (frame.admin, frame.drain_admin)
    return [source for source in sources if source is not None and source.unanswered_since_s is not None]


def _json(frame: Frame) -> str:
    return msgspec.json.encode(frame).decode() + "\n"


def _frames(watched: Watched, interval_s: float) -> Iterator[Frame]:
    """One at once, of which no rates can be told yet, then one for every interval, for ever."""
    due = time.monotonic()
    while True:
        yield watched.ask()
        due = max(due + interval_s, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _print_for_ever(watched: Watched, interval_s: float) -> None:
    for frame in islice(_frames(watched, interval_s), 1, None):
        sys.stdout.write(_json(frame))
        sys.stdout.flush()


def _draw_for_ever(watched: Watched, interval_s: float) -> None:
    with screen():
        for frame in _frames(watched, interval_s):
            columns, rows = shutil.get_terminal_size()
            lines = cut_to(lines_of(frame), columns, rows)
            below = f"\r\n{_CLEAR_BELOW}" if len(lines) < rows else ""
            # A line is cleared before it is written: at its end the last column would be cleared with the rest.
            _write(_HOME + "\r\n".join(_CLEAR_LINE + line for line in lines) + below)


@contextmanager
def screen() -> Iterator[None]:
    """The terminal's other screen, left again on every way out."""
    for number in _ENDING:
        signal.signal(number, _end)
    signal.signal(signal.SIGTSTP, _suspend)
    try:
        _write(_ENTER)
        yield
    finally:
        # A terminal that is gone needs nothing.
        with suppress(OSError):
            _write(_LEAVE)


def _end(number: int, frame: object) -> None:
    """The first signal ends it; no other one comes in between while the terminal is restored."""
    for ending in (*_ENDING, signal.SIGTSTP):
        signal.signal(ending, _pass)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _pass(number: int, frame: object) -> None:
    """Unlike an ignored signal this one may be on its way already."""


def _suspend(number: int, frame: object) -> None:
    """Ctrl-Z: the shell has its screen until we are told to go on."""
    _write(_LEAVE)
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, _suspend)
    _write(_ENTER)


def _write(text: str) -> None:
    """At once, and not through a buffer that a signal's handler may find in the middle of something."""
    data = text.encode()
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
