import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Self

import pytest

from edge.drain import posting
from edge.drain.posting import RETRY_AFTER_S_MAX, Poster, require_address, retry_after_s
from edge.drain.sink import Paused, Retryable
from tests.downstream import Downstream, Reply

CERTIFICATE = Path(__file__).parent / "loopback.pem"
"""Of 127.0.0.1, with its key, signed by itself, good for a century and for nothing but these tests."""


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    with Downstream() as running:
        yield running


@pytest.fixture
def poster(downstream: Downstream) -> Iterator[Poster]:
    found = Poster("127.0.0.1", downstream.port, secure=False)
    yield found
    found.close()


def post(poster: Poster, name: str) -> int:
    return poster.post("/batch/", b'{"api_key":"k","batch":[]}', {"X-Name": name})[0]


def test_a_connection_is_kept_and_replaced_without_a_word_when_the_other_side_closed_it(
    poster: Poster, downstream: Downstream
) -> None:
    closing = [False, True, False]
    downstream.rule = lambda call: Reply(headers={"Connection": "close"} if closing.pop(0) else {})
    assert [post(poster, name) for name in "abc"] == [200, 200, 200]
    assert [call.headers["x-name"] for call in downstream.calls] == ["a", "b", "c"]


def test_a_kept_connection_that_is_dropped_is_tried_once_more_and_a_new_one_is_not(
    poster: Poster, downstream: Downstream
) -> None:
    downstream.rule = lambda call: Reply(hang_up=True)
    with pytest.raises(Retryable):
        post(poster, "a")
    assert downstream.requests == 1
    downstream.rule = lambda call: Reply()
    post(poster, "a")
    downstream.rule = lambda call: Reply(hang_up=True)
    with pytest.raises(Retryable):
        post(poster, "b")
    assert downstream.requests == 4


def test_a_question_has_a_connection_of_its_own_and_no_body(poster: Poster, downstream: Downstream) -> None:
    post(poster, "a")
    assert poster.ask("OPTIONS", "/batch/", {"X-Name": "q"}, 5.0)[0] == 200
    [question] = downstream.questions
    assert (question.method, question.path, question.headers["x-name"]) == ("OPTIONS", "/batch/", "q")
    assert [call.headers["x-name"] for call in downstream.calls] == ["a"]
    downstream.rule = lambda call: Reply(hang_up=True)
    with pytest.raises(Retryable):
        poster.ask("OPTIONS", "/batch/", {}, 5.0)
    assert len(downstream.questions) == 2


def test_a_question_is_given_up_in_its_own_time(downstream: Downstream) -> None:
    """Six seconds pass from one look at the clock to the next."""
    seconds = itertools.count(0.0, 6.0)
    poster = Poster("127.0.0.1", downstream.port, secure=False, clock=lambda: next(seconds))
    with pytest.raises(Retryable, match="TimeoutError: the exchange was not over within 5 s"):
        poster.ask("OPTIONS", "/batch/", {}, 5.0)


def test_who_is_only_reached_is_told_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        poster = Poster("127.0.0.1", listening.getsockname()[1], secure=False)
        poster.reach(5.0)
        connection, _ = listening.accept()
        poster.close()
        with connection:
            assert connection.recv(1) == b""
    with pytest.raises(Retryable, match="refused"):
        poster.reach(5.0)


def test_whose_certificate_does_not_fit_is_not_reached() -> None:
    with Downstream(certificate=CERTIFICATE) as downstream, pytest.raises(Paused, match="certificate"):
        Poster("127.0.0.1", downstream.port, secure=True).reach(5.0)


def test_nobody_there_is_no_reason_to_give_up() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Retryable, match=r"127\.0\.0\.1"):
            post(Poster("127.0.0.1", free.getsockname()[1], secure=False), "a")


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", b"HTTP/1.1 abc\r\n\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    ],
    ids=["nothing", "no HTTP", "cut short", "no status", "a chunk of less than nothing"],
)
def test_an_answer_that_is_none_is_asked_for_again(answer: bytes) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        poster = Poster("127.0.0.1", listening.getsockname()[1], secure=False)
        with pytest.raises(Retryable):
            post(poster, "a")
        server.join()
        poster.close()


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("a..b", "", "expected the name of a host, found 'a..b'"),
        ("x" * 64, "", "expected the name of a host, found 'xxx"),
        ("a b", "", "expected the name of a host, found 'a b'"),
        ("a", "/\u00fc", "expected a path of printable ASCII, all else percent-encoded, found '/\u00fc'"),
        ("a", "/a b", "expected a path of printable ASCII, all else percent-encoded, found '/a b'"),
    ],
)
def test_an_address_nobody_can_post_to_says_what_was_expected(host: str, path: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"s: {found}"):
        require_address("s", host, path)


