"""CPU per request of this edge beside a floor and beside other servers that do the same job, in one run.

Every server runs alone on one core, the load generator on another. A round measures one server after the other, every round
starts with another one, and a ratio is the median of the ratios within the rounds, so that a slower minute of the machine
meets all alike. Rounds are short and many: on a machine with neighbours the speed changes within seconds.
Read the ratios, not the microseconds.

    floor, floor-c    a canned answer on uvloop, and from C
    durable-c         the same, and answers when what it was sent is on disk, as `fsync` does; only when it is asked for, as
                      it writes as much as a disk takes, of which the next one's turn would have to wait
    page, fsync       this edge, one worker; only `fsync` has the event on disk when it answers
    page, A           beside F: this edge asked A, which says what the longer head costs
    peers             `bench/peers/`: unwrap, parse, check and append to a buffer; they answer before anything is written
                      and compress nothing. nginx only logs the body

`busy` is the server's CPU time over the wall clock. Below 80 % something else was the limit, and a request then costs more
than it does in a full loop turn: such rows are named. It was the load generator where `load busy` is near 100 %, which a
floor can bring about, and the disk or other work on these cores where neither is.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import core_speed, pinned, two_cores
from bench.hot import one_of
from bench.payloads import Payload
from bench.peers import commands
from bench.peers.commands import Missing, Peer
from bench.results import Goal, Result, Table, Value, environment, options, paired_ratio, speed_of_core
from bench.servers import Failed, Sample, Server, edge, floor, running

MODES: Final = ("page", "fsync")
WARM_SECONDS: Final = 0.3
BUSY_LEAST: Final = 0.8
MANY_CONNECTIONS: Final = 512
NO_PEERS: Final = "none"
A_BESIDE: Final = "page, A"

COLUMNS: Final = {
    "server": "",
    "µs/request": ".1f",
    "least": ".1f",
    "most": ".1f",
    "µs/event": ".2f",
    "kernel": ".0%",
    "requests/s": ",.0f",
    "busy": ".0%",
    "load busy": ".0%",
    "RSS MB": ".0f",
    "x floor": ".2f",
    "x page": ".2f",
}

Samples = Mapping[str, Sequence[Sample]]
"""One list per server that answered everything, one entry per round."""


@dataclass(frozen=True)
class Run:
    """One payload at one number of connections."""

    payload: Payload
    connections: int
    samples: Samples
    failures: Mapping[str, str]
    """Of the servers that did not start or did not answer everything: what happened."""
    core_speeds: Sequence[float] = ()
    """Of the servers' core at the beginning of every round, megabytes inflated per second."""

    @property
    def title(self) -> str:
        return f"{self.payload.name}: {self.payload.about}, {self.connections} connections"


