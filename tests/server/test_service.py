"""What connections share, without connections: the clock is the test's, the disk is real and not written to."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edge.disk import RealDisk
from edge.metrics import Board, Row
from edge.segment.record import RecordIds
from edge.server.admission import ServerSettings
from edge.server.exchange import Exchange
from edge.server.protocol import _HEADS_MAX, LINGER_S, CaptureConnection
from edge.server.service import _EXPIRED_TOGETHER, HEAD_PACKET_BYTES_MAX, RETRY_AFTER_S, Service
from edge.server.turn import Turn
from edge.spool.writer import Clock, SpoolSettings, SpoolWriter
from edge.wire.rejections import Reason

WALL_NS = 1_763_690_000_123_456_789
BODY = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
EVENT = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Transport(asyncio.Transport):
    """What a connection is on, which cannot be closed on one side only."""

    def __init__(self) -> None:
        super().__init__({"peername": ("203.0.113.7", 4711)})
        self.unsent_bytes = 0
        self.written = b""
        self.closed = False
        self.aborted = False

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes


@pytest.fixture
def row() -> Row:
    return Board.create(1).rows[0]


@pytest.fixture
def writer(tmp_path: Path, row: Row) -> Iterator[SpoolWriter]:
    loop = asyncio.new_event_loop()

    def fault(error: BaseException) -> None:
        raise AssertionError from error

    clock = Clock(lambda: 100.0, lambda: WALL_NS // 1000)
    found = SpoolWriter(loop, RealDisk(), str(tmp_path), 0, 1, lambda: 7, SpoolSettings(), clock, row, fault)
    yield found
    loop.run_until_complete(found.close())
    loop.close()


def service_of(writer: SpoolWriter, row: Row, settings: ServerSettings | None = None) -> Service:
    service = Service(settings or ServerSettings(), writer, row, RecordIds(1), lambda: WALL_NS, lambda call: call())
    service.tick(100.0)
    return service


@pytest.fixture
def service(writer: SpoolWriter, row: Row) -> Service:
    return service_of(writer, row)


def turn_of(service: Service) -> Turn:
    return Turn(service, lambda call: call())


def connect(service: Service) -> tuple[CaptureConnection, Transport]:
    connection, transport = CaptureConnection(service, turn_of(service)), Transport()
    connection.connection_made(transport)
    return connection, transport


def test_connections_that_expire_together_are_closed_some_in_a_turn(writer: SpoolWriter, row: Row) -> None:
    due: list[Callable[[], None]] = []
    service = Service(ServerSettings(), writer, row, RecordIds(1), lambda: WALL_NS, due.append)
    service.tick(100.0)
    connected = [connect(service) for _ in range(_EXPIRED_TOGETHER * 2 + 1)]
    service.tick(100.0 + service.settings.idle_timeout_s)
    left = [(connection, transport) for connection, transport in connected if not transport.closed]
    assert len(left) == len(connected) - _EXPIRED_TOGETHER
    # None is told twice, and one that was heard of meanwhile is left alone.
    service.tick(100.25 + service.settings.idle_timeout_s)
    assert len(due) == 1
    left[0][0].deadline_s = service.idle_deadline_s
    while due:
        due.pop()()
    assert [transport for _, transport in connected if not transport.closed] == [left[0][1]]


def test_answers_are_dated(service: Service) -> None:
    assert service.date == b"Fri, 21 Nov 2025 01:53:20 GMT"
    assert b"\r\ndate: Fri, 21 Nov 2025 01:53:20 GMT\r\n" in service.success(b"")


def test_ready_made_answers_are_kept_by_origin_until_the_next_tick(service: Service) -> None:
    made = service.success(b"https://a.example")
    assert service.answers == {b"https://a.example": made}
    assert b"access-control-allow-origin: https://a.example\r\n" in made
    service.tick(100.25)
    assert service.answers == {}


def test_origins_made_up_do_not_fill_the_memory(service: Service) -> None:
    for number in range(3000):
        assert service.success(b"https://%d.example" % number)
    assert len(service.answers) == 1024


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((True, False, False, False), b"200 OK"),
        ((False, True, False, False), b"200 OK"),
        ((False, False, True, False), b"204 No Content"),
        ((True, False, True, False), b"204 No Content"),
        ((False, False, False, True), b"200 OK"),
        ((False, False, True, True), b"204 No Content"),
    ],
    ids=["closed", "head", "beacon", "beacon, closed", "terse", "beacon, terse"],
)
def test_special_successes(service: Service, arguments: tuple[bool, bool, bool, bool], status: bytes) -> None:
    close, head, beacon, terse = arguments
    answer = service.special_success(b"https://a.example", close=close, head=head, beacon=beacon, terse=terse)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (b"connection: close" in answer) == close
    assert answer.endswith(b"\r\n\r\n") == (head or beacon)
    assert answer.endswith(b"\r\n\r\n1") == (terse and not beacon)
    assert b"access-control-allow-origin: https://a.example\r\n" in answer


def test_clients_are_sent_away_for_different_times(service: Service) -> None:
    drawn = {service.retry_after() for _ in range(2000)}
    assert drawn == set(range(RETRY_AFTER_S[0], RETRY_AFTER_S[1] + 1))


def test_only_so_many_bytes_are_under_way(writer: SpoolWriter, row: Row) -> None:
    service = service_of(writer, row, ServerSettings(inflight_bytes_max=100))
    assert service.overload(100) is None
    assert service.overload(101) is Reason.OVERLOADED
    service.inflight_bytes = 60
    assert service.overload(40) is None
    assert service.overload(41) is Reason.OVERLOADED


def test_no_head_that_is_whole_in_a_packet_is_too_large(writer: SpoolWriter, row: Row) -> None:
    assert service_of(writer, row).head_packet_bytes_max == HEAD_PACKET_BYTES_MAX
    assert service_of(writer, row, ServerSettings(header_bytes_max=1000)).head_packet_bytes_max == 1000


def test_connections_are_ended_at_their_deadline(writer: SpoolWriter, row: Row) -> None:
    service = service_of(writer, row, ServerSettings(idle_timeout_s=10, header_timeout_s=5))
    _, idle = connect(service)
    service.tick(101.0)
    slow_connection, slow = connect(service)
    slow_connection.data_received(b"GET / HTTP/1.1\r\n")
    service.tick(105.9)
    assert not slow.written
    service.tick(106.0)
    assert slow.written.startswith(b"HTTP/1.1 504 ")
    assert not idle.closed
    service.tick(109.9)
    assert not idle.closed
    service.tick(110.0)
    assert idle.closed
    assert not idle.written


@pytest.mark.parametrize("end", ["its last request", "its end", "the idle deadline"])
def test_a_client_that_does_not_take_its_answers_has_its_time_for_them(writer: SpoolWriter, row: Row, end: str) -> None:
    """What is closed waits for it, and is a connection as long."""
    service = service_of(writer, row, ServerSettings(idle_timeout_s=10, write_timeout_s=5))
    connection, transport = connect(service)
    if end == "its last request":
        connection.data_received(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    elif end == "its end":
        assert not connection.eof_received()
    else:
        service.tick(110.0)
    assert transport.closed
    closed_s = service.now_s
    connection.pause_writing()
    connection.resume_writing()
    service.tick(closed_s + 4.75)
    assert not transport.aborted
    service.tick(closed_s + 5.0)
    assert transport.aborted
    connection.connection_lost(None)
    assert not service.connections


class HalfClosing(Transport):
    """Can be closed on one side only."""

    half_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        # As the real one raises, which ends the worker.
        assert not self.half_closed
        super().write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True


def half_closing(service: Service) -> tuple[CaptureConnection, HalfClosing]:
    connection, transport = CaptureConnection(service, turn_of(service)), HalfClosing()
    connection.connection_made(transport)
    return connection, transport


@pytest.mark.parametrize(
    "behind",
    [EVENT.replace(b"Host: h", b"Host: h\r\nExpect: 100-continue").partition(b"{")[0], EVENT],
    ids=["a head that waits for a word", "a packet that waits for its turn"],
)
def test_nothing_is_written_nor_stored_behind_the_last_answer(service: Service, behind: bytes) -> None:
    connection, transport = half_closing(service)
    connection.turn = Turn(service, lambda call: None)
    connection.receive(EVENT)
    pending_bytes = service.writer.pending_bytes
    if behind == EVENT:
        connection.data_received(behind)
    else:
        connection.receive(behind)
    last = connection.queue[0]
    assert type(last) is Exchange
    last.response, last.close = b"the last", True
    connection.flush()
    assert transport.half_closed
    connection.turn.take()
    connection.flush()
    assert transport.written == b"the last"
    assert service.writer.pending_bytes == pending_bytes


def test_no_answer_is_written_behind_one_that_ends_the_connection(service: Service) -> None:
    connection, transport = half_closing(service)
    connection.receive(EVENT * 3)
    for number, due in enumerate(connection.queue):
        due.response = b"%d" % number
    connection.queue[1].close = True
    connection.flush()
    assert transport.half_closed
    assert transport.written == b"01"


def test_an_expectation_of_http_1_0_is_ignored(service: Service) -> None:
    connection, transport = half_closing(service)
    connection.receive(b"POST /e/ HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    connection.flush()
    assert transport.written == b""


def test_a_quiet_answer_of_a_stopping_worker_is_the_last_one(service: Service) -> None:
    service.stopping = True
    connection, transport = half_closing(service)
    connection.data_received(b"GET /flags/?v=2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in transport.written.lower()
    assert transport.half_closed


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n"], ids=["nothing", "more"])
def test_a_client_that_wants_no_other_answer_is_read_on_only_if_it_sends_more(service: Service, behind: bytes) -> None:
    connection, transport = half_closing(service)
    connection.receive(EVENT.replace(b"Host: h", b"Host: h\r\nConnection: close"))
    if behind:
        connection.data_received(behind)
    connection.queue[0].response = b"HTTP/1.1 200 OK\r\n\r\n"
    connection.flush()
    assert (transport.closed, transport.half_closed) == (not behind, bool(behind))


@pytest.mark.parametrize(("unsent_bytes", "patience_s"), [(0, LINGER_S), (1, LINGER_S + 5)], ids=["all", "not all"])
def test_a_client_that_has_taken_its_answers_is_not_waited_for_long(
    writer: SpoolWriter, row: Row, unsent_bytes: int, patience_s: float
) -> None:
    service = service_of(writer, row, ServerSettings(write_timeout_s=5))
    connection, transport = half_closing(service)
    service.stopping = True
    connection.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert transport.half_closed
    transport.unsent_bytes = unsent_bytes
    for quarter in range(int(patience_s * 4)):
        service.tick(100.0 + quarter / 4)
        assert not connection.stop()
        assert not transport.aborted
    service.tick(100.0 + patience_s)
    assert transport.aborted


def test_a_connection_that_is_used_is_not_idle(writer: SpoolWriter, row: Row) -> None:
    service = service_of(writer, row, ServerSettings(idle_timeout_s=10))
    connection, transport = connect(service)
    for now in (105.0, 110.0, 115.0, 120.0):
        service.tick(now)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert transport.written.count(b"HTTP/1.1 200 OK") == 4
    service.tick(129.9)
    assert not transport.closed
    service.tick(130.0)
    assert transport.closed


def test_what_happened_is_counted_at_the_next_tick(service: Service, row: Row) -> None:
    for name in ("e", "e", "batch"):
        service.posted(name)
    service.observe_body(300)
    service.inflight_bytes = 7
    connect(service)
    assert row.get("http_requests_total", "POST", "e", "200") == 0
    for _ in range(2):
        service.tick(101.0)
        assert row.get("http_requests_total", "POST", "e", "200") == 2
        assert row.get("http_requests_total", "POST", "batch", "200") == 1
    assert row.get("edge_connections") == 1
    assert row.get("edge_connections_total") == 1
    assert row.get("edge_inflight_bytes") == 7


def test_refusals_are_counted_by_cause_and_as_answers(service: Service, row: Row) -> None:
    service.count_refusal(Reason.NO_TOKEN, "POST", "e")
    service.count_layers(("gzip", "repair"))
    service.count_answer("OPTIONS", "other", 200)
    assert row.get("edge_rejected_requests_total", "no_token") == 1
    assert row.get("http_requests_total", "POST", "e", "401") == 1
    assert row.get("http_requests_total", "OPTIONS", "other", "200") == 1
    assert (row.get("edge_slow_path_total", "gzip"), row.get("edge_slow_path_total", "repair")) == (1, 1)


def test_the_limits_are_the_documented_ones() -> None:
    settings = ServerSettings()
    mib = 1024 * 1024
    assert (settings.body_bytes_max, settings.replay_body_bytes_max) == (20 * mib, 64 * mib)
    assert (settings.target_bytes_max, settings.other_target_bytes_max) == (64 * 1024, 8 * 1024)
    assert (settings.header_bytes_max, settings.headers_max) == (32 * 1024, 100)
    assert (settings.header_timeout_s, settings.body_timeout_s, settings.idle_timeout_s) == (10, 60, 620)
    assert settings.pipeline_max == 16


class Pausing(Transport):
    """Knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def pausing(service: Service) -> tuple[CaptureConnection, Pausing]:
    connection, transport = CaptureConnection(service, turn_of(service)), Pausing()
    connection.connection_made(transport)
    return connection, transport