@pytest.mark.parametrize("host", ["example.com", "b\u00fccher.example", "127.0.0.1", "::1", "under_score"])
def test_every_other_address_will_do(host: str) -> None:
    require_address("s", host, "/a%20b;c=~d")


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        (" 7 ", 7, 7),
        ("0", 0, 0),
        ("-1", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        ("9" * 5000, RETRY_AFTER_S_MAX, RETRY_AFTER_S_MAX),
        ("Fri, 21 Nov 2025 01:00:00 GMT", 0, 0),
        pytest.param(
            formatdate(time() + 1_000_000, usegmt=True), RETRY_AFTER_S_MAX, RETRY_AFTER_S_MAX, id="a date ahead"
        ),
    ],
)
def test_retry_after_is_honoured_in_both_its_forms(value: str, least: float, most: float) -> None:
    assert least <= retry_after_s({"retry-after": value}) <= most


def test_an_answer_that_never_comes_is_given_up(
    monkeypatch: pytest.MonkeyPatch, poster: Poster, downstream: Downstream
) -> None:
    monkeypatch.setattr(posting, "TIMEOUT_S", 0.2)
    gate = threading.Event()
    downstream.rule = lambda call: Reply(gate=gate)
    with pytest.raises(Retryable, match=r"(?i)time"):
        post(poster, "a")
    gate.set()


class Trickle:
    """Answers with a byte of a header for every look at its clock, on which a second passes from one look to the next."""

    def __init__(self, bytes_max: int) -> None:
        self._looks = threading.Semaphore(0)
        self._now_s = 0.0
        self._bytes_max = bytes_max
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def clock(self) -> float:
        self._now_s += 1.0
        self._looks.release()
        return self._now_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bytes_max = 0
        self._looks.release()
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, contextlib.suppress(ConnectionError):
            request = b""
            while not request.endswith(b"]}"):
                request += connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            sent = 0
            while sent < self._bytes_max:
                self._looks.acquire()
                connection.sendall(b"a")
                sent += 1
            connection.sendall(b"\r\nContent-Length: 2\r\n\r\n{}")


def test_an_answer_that_trickles_is_given_up() -> None:
    with Trickle(1000) as trickle:
        poster = Poster("127.0.0.1", trickle.port, secure=False, clock=trickle.clock)
        with pytest.raises(Retryable, match="TimeoutError: the exchange was not over within 120 s"):
            post(poster, "a")
        poster.close()


def test_an_answer_in_pieces_is_whole_when_it_comes_in_time() -> None:
    with Trickle(5) as trickle:
        poster = Poster("127.0.0.1", trickle.port, secure=False, clock=trickle.clock)
        assert post(poster, "a") == 200
        poster.close()


def test_a_request_that_is_taken_in_parts_is_given_up_after_the_time_its_size_takes() -> None:
    """Larger than what the kernel keeps for both sides, of whom nobody reads: time passes when it has taken the first part."""
    size = 64 * 1024 * 1024
    within_s = 120 + 1024
    # At the begin, before the head, before the first part of the body, and before the next one.
    looks = itertools.count(step=within_s / 3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        poster = Poster("127.0.0.1", listening.getsockname()[1], secure=False, clock=lambda: next(looks))
        with pytest.raises(Retryable, match=f"TimeoutError: the exchange was not over within {within_s} s"):
            poster.post("/", bytes(size), {})
    assert next(looks) == 4 * within_s / 3


def test_a_certificate_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Downstream(certificate=CERTIFICATE) as downstream:
        with pytest.raises(Paused, match="CERTIFICATE_VERIFY_FAILED"):
            post(Poster("127.0.0.1", downstream.port, secure=True), "a")
        assert downstream.requests == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        poster = Poster("127.0.0.1", downstream.port, secure=True)
        assert [post(poster, name) for name in "ab"] == [200, 200]
        assert downstream.requests == 2
        poster.close()
