"""`edge check`: would `edge up`, or `serve` and `drain`, run with these settings, and would the destinations take anything.

Sends no event, holds nothing that others need, and leaves nothing behind but what a start would make, the folder of a sink.
So it may run beside an edge that runs, with the same data folder and addresses.
"""

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from edge.checkpoints import load_all
from edge.commands.drain import Unavailable, named_sinks, prepare_sink
from edge.commands.projects import describe
from edge.commands.serve import budget_settings, connections_allowed, require_proxy_extra, upstream_settings
from edge.commands.up import require_unmixed_lines
from edge.config import ALL, UP, ConfigError, add_options, load, unknown_variables
from edge.disk import RealDisk, try_to_write
from edge.drain.drainer import set_aside
from edge.drain.posting import Poster
from edge.drain.probing import probe_all
from edge.drain.sink import PROBE_S, Sink, without_secrets
from edge.drain.sinks.posthog import PORTS
from edge.drain.slots import share_lock
from edge.layout import LOCK_NAME, Layout
from edge.notation import Address
from edge.process import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_UNUSABLE, is_held, lock_holder, raise_descriptor_limit
from edge.segment.name import State
from edge.server.projects import load_projects
from edge.server.supervisor import try_to_bind
from edge.spool.budget import Pressure, measure_room, pressure
from edge.spool.inspect import SlotState, extent, require_writable, slot_state
from edge.wire.forward import UpstreamSettings, parse_upstream
from edge.wire.projects import ProjectsError

OK: Final = "ok"
NOTE: Final = "note"
FAILED: Final = "FAILED"

_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - to be recognised
_PRESSURES: Final = {
    Pressure.OK: "",
    Pressure.HIGH: ": it nears what it may grow to",
    Pressure.SHED: ": session replays would be refused",
    Pressure.FULL: ": everything would be refused",
}


class Finding(msgspec.Struct, frozen=True):
    """What came of one check."""

    name: str
    outcome: str
    """`ok`, `note` for what is worth knowing and stops nobody, or `FAILED`."""
    why: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, UP)
    parser.add_argument("--offline", action="store_true", help="ask no sink and no upstream whether it is there")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    findings: list[Finding] = []
    status = 0
    for status_if_failed, group in _checks(arguments):
        for each in group:
            finding = Finding(each.name, each.outcome, " ".join(without_secrets(each.why).split()))
            findings.append(finding)
            if finding.outcome == FAILED:
                status = status or status_if_failed
            if not arguments.json:
                # What comes next may take its time.
                print(f"{finding.outcome:<6}  {finding.name}: {finding.why}", flush=True)
    if arguments.json:
        found = {"exit_status": status, "checks": findings}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
    return status


def _checks(arguments: argparse.Namespace) -> Iterator[tuple[int, Iterable[Finding]]]:
    """What is looked at, one after the other, with the exit status of a failure there."""
    strange = [Finding("variables", NOTE, sentence) for sentence in unknown_variables(os.environ, ALL)]
    try:
        settings = load(UP, arguments, os.environ, ALL)
        upstream = upstream_settings(settings)
        urls = named_sinks(settings)
        require_unmixed_lines(settings["drainers"], urls)
    except ConfigError as error:
        yield EXIT_CONFIG, [Finding("settings", FAILED, str(error)), *strange]
        return
    yield EXIT_CONFIG, [Finding("settings", OK, "all of them can be used"), *strange]
    yield EXIT_CONFIG, _projects(settings["projects"])
    layout = Layout(Path(settings["data"]).absolute())
    yield EXIT_UNUSABLE, (_data(layout), _disk(layout, settings))
    yield EXIT_UNUSABLE, _spool(layout)
    yield EXIT_CONFIG, _addresses(settings["listen"], settings["admin"])
    yield EXIT_CONFIG, [_open_files(settings["connections_max"], upstream)]
    yield EXIT_UNAVAILABLE, _destinations(upstream, urls, arguments.offline)


def _projects(path: str | None) -> Iterator[Finding]:
    if not path:
        return
    try:
        yield Finding("projects", OK, describe(load_projects(str(Path(path).absolute()))))
    except ProjectsError as error:
        yield Finding("projects", FAILED, str(error))


def _data(layout: Layout) -> Finding:
    data = layout.data
    try:
        if not data.exists():
            above = next(parent for parent in data.parents if parent.exists())
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=above):
                return Finding("data", OK, f"{data} is not there yet, and can be made")
        try_to_write(RealDisk(), str(data))
        if is_held(layout.lock):
            return Finding("data", NOTE, f"{data} can be written, and is in use by {lock_holder(layout.lock)}")
    except OSError as error:
        return Finding("data", FAILED, f"{data} cannot be written: {error}")
    return Finding("data", OK, f"{data} can be written")


def _disk(layout: Layout, settings: dict[str, Any]) -> Finding:
    try:
        room = measure_room(RealDisk(), str(layout.data), budget_settings(settings), extent(layout).bytes)
    except OSError as error:
        return Finding("disk", FAILED, f"it cannot be measured: {error}")
    level = pressure(room.used, Pressure.OK)
    outcome = FAILED if level is Pressure.FULL else NOTE if level else OK
    told = f"the spool has {room.spool_bytes:,} of {room.budget_bytes:,} bytes, {room.available:,} are available"
    return Finding("disk", outcome, told + _PRESSURES[level])


