"""The process of a worker's heavy requests: decodes, judges and compresses what would hold the worker's event loop too long.

It runs the same pure functions as the worker does for all the others, with nothing but the full limits, one request after
another. Both write on a stream socket the length of a head, the lengths of what is behind it, the head in MessagePack, and
those bytes:

    worker     head u32, body u64                    `Job`, the body
    decoder    head u32, answer u64, frame u64       `Outcome`, the body of capture v1's answer, the record as a zstd frame

The worker's end of the socket is also what this process lives by: where it reads an end, or cannot write, it ends. A request
that it dies of costs that request (503) and nothing else.
"""

import logging
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

from edge import logs
from edge.process import RETIRE, accept_signals, read_spec, say_ready
from edge.segment.frame import Compressor
from edge.segment.record import RecordIds
from edge.wire.capture import Choose, capture, empty_poll, is_terse
from edge.wire.projects import Registry
from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Limits, Request
from edge.wire.routes import ROUTES, Kind, Route
from edge.wire.v1 import capture_batch

log = logging.getLogger("edge.server.decoder")

JOB_LENGTHS: Final = Struct("<IQ")
OUTCOME_LENGTHS: Final = Struct("<IQQ")

_OOM_SCORE_ADJ: Final = "500"
"""Where memory runs out this process is the one to go, and not the worker: it costs a request."""


class DecoderSpec(msgspec.Struct):
    """What a decoder is started with."""

    name: str
    """In its log lines."""
    socket_fd: int
    limits: Limits
    v1_limits: Limits


class Job(msgspec.Struct):
    """A request as the decoder gets it, but for its body."""

    route: str
    """Its name."""
    method: str
    query: bytes
    headers: Mapping[bytes, bytes]
    client_ip: str
    received_us: int
    id_prefix: str
    id_number: int
    skew: str
    """The record's `skew_us` member, empty for none."""
    registry: bytes | None = None
    """What project keys are looked up in from here on, empty for nothing; `None`: what they were looked up in before."""


class Outcome(msgspec.Struct):
    """What became of a request, but for the answer's body and the frame."""

    rejected: Reason | None = None
    detail: str = ""
    poll: bool = False
    """Rejected for having no data, and a poll that is answered as if it had."""
    fault: bool = False
    """Of ours: there is no telling what became of it."""
    events: int = 0
    beacon: bool = False
    terse: bool = False
    layers: tuple[str, ...] = ()
    doubt: Reason | None = None
    """What an enforcing registry would have refused it for."""
    raw_bytes: int = 0
    """Of the record, in front of compression."""


encode_registry: Final = msgspec.msgpack.Encoder().encode
_decode_registry: Final = msgspec.msgpack.Decoder(Registry).decode
_decode_job: Final = msgspec.msgpack.Decoder(Job).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class Gone(Exception):
    """The worker is."""


class Decoder:
    """One request at a time into what became of it."""

    def __init__(self, limits: Limits, v1_limits: Limits) -> None:
        self._limits = limits
        self._v1_limits = v1_limits
        self._compressor = Compressor()
        self._registry: Registry | None = None

    def decode(self, job: Job, body: bytes) -> tuple[Outcome, bytes, bytes]:
        """What became of it, the body of capture v1's answer, and the record's frame; both empty when there is none."""
        if job.registry is not None:
            self._registry = _decode_registry(job.registry) if job.registry else None
        outcome = Outcome()
        try:
            record, answer = self._captured(job, body, outcome)
        except Exception:
            log.exception("a request met a fault of ours")
            return Outcome(fault=True), b"", b""
        # What it was made of is not kept while it is compressed.
        del body
        if not record:
            return outcome, b"", b""
        outcome.raw_bytes = len(record)
        return outcome, answer, self._compressor.compress(record)

    def _captured(self, job: Job, body: bytes, outcome: Outcome) -> tuple[bytes, bytes]:
        """The record and the body of capture v1's answer, both empty for a rejection; the rest is noted in `outcome`."""
        route = ROUTES[b"/" + job.route.encode()]
        request = Request(job.method, job.query, body, job.headers, job.client_ip, job.received_us)
        ids = RecordIds(0)
        ids.prefix = job.id_prefix
        ids.next = lambda: job.id_number
        ids.skew = job.skew
        choose = None if self._registry is None else _choosing(self._registry, outcome)
        try:
            if route.kind is Kind.CAPTURE_V1:
                batch = capture_batch(request, route, self._v1_limits, ids, choose)
                outcome.events, outcome.layers = batch.events, batch.layers
                return batch.record, batch.body
            captured = capture(request, route, self._limits, ids, choose)
        except Rejected as rejected:
            outcome.rejected, outcome.detail = rejected.reason, rejected.detail
            if rejected.reason is Reason.NO_DATA and route.kind is Kind.CAPTURE and empty_poll(request):
                outcome.poll, outcome.terse = True, is_terse(request, route)
            return b"", b""
        outcome.events, outcome.layers = captured.events, captured.layers
        outcome.beacon, outcome.terse = captured.beacon, captured.terse
        return captured.record, b""


def _choosing(registry: Registry, outcome: Outcome) -> Choose:
    def choose(
        in_payload: tuple[object, ...],
        form: Mapping[str, bytes],
        query: Mapping[str, bytes],
        request: Request,
        route: Route,
        text: bytes,
    ) -> str:
        choice = registry.choose(in_payload, form, query, request, route, text)
        outcome.doubt = choice.doubt
        return choice.token

    return choose


def main(arguments: list[str]) -> int:
    spec, ready_fd = read_spec(DecoderSpec, arguments)
    # Whoever tells everybody to stop tells the worker too, which still needs this process to answer what it has taken.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(RETIRE, signal.SIG_IGN)
    accept_signals()
    logs.set_up(spec.name)
    Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJ)
    say_ready(ready_fd)
    decoder = Decoder(spec.limits, spec.v1_limits)
    with socket.socket(fileno=spec.socket_fd) as worker:
        try:
            while True:
                _serve_one(decoder, worker)
        except (Gone, ConnectionError):
            return 0


def _serve_one(decoder: Decoder, worker: socket.socket) -> None:
    head_bytes, body_bytes = JOB_LENGTHS.unpack(_receive(worker, JOB_LENGTHS.size))
    job = _decode_job(_receive(worker, head_bytes))
    # No name holds the body here: where it is an encoding of something larger, it is not needed to the end.
    outcome, answer, frame = decoder.decode(job, _receive(worker, body_bytes))
    head = _encode(outcome)
    worker.sendall(OUTCOME_LENGTHS.pack(len(head), len(answer), len(frame)) + head)
    worker.sendall(answer)
    worker.sendall(frame)


def _receive(worker: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, in the memory of so many. Raises `Gone`."""
    received = worker.recv(size, socket.MSG_WAITALL) if size else b""
    while len(received) < size:
        # A signal came between.
        more = worker.recv(size - len(received), socket.MSG_WAITALL)
        if not more:
            raise Gone
        received += more
    return received


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
