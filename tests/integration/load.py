"""Clients that send events over kept connections and write down what was promised to them.

An event's uuid says which request it was in and where, so the ledger knows every event by two numbers.
"""

import asyncio
import base64
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final

import msgspec

from tests.integration.edge_process import Event
from tests.integration.scale import SOAK

ANSWER_S: Final = 30.0
"""A client that waits longer has found a hang."""
PAUSE_S_MAX: Final = 0.008
PIPELINED_MAX: Final = 4
RECEIVE_BYTES: Final = 65536

MANY: Final = (40, 40, 15, 5)
"""Shares of requests with one event, some, many and very many, where a million events have to come together."""
SIZES: Final = MANY if SOAK else (70, 22, 7, 1)
PADDING: Final = (0, 0, 30) if SOAK else (0, 30, 300)
"""Bytes that make events larger; ten million of them have to fit the disk."""

_PATHS: Final = ("/i/v0/e/", "/batch/", "/e", "/capture/")


class Reconciliation(msgspec.Struct, frozen=True):
    """What was promised against what was delivered: the lists hold (request, index), uuids or requests."""

    delivered: int
    lost: list[tuple[int, int]]
    doubled: list[tuple[int, int]]
    invented: list[str]
    """No event that was ever sent, or not as it was sent."""
    halved: list[int]
    """Requests of which some events were delivered and some were not."""


class Ledger:
    """What was sent, and which of it the edge answered with 200."""

    def __init__(self, rng: random.Random, shares: Sequence[int] = SIZES) -> None:
        self._rng = rng
        self._shares = shares
        self._mark = f"{rng.getrandbits(48):012x}"
        self._sizes: list[int] = []
        """Events by request."""
        self._acknowledged: set[int] = set()
        self.acknowledged_events = 0
        self.cut = 0
        """Requests whose connection died before their answer."""
        self.refusals: Counter[int] = Counter()
        """Answers other than 200 by status."""

    @property
    def acknowledged_requests(self) -> int:
        return len(self._acknowledged)

    @property
    def issued_requests(self) -> int:
        return len(self._sizes)

    @property
    def issued_events(self) -> int:
        return sum(self._sizes)

    def next_request(self) -> tuple[int, bytes]:
        """The number and the bytes of a new request of one to some hundred events."""
        rng = self._rng
        number = len(self._sizes)
        size = rng.choices((1, rng.randint(2, 10), rng.randint(11, 60), rng.randint(100, 300)), self._shares)[0]
        self._sizes.append(size)
        padding = base64.b64encode(rng.randbytes(rng.choice(PADDING))).decode()
        events = [
            {
                "event": "load",
                "distinct_id": f"user-{number % 97}",
                "uuid": self._uuid(number, index),
                "properties": {"request": number, "index": index, "padding": padding},
            }
            for index in range(size)
        ]
        alone = size == 1 and rng.random() < 0.7
        body = json.dumps({"api_key": "phc_load", **events[0]} if alone else {"api_key": "phc_load", "batch": events})
        head = f"POST {rng.choice(_PATHS)} HTTP/1.1\r\nHost: edge\r\nContent-Length: {len(body)}\r\n\r\n"
        return number, (head + body).encode()

    def answered(self, number: int, status: int) -> None:
        if status == 200:
            self._acknowledged.add(number)
            self.acknowledged_events += self._sizes[number]
        else:
            self.refusals[status] += 1

    def _uuid(self, number: int, index: int) -> str:
        return f"{number:08x}-{index:04x}-4000-8000-{self._mark}"

    def reconcile(self, events: Iterable[Event]) -> Reconciliation:
        # A byte for every event that was issued: there may be ten million of them.
        starts = list(accumulate(self._sizes, initial=0))
        delivered = bytearray(starts[-1])
        invented = []
        for event in events:
            number, index = event["properties"].get("request", -1), event["properties"].get("index", -1)
            sent = 0 <= number < len(self._sizes) and 0 <= index < self._sizes[number]
            if not sent or event["uuid"] != self._uuid(number, index) or event["distinct_id"] != f"user-{number % 97}":
                invented.append(event["uuid"])
            else:
                delivered[starts[number] + index] += 1
        found = Reconciliation(sum(delivered), [], [], invented, [])
        for number, size in enumerate(self._sizes):
            counts = delivered[starts[number] : starts[number] + size]
            present = size - counts.count(0)
            if present == size and max(counts) == 1:
                continue
            if 0 < present < size:
                found.halved.append(number)
            if number in self._acknowledged:
                found.lost.extend((number, index) for index, count in enumerate(counts) if not count)
            found.doubled.extend((number, index) for index, count in enumerate(counts) if count > 1)
        return found


