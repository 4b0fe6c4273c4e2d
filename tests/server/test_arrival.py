"""What a connection's own parser holds, and of whom. `test_protocol.py` and the corpus show over sockets what it answers."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.server.admission import ServerSettings
from edge.server.arrival import Arrival
from tests.server.test_turn import Scene, event, names, post, zipped

HEAD_MAX = 256 + 4096
SETTINGS = ServerSettings(
    body_bytes_max=5000, target_bytes_max=256, header_bytes_max=4096, inflight_bytes_max=6000, header_timeout_s=3.0
)
CHUNKED = b"POST /e/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, SETTINGS)
    # So that what is alive is what somebody holds.
    gc.collect()
    gc.disable()
    yield scene
    gc.enable()


def alive() -> int:
    return sum(isinstance(found, Arrival) for found in gc.get_objects())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_connection_has_a_parser_from_its_first_request_on_that_is_not_ordinary(scene: Scene) -> None:
    connection, transport = scene.client()
    for sent in (post(event("one")), post(zipped(event("two"))), post(event("three"), b"Accept: */*")):
        connection.data_received(sent)
        scene.turn()
        assert not alive()
    for sent in (CHUNKED + chunk(event("four")) + b"0\r\n\r\n", b"GET /robots.txt HTTP/1.1\r\nHost: h\r\n\r\n"):
        connection.data_received(sent)
        scene.turn()
        assert alive() == 1
    assert transport.written.count(b"HTTP/1.1 200 OK\r\n") == 5
    assert names(scene.records()) == ["one", "two", "three", "four"]


@pytest.mark.parametrize("end", ["it is complete", "its client is gone", "it grows too large"])
def test_what_is_held_of_a_body_is_counted_until(scene: Scene, end: str) -> None:
    connection, transport = scene.client()
    body = event("e", 3000)
    connection.data_received(CHUNKED + chunk(body[:1000]))
    scene.turn()
    assert scene.service.inflight_bytes == 1000
    connection.data_received(chunk(body[1000:]))
    assert scene.service.inflight_bytes == len(body)
    if end == "it is complete":
        connection.data_received(b"0\r\n\r\n")
    elif end == "its client is gone":
        connection.connection_lost(None)
    else:
        connection.data_received(chunk(bytes(3500)))
        assert transport.written.startswith(b"HTTP/1.1 413 ")
    assert scene.service.inflight_bytes == 0
    scene.turn()
    scene.close()


def test_bodies_of_several_clients_are_bounded_together(scene: Scene) -> None:
    (first, first_transport), (second, second_transport) = scene.client(), scene.client()
    for connection in (first, second):
        connection.data_received(CHUNKED)
        scene.turn()
        connection.data_received(chunk(bytes(3500)))
    assert not first_transport.written
    assert second_transport.written.startswith(b"HTTP/1.1 503 ")
    assert scene.service.inflight_bytes == 3500
    scene.close()


@pytest.mark.parametrize(
    ("begin", "status"),
    [(b"GET /e/?data=", b"414"), (b"GET /e/ HTTP/1.1\r\nHost: h\r\nX-Pad: ", b"431"), (b"GET ", b"414")],
    ids=["target", "headers", "all behind the method"],
)
def test_a_head_that_does_not_end_is_refused_at_its_limit(scene: Scene, begin: bytes, status: bytes) -> None:
    connection, transport = scene.client()
    connection.data_received(begin)
    scene.turn()
    sent = len(begin)
    while not transport.written:
        connection.data_received(b"p")
        sent += 1
        assert sent <= HEAD_MAX + 1
    assert sent == HEAD_MAX + 1
    assert transport.written.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nconnection: close\r\n" in transport.written.lower()
    scene.close()


def test_a_head_of_many_fields_is_refused_before_it_ends(scene: Scene) -> None:
    connection, transport = scene.client()
    fields = b"aa:\r\n" * (SETTINGS.headers_max + 1)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields)
    scene.turn()
    assert transport.written.startswith(b"HTTP/1.1 431 ")
    assert b"\r\nconnection: close\r\n" in transport.written.lower()
    scene.close()


@pytest.mark.parametrize("target", [b"/e/", b"/nothing"])
@pytest.mark.parametrize(
    ("begin", "then"),
    [
        (b"0\r\n", b"aa:\r\n" * 100),
        (b"0\r\nX-Pad: ", b"p" * 500),
        (b"1", b"0" * 500),
        (b"1;x=", b"p" * 500),
    ],
    ids=["trailers", "one trailer", "a chunk's size", "a chunk's extension"],
)
def test_what_a_body_has_around_its_bytes_is_bounded(scene: Scene, target: bytes, begin: bytes, then: bytes) -> None:
    """However much of a body it has, and whether anybody takes it."""
    connection, transport = scene.client()
    connection.data_received(CHUNKED.replace(b"/e/", target) + chunk(bytes(2500)))
    scene.turn()
    connection.data_received(begin)
    sent = len(begin)
    while not connection.lingering:
        connection.data_received(then)
        sent += len(then)
        assert sent < 20_000
    assert transport.written.count(b"HTTP/1.1 4") == 1
    scene.close()


def test_bytes_now_and_then_do_not_move_the_deadline_of_a_head(scene: Scene) -> None:
    connection, _ = scene.client()
    connection.data_received(b"GET /e/?data=")
    scene.turn()
    assert connection.deadline_s == 103.0
    scene.service.tick(102.0)
    connection.data_received(b"p")
    assert connection.deadline_s == 103.0
    scene.close()
