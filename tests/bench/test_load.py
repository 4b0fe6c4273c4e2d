"""The generator against servers that count what reaches them, each a thread or process of its own on loopback."""

import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench import load, payloads
from bench.floor import ANSWER
from bench.load import LoadGenerator, parse_answer

SECONDS = 0.08
EVERY_NAME = pytest.mark.parametrize("name", payloads.NAMES)
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"

Reply = Callable[[int], bytes]
"""The bytes to answer the nth request of a connection with, counted from 0; empty closes the connection."""


class CountingServer:
    """Answers requests of a known size by rule, and counts the complete ones."""

    def __init__(self, reply: Reply, request_bytes: int, pieces: int = 1) -> None:
        self.requests = 0
        self._reply = reply
        self._request_bytes = request_bytes
        self._pieces = pieces
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            served = 0
            while len(connection.recv(self._request_bytes, socket.MSG_WAITALL)) == self._request_bytes:
                with self._lock:
                    self.requests += 1
                answer = self._reply(served)
                served += 1
                if not answer:
                    return
                step = -(-len(answer) // self._pieces)
                for start in range(0, len(answer), step):
                    connection.sendall(answer[start : start + step])


@contextmanager
def counting_server(reply: Reply, request_bytes: int, pieces: int = 1) -> Iterator[CountingServer]:
    server = CountingServer(reply, request_bytes, pieces)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def floor_port() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-m", "bench.floor", "0"], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        yield int(line.rsplit(":", 1)[1])
        process.terminate()


@EVERY_NAME
def test_the_floor_answers_every_request_of_a_workload(name: str, floor_port: int) -> None:
    requests = payloads.build(name, variants=64).requests
    with LoadGenerator("127.0.0.1", floor_port, 8) as generator:
        answers = generator.run(requests, SECONDS)
    assert answers.errors == 0, answers.first_error
    assert answers.answered > 8
    assert answers.seconds >= SECONDS


def test_no_time_means_one_request_a_connection(floor_port: int) -> None:
    requests = payloads.build("A", variants=3).requests
    with LoadGenerator("127.0.0.1", floor_port, 7) as generator:
        assert generator.run(requests, 0).answered == 7
        assert generator.run(requests, 0).answered == 7


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_is_counted_as_answered_is_what_the_server_got(pieces: int) -> None:
    request = b"x" * 500
    with counting_server(lambda _: ANSWER, len(request), pieces) as server:
        with LoadGenerator("127.0.0.1", server.port, 4) as generator:
            answers = generator.run([request], SECONDS)
        assert answers.errors == 0, answers.first_error
        assert answers.answered == server.requests > 4


def test_a_request_larger_than_the_socket_buffer_arrives_whole() -> None:
    request = bytes(range(256)) * 40_000
    with counting_server(lambda _: ANSWER, len(request)) as server:
        with LoadGenerator("127.0.0.1", server.port, 2) as generator:
            answers = generator.run([request], 0)
        assert (answers.answered, answers.errors, server.requests) == (2, 0, 2)


def test_requests_are_sent_in_turn() -> None:
    got = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while request := connection.recv(3, socket.MSG_WAITALL):
                got.append(request)
                connection.sendall(ANSWER)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, LoadGenerator("127.0.0.1", listener.getsockname()[1], 1) as generator:
        generator.run([b"one", b"two", b"six"], 0.02)
    thread.join()
    assert len(got) > 3
    assert got == ([b"one", b"two", b"six"] * len(got))[: len(got)]


def test_a_503_is_an_error_and_the_connection_goes_on() -> None:
    def first_refused(served: int) -> bytes:
        return ANSWER if served else UNAVAILABLE

    with counting_server(first_refused, 5) as server:
        with LoadGenerator("127.0.0.1", server.port, 3) as generator:
            answers = generator.run([b"hello"], SECONDS)
        assert answers.errors == 3
        assert answers.answered == server.requests - 3 > 3
        assert answers.first_error.startswith("HTTP/1.1 503")


def test_a_server_that_only_refuses_answers_nothing() -> None:
    with counting_server(lambda _: UNAVAILABLE, 5) as server:
        with LoadGenerator("127.0.0.1", server.port, 3) as generator:
            answers = generator.run([b"hello"], SECONDS)
        assert answers.answered == 0
        assert answers.errors == server.requests > 3


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(b"", "connection closed", id="closed without an answer"),
        pytest.param(b"SSH-2.0-x\r\n\r\n", "not an HTTP/1.x answer", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length", id="no length"),
        pytest.param(ANSWER + ANSWER, "more than one answer", id="two answers"),
        pytest.param(b"HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n", "not an HTTP/1.x answer", id="no status"),
    ],
)
def test_a_broken_answer_costs_the_connection_and_is_an_error(answer: bytes, why: str) -> None:
    def broken_in_the_end(served: int) -> bytes:
        return ANSWER if served < 2 else answer

    with counting_server(broken_in_the_end, 5) as server:
        with LoadGenerator("127.0.0.1", server.port, 2) as generator:
            answers = generator.run([b"hello"], 2.0)
            later = generator.run([b"hello"], 2.0)
        assert (answers.answered, answers.errors) == (4, 2)
        assert why in answers.first_error
        assert (later.answered, later.errors) == (0, 0)


def test_a_server_that_stays_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with LoadGenerator("127.0.0.1", port, 2, stall_seconds=0.05) as generator:
            answers = generator.run([b"hello"], 0)
    assert (answers.answered, answers.errors) == (0, 2)
    assert "not answered" in answers.first_error


def test_a_port_nobody_listens_on_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            LoadGenerator("127.0.0.1", unused.getsockname()[1], 1)


def test_an_answer_is_incomplete_until_its_last_byte() -> None:
    for cut in range(len(ANSWER)):
        assert parse_answer(ANSWER[:cut]) is None


def test_status_and_size_of_an_answer_are_found_whatever_follows() -> None:
    assert parse_answer(ANSWER) == (200, len(ANSWER))
    assert parse_answer(UNAVAILABLE + b"more") == (503, len(UNAVAILABLE))
    assert parse_answer(b"HTTP/1.0 204 x\r\ncontent-length:0\r\n\r\n") == (204, 36)


def test_the_floor_answers_when_the_last_byte_has_arrived_and_not_before(floor_port: int) -> None:
    first, second = payloads.build("C", variants=2).requests
    with socket.create_connection(("127.0.0.1", floor_port)) as connection:
        for piece in (first[:100], first[100:5000], first[5000:-1]):
            connection.sendall(piece)
            assert not select.select([connection], [], [], 0.02)[0]
        connection.sendall(first[-1:] + second)
        assert connection.recv(2 * len(ANSWER), socket.MSG_WAITALL) == 2 * ANSWER


def test_the_command_prints_what_came_back(floor_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{floor_port}"
    assert load.main([url, "--payload", "B", "--connections", "2", "--seconds", "0.05"]) == 0
    assert " answered, " in capsys.readouterr().out


def test_the_command_fails_when_there_was_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    request_bytes = len(payloads.build("A", "127.0.0.1:11111", variants=1).requests[0])
    with counting_server(lambda _: UNAVAILABLE, request_bytes) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert load.main([url, "--connections", "2", "--seconds", "0.05"]) == 1
    assert "HTTP/1.1 503" in capsys.readouterr().err
