"""A worker's heavy requests: kept in order, sent to the decoder one at a time, their outcomes taken back. All in small pieces.

What may hold the loop for too long (`wire/request.py`, `Light`) is done by a process of its own (`server/decoder.py`), which
is started when it is first needed and ended when it has not been for a while. What comes back is compressed.

Nothing here waits for ever: a request that the decoder does not get to, or does not finish, in time is refused for overload,
and so is one above the number that may wait. When the decoder dies, the request it had is refused as a fault of ours, and the
next one is sent to another decoder.
"""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from typing import Final, Protocol

import msgspec

from edge.blocks import Blocks
from edge.metrics import Row
from edge.process import Child
from edge.server.decoder import JOB_LENGTHS, OUTCOME_LENGTHS, DecoderSpec, Job, Outcome, encode_registry
from edge.wire.projects import Registry
from edge.wire.rejections import Reason
from edge.wire.request import Limits

log = logging.getLogger(__name__)

WAITING_MAX: Final = 64
"""Requests; their bytes are bounded with all others in flight."""
WAITING_S: Final = 30.0
"""Until a request is refused that the decoder has not got to. Clients give up sooner or later, too."""
DECODING_S: Final = 60.0
"""Until the decoder is taken to hang, and killed. The worst that the limits allow takes it some seconds."""
IDLE_S: Final = 60.0
"""Without a request, until the decoder is ended."""

_PIECE_BYTES: Final = 256 * 1024
"""Sent or received in one go, before the loop turns to others: some 50 µs."""

Body = list[memoryview]
"""A body in pieces."""


class Waiter(Protocol):
    """Who wants to know. Called exactly one of the two, once, not from within `take`."""

    def decoded(self, outcome: Outcome, answer: list[memoryview], frame: list[memoryview]) -> None: ...

    def not_decoded(self, reason: Reason) -> None: ...


class HeavyRequest(msgspec.Struct, gc=False):
    """One request, on its way through the decoder."""

    job: Job
    body: Body
    body_bytes: int
    waiter: Waiter
    since_s: float = 0.0
    """When it was taken, and from when it is sent on, when that was."""


