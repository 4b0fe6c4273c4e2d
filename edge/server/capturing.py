"""What becomes of a complete request for capture: into the next commit, to the decoder, or refused."""

import logging

import msgspec

from edge.server.body import body_size
from edge.server.decoder import Job, Outcome
from edge.server.exchange import Connection, Exchange
from edge.server.heavy import Body, HeavyRequest
from edge.spool.group import PackedRecord
from edge.wire.capture import capture, empty_poll, is_terse
from edge.wire.rejections import REFUSALS, Reason, Rejected
from edge.wire.request import Heavy, Request
from edge.wire.v1 import V1Answer, capture_batch

log = logging.getLogger(__name__)


def take(exchange: Exchange, request: Request, pieces: Body | None) -> None:
    """`pieces`: of a large body, of which `request` then has nothing."""
    try:
        _judge(exchange, request, pieces)
    except Exception:
        log.exception("a request met a fault of ours")
        exchange.connection.end()
        exchange.refuse(Reason.INTERNAL, REFUSALS[Reason.INTERNAL].detail)
        exchange.connection.flush()


def _judge(exchange: Exchange, request: Request, pieces: Body | None) -> None:
    connection = exchange.connection
    service = connection.service
    service.observe_body(len(request.body) if pieces is None else body_size(pieces))
    try:
        if service.writer.pending_bytes > service.settings.inflight_bytes_max:
            raise Rejected(Reason.OVERLOADED)
        if pieces is not None:
            raise Heavy
        if exchange.v1 is not None:
            _judge_v1(exchange, exchange.v1, request)
            return
        captured = capture(request, exchange.route, service.limits, service.ids, service.choose_key)
    except Heavy:
        _hand_over(exchange, request, [memoryview(request.body)] if pieces is None else pieces)
        return
    except Rejected as rejected:
        if rejected.reason is Reason.NO_DATA and exchange.v1 is None and empty_poll(request):
            exchange.terse = is_terse(request, exchange.route)
            exchange.answer_specially(service)
        else:
            exchange.refuse(rejected.reason, rejected.detail)
        connection.flush()
        return
    if captured.layers:
        service.count_layers(captured.layers)
    if captured.beacon:
        exchange.beacon = exchange.special = True
    if captured.terse:
        exchange.terse = exchange.special = True
    service.append(captured.record, captured.events, request.received_us, exchange)


def _judge_v1(exchange: Exchange, answer: V1Answer, request: Request) -> None:
    service = exchange.connection.service
    captured = capture_batch(request, exchange.route, service.v1_limits, service.ids, service.choose_key)
    answer.body = (captured.body,)
    service.count_layers(captured.layers)
    service.append(captured.record, captured.events, request.received_us, exchange)


def _hand_over(exchange: Exchange, request: Request, body: Body) -> None:
    """To the decoder. The connection is not read until that has answered."""
    connection = exchange.connection
    service = connection.service
    size = body_size(body)
    overload = Reason.OVERLOADED if service.heavy.full else service.overload(size, replay=exchange.route.replay)
    if overload is not None:
        exchange.refuse(overload, REFUSALS[overload].detail)
        connection.flush()
        return
    service.inflight_bytes += size
    connection.await_decoder()
    ids = service.ids
    job = Job(
        exchange.route.name,
        request.method,
        request.query,
        request.headers,
        request.client_ip,
        request.received_us,
        ids.prefix,
        ids.next(),
        ids.skew,
    )
    service.heavy.take(HeavyRequest(job, body, size, Decoding(connection, exchange, request.received_us, size)))


class Decoding(msgspec.Struct, gc=False):
    """What a connection waits for from the decoder."""

    connection: Connection
    exchange: Exchange
    received_us: int
    body_bytes: int

    def decoded(self, outcome: Outcome, answer: list[memoryview], frame: list[memoryview]) -> None:
        service = self.connection.service
        exchange = self.exchange
        service.inflight_bytes -= self.body_bytes
        exchange.terse = outcome.terse
        exchange.beacon = outcome.beacon
        if outcome.poll:
            exchange.answer_specially(service)
        elif outcome.rejected is not None:
            exchange.refuse(outcome.rejected, outcome.detail)
        else:
            service.count_layers(outcome.layers)
            exchange.special = exchange.special or outcome.beacon or outcome.terse
            if exchange.v1 is not None:
                exchange.v1.body = answer
            frame_bytes = sum(map(len, frame))
            record = PackedRecord(frame, frame_bytes, outcome.raw_bytes, outcome.events, self.received_us, exchange)
            service.writer.append_packed(record)
        self.connection.go_on()

    def not_decoded(self, reason: Reason) -> None:
        self.connection.service.inflight_bytes -= self.body_bytes
        self.exchange.refuse(reason, REFUSALS[reason].detail)
        self.connection.go_on()
