"""A real `edge` on free ports and a folder of its own, and raw sockets to speak to it.

Every test drives the program as a client or an operator does: bytes over TCP, signals, exit status, and what the spool holds
afterwards. Nothing inside it is replaced.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, Self

import msgspec

from edge.layout import Layout
from edge.segment.record import Record, decode_record
from edge.segment.scan import Frame
from edge.spool.inspect import all_segments, frames

PATIENCE_S: Final = 20.0
"""For anything that is bound to happen: generous, since a machine may be loaded; no test that passes waits it out."""

_POLL_S: Final = 0.005

LOW_LIMITS: Final = (
    *("--body-bytes-max", "64KiB", "--replay-body-bytes-max", "128KiB", "--decoded-bytes-max", "256KiB"),
    *("--lz64-bytes-max", "64KiB", "--target-bytes-max", "4KiB", "--other-target-bytes-max", "1KiB"),
    *("--header-bytes-max", "4KiB", "--headers-max", "20", "--pipeline-max", "4"),
)
"""So that every limit is reached with few bytes."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of the tests, without what would set up the program or change how Python writes; with a small reserve."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    kept.pop("PYTHONUNBUFFERED", None)
    return kept | {"EDGE_RESERVE_BYTES": "64KiB"} | dict(extra or {})


def edge(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One run of a verb that ends by itself."""
    command = [sys.executable, "-m", "edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(env), cwd=cwd)


class Answer(msgspec.Struct, frozen=True):
    """One response as it was on the wire. Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def lasting(self) -> tuple[int, dict[str, str], bytes]:
        """Without what differs from one moment to the next."""
        kept = {name: value for name, value in self.headers.items() if name not in ("date", "retry-after")}
        return self.status, kept, self.body

    def json(self) -> dict[str, object]:
        decoded: dict[str, object] = msgspec.json.decode(self.body)
        return decoded


class Closed(Exception):
    """The server closed the connection where an answer was expected."""


class Client:
    """One raw connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        """A segment for each byte. A server that has closed in between is found out by reading."""
        with suppress(ConnectionError):
            for at in range(len(data)):
                self.socket.sendall(data[at : at + 1])

    def ask(self, data: bytes, *, head: bool = False) -> Answer:
        self.send(data)
        return self.answer(head=head)

    def answer(self, *, head: bool = False) -> Answer:
        """The next final answer; `head` when it is one to a HEAD request. Raises `Closed`."""
        while True:
            found = self.any_answer(head=head)
            if found.status >= 200:
                return found

    def any_answer(self, *, head: bool = False) -> Answer:
        """The next answer, 100 included. Anything that is not exactly HTTP fails."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        top, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = top.decode("ascii").split("\r\n")
        version, status, phrase = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        assert phrase
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name == name.lower()
            assert name not in headers, f"twice: {name}"
            headers[name] = value
        bodiless = head or status in ("100", "204")
        assert ("content-length" in headers) == (status not in ("100", "204"))
        length = 0 if bodiless else int(headers["content-length"])
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(status), headers, body)

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which a reset is too."""
        with suppress(Closed):
            while True:
                self._receive()
        rest, self._received = self._received, b""
        return rest

    def is_closed(self) -> bool:
        """Whether the connection ends without another byte."""
        return self.rest() == b""

    def half_close(self) -> None:
        """Send no more. The server may have closed already."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Gone at once, as a crashed client is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def _receive(self) -> None:
        try:
            piece = self.socket.recv(1 << 16)
        except ConnectionError as error:
            raise Closed(str(error)) from error
        if not piece:
            raise Closed(f"the connection ended after {self._received!r}")
        self._received += piece


class Server:
    """A started `edge serve` or `edge up`, accepting."""

    def __init__(
        self,
        folder: Path,
        flags: Sequence[str] = (),
        *,
        verb: str = "serve",
        workers: int = 1,
        listen: str = "127.0.0.1:0",
        env: Mapping[str, str] | None = None,
        shell: str = "",
    ) -> None:
        """`shell` is what a shell does before it becomes the program."""
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.log = folder / "edge.log"
        self._spool = Spool(self.data)
        command = [sys.executable, "-m", "edge", verb, "--listen", listen, "--admin", "127.0.0.1:0"]
        command += ["--workers", str(workers), "--data", str(self.data), *flags]
        if shell:
            command = ["sh", "-c", f'{shell}; exec "$@"', "sh", *command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment(env))
        self.output = b""
        try:
            self._wait_for_output(2)
        except BaseException:
            self.kill()
            raise
        public, admin = self.output.decode().splitlines()[:2]
        assert public.startswith("listening on http://")
        assert admin.startswith("admin on http://")
        self.address = _address(public)
        self.admin = _address(admin)

    def _wait_for_output(self, lines: int) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while self.output.count(b"\n") < lines:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert piece, f"edge did not start:\n{self.log_text()}"
            self.output += piece

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def connect(self) -> Client:
        return Client(self.address)

    def ask(self, data: bytes, *, head: bool = False) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.ask(data, head=head)

    def get_admin(self, path: str, method: str = "GET") -> Answer:
        connection = HTTPConnection(*self.admin, timeout=PATIENCE_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics` by its name and labels as printed."""
        lines = self.get_admin("/metrics").body.decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in pairs}

    def records(self) -> list[Record]:
        """Everything stored so far, in the order of acceptance within a slot."""
        return self._spool.records()

    def records_of(self, token: str) -> list[Record]:
        return [record for record in self.records() if record.token == token]

    def workers(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if "edge.server.worker" in command_line(pid)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status."""
        status = self.process.wait(PATIENCE_S)
        self._close_output()
        return status

    def stop(self) -> int:
        """TERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End everything at once, whatever state it is in."""
        pids = [self.process.pid, *descendants(self.process.pid)] if self.process.poll() is None else []
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._close_output()

    def _close_output(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def running(
    folder: Path,
    *flags: str,
    verb: str = "serve",
    workers: int = 1,
    listen: str = "127.0.0.1:0",
    env: Mapping[str, str] | None = None,
    shell: str = "",
) -> Iterator[Server]:
    """A server that is gone at the end, and that has met no fault of its own in between."""
    server = Server(folder, flags, verb=verb, workers=workers, listen=listen, env=env, shell=shell)
    try:
        yield server
    finally:
        server.kill()
    assert "Traceback" not in server.log_text(), server.log_text()


class Spool:
    """What a data folder holds, live or not. Goes on where it read last, so that many looks at it stay cheap."""

    def __init__(self, data: Path) -> None:
        self._layout = Layout(data)
        self._read: dict[tuple[int, str], tuple[int, list[Record]]] = {}

    def records(self) -> list[Record]:
        found: list[Record] = []
        for file in all_segments(self._layout):
            key = file.slot, str(file.name)
            end, records = self._read.get(key, (0, []))
            for item in frames(file, end):
                assert isinstance(item, Frame), f"{file.path} is damaged: {item}"
                records += [decode_record(line) for line in item.lines()]
                end = item.end
            self._read[key] = end, records
            found += records
        return found


def wait_until(happened: Callable[[], object], what: str) -> None:
    """For what no descriptor tells: state of other processes."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"expected within {PATIENCE_S:.0f} s: {what}"
        time.sleep(_POLL_S)


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def decoders(server: Server) -> list[int]:
    """The processes of its workers' heavy requests."""
    return [pid for pid in descendants(server.process.pid) if "edge.server.decoder" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be collected by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _address(line: str) -> tuple[str, int]:
    host, _, port = line.rpartition("//")[2].strip().rpartition(":")
    return host.strip("[]"), int(port)
