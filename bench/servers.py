"""The servers that benchmarks compare: how each is started, pinned, asked for load, measured and ended.

A server is told where to listen in one of two ways. A command with `{port}` in it gets a free port there, and is ready when
that port accepts; any other chooses a port itself and prints `listening on http://HOST:PORT`, as `edge` and the floor do.
`{data}` becomes a path of the server's own, which does not exist yet: for a file or for a folder, as it likes. Both are
replaced in the arguments and in the environment.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Final

from bench.cpu import CpuMeter, Memory, memory, pinned
from bench.load import LoadGenerator
from bench.payloads import Payload

ROOT: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 10.0

_LISTENING: Final = re.compile(r"^listening on http://(\S+):(\d+)\s*\n", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """How to start one of the servers compared: a command line, run in `folder`."""

    label: str
    arguments: tuple[str, ...]
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the caller's, of which settings of `edge` are left out."""


@dataclass(frozen=True)
class Sample:
    """One server in one run of closed-loop load."""

    requests: int
    cpu_ns: int
    seconds: float
    kernel_share: float = 0.0
    """Of the CPU time, from 0 to 1; good to a tick of the clock."""
    rss_bytes: int = 0
    """Of all processes at the end of the run, each counted whole."""
    load_busy: float = 0.0
    """CPU time of the load generator over the wall clock: near 1 it was the limit, and not the server."""

    @property
    def us_per_request(self) -> float:
        return self.cpu_ns / 1000 / self.requests

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def busy(self) -> float:
        """CPU time over the wall clock: 1 is one core."""
        return self.cpu_ns / 1e9 / self.seconds


class Failed(Exception):
    """A server did not start, or did not answer every request with 200."""


class Server:
    """A server that listens: its address, and the CPU time and memory of its processes."""

    def __init__(self, label: str, process: "subprocess.Popen[bytes]", log: Path, data: Path, port: int) -> None:
        """Waits until it listens: on `port`, or where it prints for 0. Raises `Failed`."""
        self.label = label
        self.pid = process.pid
        self.data = data
        self._log = log
        self.host, self.port = self._address(process, port)
        self.cpu = CpuMeter(process.pid)

    def memory(self) -> Memory:
        return memory(self.pid)

    def sample(self, payload: Payload, connections: int, seconds: float) -> Sample:
        """One closed-loop run. Raises `Failed` when an answer was anything but 200."""
        try:
            with LoadGenerator(self.host, self.port, connections) as generator:
                # Opening the connections is not what is measured: all of them have been used once before it starts.
                opened = generator.run(payload.requests, 0)
                before, before_ns = self.cpu.read_split(), self.cpu.read_ns()
                load_before_ns = time.process_time_ns()
                answers = generator.run(payload.requests, seconds)
                load_ns = time.process_time_ns() - load_before_ns
                cpu_ns = self.cpu.read_ns() - before_ns
                user_ticks, kernel_ticks = (now - then for now, then in zip(self.cpu.read_split(), before, strict=True))
                rss_bytes = self.memory().rss_bytes
        except OSError as error:
            raise Failed(f"{self.label}: {error}{self.said()}") from error
        errors = opened.errors + answers.errors
        if errors or not answers.answered:
            first_error = opened.first_error or answers.first_error
            raise Failed(f"{self.label}: {payload.name}: {errors} errors, the first: {first_error}{self.said()}")
        kernel_share = kernel_ticks / max(user_ticks + kernel_ticks, 1)
        load_busy = load_ns / 1e9 / answers.seconds
        return Sample(answers.answered, cpu_ns, answers.seconds, kernel_share, rss_bytes, load_busy)

    def output(self) -> str:
        """All that the server printed."""
        return self._log.read_text(errors="replace")

    def said(self) -> str:
        """The end of it, for a message."""
        lines = self.output().splitlines()[-15:]
        return "".join(f"\n    {line}" for line in lines)

    def _address(self, process: "subprocess.Popen[bytes]", port: int) -> tuple[str, int]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = process.poll()
            if port and accepts(port):
                return "127.0.0.1", port
            if not port and (found := _LISTENING.search(self._log.read_text(errors="replace"))):
                return found[1], int(found[2])
            if ended is not None:
                raise Failed(f"{self.label}: ended with status {ended} before it listened{self.said()}")
            time.sleep(0.01)
        raise Failed(f"{self.label}: not listening after {START_SECONDS:g} s{self.said()}")


@contextmanager
def running(command: Command, folder: Path, cores: Iterable[int]) -> Iterator[Server]:
    """Start a server on `cores`, with its log and data below `folder`, and end it with all its processes at the end.

    Raises `Failed` when it does not come up.
    """
    home = folder / re.sub(r"[^\w.+-]", "-", command.label)
    home.mkdir(parents=True)
    log, data = home / "log", home / "data"
    port = free_port() if any("{port}" in argument for argument in command.arguments) else 0

    def filled(text: str) -> str:
        return text.replace("{port}", str(port)).replace("{data}", str(data))

    with ExitStack() as stack:
        # A file and not a pipe: a server that prints more than a pipe holds would stand still.
        output = stack.enter_context(log.open("wb"))
        try:
            with pinned(cores):
                process = subprocess.Popen(
                    [filled(argument) for argument in command.arguments],
                    cwd=command.folder,
                    env=_environment(command.folder)
                    | {name: filled(text) for name, text in command.environment.items()},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A session of its own: Ctrl-C reaches this process only, and what the server starts can be ended by group.
                    start_new_session=True,
                )
        except OSError as error:
            raise Failed(f"{command.label}: {error}") from error
        stack.callback(_end, process)
        yield Server(command.label, process, log, data, port)


def floor() -> Command:
    """A canned answer on uvloop, `bench/floor.py`."""
    return Command("floor", (sys.executable, "-m", "bench.floor", "0"))


def edge(label: str, durability: str, *, checkout: Path = ROOT, workers: int = 1, extra: Sequence[str] = ()) -> Command:
    """`edge serve` of a checkout. Raises `Failed` unless Python finds `edge` there and nowhere else."""
    _check_import(checkout)
    serve = (sys.executable, "-m", "edge", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    options = ("--workers", str(workers), "--durability", durability, "--data", "{data}")
    return Command(label, (*serve, *options, *extra), checkout)


def checkout(against: str, scratch: Path) -> Path:
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


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print("bench: a server did not stop when told to and was killed", file=sys.stderr)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _environment(folder: Path) -> dict[str, str]:
    # Settings of the caller's shell would make the run another one than it says it is.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    return kept | {"PYTHONPATH": str(folder)}


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
