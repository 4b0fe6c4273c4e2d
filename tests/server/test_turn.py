"""Turns without a loop: the test ends them. The disk is real; what is stored is read back."""

import asyncio
import gc
import json
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from edge.disk import RealDisk
from edge.metrics import Board, slot
from edge.segment.frame import FRAME_RAW_BYTES_MAX
from edge.segment.record import Record, RecordIds, decode_record
from edge.segment.scan import Frame, scan
from edge.server.admission import ServerSettings
from edge.server.protocol import CaptureConnection
from edge.server.service import Service
from edge.server.turn import PACKET_BYTES_MAX, PACKETS_MAX, TEXT_BYTES_MAX, Turn
from edge.spool.group import Waiter
from edge.spool.writer import Clock, Durability, SpoolSettings, SpoolWriter
from tests.server.test_service import Transport

NOW_US = 1_763_690_000_123_456
FAMILIAR_AFTER = 20
"""Requests of one form that are enough to be familiar."""


class Scene:
    """A service in `page` mode, whose commits are done when `turn` returns."""

    def __init__(self, folder: Path, settings: ServerSettings) -> None:
        self.folder = folder
        self._loop = asyncio.new_event_loop()
        self.row = Board.create(1).rows[0]
        self.writer = SpoolWriter(
            self._loop,
            RealDisk(),
            str(folder),
            0,
            1,
            lambda: 7,
            SpoolSettings(Durability.PAGE),
            Clock(lambda: 100.0, lambda: NOW_US),
            self.row,
            self._fault,
        )
        self._due: list[Callable[[], None]] = []
        self.service = Service(settings, self.writer, self.row, RecordIds(7), lambda: NOW_US * 1000, self._due.append)
        self.service.tick(100.0)
        self._turn = Turn(self.service, self._due.append)

    def _fault(self, error: BaseException) -> None:
        raise AssertionError from error

    def client(self) -> tuple[CaptureConnection, Transport]:
        connection, transport = CaptureConnection(self.service, self._turn), Transport()
        connection.connection_made(transport)
        return connection, transport

    def turn(self) -> int:
        """End the turn; how often that was asked for."""
        due, self._due[:] = self._due[:], []
        for call in due:
            call()
        return len(due)

    def close(self) -> None:
        self._loop.run_until_complete(self.writer.close())
        self._loop.close()

    def frames(self) -> list[Frame]:
        self.close()
        (segment,) = self.folder.iterdir()
        return [part for part in scan(segment.read_bytes(), 7) if isinstance(part, Frame)]

    def records(self) -> list[Record]:
        return [decode_record(line) for frame in self.frames() for line in frame.lines()]


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(trusted_proxies="203.0.113.0/24")


@pytest.fixture
def scene(tmp_path: Path, settings: ServerSettings) -> Scene:
    return Scene(tmp_path, settings)


def event(name: str, size: int = 0) -> bytes:
    return json.dumps({"api_key": "phc_x", "event": name, "distinct_id": "d", "pad": "p" * size}).encode()


def zipped(body: bytes, level: int = -1) -> bytes:
    gzip = zlib.compressobj(level, wbits=31)
    return gzip.compress(body) + gzip.flush()


