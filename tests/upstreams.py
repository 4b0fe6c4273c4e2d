"""An upstream that does what a test tells it, byte by byte, and a client that reads whatever comes back.

It is a TCP server of its own with a thread per connection: what it sends, when, and how it ends is up to the script.
"""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from tests.server.running import Server, running

PATIENCE_S: Final = 30.0

Fields = list[tuple[str, str]]


class Gone(Exception):
    """The other side closed the connection where more was expected."""


class Wire:
    """One connection, read by HTTP's rules and written as told."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        self.socket = connection
        self._received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _receive(self) -> None:
        try:
            piece = self.socket.recv(1 << 18)
        except (ConnectionError, ValueError) as error:
            raise Gone(str(error)) from error
        if not piece:
            raise Gone
        self._received += piece

    def head(self) -> tuple[str, Fields]:
        """The first line and the header fields as they were sent."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        top, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        return first, [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    def exactly(self, count: int) -> bytes:
        pieces = [self._received[:count]]
        missing = count - len(pieces[0])
        self._received = self._received[count:]
        while missing:
            try:
                piece = self.socket.recv(min(missing, 1 << 18))
            except ConnectionError as error:
                raise Gone(str(error)) from error
            if not piece:
                raise Gone(f"{missing} bytes are missing")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def chunks(self) -> bytes:
        """A chunked body, unchunked."""
        body = b""
        while True:
            while b"\r\n" not in self._received:
                self._receive()
            size, _, self._received = self._received.partition(b"\r\n")
            body += self.exactly(int(size, 16))
            assert self.exactly(2) == b"\r\n"
            if not int(size, 16):
                return body

    def rest(self) -> bytes:
        """Up to the end of the connection. Raises `Gone` when that is a reset."""
        rest, self._received = self._received, b""
        while True:
            try:
                piece = self.socket.recv(1 << 18)
            except ConnectionError as error:
                raise Gone(str(error)) from error
            if not piece:
                return rest
            rest += piece

    def body(self, fields: Fields) -> bytes:
        found = {name.lower(): value for name, value in fields}
        if found.get("transfer-encoding") == "chunked":
            return self.chunks()
        return self.exactly(int(found.get("content-length", "0")))

    def wait_until_gone(self) -> None:
        """Until the other side has closed or reset the connection."""
        with suppress(Gone):
            while True:
                self._receive()
                self._received = b""

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Answer(msgspec.Struct):
    """What a client got."""

    status: int
    fields: Fields
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.fields if found.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value


class Asking(Wire):
    """A client's connection."""

    def __init__(self, address: tuple[str, int], receive_bytes: int = 0) -> None:
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(PATIENCE_S)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def ask(self, data: bytes, *, head: bool = False) -> Answer:
        self.send(data)
        return self.answer(head=head)

    def answer(self, *, head: bool = False) -> Answer:
        line, fields = self.head()
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        if head or status in ("100", "204", "304"):
            return Answer(int(status), fields, b"")
        names = {name.lower() for name, _ in fields}
        framed = {"content-length", "transfer-encoding"} & names
        assert len(framed) <= 1
        return Answer(int(status), fields, self.body(fields) if framed else self.rest())


class Incoming(Wire):
    """A request at the upstream: its head is read, its body and the answer are the script's."""

    line = ""
    fields: Fields

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.fields if found.lower() == name.lower()]

    def read(self) -> bytes:
        return self.body(self.fields)


Script = Callable[[Incoming], None]


class ScriptedUpstream:
    """Listens; runs the script for each request. `seen` are the first lines in the order of arrival."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.seen: list[str] = []
        self.faults: list[BaseException] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.authority = f"127.0.0.1:{self.port}"
        self._wires: list[Incoming] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Incoming(connection)
            self._wires.append(wire)
            thread = threading.Thread(target=self._serve, args=(wire,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, wire: Incoming) -> None:
        try:
            while True:
                wire.line, wire.fields = wire.head()
                self.seen.append(wire.line)
                self._script(wire)
        except (Gone, OSError):
            pass
        except BaseException as fault:  # noqa: BLE001 - told to the test when it ends
            self.faults.append(fault)
        finally:
            wire.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(PATIENCE_S)
        for wire in self._wires:
            wire.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedUpstream]:
    upstream = ScriptedUpstream(script)
    try:
        yield upstream
    finally:
        upstream.close()
    assert not upstream.faults, upstream.faults


def unused_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def answering(body: bytes, more: bytes = b"", status: bytes = b"200 OK") -> bytes:
    """A whole answer with its length."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), more, body)


CAPTURE_BODY = b'{"api_key":"phc_k","batch":[{"event":"e","distinct_id":"d"}]}'
CAPTURE = b"POST /batch/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(CAPTURE_BODY), CAPTURE_BODY)


def get(target: str, more: str = "", version: str = "1.1", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/{version}\r\nHost: edge.example\r\n{more}\r\n".encode()


def post(target: str, body: bytes, more: str = "") -> bytes:
    return f"POST {target} HTTP/1.1\r\nHost: edge.example\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def chunked(data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextmanager
def fronting(folder: Path, upstream: ScriptedUpstream, *flags: str) -> Iterator[Server]:
    with running(folder, "--upstream", upstream.url, *flags) as server:
        yield server


def echo(request: Incoming) -> None:
    """What came, as JSON."""
    body = request.read()
    found = {"line": request.line, "fields": request.fields, "body": body.decode("latin-1")}
    request.send(answering(json.dumps(found).encode(), b"Content-Type: application/json\r\n"))


def failures(server: Server, cause: str) -> float:
    series = f'edge_upstream_failures_total{{upstream="main",cause="{cause}"}}'
    return server.metrics().get(series, 0.0)


def answer_json(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.body)
    return found
