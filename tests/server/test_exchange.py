"""Answers as they leave, over real sockets: each in its place and of its own kind."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.server.running import Server, running, wait_until

EVENT: Final = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'


def post(target: bytes, *headers: bytes, body: bytes = EVENT) -> bytes:
    lines = (b"POST " + target + b" HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("exchanges")) as found:
        yield found


def test_answers_of_every_kind_leave_in_the_order_of_their_requests(server: Server) -> None:
    with server.connect() as client:
        client.send(
            post(b"/e/")
            + post(b"/e/?beacon=1")
            + post(b"/track/")
            + post(b"/e/", body=b"{")
            + b"HEAD /e/?data=e30 HTTP/1.1\r\nHost: h\r\n\r\n"
            + post(b"/e/", b"Origin: https://shop.example")
            + post(b"/e/", b"Connection: close")
        )
        kept = [client.answer(head=head) for head in (False, False, False, False, True, False)]
        last = client.answer()
        assert [(answer.status, answer.body) for answer in kept[:3]] == [
            (200, b'{"status":1}'),
            (204, b""),
            (200, b"1"),
        ]
        assert kept[3].status == 400
        assert (kept[4].status, kept[4].body) == (401, b"")
        assert kept[5].headers["access-control-allow-origin"] == "https://shop.example"
        assert all("connection" not in answer.headers for answer in kept)
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert client.is_closed()


def test_every_answer_is_counted_once(server: Server) -> None:
    def counted() -> list[float]:
        found = server.metrics()
        return [
            found.get(f'http_requests_total{{method="POST",path="capture",status="{status}"}}', 0) for status in KINDS
        ]

    with server.connect() as client:
        for status, sent in KINDS.items():
            assert client.ask(sent).status == status
    wait_until(lambda: counted() == [1, 1, 1], "the answers are counted")


KINDS: Final = {200: post(b"/capture/"), 204: post(b"/capture/?beacon=1"), 400: post(b"/capture/", body=b"{")}
