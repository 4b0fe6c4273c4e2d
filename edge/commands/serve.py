"""`edge serve` and, with the drainer beside the workers, `edge up`."""

import argparse
import logging
import os
import platform
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from edge import __version__, logs
from edge.config import ALL, SERVE, ConfigError, add_options, load, unknown_variables
from edge.disk import RealDisk
from edge.drain.process import DrainSpec
from edge.drain.sinks.table import make_sink
from edge.layout import Layout
from edge.metrics import Board, Row
from edge.notation import Address, Share
from edge.process import EXIT_TRY_AGAIN, EXIT_UNUSABLE, Child, Lifeline, raise_descriptor_limit, tell_manager
from edge.server.admin import AdminServer, Check, Probes
from edge.server.admission import ServerSettings, connections_fitting, descriptors_needed
from edge.server.projects import load_projects
from edge.server.supervisor import Job, Supervisor, listen, lock_folder
from edge.server.worker import WorkerSpec
from edge.spool.budget import CHECK_S, BudgetSettings, DiskBudget, Pressure
from edge.spool.inspect import extent
from edge.spool.writer import Durability, SpoolSettings
from edge.status import spool_gauges
from edge.wire.forward import UpstreamSettings
from edge.wire.projects import ProjectsError
from edge.wire.request import Limits

log = logging.getLogger(__name__)

HEARTBEAT_MAX_S: Final = 10.0
"""A process whose loop has not turned for so long is stuck."""
SHARE_OF_ROOM: Final = 64
"""The room made for a segment beforehand is one of so many parts, for each worker, of what the spool may have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SERVE)


def run(arguments: argparse.Namespace) -> int:
    return start(load(SERVE, arguments, os.environ, ALL), None)


def start(settings: dict[str, Any], urls: list[str] | None) -> int:
    """Run until told to stop. With `urls` there are drainers too. Raises `ConfigError`."""
    logs.set_up("edge")
    for sentence in unknown_variables(os.environ, ALL):
        log.warning("%s", sentence)
    projects = _projects(settings)
    upstream = upstream_settings(settings)
    if upstream is not None:
        require_proxy_extra()
    connections_max, too_few = connections_allowed(settings["connections_max"], upstream, raise_descriptor_limit())
    if too_few:
        log.warning("%s", too_few)
    server = _server(settings, connections_max)
    data = str(Path(settings["data"]).absolute())
    workers: int = settings["workers"]
    try:
        sockets = listen(settings["listen"], workers)
    except OSError as error:
        print(f"edge: cannot listen on {settings['listen']}: {error.strerror}", file=sys.stderr)
        return EXIT_TRY_AGAIN
    layout = Layout(Path(data))
    try:
        lock = lock_folder(RealDisk(), layout)
    except OSError as error:
        log.error("%s cannot be used: %s", data, error)
        return EXIT_UNUSABLE
    if lock is None:
        return EXIT_TRY_AGAIN
    drainers: int = settings["drainers"] if urls else 0
    # A row per slot, of which a worker has two, one for each drainer, one for the parent.
    rows = 2 * workers + drainers + 1
    board = Board.create(rows)
    lifeline = Lifeline()

    def worker(index: int, turn: int) -> Child:
        fds = [sockets[index].fileno(), board.fd, lifeline.read_fd]
        spec = WorkerSpec(
            *(index + turn * workers, data, fds[0], board.fd, rows, fds[2]),
            *(server, _spool(settings), settings["skew_correction"], projects, upstream),
        )
        return Child(f"worker-{index}", "edge.server.worker", spec, fds)

    def drainer(name: str, index: int, turn: int) -> Child:
        spec = DrainSpec(
            *(data, urls or [], board.fd, rows, 2 * workers + index, lifeline.read_fd),
            *(settings["retain"], Share(index, drainers)),
        )
        return Child(name, "edge.drain.process", spec, [board.fd, lifeline.read_fd])

    jobs = [Job(f"worker-{index}", partial(worker, index), critical=True) for index in range(workers)]
    for index in range(drainers):
        name = f"drainer-{index}" if drainers > 1 else "drainer"
        jobs.append(Job(name, partial(drainer, name, index), critical=False))
    supervisor = Supervisor(jobs, board, lifeline)
    budget = DiskBudget(RealDisk(), layout, budget_settings(settings), partial(extent, layout), board.rows[-1])
    sink_ids = [make_sink(url)[0] for url in urls or []]
    try:
        admin = AdminServer(settings["admin"], _probes(supervisor, board, layout, budget, sink_ids))
    except OSError as error:
        print(f"edge: cannot listen on {settings['admin']} for the admin port: {error.strerror}", file=sys.stderr)
        return EXIT_TRY_AGAIN

    # Standard output may be a sink.
    out = sys.stderr if "stdout" in sink_ids else sys.stdout

    def on_started() -> None:
        public = Address(settings["listen"].host, sockets[0].getsockname()[1])
        print(f"listening on http://{public}", file=out)
        print(f"admin on http://{admin.address}", file=out, flush=True)
        tell_manager("READY=1")
        # A thread, since a disk that hangs must not keep the supervisor from its children.
        threading.Thread(target=_watch, args=(budget,), name="edge-budget", daemon=True).start()

    def on_stopping() -> None:
        tell_manager("STOPPING=1")
        # The workers hold the sockets too, and answer what is still in their queues.
        for listening in sockets:
            listening.close()

    try:
        # Before anything is taken in.
        budget.measure()
    except OSError as error:
        log.error("the disk cannot be measured: %s", error)
    status = supervisor.run(on_started, on_stopping)
    admin.close()
    os.close(lock)
    return status


def _projects(settings: dict[str, Any]) -> str:
    """The absolute path of the project registry's file, empty for none. One that cannot be used is told before all."""
    if not settings["projects"]:
        return ""
    path = str(Path(settings["projects"]).absolute())
    try:
        load_projects(path)
    except ProjectsError as error:
        raise ConfigError(f"--projects: {error}") from error
    return path


