"""`edge drain`: ship what was accepted, from a live spool or from one left behind."""

import argparse
import logging
import os
import platform
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge import __version__, logs
from edge.config import ALL, DRAIN, ConfigError, add_options, load, unknown_variables
from edge.disk import RealDisk
from edge.drain.drainer import Drainer
from edge.drain.sink import Sink, without_secrets
from edge.drain.sinks.table import make_sink
from edge.drain.slots import InUse
from edge.layout import Layout, existing_layout
from edge.metrics import SINKS_MAX, Board
from edge.process import EXIT_BAD_DATA, EXIT_TRY_AGAIN, EXIT_UNAVAILABLE, EXIT_UNUSABLE, tell_manager
from edge.server.admin import AdminServer, Check, Probes
from edge.spool.budget import BudgetSettings, DiskBudget, Pressure
from edge.spool.inspect import extent
from edge.status import spool_gauges

log = logging.getLogger(__name__)

HEARTBEAT_MAX_S: Final = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, DRAIN)
    parser.add_argument(
        "--once",
        action="store_true",
        help="ship everything committed, slots of dead workers included, then exit; 69 when a sink did not take some of it, "
        "65 when the folder holds what cannot be shipped: quarantined events, unreadable parts of segments",
    )


class Unavailable(Exception):
    """The destination of a sink cannot be prepared."""


def sink_urls(settings: dict[str, Any]) -> list[str]:
    """The sinks to ship to, each of which can be made. Raises `ConfigError`, `Unavailable`."""
    urls = named_sinks(settings)
    first: dict[str, str] = {}
    for url in urls:
        prepare_sink(url, first)
    return urls


def named_sinks(settings: dict[str, Any]) -> list[str]:
    """The sinks to ship to, the default one where none is named. Raises `ConfigError`."""
    urls: list[str] = settings["to"] or [f"file:{Layout(Path(settings['data'])).events}"]
    if len(urls) > SINKS_MAX:
        raise ConfigError(f"--to: expected at most {SINKS_MAX} sinks, found {len(urls)}")
    return urls


def prepare_sink(url: str, first: dict[str, str]) -> Sink:
    """The sink; `first` are the URLs of those before it by their ids, and its own becomes one.

    Raises `ConfigError`, `Unavailable`.
    """
    try:
        sink_id, sink = make_sink(url)
    except ValueError as error:
        raise ConfigError(f"--to: {error}") from error
    except OSError as error:
        raise Unavailable(f"{without_secrets(url)}: {error.strerror}: {error.filename}") from error
    if sink_id in first:
        found = " and ".join(map(without_secrets, (first[sink_id], url)))
        raise ConfigError(f"--to: expected different destinations, found {found}")
    first[sink_id] = url
    return sink


def _once(drainer: Drainer) -> int:
    complete = drainer.run_once()
    left = drainer.left()
    for sentence in left:
        log.error("%s", sentence)
    if not complete:
        return EXIT_UNAVAILABLE
    return EXIT_BAD_DATA if left else 0


def run(arguments: argparse.Namespace) -> int:
    logs.set_up("drainer")
    settings = load(DRAIN, arguments, os.environ, ALL)
    for sentence in unknown_variables(os.environ, ALL):
        log.warning("%s", sentence)
    layout = existing_layout(Path(settings["data"]).absolute())
    try:
        urls = sink_urls(settings)
    except Unavailable as error:
        print(f"edge drain: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    board = Board.create(1)
    budget = DiskBudget(RealDisk(), layout, BudgetSettings(), partial(extent, layout), board.rows[0])

    def is_scarce() -> bool:
        return budget.measure() >= Pressure.HIGH

    try:
        drainer = Drainer(*(RealDisk(), layout, urls, board.rows[0], settings["retain"], is_scarce, settings["share"]))
        if arguments.once:
            return _once(drainer)
    except InUse as error:
        print(f"edge drain: {error}", file=sys.stderr)
        return EXIT_TRY_AGAIN
    except OSError as error:
        print(f"edge drain: {layout.data} cannot be used: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    if settings["drain_admin"] is not None:
        sink_ids = [shipper.sink_id for shipper in drainer.shippers]
        try:
            admin = AdminServer(settings["drain_admin"], _probes(board, layout, budget, sink_ids))
        except OSError as error:
            print(f"edge drain: cannot listen on {settings['drain_admin']}: {error.strerror}", file=sys.stderr)
            drainer.close()
            return EXIT_TRY_AGAIN
        print(f"admin on http://{admin.address}", file=sys.stderr, flush=True)
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        tell_manager("STOPPING=1")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    tell_manager("READY=1")
    return drainer.run(lambda: stopping)


def _probes(board: Board, layout: Layout, budget: DiskBudget, sink_ids: list[str]) -> Probes:
    def turning() -> list[Check]:
        beat_us = board.rows[0].get("edge_heartbeat_timestamp_seconds")
        age = time.time() - beat_us / 1e6
        alive = not beat_us or age < HEARTBEAT_MAX_S
        return [Check("drainer", alive, "turning" if alive else f"no turn of the loop for {age:.0f} s")]

    def metrics() -> str:
        info = {"version": __version__, "python": platform.python_version()}
        return board.exposition(info, sink_ids) + spool_gauges(layout, budget.spool)

    return Probes(turning, turning, metrics)