def post(body: bytes, *headers: bytes, target: bytes = b"/e/") -> bytes:
    lines = (b"POST %b HTTP/1.1" % target, b"Host: h", *headers, b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def names(records: list[Record]) -> list[object]:
    return [json.loads(record.data.strip(b"[]"))["event"] for record in records]


def test_what_arrived_in_a_turn_is_one_frame_and_is_answered_at_its_end(scene: Scene) -> None:
    clients = [scene.client() for _ in range(FAMILIAR_AFTER)]
    for turn in range(3):
        for number, (connection, transport) in enumerate(clients):
            transport.written = b""
            connection.data_received(
                post(event(f"{turn}-{number}"), b"X-Forwarded-For: 198.51.100.%d, 10.0.0.1" % number)
            )
            assert not transport.written
        assert scene.turn() == 1
        assert all(transport.written.startswith(b"HTTP/1.1 200 OK\r\n") for _, transport in clients)
    assert scene.row.get("capture_events_ingested_total") == 3 * FAMILIAR_AFTER
    stored = scene.frames()
    assert [(frame.header.records, frame.header.events) for frame in stored] == [(FAMILIAR_AFTER, FAMILIAR_AFTER)] * 3
    records = [decode_record(line) for frame in stored for line in frame.lines()]
    assert names(records) == [f"{turn}-{number}" for turn in range(3) for number in range(FAMILIAR_AFTER)]
    assert [record.ip for record in records[-2:]] == ["198.51.100.18", "198.51.100.19"]
    assert [record.id for record in records] == [f"{7:016x}-{number}" for number in range(3 * FAMILIAR_AFTER)]
    assert {record.at for record in records} == {NOW_US}


def test_every_kind_of_request_finds_its_way_through_one_turn(scene: Scene) -> None:
    sent = {
        "plain": post(event("plain")),
        "query": post(event("query"), target=b"/i/v0/e?ip=0&_=1763690000100&ver=1"),
        "several lines": post(event("several lines").replace(b": ", b":\r\n")),
        "list": post(b"[%b]" % event("list")),
        "gzip": post(zipped(event("gzip"))),
        "another form": post(event("another form"), b"Accept: */*", b"Origin: https://a.example"),
        "blanks around the key": post(event("blanks around the key").replace(b"phc_x", b" phc_x ")),
        "no key": post(b"{}"),
        "no route": post(event("no route"), target=b"/nowhere"),
        "half": post(event("half"))[:-1],
    }
    for _ in range(FAMILIAR_AFTER):
        answers = {}
        for name, packet in sent.items():
            connection, transport = scene.client()
            connection.data_received(packet)
            answers[name] = transport
        scene.turn()
        statuses = {name: transport.written[9:12] for name, transport in answers.items()}
        assert statuses == dict.fromkeys(sent, b"200") | {"no key": b"401", "no route": b"404", "half": b""}
        assert b"https://a.example" in answers["another form"].written
    records = scene.records()
    by_name = {
        str(json.loads(record.data if record.data[:1] == b"{" else record.data[1:-1])["event"]): record
        for record in records
    }
    assert by_name.keys() == sent.keys() - {"no key", "no route", "half"}
    assert len(records) == FAMILIAR_AFTER * len(by_name)
    assert by_name["query"].sent_at == "1763690000100"
    assert by_name["query"].path == "i/v0/e"
    assert {record.token for record in records} == {"phc_x"}


def test_requests_of_several_events_are_counted_as_such(scene: Scene) -> None:
    def wrapper(events: int) -> bytes:
        return b'{"api_key":"phc_x","batch":[%b]}' % b",".join([EVENT] * events)

    bodies = [EVENT, zipped(wrapper(3)), wrapper(2), zipped(wrapper(3)), EVENT]
    for _ in range(FAMILIAR_AFTER):
        for body in bodies:
            connection, transport = scene.client()
            connection.data_received(post(body))
        scene.turn()
        assert transport.written.startswith(b"HTTP/1.1 200 OK")
    scene.writer.tick()
    scene.service.tick(101.0)
    row, start = scene.row, slot("edge_batch_events")
    of_one, of_two, up_to_five = row.slots[start : start + 3]
    assert (of_one, of_two, up_to_five) == (2 * FAMILIAR_AFTER, FAMILIAR_AFTER, 2 * FAMILIAR_AFTER)
    assert row.get("capture_events_ingested_total") == 10 * FAMILIAR_AFTER
    assert row.get("edge_slow_path_total", "gzip") == 2 * FAMILIAR_AFTER
    stored = scene.frames()
    assert [(frame.header.records, frame.header.events) for frame in stored] == [(5, 10)] * FAMILIAR_AFTER
    texts = sorted(decode_record(line).data for line in stored[-1].lines())
    assert texts == sorted([EVENT, wrapper(3), wrapper(2), wrapper(3), EVENT])


def test_the_address_is_the_first_forwarded_one(scene: Scene) -> None:
    expected = {
        b"198.51.100.7": "198.51.100.7",
        b"198.51.100.8, 10.0.0.1": "198.51.100.8",
        b"198.51.100.9:4711": "198.51.100.9",
        b"2001:DB8::1": "2001:db8::1",
        b"::ffff:198.51.100.10": "198.51.100.10",
        b"198.51.100.256, 198.51.100.11": "198.51.100.11",
        b"unknown": "203.0.113.7",
        b", 198.51.100.12": "198.51.100.12",
    }
    for _ in range(FAMILIAR_AFTER):
        connection, transport = scene.client()
        for forwarded_for in expected:
            connection.data_received(post(event("e"), b"X-Forwarded-For: " + forwarded_for))
            scene.turn()
        assert transport.written.count(b"HTTP/1.1 200 OK") == len(expected)
    assert [record.ip for record in scene.records()] == list(expected.values()) * FAMILIAR_AFTER


def test_a_full_turn_ends_at_once(scene: Scene) -> None:
    clients = [scene.client() for _ in range(PACKETS_MAX + 1)]
    for connection, _ in clients:
        connection.data_received(post(event("e")))
    assert [bool(transport.written) for _, transport in clients] == [True] * PACKETS_MAX + [False]
    scene.turn()
    assert clients[-1][1].written
    scene.close()


def test_large_requests_of_a_turn_are_committed_together(scene: Scene) -> None:
    """Each is taken as it comes, and those before it; a frame for every one would cost half as much again."""
    sizes = (0, PACKET_BYTES_MAX, 0, PACKET_BYTES_MAX)
    for number, size in enumerate(sizes):
        scene.client()[0].data_received(post(event(f"{number}", size)))
    assert scene.service.writer.pending_bytes > 2 * PACKET_BYTES_MAX
    scene.turn()
    assert [frame.header.records for frame in scene.frames()] == [4]


@pytest.mark.parametrize(
    "body",
    [
        event("e", PACKET_BYTES_MAX - 300),
        zipped(event("e", TEXT_BYTES_MAX - 100)),
        zipped(event("e", TEXT_BYTES_MAX // 2)),
    ],
    ids=["plain", "gzip of as much as is taken", "gzip"],
)
def test_frames_keep_to_their_limit(scene: Scene, body: bytes) -> None:
    packet = post(body)
    for _ in range(FAMILIAR_AFTER + 1):
        scene.client()[0].data_received(packet)
        scene.turn()
    for _ in range(PACKETS_MAX):
        scene.client()[0].data_received(packet)
    scene.turn()
    stored = scene.frames()
    assert sum(frame.header.records for frame in stored) == FAMILIAR_AFTER + 1 + PACKETS_MAX
    assert all(frame.header.raw_bytes <= FRAME_RAW_BYTES_MAX for frame in stored)


def test_a_second_packet_is_read_behind_the_first(scene: Scene) -> None:
    connection, transport = scene.client()
    for number in range(FAMILIAR_AFTER):
        connection.data_received(post(event(f"{number}")))
    scene.turn()
    assert transport.written.count(b"HTTP/1.1 200 OK") == FAMILIAR_AFTER
    assert names(scene.records()) == [f"{number}" for number in range(FAMILIAR_AFTER)]


def test_a_client_that_says_it_is_done_is_answered(scene: Scene) -> None:
    connection, transport = scene.client()
    connection.data_received(post(event("last")))
    connection.eof_received()
    scene.turn()
    assert transport.written.startswith(b"HTTP/1.1 200 OK")
    assert transport.closed
    assert names(scene.records()) == ["last"]


def test_a_client_that_is_gone_harms_nobody(scene: Scene) -> None:
    gone, transport = scene.client()
    other, other_transport = scene.client()
    for connection in (gone, other):
        connection.data_received(post(event("e")))
    gone.connection_lost(None)
    scene.turn()
    assert not transport.written
    assert other_transport.written.startswith(b"HTTP/1.1 200 OK")
    scene.close()


def test_what_a_client_sent_before_it_was_gone_is_stored_and_nothing_keeps_its_connection(scene: Scene) -> None:
    chunked = b"POST /e/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    body = event("its own parser's")
    gc.collect()
    gc.disable()
    try:
        for packet in (
            post(event("ordinary")),
            chunked % (len(body), body),
            b"GET /_readiness HTTP/1.1\r\nHost: h\r\n",
        ):
            connection, _ = scene.client()
            connection.data_received(packet)
            connection.connection_lost(None)
            scene.turn()
            del connection
        # Another test's may be on its way out.
        kept = [found for found in gc.get_objects() if isinstance(found, CaptureConnection)]
        assert not [found for found in kept if found.service is scene.service]
    finally:
        gc.enable()
    assert names(scene.records()) == ["ordinary", "its own parser's"]


def test_the_connection_is_not_closed_as_idle_while_its_packet_waits(scene: Scene) -> None:
    connection, transport = scene.client()
    connection.data_received(post(event("e")))
    assert not connection.stop()
    scene.service.tick(1e9)
    scene.turn()
    assert transport.written.startswith(b"HTTP/1.1 200 OK")
    scene.close()


PAGE = b"GET /robots.txt HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    ("packets", "stored"),
    [
        pytest.param([post(event("1")) + PAGE + post(event("2"))], ["1"], id="a page before it"),
        pytest.param([post(event("1")) + post(event("2"))], ["1", "2"], id="an event before it"),
        pytest.param([post(event("1")) + post(event("2")) + PAGE, post(event("3"))], ["1", "2"], id="a page"),
        pytest.param([post(event("1")), post(event("2"))], ["1"], id="an event"),
        pytest.param([post(event("1")) + post(event("2"))[:-1], b"}"], ["1"], id="an event before its end"),
        pytest.param(
            [post(event("1")) + post(b"[]", target=b"/x")[:-1], b"]" + post(event("2"))], ["1"], id="refused unread"
        ),
    ],
)
def test_what_a_stopping_worker_stores_it_answers(scene: Scene, packets: list[bytes], stored: list[str]) -> None:
    """The first answer with nothing behind it says that it is the last one, and what comes then is not taken."""
    scene.service.stopping = True
    connection, transport = scene.client()
    for packet in packets:
        connection.data_received(packet)
        scene.turn()
    assert transport.closed
    *kept, last = transport.written.split(b"HTTP/1.1 ")[1:]
    assert b"connection: close" in last
    assert not any(b"connection: close" in answer for answer in kept)
    posted = sum(b'{"status":1}' in answer for answer in (*kept, last))
    assert names(scene.records()) == stored
    assert posted == len(stored)


def test_an_answer_is_not_the_last_one_while_a_packet_waits(scene: Scene) -> None:
    scene.service.stopping = True
    connection, transport = scene.client()
    connection.data_received(post(event("1")))
    connection.turn.take()
    connection.data_received(post(event("2")))
    # The commit of the first ends before the second is taken.
    scene.writer.commit()
    scene.turn()
    first, second = transport.written.split(b"HTTP/1.1 ")[1:]
    assert b"connection: close" not in first
    assert b"connection: close" in second
    assert names(scene.records()) == ["1", "2"]


@pytest.mark.parametrize("settings", [ServerSettings(body_bytes_max=200)])
def test_low_limits_hold(scene: Scene) -> None:
    connection, transport = scene.client()
    for size in (0, 200):
        connection.data_received(post(event("e", size)))
        scene.turn()
    assert transport.written.count(b"HTTP/1.1 200") == transport.written.count(b"HTTP/1.1 413") == 1
    scene.close()


def test_only_known_keys_are_taken_where_they_are_looked_up(scene: Scene) -> None:
    asked: list[object] = []

    def choose(tokens: tuple[object, ...], *_: object) -> str:
        asked.append(tokens[0])
        return "phc_chosen"

    scene.service.choose_key, scene.service.known_keys = choose, frozenset(["phc_x"])
    for body in (event("known"), event("unknown").replace(b"phc_x", b"phc_y")):
        scene.client()[0].data_received(post(body))
        scene.turn()
    assert asked == ["phc_y"]
    assert [record.token for record in scene.records()] == ["phc_x", "phc_chosen"]


TARGETS = st.sampled_from(
    [
        *(b"/e", b"/e/", b"/i/v0/e", b"/capture/", b"/batch", b"/track", b"/e/x", b"/E", b"/"),
        *(
            b"/e?ip=0",
            b"/e/?ip=0&_=1763690000100&ver=1.2",
            b"/e/?_=1",
            b"/e?_=12a",
            b"/e?",
            b"/e?&",
            b"/e?_=1&_=2",
            b"/e?ip=%26",
        ),
        *(
            b"/e?compression=gzip",
            b"/e/?ip=0&_=1763690000100&ver=1.258.6&compression=gzip-js",
            b"/e/?compression=gzip-js&beacon=1&_=1",
            b"/i/v0/e/?compression=gzip-jsx",
            b"/e/?compression=lz64&compression=gzip",
            b"/e/?compression=deflate",
            b"/e?beacon=1",
            b"/e?verbose=1",
            b"/e?token=phc_q",
            b"/e?data=e30",
            b"/e?v=1#x",
            b"/e?ip=\xc3\xa9",
        ),
    ]
)
HEADERS = st.lists(
    st.one_of(
        st.builds(
            lambda name, value: name + b": " + value,
            st.sampled_from([b"X-Forwarded-For", b"x-forwarded-for", b"X-Real-IP", b"Forwarded"]),
            st.sampled_from(
                [
                    b"198.51.100.7",
                    b"198.51.100.7, 10.0.0.1",
                    b"198.51.100.300",
                    b"2001:db8::1",
                    b"[2001:db8::1]:80",
                    b"unknown",
                ]
                + [
                    b"for=198.51.100.9",
                    b"",
                    b" 198.51.100.7",
                    b"1.2.3.4:5",
                    b"::ffff:1.2.3.4",
                    b"01.2.3.4",
                    b",1.2.3.4",
                ]
            ),
        ),
        st.builds(
            lambda name, value: name + b": " + value,
            st.sampled_from(
                [b"Origin", b"origin", b"Host", b"Connection", b"Cookie", b"User-Agent", b"Content-Type", b"X-Any"]
            ),
            st.sampled_from(
                [
                    b"https://a.example",
                    b"null",
                    b"",
                    b"keep-alive",
                    b"Keep-Alive",
                    b"close",
                    b"a, b",
                    b"a\tb",
                    b"\xe9",
                    b"\x01",
                ]
                + [b"application/x-www-form-urlencoded", b"text/plain", b"  padded  "]
            ),
        ),
        st.sampled_from(
            [b"Content-Encoding: gzip", b"Expect: 100-continue", b"Authorization: Bearer phc_b", b"Upgrade: h2c"]
        ),
    ),
    max_size=4,
)
EVENT = event("e")
BODIES = st.sampled_from(
    [
        *(
            EVENT,
            EVENT.replace(b"api_key", b"token"),
            EVENT.replace(b"api_key", b"$token"),
            b"[%b]" % EVENT,
            b" %b" % EVENT,
        ),
        *(
            EVENT + b"\n",
            EVENT.replace(b"{", b"{\r\n"),
            EVENT.replace(b"phc_x", b" phc_x "),
            EVENT.replace(b"phc_x", b"phx_x"),
        ),
        *(
            EVENT.replace(b"phc_x", b""),
            EVENT.replace(b'"phc_x"', b"7"),
            EVENT.replace(b"phc_x", "é".encode()),
            EVENT[:-1],
            EVENT + b"x",
        ),
        *(
            b'{"api_key":"phc_x","batch":[%b]}' % EVENT,
            b'{"api_key":"phc_x","batch":[%b,{},7],"sent_at":"x"}' % EVENT,
            b'{"token":"phc_a","api_key":"phc_x","batch":[%b]}' % EVENT,
            b'{"batch":[%b]}' % EVENT,
            b"[%b,%b]" % (EVENT, EVENT),
            b"[%b,%b]" % (EVENT, EVENT.replace(b"phc_x", b"phc_y")),
            b"[%b]" % b",".join([b'{"token":"phc_x"}'] * 101),
            b'[{"event":"e","properties":{"token":"phc_p"}},{"event":"f","properties":{"token":"phc_p"}}]',
            b'{"batch":[{"event":"e","properties":{"token":"phc_p"}},{"event":"f"}]}',
            b'{"batch":[%b,7]}' % EVENT,
            b"[{},7]",
            b'{"api_key":"phc_x","batch":[%b]}' % b",".join([b"{}"] * 101),
            b'{"api_key":"phc_x","batch":[]}',
            b'{"api_key":"phc_x","batch":7}',
            b'{"batch":null,"token":"phc_x","event":"e"}',
        ),
        *(
            b'{"event":"e","properties":{"token":"phc_p"}}',
            b'{"token":"a","$token":"b","event":"e"}',
            b"{}",
            b"[]",
            b"",
            b"data=e30",
        ),
        *(
            EVENT.replace(b'"d"', b'"\xff"'),
            EVENT.replace(b'"d"', b"NaN"),
            EVENT.replace(b'"d"', '"ü"'.encode()),
            b"{\xef\xbb\xbf}",
        ),
    ]
)


AS_SENT = st.sampled_from(
    [
        *([lambda body: body] * 2 + [zipped] * 3),
        *(lambda body: zipped(body)[:-1], lambda body: zipped(body) + b"\0", lambda body: zipped(body, 0)),
        *(lambda body: zipped(body) + zipped(body), lambda body: zipped(body)[:-8] + b"\1\0\0\0"),
        *(lambda body: zipped(body) + zipped(b" "), lambda body: zipped(b"") + zipped(body)),
        *(lambda body: zipped(body)[:-4] + b"\1\0\0\0", lambda body: zipped(body)[:-4] + b"\0\0\0\1"),
        *(lambda body: zipped(zipped(body)), lambda body: zipped(b64encode(body)), zlib.compress),
    ]
)
"""What is put around a body."""


class Answers:
    """A service whose records are stored at once, and kept here."""

    def __init__(self, folder: Path, settings: ServerSettings) -> None:
        self.scene = Scene(folder, settings)
        self.records: list[Record] = []
        self.events = 0
        service = self.scene.service
        service.append = service.put = self._append

    def _append(self, lines: bytes, events: int, received_us: int, waiter: Waiter, records: int = 1) -> None:
        found = lines.splitlines(keepends=True)
        assert len(found) == records
        self.events += events
        self.records += map(decode_record, found)
        waiter.stored()

    def ask(self, *packets: bytes, by_turn: bool) -> tuple[bytes, bool, list[Record], int]:
        """What a new client is told, whether it is closed, and what is stored, with how many events."""
        self.records, self.events = [], 0
        connection, transport = self.scene.client()
        for packet in packets:
            if by_turn:
                connection.data_received(packet)
                self.scene.turn()
            else:
                connection.receive(packet)
        for record in self.records:
            # Blanks around the text are kept or not, which nobody sees.
            record.id, record.data = "", record.data.strip()
        connection.connection_lost(None)
        return transport.written, transport.closed, self.records, self.events


@pytest.fixture(scope="module", params=["203.0.113.0/24", "10.0.0.0/8"], ids=["trusted", "untrusted"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Answers, Answers]]:
    settings = ServerSettings(trusted_proxies=request.param)
    found = tuple(Answers(tmp_path_factory.mktemp("spool"), settings) for _ in range(2))
    yield found[0], found[1]
    for each in found:
        each.scene.close()


@settings_of_hypothesis(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=TARGETS, headers=HEADERS, body=BODIES, as_sent=AS_SENT, length_first=st.booleans())
def test_a_turn_takes_a_request_as_the_connection_does(
    pair: tuple[Answers, Answers],
    target: bytes,
    headers: list[bytes],
    body: bytes,
    as_sent: Callable[[bytes], bytes],
    length_first: bool,
) -> None:
    by_turn, by_connection = pair
    body = as_sent(body)
    length = b"Content-Length: %d" % len(body)
    lines = [b"Host: h", length, *headers] if length_first else [b"Host: h", *headers, length]
    packet = b"\r\n".join([b"POST %b HTTP/1.1" % target, *lines, b"", b""]) + body
    expected = by_connection.ask(packet, by_turn=False)
    # The first is read one way, later ones another.
    for _ in range(FAMILIAR_AFTER):
        found = by_turn.ask(packet, by_turn=True)
        assert found == expected
    by_turn.scene.service.ordinary.sweep()


FIELDS = st.lists(
    st.sampled_from(
        [b"ip=0", b"_=1763690000100", b"_=1a", b"ver=1.20.0", b"beacon=1", b"compression=lz64", b"data=", b""]
    ),
    max_size=3,
)
ESCAPES = st.sampled_from(
    [
        lambda data: data,
        lambda data: quote(data, safe="").encode(),
        lambda data: data.rstrip(b"="),
        lambda data: data.replace(b"+", b" "),
        lambda data: data.translate(bytes.maketrans(b"+/", b"-_")),
        lambda data: data[:-1] + b"%",
    ]
)


@settings_of_hypothesis(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from([b"GET", b"GET", b"HEAD"]),
    path=st.sampled_from([b"/e/", b"/e", b"/batch/", b"/track/", b"/s/", b"/x"]),
    before=FIELDS,
    behind=FIELDS,
    headers=HEADERS,
    body=BODIES,
    escape=ESCAPES,
)
def test_a_turn_takes_a_get_as_the_connection_does(
    pair: tuple[Answers, Answers],
    method: bytes,
    path: bytes,
    before: list[bytes],
    behind: list[bytes],
    headers: list[bytes],
    body: bytes,
    escape: Callable[[bytes], bytes],
) -> None:
    by_turn, by_connection = pair
    query = b"&".join([*before, b"data=" + escape(b64encode(body)), *behind])
    packet = b"\r\n".join([b"%b %b?%b HTTP/1.1" % (method, path, query), b"Host: h", *headers, b"", b""])
    expected = by_connection.ask(packet, by_turn=False)
    # The first are read one way, later ones another.
    for _ in range(FAMILIAR_AFTER):
        assert by_turn.ask(packet, by_turn=True) == expected
    by_turn.scene.service.ordinary.sweep()


SENT = st.sampled_from(
    [
        *(post(event("e")), post(zipped(event("e"))), post(b"{"), post(event("e"), target=b"/nothing")),
        b"GET /e/?data=%b HTTP/1.1\r\nHost: h\r\n\r\n" % b64encode(event("e")),
        b"GET /robots.txt HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /e/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\nX: y\r\n\r\n",
        *(b"\r\n", b"\r", b"P", b"POST ", b"G", b"GET /", post(event("e"))[:-1]),
    ]
)
"""What a client sends, and where a part of a request is not its beginning."""


@settings_of_hypothesis(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(st.tuples(SENT, st.booleans()), min_size=1, max_size=5),
    places=st.lists(st.integers(1, 600), max_size=2),
)
def test_turns_take_what_comes_in_pieces_as_the_connection_does(
    pair: tuple[Answers, Answers], sent: list[tuple[bytes, bool]], places: list[int]
) -> None:
    """Whatever stands between two packets: a turn takes one only where no request is under way."""
    by_turn, by_connection = pair
    whole = b"".join(piece for piece, _ in sent)
    ends = accumulate(len(piece) for piece, _ in sent)
    cuts = {end for end, (_, cut) in zip(ends, sent, strict=True) if cut} | {*places}
    packets = [whole[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(whole)])]
    assert by_turn.ask(*filter(None, packets), by_turn=True) == by_connection.ask(whole, by_turn=False)


def test_bodies_are_observed_as_they_are_on_the_wire(scene: Scene) -> None:
    sizes: list[int] = []
    scene.service.observe_body, scene.service.observe_bodies = sizes.append, sizes.extend
    plain, squeezed = event("plain"), zipped(event("squeezed", 1000))
    got = b"GET /e/?data=%b HTTP/1.1\r\nHost: h\r\n\r\n" % b64encode(plain)
    for packet in (post(plain), post(squeezed), got):
        connection, _ = scene.client()
        connection.data_received(packet)
    scene.turn()
    assert names(scene.records()) == ["plain", "squeezed", "plain"]
    assert sizes == [len(plain), len(squeezed), 0]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(post(event("e")), id="an event"),
        pytest.param(post(b"data=" + quote(b64encode(event("e"))).encode()), id="a form"),
        pytest.param(post(b"{"), id="refused"),
        pytest.param(b"GET /robots.txt HTTP/1.1\r\nHost: h\r\n\r\n", id="no ordinary request"),
    ],
)
def test_a_request_moves_the_end_of_waiting_for_the_next_one(scene: Scene, sent: bytes) -> None:
    connection, _ = scene.client()
    for now_s in (150.0, 200.0):
        scene.service.tick(now_s)
        connection.data_received(sent)
        scene.turn()
        assert connection.deadline_s == now_s + scene.service.settings.idle_timeout_s
    scene.close()


def test_gets_are_stored_answered_and_counted(scene: Scene) -> None:
    requests = {
        "plain": b"data=%b&ip=0&_=1763690000100" % quote(b64encode(event("plain")), safe="").encode(),
        "slow": b"data=%b&compression=base64" % b64encode(event("slow")),
    }
    clients = [scene.client() for _ in range(3)]
    for query in requests.values():
        for connection, _ in clients:
            connection.data_received(b"GET /e/?%b HTTP/1.1\r\nHost: h\r\n\r\n" % query)
        scene.turn()
    assert all(transport.written.count(b"HTTP/1.1 200 OK") == 2 for _, transport in clients)
    scene.service.tick(101.0)
    assert scene.row.get("http_requests_total", "GET", "e", "200") == 6
    assert scene.row.get("http_requests_total", "POST", "e", "200") == 0
    assert scene.row.get("edge_slow_path_total", "base64") == 6
    assert scene.row.get("edge_request_body_bytes") == 6
    records = scene.records()
    assert names(records) == ["plain"] * 3 + ["slow"] * 3
    assert [record.sent_at for record in records] == ["1763690000100"] * 3 + [""] * 3