def connections_allowed(asked: int, upstream: UpstreamSettings | None, descriptors: int) -> tuple[int, str]:
    """The connections a worker takes, `asked` for by `--connections-max`; a sentence where it may not have the descriptors."""
    # The requests under way are bounded for each of the two upstreams.
    upstream_connections_max = 2 * upstream.requests_max if upstream else 0
    fitting = connections_fitting(asked, upstream_connections_max, descriptors)
    if fitting >= asked:
        return fitting, ""
    needed = descriptors_needed(asked, upstream_connections_max)
    return fitting, (
        f"--connections-max is {asked}, and with {descriptors} descriptors a worker can have {fitting} connections: raise the"
        f" hard limit of open files (ulimit -Hn, LimitNOFILE=) to {needed}, or lower --connections-max"
    )


def _server(settings: dict[str, Any], connections_max: int) -> ServerSettings:
    return ServerSettings(
        body_bytes_max=settings["body_bytes_max"],
        replay_body_bytes_max=settings["replay_body_bytes_max"],
        v1_body_bytes_max=settings["v1_body_bytes_max"],
        decoded=Limits(settings["decoded_bytes_max"], settings["lz64_bytes_max"], settings["events_max"]),
        v1_decoded=Limits(settings["v1_decoded_bytes_max"], events_max=settings["events_max"]),
        inline_bytes_max=settings["inline_bytes_max"],
        target_bytes_max=settings["target_bytes_max"],
        other_target_bytes_max=settings["other_target_bytes_max"],
        header_bytes_max=settings["header_bytes_max"],
        headers_max=settings["headers_max"],
        header_timeout_s=settings["header_timeout"],
        body_timeout_s=settings["body_timeout"],
        idle_timeout_s=settings["idle_timeout"],
        write_timeout_s=settings["write_timeout"],
        pipeline_max=settings["pipeline_max"],
        inflight_bytes_max=settings["inflight_bytes_max"],
        connections_max=connections_max,
        trusted_proxies=settings["trusted_proxies"],
    )


def _spool(settings: dict[str, Any]) -> SpoolSettings:
    return SpoolSettings(
        Durability(settings["durability"]),
        settings["segment_bytes_max"],
        settings["segment_age_max"],
        settings["sync_interval"],
        room_bytes_max=_room_bytes_max(settings),
    )