def test_a_body_in_chunks_of_a_byte_is_read_in_pieces_with_others_in_between(service: Service) -> None:
    async def read() -> list[int]:
        connection, transport = pausing(service)
        connection.receive(
            b"POST /e/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000
        )
        read = [service.inflight_bytes]
        while transport.paused:
            await asyncio.sleep(0)
            read.append(service.inflight_bytes)
        connection.connection_lost(None)
        return read

    read_bytes = asyncio.run(read())
    assert read_bytes[-1] == 40_000
    assert max(after - before for before, after in pairwise([0, *read_bytes])) < 10_000
    assert service.inflight_bytes == 0


ANSWERED_AT_ONCE = {
    "not found": b"GET /x HTTP/1.1\r\nHost:a\r\n\r\n",
    "a page": b"GET / HTTP/1.1\r\nHost:a\r\n\r\n",
    "a preflight": b"OPTIONS / HTTP/1.1\r\nHost:a\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost:a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "an upgrade of a body": (
        b"POST /x HTTP/1.1\r\nHost:a\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 9\r\n\r\n123456789"
    ),
    "refused": b'POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{"broken"',
    "refused in chunks": b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", ANSWERED_AT_ONCE.values(), ids=ANSWERED_AT_ONCE)
def test_requests_that_are_answered_at_once_are_read_some_in_a_turn(service: Service, sent: bytes) -> None:
    """As they never fill the pipeline, one connection would have the loop to itself."""

    async def read() -> list[int]:
        connection, transport = pausing(service)
        connection.data_received(sent * 2000 + sent[:-1])
        answered = [0]
        while transport.paused:
            answered.append(transport.written.count(b"HTTP/1.1 "))
            await asyncio.sleep(0)
        connection.data_received(sent[-1:])
        answered.append(transport.written.count(b"HTTP/1.1 "))
        connection.connection_lost(None)
        return answered

    answered = asyncio.run(read())
    assert answered[-1] == 2001
    assert max(after - before for before, after in pairwise(answered)) <= _HEADS_MAX + 1


