"""The client to the upstreams: its failures, its limit, its connections."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.server.running import PATIENCE_S, running, wait_until
from tests.upstreams import (
    CAPTURE,
    Asking,
    Gone,
    Incoming,
    Script,
    answer_json,
    answering,
    echo,
    failures,
    fronting,
    get,
    post,
    scripted,
    unused_port,
)

# --- upstreams that fail


def _closes(request: Incoming) -> None:
    raise Gone


def _resets(request: Incoming) -> None:
    request.reset()
    raise Gone


FAILURES: dict[str, tuple[Script, int, str]] = {
    "it closes": (_closes, 502, "disconnected"),
    "it resets": (_resets, 502, "disconnected"),
    "it is silent": (Incoming.wait_until_gone, 504, "timeout"),
    "it speaks something else": (lambda request: request.send(b"SSH-2.0-x\r\n\r\n"), 502, "malformed"),
    "it changes the protocol": (
        lambda request: request.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        502,
        "malformed",
    ),
}


@pytest.mark.parametrize(("script", "status", "cause"), FAILURES.values(), ids=FAILURES)
def test_a_failure_has_its_status_and_cause(tmp_path: Path, script: Script, status: int, cause: str) -> None:
    with (
        scripted(script) as upstream,
        fronting(tmp_path, upstream, "--upstream-read-timeout", "300ms") as front,
        Asking(front.address) as client,
    ):
        for _ in range(2):
            answer = client.ask(post("/flags/?v=2", b"x" * 100_000, "Origin: https://site\r\n"))
            assert answer.status == status
            assert answer["access-control-allow-origin"] == "https://site"
            assert answer_json(answer)["type"] in ("server_error", "timeout_error")
        assert failures(front, cause) == 2
        assert front.metrics()[f'edge_rejected_requests_total{{cause="upstream_{cause}"}}'] == 2
        # The connection and capture go on.
        assert client.ask(CAPTURE).status == 200


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    with (
        running(tmp_path, "--upstream", f"http://127.0.0.1:{unused_port()}") as front,
        Asking(front.address) as client,
    ):
        answer = client.ask(post("/decide?v=3", b"x" * 100_000, "Origin: null\r\n"))
        assert (answer.status, answer["access-control-allow-origin"]) == (502, "null")
        assert failures(front, "unreachable") == 1
        assert client.ask(get("/flags", method="HEAD"), head=True).status == 502
        assert client.ask(CAPTURE).status == 200


def test_a_failing_upstream_is_logged_once_and_when_it_answers_again(tmp_path: Path) -> None:
    well = threading.Event()

    def script(request: Incoming) -> None:
        if not well.is_set():
            raise Gone
        request.send(answering(b"x"))

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        for _ in range(5):
            assert client.ask(post("/flags", b"")).status == 502
        well.set()
        assert client.ask(post("/flags", b"")).status == 200
        wait_until(lambda: "answers again" in front.log_text(), "it is told")
        assert front.log_text().count("fails (disconnected)") == 1


def test_an_upstream_that_is_not_called_that(tmp_path: Path) -> None:
    with running(tmp_path, "--upstream", "http://nowhere.invalid") as front, Asking(front.address) as client:
        assert client.ask(get("/flags")).status == 502


def test_an_upstream_that_does_not_take_the_body(tmp_path: Path) -> None:
    wait = threading.Event()
    with (
        scripted(lambda request: _ignore(wait.wait(3 * PATIENCE_S))) as upstream,
        fronting(tmp_path, upstream, "--upstream-read-timeout", "300ms") as front,
        Asking(front.address) as client,
    ):
        sending = threading.Thread(target=client.send, args=(post("/i/v1/logs", bytes(30_000_000)),))
        sending.start()
        assert client.answer().status == 504
        sending.join()
        # What was on its way is read and thrown away.
        assert client.ask(CAPTURE).status == 200
        wait.set()


def _ignore(_: object) -> None:
    return None


CUTS: dict[str, bytes] = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000,
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n" + b"x" * 500_000 + b"\r\n",
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("sent", CUTS.values(), ids=CUTS)
def test_an_answer_that_breaks_off_does_not_look_complete(tmp_path: Path, sent: bytes, version: str) -> None:
    def script(request: Incoming) -> None:
        request.send(sent)
        raise Gone

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front:
        for follow in (b"", CAPTURE):
            with Asking(front.address) as client:
                client.send(get("/static/x.js", version=version) + follow)
                with pytest.raises(Gone):  # noqa: PT012 - wherever it breaks off
                    client.answer()
                    client.answer()
        assert (
            failures(front, "cut")
            + front.metrics().get('edge_upstream_failures_total{upstream="assets",cause="cut"}', 0)
            == 2
        )


def test_an_answer_that_stalls_is_cut_too(tmp_path: Path) -> None:
    def script(request: Incoming) -> None:
        request.send(CUTS["with a length"])
        request.wait_until_gone()

    with (
        scripted(script) as upstream,
        fronting(tmp_path, upstream, "--upstream-read-timeout", "300ms") as front,
        Asking(front.address) as client,
    ):
        client.send(get("/api/x"))
        with pytest.raises(Gone):
            client.answer()


def test_more_requests_than_allowed_are_told_to_come_back(tmp_path: Path) -> None:
    wait = threading.Event()

    def script(request: Incoming) -> None:
        assert wait.wait(PATIENCE_S)
        request.send(answering(b"x"))

    with (
        scripted(script) as upstream,
        fronting(tmp_path, upstream, "--upstream-requests-max", "1") as front,
        Asking(front.address) as first,
        Asking(front.address) as second,
    ):
        first.send(get("/flags"))
        wait_until(lambda: upstream.seen, "the first is there")
        answer = second.ask(post("/flags", bytes(1_000_000)))
        assert answer.status == 503
        assert 1 <= int(answer["retry-after"]) <= 30
        assert front.metrics()['edge_upstream_requests{worker="0"}'] == 1
        wait.set()
        assert first.answer().status == 200
        assert second.ask(get("/flags")).status == 200
        assert failures(front, "busy") == 1


# --- its connections


def test_connections_are_used_again(tmp_path: Path) -> None:
    peers = []

    def script(request: Incoming) -> None:
        peers.append(request.socket.getpeername())
        echo(request)

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        for _ in range(5):
            assert client.ask(post("/flags", b"x")).status == 200
    assert len(set(peers)) == 1


def test_a_connection_that_was_closed_meanwhile_costs_only_what_must_not_be_sent_twice(tmp_path: Path) -> None:
    """RFC 9112 section 9.3.1: a proxy does not send again what is not idempotent."""
    served = []

    def script(request: Incoming) -> None:
        request.read()
        if request in served:
            request.reset()
            raise Gone
        served.append(request)
        request.send(answering(b"x"))

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        assert client.ask(get("/flags")).status == 200
        assert client.ask(get("/flags")).status == 200
        assert client.ask(post("/flags", b"x")).status == 502
        assert client.ask(get("/flags")).status == 200
        assert client.ask(get("/flags", "Content-Length: 1\r\n") + b"x").status == 502


def test_a_path_in_front_of_all_paths(tmp_path: Path) -> None:
    with (
        scripted(echo) as upstream,
        running(tmp_path, "--upstream", upstream.url + "/inner/") as front,
        Asking(front.address) as client,
    ):
        assert answer_json(client.ask(get("/flags?v=2")))["line"] == "GET /inner/flags?v=2 HTTP/1.1"


def test_large_heads_are_passed_on_both_ways(tmp_path: Path) -> None:
    def script(request: Incoming) -> None:
        (cookie,) = request.all("cookie")
        request.send(answering(b"", b"X-Cookie: " + cookie.encode() + b"\r\n"))

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        assert client.ask(get("/api/x", f"Cookie: {'c' * 30_000}\r\n"))["x-cookie"] == "c" * 30_000


def test_a_worker_without_an_upstream_does_not_load_the_client() -> None:
    program = "import sys, edge.server.worker; raise SystemExit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_each_upstream_has_its_own_limit(tmp_path: Path) -> None:
    wait = threading.Event()

    def script(request: Incoming) -> None:
        assert wait.wait(PATIENCE_S)
        request.send(answering(b"x"))

    with (
        scripted(script) as upstream,
        scripted(echo) as assets,
        fronting(tmp_path, upstream, "--assets-upstream", assets.url, "--upstream-requests-max", "1") as front,
        Asking(front.address) as first,
        Asking(front.address) as second,
    ):
        first.send(get("/flags"))
        wait_until(lambda: upstream.seen, "the first is there")
        assert second.ask(get("/flags")).status == 503
        assert second.ask(get("/static/x.js")).status == 200
        wait.set()
        assert first.answer().status == 200
