"""A closed-loop load generator: keep-alive connections, one request outstanding on each.

A connection sends its next request as soon as the answer to its last one is complete. Plain epoll and system calls in one
process, so that a request costs it about as much as it costs the cheapest server that could be at the other end.

Every request sent is waited for, also those still out when the time is up: what `run` reports is what the server did.
"""

import argparse
import itertools
import re
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from bench import payloads

STALL_SECONDS: Final = 10.0

_READ_BYTES: Final = 4096
_OK: Final = 200
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Answers:
    """What came back in one run."""

    answered: int
    """Complete answers with status 200."""
    errors: int
    """Other statuses, broken answers, connections lost with a request outstanding."""
    seconds: float
    """From the first request sent to the last answer."""
    first_error: str
    """What the first of the errors was, empty when there was none."""


class LoadGenerator:
    """Open connections to one server, used by one run after the other. Close it, or use it as a context.

    A server that answers nobody for `stall_seconds` is given up, and what is outstanding counts as errors.
    Raises `OSError` when a connection cannot be made.
    """

    def __init__(self, host: str, port: int, connections: int, stall_seconds: float = STALL_SECONDS) -> None:
        self._stall_seconds = stall_seconds
        self._sockets: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        # Per run.
        self._outstanding = 0
        self._answered = 0
        self._errors = 0
        self._first_error = ""
        # The last whole 200: most answers are the same bytes again, and then comparing them is all there is to do.
        self._usual: bytes | None = None
        # Per request, and only while one is in pieces.
        self._unsent: dict[int, bytes] = {}
        self._partial: dict[int, bytes] = {}
        try:
            for _ in range(connections):
                self._connect(host, port)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        for connection in self._sockets.values():
            connection.close()
        self._sockets.clear()
        self._epoll.close()

    def run(self, requests: Sequence[bytes], seconds: float) -> Answers:
        """Send `requests` over and over for `seconds`; with 0 every connection sends one. Connections lost stay lost."""
        self._answered = self._errors = 0
        self._first_error = ""
        upcoming = itertools.cycle(requests)
        started = time.monotonic()
        deadline = started + seconds
        self._outstanding = len(self._sockets)
        for fd in list(self._sockets):
            self._send(fd, next(upcoming))
        self._converse(upcoming, deadline)
        return Answers(self._answered, self._errors, time.monotonic() - started, self._first_error)

    def _converse(self, upcoming: "itertools.cycle[bytes]", deadline: float) -> None:
        poll, sockets, partial = self._epoll.poll, self._sockets, self._partial
        while self._outstanding:
            ready = poll(self._stall_seconds)
            if not ready:
                self._give_up()
                return
            sending = time.monotonic() < deadline
            for fd, events in ready:
                if events != select.EPOLLIN and not self._send_rest(fd, events):
                    continue
                try:
                    data = sockets[fd].recv(_READ_BYTES)
                except OSError as error:
                    self._lose(fd, f"connection lost: {error}")
                    continue
                if data == self._usual and fd not in partial:
                    self._answered += 1
                elif not self._take(fd, data):
                    continue
                if sending:
                    self._send(fd, next(upcoming))
                else:
                    self._outstanding -= 1

    def _send(self, fd: int, request: bytes) -> None:
        try:
            sent = self._sockets[fd].send(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(fd, f"connection lost: {error}")
            return
        if sent < len(request):
            self._unsent[fd] = request[sent:]
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def _send_rest(self, fd: int, events: int) -> bool:
        """Go on with a request that did not fit the socket's buffer. Whether there is something to read as well."""
        rest = self._unsent.pop(fd, b"")
        if rest and events & select.EPOLLOUT:
            self._epoll.modify(fd, select.EPOLLIN)
            self._send(fd, rest)
        elif rest:
            self._unsent[fd] = rest
        return fd in self._sockets and bool(events & ~select.EPOLLOUT)

    def _take(self, fd: int, data: bytes) -> bool:
        """The long way to read an answer. Whether it is complete and the connection may send its next request."""
        if not data:
            self._lose(fd, "connection closed with a request outstanding")
            return False
        data = self._partial.pop(fd, b"") + data
        try:
            answer = parse_answer(data)
        except ValueError as error:
            self._lose(fd, str(error))
            return False
        if answer is None:
            self._partial[fd] = data
            return False
        status, size = answer
        if size != len(data) or fd in self._unsent:
            self._lose(fd, f"more than one answer, or one before the whole request was sent: {data[:200]!r}")
            return False
        if status == _OK:
            self._answered += 1
            self._usual = data
        else:
            self._count_errors(1, data[:200].decode("latin-1"))
        return True

    def _connect(self, host: str, port: int) -> None:
        connection = socket.create_connection((host, port), timeout=self._stall_seconds)
        self._sockets[connection.fileno()] = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _lose(self, fd: int, why: str) -> None:
        self._outstanding -= 1
        self._count_errors(1, why)
        self._drop(fd)

    def _give_up(self) -> None:
        self._count_errors(
            self._outstanding, f"{self._outstanding} requests not answered within {self._stall_seconds:g} s"
        )
        self._outstanding = 0
        for fd in list(self._sockets):
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        self._sockets.pop(fd).close()
        self._partial.pop(fd, None)
        self._unsent.pop(fd, None)

    def _count_errors(self, count: int, why: str) -> None:
        self._errors += count
        self._first_error = self._first_error or why


def parse_answer(data: bytes) -> tuple[int, int] | None:
    """Status and size in bytes of the answer that `data` starts with, `None` while it is incomplete.

    Raises `ValueError` for bytes that are no HTTP/1.x answer or one without Content-Length.
    """
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0 and data.startswith(b"HTTP/1."[: len(data)]):
        return None
    line = _STATUS_LINE.match(data)
    if line is None:
        raise ValueError(f"not an HTTP/1.x answer: {data[:200]!r}")
    length = _CONTENT_LENGTH.search(data, 0, head_end + 2)
    if length is None:
        raise ValueError(f"an answer without Content-Length: {data[:200]!r}")
    size = head_end + 4 + int(length[1])
    return (int(line[1]), size) if size <= len(data) else None


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, tuple[str, int], payloads.Payload]:
    """The arguments of a generator, where it sends to, and what."""
    parser.add_argument("url", help="http://HOST:PORT; the payload brings its own path")
    parser.add_argument("--payload", choices=payloads.NAMES, default="A")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S")
    args = parser.parse_args(argv)
    url = urlsplit(args.url)
    if url.scheme != "http" or not url.hostname or url.path not in ("", "/"):
        parser.error(f"expected http://HOST:PORT, found {args.url}")
    payload = payloads.build(args.payload, url.netloc)
    return args, (url.hostname, url.port or 80), payload


def main(argv: Sequence[str]) -> int:
    """Send one payload to any server and print what came back. 1 when there was an error."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__.partition("\n")[0])
    args, (host, port), payload = parse(parser, argv)
    with LoadGenerator(host, port, args.connections) as generator:
        answers = generator.run(payload.requests, args.seconds)
    per_second = answers.answered / answers.seconds
    print(f"{payload.name}: {payload.about}, {args.connections} connections, {answers.seconds:.1f} s")
    print(f"{answers.answered} answered, {per_second:,.0f} requests/s, {per_second * payload.events:,.0f} events/s")
    if answers.errors:
        print(f"{answers.errors} errors, the first: {answers.first_error}", file=sys.stderr)
        return 1
    return 0
