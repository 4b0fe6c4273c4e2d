"""CPU time per request of the hot path, as a multiple of a floor measured in the same run.

Every server runs alone on one core, the load generator on another. A round measures one server after the other, and every
round starts with another one of them; a ratio is the median of the ratios within the rounds. So a change of the machine's
clock or a neighbour's load meets all servers alike. Read the ratios, not the microseconds.

    floor          a canned answer, `bench/floor.py`
    page, fsync    `edge serve --durability page|fsync`, one worker
    old page, ...  the same of another checkout, named by --against

`busy` is the server's CPU time over the wall clock. Below 80 % something else was the limit (the load generator, the disk,
other work on these cores), and a request then costs more than it does in a full loop turn: measure again.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Final

from bench import payloads
from bench.cpu import CpuMeter, pinned, two_cores
from bench.load import LoadGenerator
from bench.payloads import Payload

ROOT: Final = Path(__file__).resolve().parents[1]
MODES: Final = ("page", "fsync")
START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 10.0
WARM_SECONDS: Final = 1.0

_LISTENING: Final = re.compile(r"^listening on http://(\S+):(\d+)\s*\n", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """How to start one of the servers compared: arguments for the Python interpreter, run in `checkout`."""

    label: str
    checkout: Path
    arguments: tuple[str, ...]
    stores: bool
    """Whether it takes `--data`."""


@dataclass(frozen=True)
class Sample:
    """One server in one round."""

    requests: int
    cpu_ns: int
    seconds: float

    @property
    def us_per_request(self) -> float:
        return self.cpu_ns / 1000 / self.requests


Samples = dict[str, list[Sample]]
"""One list per label, one entry per round."""


class Failed(Exception):
    """A server did not start, or did not answer every request with 200."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark. 1 when a goal was missed or a server failed."""
    args = _arguments(argv)
    try:
        with ExitStack() as stack:
            args.data.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hot-", dir=args.data))).resolve()
            commands = [_floor(), *_edge("", ROOT, args.modes)]
            if args.against:
                commands += _edge("old ", _checkout(args.against, scratch), args.modes)
            return _run(args, commands, scratch)
    except Failed as failure:
        print(f"bench hot: {failure}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, commands: Sequence[Command], scratch: Path) -> int:
    server_core, load_core = two_cores()
    filesystem = filesystem_of(scratch)
    print(f"Python {platform.python_version()}, {platform.machine()}, Linux {platform.release()}, data on {filesystem}")
    print(f"servers on core {server_core}, load on core {load_core}, {args.connections} connections")
    if server_core == load_core:
        print("only one core: servers and load share it; requests/s mean little, ratios still hold roughly")
    if filesystem in ("tmpfs", "ramfs") and "fsync" in args.modes:
        raise Failed(f"{args.data} is in memory ({filesystem}), a sync there costs nothing: choose a disk with --data")
    measured: dict[str, Samples] = {}
    missed = False
    for name in args.payloads:
        payload = payloads.build(name, "127.0.0.1:8000")
        with pinned({load_core}):
            measured[name] = _measure(payload, commands, scratch / name, server_core, args)
        print()
        print("\n".join(table(payload, measured[name])))
        if name in args.goal:
            reached = paired_ratio(measured[name]["page"], measured[name]["floor"])
            met = reached <= args.goal[name]
            missed |= not met
            verdict = "met" if met else "MISSED"
            print(f"goal: page at most {args.goal[name]:.2f} x floor: {verdict} with {reached:.2f}")
        if args.json:
            # After each payload, so that an interrupted run leaves what it has.
            _write_json(args, measured)
    return 1 if missed else 0


def _measure(
    payload: Payload, commands: Sequence[Command], folder: Path, core: int, args: argparse.Namespace
) -> Samples:
    samples: Samples = {command.label: [] for command in commands}
    with ExitStack() as stack:
        servers = [stack.enter_context(_server(command, folder, core)) for command in commands]
        for server in servers:
            server.sample(payload, args.connections, WARM_SECONDS)
        for round_index in range(args.rounds):
            first = round_index % len(servers)
            for server in servers[first:] + servers[:first]:
                samples[server.label].append(server.sample(payload, args.connections, args.seconds))
    return samples


class Server:
    """A server that listens, and the CPU time of its processes."""

    def __init__(self, label: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.label = label
        self._log = log
        self._host, self._port = self._address(process)
        self._meter = CpuMeter(process.pid)

    def sample(self, payload: Payload, connections: int, seconds: float) -> Sample:
        """One closed-loop run. Raises `Failed` when an answer was anything but 200."""
        try:
            with LoadGenerator(self._host, self._port, connections) as generator:
                # Opening the connections is not what is measured: all of them have been used once before it starts.
                opened = generator.run(payload.requests, 0)
                before_ns = self._meter.read_ns()
                answers = generator.run(payload.requests, seconds)
                cpu_ns = self._meter.read_ns() - before_ns
        except OSError as error:
            raise Failed(f"{self.label}: {error}{self._said()}") from error
        errors = opened.errors + answers.errors
        if errors or not answers.answered:
            first_error = opened.first_error or answers.first_error
            raise Failed(f"{self.label}: {payload.name}: {errors} errors, the first: {first_error}{self._said()}")
        return Sample(answers.answered, cpu_ns, answers.seconds)

    def _address(self, process: subprocess.Popen[bytes]) -> tuple[str, int]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = process.poll()
            if found := _LISTENING.search(self._log.read_text(errors="replace")):
                return found[1], int(found[2])
            if ended is not None:
                raise Failed(f"{self.label}: ended with status {ended} before it listened{self._said()}")
            time.sleep(0.01)
        raise Failed(f"{self.label}: not listening after {START_SECONDS:g} s{self._said()}")

    def _said(self) -> str:
        """The end of what the server printed, for a message."""
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return "".join(f"\n    {line}" for line in lines)


@contextmanager
def _server(command: Command, folder: Path, core: int) -> Iterator[Server]:
    """Start a server on `core` and end it, with all its processes, at the end."""
    home = folder / command.label.replace(" ", "-")
    home.mkdir(parents=True)
    arguments = command.arguments + (("--data", str(home / "data")) if command.stores else ())
    log = home / "log"
    with ExitStack() as stack:
        # A file and not a pipe: a server that prints more than a pipe holds would stand still.
        output = stack.enter_context(log.open("wb"))
        with pinned({core}):
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=command.checkout,
                env=_environment(command.checkout),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches this process only, and what the server starts can be ended by group.
                start_new_session=True,
            )
        stack.callback(_end, process)
        yield Server(command.label, process, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print("bench hot: a server did not stop when told to and was killed", file=sys.stderr)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _floor() -> Command:
    return Command("floor", ROOT, ("-m", "bench.floor", "0"), stores=False)


def _edge(prefix: str, checkout: Path, modes: Sequence[str]) -> list[Command]:
    _check_import(checkout)
    serve = ("-m", "edge", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1")
    return [Command(prefix + mode, checkout, (*serve, "--durability", mode), stores=True) for mode in modes]


def _environment(checkout: Path) -> dict[str, str]:
    # Settings of the caller's shell would make the run another one than it says it is.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    return kept | {"PYTHONPATH": str(checkout)}


def _check_import(checkout: Path) -> None:
    """Raises `Failed` unless `edge` comes out of `checkout`: measuring one checkout twice would show no difference."""
    finished = subprocess.run(
        [sys.executable, "-c", "import edge; print(edge.__file__)"],
        cwd=checkout,
        env=_environment(checkout),
        capture_output=True,
        text=True,
        check=False,
    )
    expected = checkout / "edge" / "__init__.py"
    found = finished.stdout.strip() or finished.stderr.strip()
    if finished.returncode or Path(found).resolve() != expected.resolve():
        raise Failed(f"expected `edge` from {expected}, found: {found}")


def _checkout(against: str, scratch: Path) -> Path:
    """A folder holding the `edge` package to compare with: `against` itself, or what git has under that revision."""
    folder = Path(against)
    if (folder / "edge" / "__init__.py").is_file():
        return folder.resolve()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", against, "edge"], capture_output=True, check=False
    )
    if archive.returncode:
        raise Failed(f"--against {against}: no folder with `edge` and no revision: {archive.stderr.decode().strip()}")
    target = scratch / "old"
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(target, filter="data")
    return target.resolve()


def table(payload: Payload, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """The lines printed for one payload."""
    rounds = len(samples["floor"])
    seconds = median(sample.seconds for sample in samples["floor"])
    batch = payload.events > 1
    lines = [
        f"{payload.name}: {payload.about}; {rounds} rounds of {seconds:.1f} s, median (min-max) of CPU us per request",
        f"  {'':<10} {'us/req':>8} {'min-max':>16} {'us/event' if batch else '':>9} {'req/s':>9} {'busy':>5} {'x floor':>8}",
    ]
    for label, taken in samples.items():
        us = [sample.us_per_request for sample in taken]
        per_event = f"{median(us) / payload.events:.2f}" if batch else ""
        rate = median(sample.requests / sample.seconds for sample in taken)
        busy = median(sample.cpu_ns / 1e9 / sample.seconds for sample in taken)
        spread = f"({min(us):.1f}-{max(us):.1f})"
        ratio = paired_ratio(taken, samples["floor"])
        lines.append(
            f"  {label:<10} {median(us):>8.1f} {spread:>16} {per_event:>9} {rate:>9,.0f} {busy:>5.0%} {ratio:>8.2f}"
        )
    for label, taken in samples.items():
        if old := samples.get(f"old {label}"):
            ratios = [new.us_per_request / before.us_per_request for new, before in zip(taken, old, strict=True)]
            lines.append(f"  {label}, new / old: {median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
    return lines


def paired_ratio(samples: Sequence[Sample], base: Sequence[Sample]) -> float:
    """Median over the rounds of CPU per request as a multiple of `base` in the same round."""
    return median(one.us_per_request / other.us_per_request for one, other in zip(samples, base, strict=True))


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path`, such as `ext4` or `tmpfs`; `unknown` where no mount has its device."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return "unknown"


def _write_json(args: argparse.Namespace, measured: Mapping[str, Samples]) -> None:
    run = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "connections": args.connections,
        "against": args.against,
        "payloads": {
            name: {
                label: [asdict(sample) | {"us_per_request": sample.us_per_request} for sample in taken]
                for label, taken in samples.items()
            }
            for name, samples in measured.items()
        },
    }
    args.json.write_text(json.dumps(run, indent=1) + "\n")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench hot", description=__doc__.partition("\n")[0])
    parser.add_argument("--payloads", type=_names(payloads.NAMES), default=("A", "C"), metavar="A,B,C,F")
    parser.add_argument("--modes", type=_names(MODES), default=MODES, metavar="page,fsync")
    parser.add_argument("--rounds", type=_whole, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for one server in one round")
    parser.add_argument("--connections", type=_whole, default=64, metavar="N")
    parser.add_argument("--against", default="", metavar="REV|DIR", help="also measure another checkout's edge")
    parser.add_argument(
        "--goal", type=_goal, action="append", default=[], metavar="A=2.5", help="status 1 when page exceeds it x floor"
    )
    parser.add_argument("--data", type=Path, default=Path(".cache/bench"), metavar="DIR", help="where spools are put")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    args = parser.parse_args(argv)
    args.goal = dict(args.goal)
    if args.goal and "page" not in args.modes:
        parser.error("a goal is about the page mode, which --modes leaves out")
    if unmeasured := args.goal.keys() - set(args.payloads):
        parser.error(f"a goal for {', '.join(sorted(unmeasured))}, which --payloads leaves out")
    return args


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, found {','.join(unknown)}")
        return names

    return parse


def _goal(text: str) -> tuple[str, float]:
    name, _, ratio = text.partition("=")
    try:
        return name, float(ratio)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=RATIO, found {text}") from error


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text}")
    return int(text)
