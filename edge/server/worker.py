"""One worker process: an event loop on one listening socket and one spool slot."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvloop

from edge import logs
from edge.disk import RealDisk
from edge.layout import LOCK_NAME, Layout
from edge.metrics import Board, Histogram, Row
from edge.process import (
    EXIT_FAULT,
    EXIT_TRY_AGAIN,
    EXIT_UNUSABLE,
    RETIRE,
    accept_signals,
    lock_holder,
    read_spec,
    refuse_signals,
    say_ready,
)
from edge.segment.record import RecordIds
from edge.server.admission import ServerSettings
from edge.server.garbage import Garbage
from edge.server.projects import Projects
from edge.server.protocol import CaptureConnection
from edge.server.service import Service
from edge.server.turn import Turn
from edge.spool.budget import Pressure
from edge.spool.recover import Recovered, next_counter, open_slot
from edge.spool.spare import SpareMaker
from edge.spool.writer import Clock, Durability, SpoolSettings, SpoolWriter
from edge.wire.forward import UpstreamSettings

if TYPE_CHECKING:
    from edge.server.upstream import Forwarder

log = logging.getLogger("edge.server.worker")

TICK_S: Final = 0.25
LOCK_WAIT_S: Final = 10.0
"""How long a predecessor that is stopping may keep the slot."""
QUIET_S: Final = 1.0
"""After the end of accepting: kept connections may still send, and are answered with `Connection: close`."""
STOP_S: Final = 8.0
"""When requests that are not whole by then are refused; inside the ten seconds container engines wait."""
RETIRE_QUIET_S: Final = 25.0
RETIRE_STOP_S: Final = 28.0
"""The same for a worker whose successor runs: nobody waits for its end."""
ACCEPT_BACKLOG: Final = 4096


class WorkerSpec(msgspec.Struct):
    slot: int
    data: str
    listen_fd: int
    board_fd: int
    board_rows: int
    lifeline_fd: int
    server: ServerSettings
    spool: SpoolSettings
    skew_us: int
    """For all records."""
    projects: str = ""
    """File of the project registry, empty for none."""
    upstream: UpstreamSettings | None = None


def wall_us() -> int:
    return time.time_ns() // 1000


def main(arguments: list[str]) -> int:
    spec, ready_fd = read_spec(WorkerSpec, arguments)
    logs.set_up(f"worker-{spec.slot}")
    layout = Layout(Path(spec.data))
    disk = RealDisk()
    directory = layout.slot(spec.slot)
    deadline = time.monotonic() + LOCK_WAIT_S
    told = False
    try:
        while (opened := open_slot(disk, layout, spec.slot)) is None:
            holder = lock_holder(directory / LOCK_NAME)
            if time.monotonic() > deadline:
                log.error("%s is in use by %s", directory, holder)
                return EXIT_TRY_AGAIN
            if not told:
                told = True
                log.warning("%s is in use by %s, which is given %.0f s to end", directory, holder, LOCK_WAIT_S)
            time.sleep(0.05)
    except OSError as error:
        log.error("%s cannot be used: %s", directory, error)
        return EXIT_UNUSABLE
    board = Board(spec.board_fd, spec.board_rows)
    row = board.rows[spec.slot]
    _count_recovery(row, opened[1])
    return uvloop.run(_serve(spec, layout, disk, opened, board, ready_fd))


def _count_recovery(row: Row, recovered: Recovered) -> None:
    row.add("edge_recovered_segments_total", recovered.segments)
    row.add("edge_torn_bytes_total", recovered.torn_bytes)


async def _serve(
    spec: WorkerSpec, layout: Layout, disk: RealDisk, opened: tuple[int, Recovered], board: Board, ready_fd: int
) -> int:
    lock, recovered = opened
    row = board.rows[spec.slot]
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loop_error)
    leave = asyncio.Event()
    stop = asyncio.Event()

    def on_stop() -> None:
        stop.set()
        leave.set()

    loop.add_signal_handler(RETIRE, leave.set)
    loop.add_signal_handler(signal.SIGTERM, on_stop)
    loop.add_reader(spec.lifeline_fd, on_stop)
    accept_signals()

    directory = str(layout.slot(spec.slot))
    writer = SpoolWriter(
        loop,
        disk,
        directory,
        spec.slot,
        next_counter(disk, layout, spec.slot),
        lambda: secrets.randbits(64),
        spec.spool,
        Clock(time.monotonic, wall_us),
        row,
        _on_fault,
        SpareMaker(disk, directory) if spec.spool.durability is Durability.FSYNC else None,
        recovered.left_open,
    )
    forwarder = _forwarder(spec.upstream, row)
    ids = RecordIds(secrets.randbits(64), spec.skew_us)
    service = Service(spec.server, writer, row, ids, time.time_ns, loop.call_soon, forwarder)
    projects = Projects(spec.projects, row) if spec.projects else None
    if projects is not None:
        service.choose_key, service.known_keys = projects.tick()
        service.heavy.registry = projects.registry
    service.tick(time.monotonic())
    turn = Turn(service, loop.call_soon)
    server = await loop.create_server(
        lambda: CaptureConnection(service, turn), sock=socket.socket(fileno=spec.listen_fd), backlog=ACCEPT_BACKLOG
    )
    garbage = Garbage(row)
    ticking = asyncio.create_task(_tick(service, writer, garbage, lock, row, board.rows[-1], projects))
    ticking.add_done_callback(_on_tick_ended)
    say_ready(ready_fd)
    log.info("accepting")

    await leave.wait()
    server.close()
    await _finish(service, stop)
    loop.remove_reader(spec.lifeline_fd)
    if forwarder is not None:
        await forwarder.close()
    service.heavy.close()
    await writer.close()
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    service.tick(time.monotonic())
    for gauge in ("edge_heartbeat_timestamp_seconds", "edge_storage_failing", "edge_unfinished_segments"):
        row.set(gauge, 0)
    refuse_signals()
    log.info("stopped, every accepted record is sealed")
    return 0


def _forwarder(settings: UpstreamSettings | None, row: Row) -> "Forwarder | None":
    if settings is None:
        return None
    # An HTTP client is much to load, and comes with an extra.
    from edge.server.upstream import Forwarder

    return Forwarder(settings, row)


async def _tick(
    service: Service,
    writer: SpoolWriter,
    garbage: Garbage,
    lock: int,
    row: Row,
    supervisor_row: Row,
    projects: Projects | None,
) -> None:
    lag = Histogram(row, "edge_event_loop_lag_seconds")
    due = time.monotonic()
    while True:
        if not os.fstat(lock).st_nlink:
            # What is written from now on goes to files without a name: nothing more is acknowledged. The next one starts anew.
            log.critical("the slot's %s was deleted while it was in use, and whatever was beside it", LOCK_NAME)
            logging.shutdown()
            os._exit(EXIT_UNUSABLE)
        now = time.monotonic()
        lag.observe(int((now - due) * 1e6))
        lag.fold()
        pressure = supervisor_row.get("edge_disk_pressure")
        writer.full = pressure >= Pressure.FULL
        service.shedding = pressure >= Pressure.SHED
        service.tick(now)
        if projects is not None:
            service.choose_key, service.known_keys = projects.tick()
            service.heavy.registry = projects.registry
        writer.tick()
        garbage.tick(now, len(service.connections))
        row.set("edge_heartbeat_timestamp_seconds", wall_us())
        row.set("edge_storage_failing", int(writer.failing))
        row.set("edge_unfinished_segments", writer.unfinished)
        due = now + TICK_S
        await asyncio.sleep(TICK_S)


async def _finish(service: Service, stop: asyncio.Event) -> None:
    """Answer what was read, let clients that are in the middle of a request finish it, refuse the rest.

    At leisure, until `stop` is set.
    """
    service.stopping = True
    # What was accepted in the turn that was told to stop is among the connections from the next one on.
    await asyncio.sleep(0)
    started = time.monotonic()
    quiet_s, stop_s = RETIRE_QUIET_S, RETIRE_STOP_S
    while service.connections:
        if stop.is_set() and service.ready:
            service.ready = False
            started = time.monotonic()
            quiet_s, stop_s = QUIET_S, STOP_S
        elapsed = time.monotonic() - started
        if elapsed > quiet_s:
            for connection in list(service.connections):
                connection.stop()
        if elapsed > stop_s:
            service.heavy.stop()
            for connection in list(service.connections):
                connection.refuse_unfinished()
        if elapsed > stop_s + QUIET_S:
            return
        await asyncio.sleep(0.02)


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error("%s", context.get("message"), exc_info=error)
    # One connection's fault costs that connection, and the disk's or the network's is no fault of ours.
    if error is not None and not isinstance(error, OSError) and "protocol" not in context:
        _on_fault(error)


def _on_tick_ended(ticking: asyncio.Task[None]) -> None:
    # Without it no deadline passes and no segment is sealed.
    if not ticking.cancelled() and (error := ticking.exception()) is not None:
        _on_fault(error)


def _on_fault(error: BaseException) -> None:
    """An invariant does not hold: end at once, the parent starts another worker, and what was acknowledged is on disk."""
    log.critical("a fault of ours", exc_info=error)
    logging.shutdown()
    os._exit(EXIT_FAULT)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