def _spool(layout: Layout) -> Iterator[Finding]:
    try:
        slots = layout.slots()
        if layout.spool.exists():
            require_writable(layout.spool)
    except OSError as error:
        yield Finding("spool", FAILED, str(error))
        slots = []
    for slot in slots:
        try:
            yield _slot(layout, slot_state(layout, slot))
        except OSError as error:
            yield Finding(f"slot {slot:02d}", FAILED, str(error))
    yield _checkpoints(layout)
    try:
        yield from [Finding("set aside", NOTE, sentence) for sentence in set_aside(RealDisk(), layout)]
    except OSError as error:
        yield Finding("set aside", FAILED, str(error))


def _slot(layout: Layout, found: SlotState) -> Finding:
    name = f"slot {found.slot:02d}"
    count = sum(found.segments.values())
    if found.refused:
        first, error = next(iter(found.refused.items()))
        return Finding(name, FAILED, f"{len(found.refused):,} of {count:,} segments cannot be opened: {first}: {error}")
    told = [f"{count:,} segments"]
    unfinished = found.segments[State.OPEN] + found.segments[State.SUSPECT]
    if found.held:
        told.append(f"in use by {lock_holder(layout.slot(found.slot) / LOCK_NAME)}")
    elif unfinished:
        told.append(f"{unfinished:,} of them to be recovered by the next start")
    if found.segments[State.BAD]:
        told.append(f"{found.segments[State.BAD]:,} of them could not be read wholly")
    return Finding(name, NOTE if len(told) > 1 else OK, ", ".join(told))


def _checkpoints(layout: Layout) -> Finding:
    lock = Path(share_lock(layout, 0))
    try:
        if layout.checkpoints.exists():
            require_writable(layout.checkpoints)
        count = len(load_all(RealDisk(), str(layout.checkpoints)))
        held = is_held(lock)
    except OSError as error:
        return Finding("checkpoints", FAILED, str(error))
    if held:
        return Finding("checkpoints", NOTE, f"of {count} sinks, in use by a drainer, {lock_holder(lock)}")
    return Finding("checkpoints", OK, f"of {count} sinks")


def _addresses(public: Address, admin: Address) -> Iterator[Finding]:
    yield _address("listen", public)
    hosts = {public.host, admin.host}
    if public.port and public.port == admin.port and (len(hosts) == 1 or hosts & _EVERYWHERE):
        yield Finding("admin", FAILED, f"expected another address than that of --listen, {public}, found {admin}")
    else:
        yield _address("admin", admin)


def _address(name: str, address: Address) -> Finding:
    try:
        try_to_bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Finding(name, NOTE, f"{address} is in use, perhaps by the edge that runs already")
        return Finding(name, FAILED, f"cannot listen on {address}: {error.strerror}")
    return Finding(name, OK, f"{address} is free" if address.port else f"{address} picks a free port")


def _open_files(asked: int, upstream: UpstreamSettings | None) -> Finding:
    fitting, too_few = connections_allowed(asked, upstream, raise_descriptor_limit())
    return Finding("open files", NOTE if too_few else OK, too_few or f"enough for {fitting:,} connections a worker")


def _destinations(upstream: UpstreamSettings | None, urls: list[str], offline: bool) -> Iterator[Finding]:
    """Of what can be used at all everything is asked at once."""
    destinations = [*_upstreams(upstream), *_sinks(urls)]
    usable = [each.probe for each in destinations if each.probe is not None]
    said = iter([] if offline else probe_all(usable))
    for each in destinations:
        if each.probe is None:
            yield Finding(each.name, FAILED, each.fault)
        elif offline:
            yield Finding(each.name, OK, "it can be used, and was not asked")
        else:
            probed = next(said)
            yield Finding(each.name, OK if probed.takes else FAILED, probed.why)


class _Destination(msgspec.Struct):
    """Somebody to ask, or why there is nobody."""

    name: str
    probe: Callable[[], str] | None = None
    fault: str = ""


def _upstreams(upstream: UpstreamSettings | None) -> Iterator[_Destination]:
    if upstream is None:
        return
    for option, origin in (("upstream", upstream.upstream), ("assets-upstream", upstream.assets_upstream)):
        if origin:
            try:
                require_proxy_extra()
                yield _Destination(f"{option} {origin}", partial(_reach, origin))
            except ConfigError as error:
                yield _Destination(f"{option} {origin}", fault=str(error))


def _sinks(urls: list[str]) -> Iterator[_Destination]:
    first: dict[str, str] = {}
    for url in urls:
        name = f"sink {without_secrets(url)}"
        try:
            yield _Destination(name, partial(_probe, prepare_sink(url, first)))
        except (ConfigError, Unavailable) as error:
            yield _Destination(name, fault=str(error))


def _probe(sink: Sink) -> str:
    try:
        return sink.probe()
    finally:
        sink.close()


def _reach(origin: str) -> str:
    parts = urlsplit(parse_upstream(origin).origin)
    assert parts.hostname is not None
    poster = Poster(parts.hostname, parts.port or PORTS[parts.scheme], secure=parts.scheme == "https")
    try:
        poster.reach(PROBE_S)
    finally:
        poster.close()
    return "it can be connected to"
