"""A proxy in front of a running edge that spoils the answers to the first requests which bring events, in one chosen way.

Everything else passes as it is, in both directions: what a client does after a spoiled answer it does with the edge.
The proxy has a thread of its own.
"""

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from enum import Enum
from typing import Any, Final, Self

import msgspec

from edge.wire.responses import cors_headers, render
from edge.wire.routes import Kind, find_route

START_S: Final = 10.0
_POLL_S: Final = 0.02
_HEAD_BYTES_MAX: Final = 64 * 1024


class Spoiled(Enum):
    """What becomes of an answer: a status and header lines in its place, or none at all after the edge has committed."""

    TOO_LARGE = (413, b"")
    RATE_LIMITED = (429, b"retry-after: 1\r\n")
    UNAVAILABLE = (503, b"retry-after: 1\r\n")
    LATE = (504, b"")
    CLOSED = (0, b"")

    def __str__(self) -> str:
        return str(self.value[0] or "closed")


class Delivery(msgspec.Struct, frozen=True):
    """A request with events, and what it was answered: a status, 0 for a connection closed without an answer."""

    target: str
    body: bytes
    status: int

    def events(self) -> list[dict[str, Any]]:
        """Of JSON, plain or in gzip: what the newest libraries send."""
        text = gzip.decompress(self.body) if self.body.startswith(b"\x1f\x8b") else self.body
        # Half an emoji, which JavaScript sends, is nothing to stricter readers.
        found = json.loads(text)
        if isinstance(found, dict):
            found = found.get("batch", [found])
        return list(found)


class AnsweringProxy:
    """Listens on a port of its own from entering to leaving."""

    def __init__(self, host: str, port: int, spoiled: Spoiled, times: int) -> None:
        """Of the requests with events to `host:port`, the first `times` are spoiled."""
        self.what = spoiled
        self.deliveries: list[Delivery] = []
        """Finished ones, oldest first."""
        self.port = 0
        self._edge = (host, port)
        self._left = times
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="answering proxy")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spoiled(self) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if delivery.status not in (200, 204)]

    def wait_until(self, done: Callable[[], bool], expected: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, (
                f"expected {expected} within {within_s} s, found {len(self.deliveries)} requests"
            )
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(START_S), "expected the proxy to listen"
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_HEAD_BYTES_MAX)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        edge_reader, edge_writer = await asyncio.open_connection(*self._edge, limit=_HEAD_BYTES_MAX)
        try:
            while await self._exchange(reader, writer, edge_reader, edge_writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            # Either side has left.
            pass
        finally:
            edge_writer.close()
            writer.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        edge_reader: asyncio.StreamReader,
        edge_writer: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether another may follow."""
        start, headers, head = await _read_head(reader)
        body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
        method, target, _ = start.split(b" ")
        route, _ = find_route(target)
        brings_events = method == b"POST" and route is not None and route.kind is Kind.CAPTURE
        spoil = brings_events and self._left > 0
        self._left -= spoil
        status, extra = self.what.value
        if spoil and status:
            date = formatdate(usegmt=True).encode()
            answer = render(status, b"{}", cors_headers(headers.get(b"origin", b"")), date, extra=extra)
        else:
            edge_writer.write(head + body)
            edge_start, edge_headers, edge_head = await _read_head(edge_reader)
            # A preflight and a 204 have no body; no other method than those above is used here.
            length = int(edge_headers.get(b"content-length", b"0"))
            answer = edge_head + await edge_reader.readexactly(0 if method == b"HEAD" else length)
            status = 0 if spoil else int(edge_start.split(b" ")[1])
        if brings_events:
            self.deliveries.append(Delivery(target.decode(), body, status))
        if spoil and self.what is Spoiled.CLOSED:
            return False
        writer.write(answer)
        await writer.drain()
        return True


async def _read_head(reader: asyncio.StreamReader) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Start line, headers by lower-case name, and all of it as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head.rstrip().split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return start, {name.lower(): value.strip() for name, _, value in pairs}, head