class Load:
    """Connections that send without end, to wherever the edge is at the moment."""

    def __init__(self, ledger: Ledger, address: Callable[[], tuple[str, int]], rng: random.Random) -> None:
        self._ledger = ledger
        self._address = address
        self._rng = rng
        self._accepting = asyncio.Event()
        self._at_answer: Callable[[], None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, connections: int) -> None:
        self._tasks = [asyncio.create_task(self._connection()) for _ in range(connections)]

    def resume(self) -> None:
        """The edge accepts connections."""
        self._accepting.set()

    def pause(self) -> None:
        """The edge is gone: what is on its way fails, and nothing new is sent."""
        self._accepting.clear()

    def at_next_answer(self, action: Callable[[], None]) -> None:
        """Do it once, as soon as any client has the next promise in its hands and before anything else."""
        self._at_answer = action

    def check(self) -> None:
        """Raises what ended a connection for good, which nothing should."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def finish(self) -> None:
        """Wait for the answers that are due and close the connections."""
        self.pause()
        running = [task for task in self._tasks if not task.done()]
        # A client that waits for the edge to come back has nothing under way.
        await asyncio.wait(running, timeout=1.0)
        for task in running:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _connection(self) -> None:
        while True:
            await self._accepting.wait()
            with socket.socket() as connection:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                due: list[int] = []
                try:
                    async with asyncio.timeout(ANSWER_S):
                        await asyncio.get_running_loop().sock_connect(connection, self._address())
                    await self._talk(connection, due)
                except OSError as error:
                    if isinstance(error, TimeoutError):
                        raise AssertionError(f"no answer within {ANSWER_S:.0f} s") from error
                    self._ledger.cut += len(due)
                    await asyncio.sleep(0.002)

    async def _talk(self, connection: socket.socket, due: list[int]) -> None:
        """Requests and their answers until the load is paused. `due` holds the requests without an answer."""
        loop = asyncio.get_running_loop()
        received = b""
        while self._accepting.is_set():
            sent = [self._ledger.next_request() for _ in range(self._rng.choice((1, 1, 1, PIPELINED_MAX)))]
            due += [number for number, _ in sent]
            async with asyncio.timeout(ANSWER_S):
                await loop.sock_sendall(connection, b"".join(request for _, request in sent))
                while due:
                    status, received = _split_answer(received)
                    if status:
                        if status == 200 and self._at_answer is not None:
                            action, self._at_answer = self._at_answer, None
                            action()
                        self._ledger.answered(due.pop(0), status)
                        continue
                    piece = await loop.sock_recv(connection, RECEIVE_BYTES)
                    if not piece:
                        raise ConnectionResetError("closed before the answer")
                    received += piece
            await asyncio.sleep(self._rng.random() * PAUSE_S_MAX)


def _split_answer(received: bytes) -> tuple[int, bytes]:
    """The status of the first answer in `received` and what follows it; 0 while it is not whole."""
    head, separator, rest = received.partition(b"\r\n\r\n")
    if not separator:
        return 0, received
    _, _, length = head.lower().partition(b"content-length: ")
    body_bytes = int(length.partition(b"\r\n")[0])
    if len(rest) < body_bytes:
        return 0, received
    return int(head.split(b" ", 2)[1]), rest[body_bytes:]