def _room_bytes_max(settings: dict[str, Any]) -> int:
    most: int = settings["segment_bytes_max"]
    limit = settings["spool_bytes_max"]
    return most if limit is None else min(most, limit // (SHARE_OF_ROOM * settings["workers"]))


def budget_settings(settings: dict[str, Any]) -> BudgetSettings:
    return BudgetSettings(settings["spool_bytes_max"], settings["disk_free_min"], settings["reserve_bytes"])


def _watch(budget: DiskBudget) -> None:
    while True:
        started_s = time.monotonic()
        try:
            budget.measure()
            budget.tend_reserve()
        except OSError as error:
            log.error("the disk cannot be measured: %s", error)
        # A spool of very many segments is not looked at all the time.
        time.sleep(max(CHECK_S, 20 * (time.monotonic() - started_s)))


def upstream_settings(settings: dict[str, Any]) -> UpstreamSettings | None:
    """`None` when nothing is forwarded. Raises `ConfigError`."""
    if not settings["upstream"]:
        if settings["assets_upstream"]:
            raise ConfigError("--assets-upstream: expected --upstream with it, found none")
        return None
    return UpstreamSettings(
        settings["upstream"],
        settings["assets_upstream"] or "",
        settings["upstream_requests_max"],
        settings["upstream_body_bytes_max"],
        settings["upstream_connect_timeout"],
        settings["upstream_read_timeout"],
    )


def require_proxy_extra() -> None:
    """Raises `ConfigError`."""
    if find_spec("aiohttp") is None:
        raise ConfigError("--upstream needs the package aiohttp: pip install 'capture-edge[proxy]'")


def _probes(supervisor: Supervisor, board: Board, layout: Layout, budget: DiskBudget, sink_ids: list[str]) -> Probes:
    workers = [job for job in supervisor.jobs if job.critical]

    def rows() -> dict[str, Row]:
        """The workers' rows, each of its slot at present."""
        return {job.name: board.rows[index + job.turn * len(workers)] for index, job in enumerate(workers)}

    def liveness() -> list[Check]:
        checks = []
        for name, row in rows().items():
            beat_us = row.get("edge_heartbeat_timestamp_seconds")
            age = time.time() - beat_us / 1e6
            # Before the first beat it is starting, which readiness tells.
            alive = not beat_us or age < HEARTBEAT_MAX_S
            checks.append(Check(name, alive, "turning" if alive else f"no turn of the loop for {age:.0f} s"))
        return checks

    def readiness() -> list[Check]:
        alive = supervisor.alive()
        checks = [Check("stopping", not supervisor.stopping, "stopping" if supervisor.stopping else "running")]
        for name, row in rows().items():
            accepting = alive.get(name, False)
            failing = bool(row.get("edge_storage_failing"))
            why = "not accepting yet" if not accepting else "the disk refuses commits" if failing else "accepting"
            checks.append(Check(name, accepting and not failing, why))
        full = board.rows[-1].get("edge_disk_pressure") >= Pressure.FULL
        checks.append(Check("disk", not full, "full" if full else "room"))
        return checks

    def metrics() -> str:
        info = {"version": __version__, "python": platform.python_version()}
        return (
            board.exposition(info, sink_ids) + spool_gauges(layout, budget.spool) + process_metrics(supervisor.pids())
        )

    return Probes(liveness, readiness, metrics)


def process_metrics(pids: dict[str, int]) -> str:
    """CPU, memory and descriptors of each process, from /proc."""
    clock_ticks = os.sysconf("SC_CLK_TCK")
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    samples: dict[str, list[str]] = {
        "process_cpu_seconds_total": [],
        "process_resident_memory_bytes": [],
        "process_open_fds": [],
    }
    for name, pid in {"supervisor": os.getpid(), **pids}.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            open_fds = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
        values = (
            (int(fields[11]) + int(fields[12])) / clock_ticks,
            int(fields[21]) * page_bytes,
            open_fds,
        )
        for samples_of, value in zip(samples.values(), values, strict=True):
            samples_of.append(f'{{process="{name}"}} {value}')
    kinds = {"process_cpu_seconds_total": "counter"}
    lines = []
    for metric, found in samples.items():
        lines.append(f"# HELP {metric} Of each process, from /proc.")
        lines.append(f"# TYPE {metric} {kinds.get(metric, 'gauge')}")
        lines += [metric + sample for sample in found]
    return "\n".join(lines) + "\n"