def test_nobody_is_blamed_for_what_is_not_read(service: Service) -> None:
    """Behind a full pipeline, which is the server's: the deadline begins anew when it is read on."""
    settings = service.settings
    connection, transport = pausing(service)
    connection.receive(EVENT * settings.pipeline_max + EVENT[:-1])
    assert transport.paused
    service.tick(100.0 + settings.body_timeout_s)
    assert not transport.written
    for due in connection.queue:
        due.response = b"HTTP/1.1 200 OK\r\n\r\n"
    connection.flush()
    assert not transport.paused
    service.tick(99.75 + 2 * settings.body_timeout_s)
    assert transport.written.count(b"HTTP/1.1 504") == 0
    service.tick(100.0 + 2 * settings.body_timeout_s)
    assert transport.written.count(b"HTTP/1.1 504") == 1


def test_what_a_packet_has_behind_a_full_pipeline_waits(service: Service) -> None:
    async def read() -> None:
        connection, transport = pausing(service)
        connection.receive(EVENT * 500)
        for _ in range(20):
            await asyncio.sleep(0)
        waiting = list(connection.queue)
        assert service.settings.pipeline_max <= len(waiting) <= service.settings.pipeline_max + _HEADS_MAX
        assert transport.paused
        assert not connection.stop()
        while connection.queue or transport.paused:
            for due in connection.queue:
                due.response = b"HTTP/1.1 200 OK\r\n\r\n"
            connection.flush()
            await asyncio.sleep(0)
        assert transport.written.count(b"HTTP/1.1 200") == 500
        connection.connection_lost(None)

    asyncio.run(read())
