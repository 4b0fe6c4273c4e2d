"""A running `edge up`: started on free ports and a folder of its own, stopped as an operator stops it, killed as a crash does.

What it delivered is read back from the files of the default sink, and nothing else: no test looks inside the program.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, Self

import msgspec

EDGE: Final = Path(sys.executable).parent / "edge"
"""The installed program, of the environment the tests run in."""

START_S: Final = 30.0
STOP_S: Final = 20.0
VERB_S: Final = 600.0
_POLL_S: Final = 0.02

Event = dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class EdgeProcess:
    """One data folder, and the program on it while it runs."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "edge.log"
        self.host = ""
        self.port = 0
        self.admin_port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing outlives a test, whatever became of it."""
        if self._process is not None:
            self.kill_everything()

    # --- its life

    def start(self, *options: str, verb: str = "up") -> None:
        """`edge up`, or `edge serve`; it is accepting when this returns."""
        self.launch(*options, verb=verb)
        self.wait_until_accepting()

    def launch(self, *options: str, verb: str = "up") -> None:
        """The same, still starting when this returns."""
        assert self._process is None, "expected one program at a time on a folder"
        assert EDGE.exists(), f"expected the program at {EDGE}: run `make setup`"
        addresses = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        command: list[str | Path] = [EDGE, verb, "--data", self.data, *addresses, *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, env=environment()
            )

    def wait_until_accepting(self) -> None:
        process = self._running()
        assert process.stdout is not None
        # The program gives up by itself when it cannot start, which ends its output.
        public, admin = process.stdout.readline(), process.stdout.readline()
        assert public.startswith("listening on http://"), f"edge did not start:\n{self.log_tail()}"
        assert admin.startswith("admin on http://"), f"expected the admin address, found {admin!r}"
        self.host, port = public.strip().removeprefix("listening on http://").split(":")
        self.port = int(port)
        self.admin_port = int(admin.rpartition(":")[2])

    def stop(self) -> None:
        """TERM: everything accepted is shipped, the exit status is 0."""
        self.send(signal.SIGTERM)
        self.wait()

    def send(self, number: signal.Signals) -> None:
        """A signal to the supervisor."""
        self._running().send_signal(number)

    def wait(self) -> None:
        """Until it has stopped, having been told to."""
        process = self._running()
        try:
            status = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"edge did not stop within {STOP_S:.0f} s:\n{self.log_tail()}") from None
        self._forget()
        assert status == 0, f"expected exit status 0 after TERM, found {status}:\n{self.log_tail()}"

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor and all its descendants, as near to one instant as it gets."""
        root = self._running().pid
        # A stopped parent starts no child that the list of its descendants would miss.
        os.kill(root, signal.SIGSTOP)
        pids = process_tree(root)
        while (again := process_tree(root)) != pids:
            pids = again
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        self._running().wait()
        self._forget()
        wait_until_gone(pids)

    def kill_supervisor(self) -> list[int]:
        """SIGKILL to the parent alone; the pids of the orphans, who end by themselves."""
        process = self._running()
        orphans = [pid for pid in process_tree(process.pid) if pid != process.pid]
        process.kill()
        process.wait()
        self._forget()
        return orphans

    def workers(self) -> list[int]:
        return self._children("edge.server.worker")

    def drainers(self) -> list[int]:
        return self._children("edge.drain.process")

    def pids(self) -> list[int]:
        """Of all its processes."""
        return process_tree(self._running().pid)

    def _children(self, module: str) -> list[int]:
        return [pid for pid in process_tree(self._running().pid) if module in command_line(pid)]

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "expected the program to run"
        return self._process

    def _forget(self) -> None:
        process, self._process = self._running(), None
        assert process.stdout is not None
        process.stdout.close()

    # --- asking it

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on the public port, on a connection of its own."""
        return _request(self.host, self.port, method, path, body, headers or {})

    def metrics(self) -> str:
        return _request(self.host, self.admin_port, "GET", "/metrics", None, {}).body.decode()

    def wait_for_sample(self, sample: str, within_s: float) -> None:
        """Until the metrics have this line. What is delivered is there to see a moment before it is counted."""
        deadline = time.monotonic() + within_s
        while sample not in (lines := self.metrics().splitlines()):
            like = [line for line in lines if line.startswith(sample.partition("{")[0])]
            assert time.monotonic() < deadline, f"expected {sample!r} within {within_s} s, found {like}"
            time.sleep(_POLL_S)

    def status(self) -> dict[str, Any]:
        """`edge status --json`."""
        found: dict[str, Any] = json.loads(self.verb("status", "--json"))
        return found

    def verb(self, *arguments: str) -> str:
        """Standard output of another verb on the same folder, which must succeed."""
        done = subprocess.run(
            [EDGE, *arguments, "--data", self.data], capture_output=True, text=True, timeout=VERB_S, env=environment()
        )
        assert done.returncode == 0, f"edge {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout

    # --- what it delivered

    def events(self) -> list[Event]:
        """Every delivered event, in the order of acceptance within a slot."""
        return list(self.each_event())

    def each_event(self) -> Iterator[Event]:
        """The same one by one: a long run delivers more than fits in memory."""
        for path in sorted((self.data / "events").glob("*.ndjson")):
            for line in path.read_bytes().splitlines():
                yield msgspec.json.decode(line)

    def wait_for_events(self, count: int, within_s: float) -> list[Event]:
        """The delivered events as soon as there are `count`."""
        return self.wait_until(lambda events: len(events) >= count, f"{count} events", within_s)

    def wait_until(self, arrived: Callable[[list[Event]], bool], expected: str, within_s: float) -> list[Event]:
        """The delivered events as soon as they are what was `expected`."""
        deadline = time.monotonic() + within_s
        while not arrived(events := self.events()):
            assert time.monotonic() < deadline, f"expected {expected} within {within_s} s, found {len(events)} events"
            time.sleep(_POLL_S)
        return events

    def events_when_stopped(self, count: int, within_s: float) -> list[Event]:
        """Wait for `count` events, stop, and return all: what was delivered twice or comes late is among them."""
        self.wait_for_events(count, within_s)
        self.stop()
        return self.events()

    def told_of_faults(self) -> str:
        """What the log says of processes that ended, and what they left on standard error."""
        lines = self.log.read_text(errors="replace").splitlines()
        told = ('"level":"critical"', "ended with status")
        return "\n".join(line for line in lines if not line.startswith("{") or any(part in line for part in told))

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


def _request(host: str, port: int, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
    connection = HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def environment() -> dict[str, str]:
    """That of the tests, without what would set up the program or a client library; with a small reserve."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "POSTHOG_"))}
    return kept | {"EDGE_RESERVE_BYTES": "64KiB"}


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants, parents first."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                # The thread ended since the folder was listed.
                continue
    return pids


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pids: list[int], within_s: float = STOP_S) -> None:
    """Until none of the processes runs any more. One that init has not collected yet has nothing open and counts as gone."""
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, f"expected processes {alive} to end within {within_s} s"
        time.sleep(0.002)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