def main(argv: Sequence[str]) -> int:
    """Run the benchmark. 1 when this edge or the floor failed, and with --strict when a goal was missed."""
    args = _arguments(argv)
    peers = {peer.command.label: peer for peer in args.servers}
    notes = []
    for name in args.peers:
        try:
            peers[name] = commands.find(name)
        except Missing as missing:
            notes.append(f"{name} is missing: {missing}")
    try:
        with ExitStack() as stack:
            args.data.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-", dir=args.data))).resolve()
            return _run(args, peers, notes, scratch)
    except Failed as failure:
        print(f"bench compare: {failure}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, peers: dict[str, Peer], notes: list[str], scratch: Path) -> int:
    own = {"floor": Peer(floor(), validates=False)}
    own |= {mode: Peer(edge(mode, mode), validates=True) for mode in MODES}
    known = environment(scratch, {name: found for peer in peers.values() for name, found in peer.versions.items()})
    server_core, load_core = two_cores()
    print(f"{known.cpu}, Python {known.python}, Linux {known.kernel}, data on {known.filesystem}")
    print(
        f"servers on core {server_core}, load on core {load_core}; {args.rounds} rounds of {args.seconds:g} s, medians"
    )
    print("\n".join(notes))
    runs: list[Run] = []
    plan = [(name, args.connections, own | peers | _beside(name)) for name in args.payloads]
    if "A" in args.payloads and args.connections != MANY_CONNECTIONS:
        plan.append(("A", MANY_CONNECTIONS, own))
    for index, (name, connections, servers) in enumerate(plan):
        payload = payloads.build(name)
        for label, peer in servers.items():
            if reason := peer.leaves_out.get(name):
                notes.append(f"{name}: without {label}: {reason}")
        asked = {label: peer for label, peer in servers.items() if name not in peer.leaves_out}
        with pinned({load_core}):
            run = _measure(payload, connections, asked, scratch / str(index), server_core, args)
        if broken := own.keys() & run.failures.keys():
            raise Failed(run.failures[broken.pop()])
        runs.append(run)
        notes += remarks(run)
        print(f"\n{table(run).markdown()}")
        for failure in run.failures.values():
            print(failure, file=sys.stderr)
    validating = [label for label, peer in peers.items() if peer.validates]
    result = Result("compare", known, [table(run) for run in runs], goals(runs, validating), notes)
    print("\n" + "\n".join([*notes, *map(str, result.goals)]))
    # Written once and at the end, so that a run cut short does not stand where a whole one did.
    print(f"written to {result.write(args.results)}")
    return 1 if args.strict and any(goal.met is False for goal in result.goals) else 0


def _beside(name: str) -> dict[str, Peer]:
    return {A_BESIDE: Peer(edge(A_BESIDE, "page"), validates=False, payload="A")} if name == "F" else {}


def _measure(
    payload: Payload, connections: int, peers: Mapping[str, Peer], folder: Path, core: int, args: argparse.Namespace
) -> Run:
    samples: dict[str, list[Sample]] = {}
    failures: dict[str, str] = {}
    core_speeds: list[float] = []
    with ExitStack() as stack:
        servers: list[Server] = []
        asked: dict[str, Payload] = {}
        for label, peer in peers.items():
            asked[label] = payloads.build(peer.payload) if peer.payload else payload
            if peer.path:
                asked[label] = payloads.at_path(asked[label], peer.path)
            try:
                server = stack.enter_context(running(peer.command, folder, {core}))
                _sample(server, asked[label], connections, min(WARM_SECONDS, args.seconds))
            except Failed as failure:
                failures[label] = str(failure)
            else:
                servers.append(server)
                samples[label] = []
        for round_index in range(args.rounds):
            core_speeds.append(core_speed(core))
            first = round_index % len(servers) if servers else 0
            for server in servers[first:] + servers[:first]:
                try:
                    samples[server.label].append(_sample(server, asked[server.label], connections, args.seconds))
                except Failed as failure:
                    failures[server.label] = str(failure)
                    del samples[server.label]
                    servers = [other for other in servers if other is not server]
    return Run(payload, connections, samples, failures, core_speeds)


def _sample(server: Server, payload: Payload, connections: int, seconds: float) -> Sample:
    sample = server.sample(payload, connections, seconds)
    if server.data.is_file() and server.label != commands.DURABLE_FLOOR:
        # Peers append without end. What they wrote is thrown away before the disk gets it, or others would wait for that.
        server.data.open("wb").close()
    return sample


def table(run: Run) -> Table:
    """One row per server, those that failed last and empty."""
    rows = [_row(label, run) for label in run.samples]
    rows += [{"server": f"{label} (failed)"} for label in run.failures]
    return Table(run.title, COLUMNS, rows)


def _row(label: str, run: Run) -> dict[str, Value]:
    taken = run.samples[label]
    us = [sample.us_per_request for sample in taken]
    return {
        "server": label,
        "µs/request": median(us),
        "least": min(us),
        "most": max(us),
        "µs/event": median(us) / run.payload.events,
        "kernel": median(sample.kernel_share for sample in taken),
        "requests/s": median(sample.requests_per_second for sample in taken),
        "busy": median(sample.busy for sample in taken),
        "load busy": median(sample.load_busy for sample in taken),
        "RSS MB": median(sample.rss_bytes for sample in taken) / 1e6,
        "x floor": _ratio(run, label, "floor"),
        "x page": _ratio(run, label, "page"),
    }


def remarks(run: Run) -> list[str]:
    """What to know about the rows of a run: how fast the core was, who failed, and who was not busy enough to be believed."""
    found = [f"{run.title}: {speed_of_core(run.core_speeds)}"] if run.core_speeds else []
    found += [f"{run.title}: {failure.splitlines()[0]}" for failure in run.failures.values()]
    idle = [
        f"{label} {busy:.0%}"
        for label, taken in run.samples.items()
        if (busy := median(sample.busy for sample in taken)) < BUSY_LEAST
    ]
    if idle:
        found.append(f"{run.title}: busy less than {BUSY_LEAST:.0%}, so that their cost reads high: {', '.join(idle)}")
    return found


_FLOORS: Final = {"A": 2.0, "B": 2.8, "C": 21.0, "D": 2.8, "E": 10.0, "F": 2.6, "G": 150.0}
"""By payload: how many times the canned answer of the same run a request may cost."""


def goals(runs: Sequence[Run], validating: Sequence[str]) -> list[Goal]:
    """The goals that the runs can tell about. `validating` are the peers that look into the events."""
    found: list[Goal] = []
    by_name: dict[str, Run] = {}
    for run in runs:
        by_name.setdefault(run.payload.name, run)
        if run.payload.name == "A" and run.connections in (64, MANY_CONNECTIONS):
            limit = 1.35 if run.connections == 64 else 1.15
            found.append(
                Goal(f"A, {run.connections} connections, fsync", limit, "x page", _ratio(run, "fsync", "page"))
            )
    for at, (name, limit) in enumerate(_FLOORS.items()):
        if (found_run := by_name.get(name)) is not None:
            found.insert(at, Goal(f"{name}, page", limit, "x floor", _ratio(found_run, "page", "floor")))
    if a := by_name.get("A"):
        for peer, limit in (("starlette", 0.25), ("fastapi", 0.15), ("aiohttp", 0.40), ("fastify", 0.65)):
            found.append(Goal("A, page", limit, f"x {peer}", _ratio(a, "page", peer)))
    if c := by_name.get("C"):
        found.append(Goal("C, page", 2.0, "µs per event", _cost(c, "page") / c.payload.events))
        found.append(_against_fastest(c, validating, 0.6))
    if e := by_name.get("E"):
        found.append(_against_fastest(e, validating, 0.75))
    if f := by_name.get("F"):
        found.append(Goal("F, page", 1.25, "x A", _ratio(f, "page", A_BESIDE)))
    if g := by_name.get("G"):
        found.append(Goal("G, page", 1.5, "x fastify", _ratio(g, "page", "fastify")))
    return found


def _against_fastest(run: Run, validating: Sequence[str], limit: float) -> Goal:
    measured = [label for label in validating if label in run.samples]
    if not measured:
        return Goal(f"{run.payload.name}, page", limit, "x the fastest peer that validates", None)
    fastest = min(measured, key=lambda label: _cost(run, label))
    unit = f"x the fastest peer that validates ({fastest})"
    return Goal(f"{run.payload.name}, page", limit, unit, _ratio(run, "page", fastest))


def _ratio(run: Run, label: str, base: str) -> float | None:
    samples = run.samples
    return paired_ratio(samples[label], samples[base]) if label in samples and base in samples else None


def _cost(run: Run, label: str) -> float:
    """Median microseconds per request."""
    return median(sample.us_per_request for sample in run.samples[label])


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__.partition("\n")[0])
    parser.add_argument("--payloads", type=one_of(payloads.NAMES), default=payloads.NAMES, metavar="A,B,..,mix")
    parser.add_argument(
        "--peers",
        type=one_of((*commands.PEERS, NO_PEERS)),
        default=tuple(name for name in commands.PEERS if name != commands.DURABLE_FLOOR),
        metavar=",".join(commands.PEERS),
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.4, metavar="S", help="for one server in one round")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more peer: {port} in it stands for where to listen, {data} for where to write; may be repeated",
    )
    parser.add_argument(
        "--path", action="append", default=[], metavar="NAME=PATH", help="where that server takes every request"
    )
    options(parser)
    args = parser.parse_args(argv)
    args.peers = tuple(name for name in args.peers if name != NO_PEERS)
    if args.rounds < 1 or args.connections < 1 or args.seconds <= 0:
        parser.error("expected rounds, connections and seconds above 0")
    paths = dict(text.partition("=")[::2] for text in args.path)
    try:
        args.servers = [commands.external(text, paths) for text in args.server]
    except ValueError as error:
        parser.error(f"--server: {error}")
    named = [peer.command.label for peer in args.servers]
    if unknown := paths.keys() - set(named):
        parser.error(f"--path for {', '.join(sorted(unknown))}, which no --server names")
    taken = {"floor", *MODES, *commands.PEERS}
    if twice := [name for name in named if name in taken or named.count(name) > 1]:
        parser.error(f"--server: the name {twice[0]} is taken")
    return args