class HeavyRequests:
    """`take` them, `tick` a few times a second, and `close` in the end. On the event loop, like all of the worker."""

    def __init__(self, name: str, limits: Limits, v1_limits: Limits, row: Row) -> None:
        self._name = name
        self._limits = limits
        self._v1_limits = v1_limits
        self._row = row
        self.registry: Registry | None = None
        """What project keys are looked up in; `None` where none are."""
        self._stopping = False
        self._waiting: deque[HeavyRequest] = deque()
        self._current: HeavyRequest | None = None
        self._now_s = 0.0
        """As of the last tick, which is exact enough."""
        self._idle_since_s = 0.0
        # of the decoder that runs
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        self._told_registry: Registry | None = None
        # of the request it has
        self._unsent: deque[memoryview] = deque()
        self._wanted: list[int] = []
        """Bytes of the parts that are to come, the next one first."""
        self._parts: list[Blocks] = []
        # that are ending
        self._ended: list[Child] = []

    @property
    def full(self) -> bool:
        """No more are taken now."""
        return self._stopping or len(self._waiting) >= WAITING_MAX

    def take(self, request: HeavyRequest) -> None:
        """Only while not `full`."""
        assert not self.full
        self._row.add("edge_heavy_requests_total", 1)
        request.since_s = self._now_s
        self._waiting.append(request)
        if self._current is None:
            asyncio.get_running_loop().call_soon(self._next)

    def tick(self, now_s: float) -> None:
        self._now_s = now_s
        self._row.set("edge_heavy_requests_waiting", len(self._waiting))
        self._collect()
        if self._child is not None:
            self._child.poll_ready()
        while self._waiting and now_s - self._waiting[0].since_s >= WAITING_S:
            self._waiting.popleft().waiter.not_decoded(Reason.OVERLOADED)
        if self._current is not None:
            if now_s - self._current.since_s >= DECODING_S:
                self._lose("did not finish a request in time", Reason.OVERLOADED)
        elif self._child is not None and now_s - self._idle_since_s >= IDLE_S:
            self._end()

    def stop(self) -> None:
        """What is not decoded yet will not be in time, and no more is taken."""
        self._stopping = True
        waiting = [*([self._current] if self._current is not None else []), *self._waiting]
        self._waiting.clear()
        self._current = None
        self._end()
        for request in waiting:
            request.waiter.not_decoded(Reason.STOPPING)

    def close(self) -> None:
        """Whoever waits still is told, and the decoder is gone when this returns."""
        self.stop()
        for child in self._ended:
            child.process.kill()
            child.process.wait()
        self._collect()

    def _next(self) -> None:
        if self._current is not None or not self._waiting:
            return
        request = self._current = self._waiting.popleft()
        request.since_s = self._now_s
        try:
            decoder = self._socket or self._start()
        except OSError as error:
            self._lose(f"could not be started: {error}", Reason.INTERNAL)
            return
        job = request.job
        if self._told_registry is not self.registry:
            self._told_registry = self.registry
            job.registry = b"" if self.registry is None else encode_registry(self.registry)
        head = msgspec.msgpack.encode(job)
        self._unsent.append(memoryview(JOB_LENGTHS.pack(len(head), request.body_bytes) + head))
        self._unsent.extend(piece for piece in request.body if piece)
        # What was sent is not held any longer.
        request.body = []
        self._wanted = [OUTCOME_LENGTHS.size]
        self._parts = [Blocks(OUTCOME_LENGTHS.size)]
        asyncio.get_running_loop().add_writer(decoder, self._send, decoder)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            spec = DecoderSpec(self._name, theirs.fileno(), self._limits, self._v1_limits)
            try:
                self._child = Child(self._name, "edge.server.decoder", spec, [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        self._told_registry = None
        asyncio.get_running_loop().add_reader(ours, self._receive, ours)
        return ours

    def _send(self, decoder: socket.socket) -> None:
        piece = self._unsent[0]
        try:
            sent = decoder.send(piece[:_PIECE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            self._lose("ended in the middle of a request", Reason.INTERNAL)
            return
        if sent < len(piece):
            self._unsent[0] = piece[sent:]
            return
        self._unsent.popleft()
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(decoder)

    def _receive(self, decoder: socket.socket) -> None:
        part = self._parts[-1] if self._wanted else Blocks(1)
        try:
            size = decoder.recv_into(part.room()[:_PIECE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._lose("ended", Reason.INTERNAL)
            return
        assert self._current is not None, "expected no word that was not asked for"
        part.took(size)
        self._wanted[0] -= size
        if self._wanted[0]:
            return
        if len(self._parts) == 1:
            self._wanted += OUTCOME_LENGTHS.unpack(b"".join(part.views()))
        while self._wanted and not self._wanted[0]:
            self._wanted.pop(0)
            self._parts.append(Blocks(self._wanted[0] if self._wanted else 0))
        if not self._wanted:
            self._finish(self._current)

    def _finish(self, request: HeavyRequest) -> None:
        _, head, answer, frame, _ = self._parts
        self._parts = []
        self._current = None
        self._idle_since_s = self._now_s
        outcome = _decode_outcome(b"".join(head.views()))
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        if outcome.doubt is not None:
            self._row.add("edge_projects_dry_run_total", 1, outcome.doubt.value)
        if outcome.fault:
            request.waiter.not_decoded(Reason.INTERNAL)
        else:
            request.waiter.decoded(outcome, answer.views(), frame.views())

    def _lose(self, how: str, reason: Reason) -> None:
        """The decoder is of no more use, and there is no telling what became of the request it had."""
        current, self._current = self._current, None
        if self._child is not None or current is not None:
            log.error("the decoder %s", how)
            self._row.add("edge_decoder_failures_total", 1)
        if self._child is not None:
            self._child.process.kill()
        self._end()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        if current is not None:
            current.waiter.not_decoded(reason)

    def _collect(self) -> None:
        for child in self._ended:
            if child.process.poll() is not None:
                child.close()
        self._ended = [child for child in self._ended if child.process.returncode is None]

    def _end(self) -> None:
        """Let the decoder go, which ends with its socket."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None
        if self._child is not None:
            self._ended.append(self._child)
            self._child = None
        self._unsent.clear()
        self._wanted = []
        self._parts = []


_decode_outcome: Final = msgspec.msgpack.Decoder(Outcome).decode
