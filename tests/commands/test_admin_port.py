import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from edge.commands.admin_port import ANSWER_BYTES_MAX, Unanswered, ask, with_port
from edge.config import ConfigError
from edge.notation import Address
from tests.server.running import PATIENCE_S


@contextmanager
def answering(answer: bytes) -> Iterator[Address]:
    """Somebody else's port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        client.recv(1 << 16)
                        client.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield Address(*listening.getsockname())
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def test_status_and_body_are_told_whatever_they_are() -> None:
    with answering(http(b"a\xff", b"503 Service Unavailable")) as other:
        assert ask(other, "/x") == (503, b"a\xff")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http(b"abc")[:-1], f"expected the whole answer, of at most {ANSWER_BYTES_MAX} bytes, found 2"),
        (b"SSH-2.0-\x1b[2Jx\r\n", r"SSH-2\.0- \[2Jx"),
        (b"", "Remote end closed connection without response"),
    ],
    ids=["half", "not HTTP", "nothing"],
)
def test_what_is_no_answer_is_told_in_a_line(answer: bytes, why: str) -> None:
    with answering(answer) as other, pytest.raises(Unanswered, match=why) as raised:
        ask(other, "/x")
    assert str(raised.value).isprintable()


def test_an_address_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = Address(*listening.getsockname())
        # Resets the connection, which is another reason, of whoever waits for long.
        closing = threading.Timer(PATIENCE_S, listening.close)
        closing.start()
        with pytest.raises(Unanswered, match="timed out"):
            ask(address, "/x", timeout_s=0.05)
        closing.cancel()
        closing.join()


def test_a_port_is_needed() -> None:
    assert with_port("admin", Address("h", 1)) == Address("h", 1)
    with pytest.raises(ConfigError, match=r"^admin: expected the port that was printed at the start, found h:0$"):
        with_port("admin", Address("h", 0))
