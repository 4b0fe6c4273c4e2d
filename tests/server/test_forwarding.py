"""Forwarded requests over real sockets: a scripted upstream behind a real worker."""

import hashlib
import json
import random
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.server.running import PATIENCE_S, Server, running, wait_until
from tests.upstreams import (
    CAPTURE,
    CAPTURE_BODY,
    Answer,
    Asking,
    Gone,
    Incoming,
    ScriptedUpstream,
    answer_json,
    answering,
    chunked,
    echo,
    failures,
    fronting,
    get,
    post,
    scripted,
    unused_port,
)

LARGE = 50 * 1024 * 1024


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with scripted(echo) as found:
        yield found


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with fronting(tmp_path_factory.mktemp("front"), upstream) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Asking]:
    with Asking(server.address) as found:
        yield found


# --- what arrives


def test_a_request_arrives_whole_and_says_where_it_came_from(client: Asking, upstream: ScriptedUpstream) -> None:
    answer = client.ask(
        post("/flags/?v=2&x=%2Fa|b;c", b'{"token":"t"}', "X-Odd-NAME: 1\r\nAccept-Encoding: br\r\nCookie: a=b\r\n")
    )
    assert answer.status == 200
    found = answer_json(answer)
    assert found["line"] == "POST /flags/?v=2&x=%2Fa|b;c HTTP/1.1"
    assert found["body"] == '{"token":"t"}'
    assert found["fields"] == [
        ["Host", upstream.authority],
        ["Content-Length", "13"],
        ["X-Odd-NAME", "1"],
        ["Accept-Encoding", "br"],
        ["Cookie", "a=b"],
        ["X-Forwarded-For", "127.0.0.1"],
        ["X-Forwarded-Host", "edge.example"],
        ["X-Forwarded-Proto", "http"],
        ["Via", "1.1 edge"],
    ]


def test_a_chunked_body_is_passed_on_in_chunks(client: Asking) -> None:
    body = bytes(range(256)) * 300
    more = "Transfer-Encoding: chunked\r\n"
    answer = client.ask(get("/i/v1/logs", more, method="POST") + chunked(body, 777))
    found = answer_json(answer)
    assert found["body"] == body.decode("latin-1")
    assert ["Transfer-Encoding", "chunked"] in found["fields"]
    assert client.ask(get("/api/next")).status == 200


DELIVERED = {
    "a body with a length": (post("/decide?v=3", b"abc"), "abc"),
    "a body in chunks": (
        get("/i/v1/logs", "Transfer-Encoding: chunked\r\n", method="POST") + chunked(b"abcdef", 4),
        "abcdef",
    ),
    "no body": (get("/api/surveys?token=x", "Accept: */*\r\n"), ""),
    "an offered upgrade": (post("/flags", b"abc", "Connection: Upgrade\r\nUpgrade: h2c\r\n"), "abc"),
}


@pytest.mark.parametrize(("sent", "body"), DELIVERED.values(), ids=DELIVERED)
def test_how_the_bytes_arrive_changes_nothing(server: Server, sent: bytes, body: str) -> None:
    with Asking(server.address) as client:
        whole = answer_json(client.ask(sent))
        assert whole["body"] == body
        for byte in sent:
            client.send(bytes([byte]))
        assert answer_json(client.answer()) == whole
        client.send(CAPTURE + sent + sent + CAPTURE)
        assert client.answer().status == 200
        assert answer_json(client.answer()) == whole
        assert answer_json(client.answer()) == whole
        assert client.answer().status == 200
        for at in range(len(sent)):
            client.send(sent[:at])
            client.send(sent[at:] + sent[:at])
            client.send(sent[at:])
            assert answer_json(client.answer()) == whole
            assert answer_json(client.answer()) == whole


def test_a_get_with_a_body_is_passed_on(client: Asking) -> None:
    answer = client.ask(get("/api/feature_flag/?token=t", "Content-Length: 2\r\n") + b"{}")
    assert answer_json(answer)["body"] == "{}"
    assert client.ask(get("/api/next")).status == 200


def test_an_offered_upgrade_is_not_passed_on_but_its_body_is(client: Asking) -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    found = answer_json(client.ask(post("/flags", b"body", upgrade)))
    assert found["body"] == "body"
    assert "upgrade" not in json.dumps(found).lower()
    assert "http2" not in json.dumps(found).lower()
    assert client.ask(get("/api/next")).status == 200


def test_a_websocket_is_declined(client: Asking) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    found = answer_json(client.ask(get("/live", upgrade)))
    assert not {"Connection", "Upgrade"} & {name for name, _ in found["fields"]}
    assert client.ask(get("/api/next")).status == 200


def test_absolute_form_becomes_origin_form_and_names_the_host(client: Asking) -> None:
    found = answer_json(client.ask(get("http://edge.example/api/x?y=1")))
    assert found["line"] == "GET /api/x?y=1 HTTP/1.1"
    assert ["X-Forwarded-Host", "edge.example"] in [list(field) for field in found["fields"]]


def test_other_methods_are_the_upstreams(client: Asking) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert answer_json(client.ask(get("/api/x", method=method)))["line"] == f"{method} /api/x HTTP/1.1"


def test_a_preflight_is_answered_by_the_edge_where_pages_call(client: Asking, upstream: ScriptedUpstream) -> None:
    before = len(upstream.seen)
    asked = "Origin: https://site\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-y\r\n"
    for target in ("/flags/?v=2", "/array/phc/config", "/e/"):
        answer = client.ask(get(target, asked, method="OPTIONS"))
        assert answer["access-control-allow-origin"] == "https://site"
        assert answer["access-control-allow-headers"] == "x-y"
    assert len(upstream.seen) == before


def test_trace_goes_nowhere(client: Asking, upstream: ScriptedUpstream) -> None:
    before = len(upstream.seen)
    assert client.ask(get("/api/x", method="TRACE")).status == 404
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    "target",
    ["/e/", "/batch", "/%65/", "//batch/", "/static/../capture/", "/static/%2e%2e/track", "/x/..;/i/v0/e/", "/e;a=b"],
)
def test_capture_is_never_forwarded(client: Asking, server: Server, upstream: ScriptedUpstream, target: str) -> None:
    before = len(upstream.seen)
    stored = len(server.records())
    answer = client.ask(post(target, CAPTURE_BODY))
    routed = target in ("/e/", "/batch")
    assert answer.status == (200 if routed else 404)
    assert len(server.records()) - stored == routed
    assert len(upstream.seen) == before


def test_the_edges_own_pages_stay_its_own(client: Asking, upstream: ScriptedUpstream) -> None:
    before = len(upstream.seen)
    for target in ("/", "/_readiness", "/_liveness", "/robots.txt"):
        assert client.ask(get(target)).status == 200
    assert client.ask(get("*")).status == 404
    assert client.ask(get("*", method="OPTIONS")).status == 200
    assert len(upstream.seen) == before


# --- order


def test_pipelined_answers_keep_the_order_of_the_requests(server: Server) -> None:
    wait = threading.Event()

    def slow_first(request: Incoming) -> None:
        if request.target == "/flags/1":
            assert wait.wait(PATIENCE_S)
        echo(request)

    requests = [
        get("/flags/1"),
        CAPTURE,
        post("/flags/2", b"x" * 1000),
        get("/_liveness"),
        get("/nothing/..;/e"),
        get("/flags/3"),
        CAPTURE,
    ]
    with (
        scripted(slow_first) as upstream,
        fronting(server.data.parent / "pipelined", upstream) as front,
        Asking(front.address) as client,
    ):
        client.send(b"".join(requests))
        wait_until(lambda: len(front.records()) == 2, "the events are stored whatever the upstream does")
        wait_until(lambda: upstream.seen, "the first is there")
        assert len(upstream.seen) == 1, "one at a time for a connection"
        wait.set()
        answers = [client.answer() for _ in requests]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 404, 200, 200]
    lines = [answer_json(answers[at])["line"] for at in (0, 2, 5)]
    assert lines == ["GET /flags/1 HTTP/1.1", "POST /flags/2 HTTP/1.1", "GET /flags/3 HTTP/1.1"]
    assert answer_json(answers[2])["body"] == "x" * 1000
    assert [answers[at].body for at in (1, 6)] == [b'{"status":1}'] * 2


def test_pipelined_bodies_wait_for_their_turn_in_bounded_memory(tmp_path: Path) -> None:
    wait = threading.Event()
    body = random.Random(1).randbytes(10_000_000)

    def slow_first(request: Incoming) -> None:
        if request.target == "/flags/1":
            assert wait.wait(PATIENCE_S)
        request.send(answering(hashlib.sha256(request.read()).hexdigest().encode()))

    with scripted(slow_first) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        sending = threading.Thread(target=client.send, args=(get("/flags/1") + post("/flags/2", body),))
        sending.start()
        wait_until(lambda: upstream.seen, "the first is there")
        before = rss_bytes(front)
        settle(lambda: rss_bytes(front))
        assert rss_bytes(front) - before < 8 * 1024 * 1024
        wait.set()
        client.answer()
        assert client.answer().body.decode() == hashlib.sha256(body).hexdigest()
        sending.join()


# --- answers as they are


ANSWERS = {
    "gzip is left alone": (b"\x1f\x8b-not-really", b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n", b"200 OK"),
    "a redirect": (b"", b"Location: http://elsewhere.example/x\r\n", b"302 Found"),
    "an error with a body": (b"no such flag", b"Content-Type: text/plain\r\n", b"404 Not Found"),
    "a status of its own": (b"x", b"", b"299 Quite Good Really"),
    "an empty body": (b"", b"", b"200 OK"),
}


@pytest.mark.parametrize(("body", "more", "status"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_passed_on_as_it_is(tmp_path: Path, body: bytes, more: bytes, status: bytes) -> None:
    def script(request: Incoming) -> None:
        request.read()
        request.send(answering(body, more + b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Ole: ol\xe9\r\n", status))

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        for _ in range(2):
            client.send(get("/api/x"))
            line, fields = client.head()
            assert line.encode() == b"HTTP/1.1 " + status
            assert client.body(fields) == body
            answer = Answer(0, fields, b"")
            assert answer.all("set-cookie") == ["a=1", "b=2"]
            assert answer["x-ole"] == "ol\xe9"
            assert len(answer.all("date")) == 1
            assert answer.all("connection") == []
            for line in more.decode().splitlines():
                name, _, value = line.partition(": ")
                assert answer[name] == value
        assert len(upstream.seen) == 2


BODILESS = {
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 9\r\n\r\n'),
    "HEAD of chunks": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
}


@pytest.mark.parametrize(("method", "sent"), BODILESS.values(), ids=BODILESS)
def test_an_answer_without_a_body_has_none(tmp_path: Path, method: str, sent: bytes) -> None:
    with (
        scripted(lambda request: request.send(sent)) as upstream,
        fronting(tmp_path, upstream) as front,
        Asking(front.address) as client,
    ):
        for _ in range(2):
            answer = client.ask(get("/static/x", method=method), head=True)
            assert str(answer.status).encode() in sent
            assert answer.all("transfer-encoding") == []
        # The connection is where it should be.
        assert client.ask(get("/_liveness")).body == b"capture"


def test_interim_answers_are_not_taken_for_the_answer(tmp_path: Path) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with (
        scripted(lambda request: request.send(hints + answering(b"x"))) as upstream,
        fronting(tmp_path, upstream) as front,
        Asking(front.address) as client,
    ):
        assert client.ask(get("/flags")).status == 200
        assert client.ask(get("/flags")).body == b"x"


def test_chunks_of_the_upstream_are_chunks_to_1_1_and_the_end_of_the_connection_to_1_0(tmp_path: Path) -> None:
    body = random.Random(2).randbytes(300_000)
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n" + chunked(body, 4096)
    with scripted(lambda request: request.send(sent)) as upstream, fronting(tmp_path, upstream) as front:
        with Asking(front.address) as client:
            for _ in range(2):
                answer = client.ask(get("/static/x"))
                assert answer.body == body
                assert answer["transfer-encoding"] == "chunked"
                assert answer.all("trailer") == []
        with Asking(front.address) as client:
            answer = client.ask(get("/static/x", version="1.0"))
            assert answer.body == body
            assert answer.all("transfer-encoding") == []
            assert answer["connection"] == "close"


def test_an_answer_that_ends_with_its_connection_ends_in_chunks(tmp_path: Path) -> None:
    def script(request: Incoming) -> None:
        request.send(b"HTTP/1.0 200 OK\r\nContent-Type: x/y\r\n\r\n" + b"z" * 1000)
        raise Gone

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        for _ in range(2):
            assert client.ask(get("/static/x")).body == b"z" * 1000


def test_the_client_is_told_when_the_connection_ends(server: Server) -> None:
    with Asking(server.address) as client:
        assert client.ask(get("/flags", "Connection: close\r\n"))["connection"] == "close"
        assert client.rest() == b""


CORS = {
    "a page may read what libraries fetch": ("/static/recorder.js", b"", "https://site"),
    "what the upstream says of it counts": ("/static/x.js", b"Access-Control-Allow-Origin: *\r\n", "*"),
    "what it does not open stays closed": ("/api/projects/", b"", None),
}


@pytest.mark.parametrize(("target", "more", "allowed"), CORS.values(), ids=CORS)
def test_cors(tmp_path: Path, target: str, more: bytes, allowed: str | None) -> None:
    with (
        scripted(lambda request: request.send(answering(b"x", more))) as upstream,
        fronting(tmp_path, upstream) as front,
        Asking(front.address) as client,
    ):
        answer = client.ask(get(target, "Origin: https://site\r\n"))
        assert answer.all("access-control-allow-origin") == ([allowed] if allowed else [])


# --- Expect


def test_100_is_said_when_the_upstream_is_there(client: Asking) -> None:
    client.send(get("/flags", "Expect: 100-continue\r\nContent-Length: 3\r\n", method="POST"))
    assert client.answer().status == 100
    found = answer_json(client.ask(b"abc"))
    assert found["body"] == "abc"
    assert "expect" not in json.dumps(found).lower()


def test_without_an_upstream_there_is_no_100(tmp_path: Path) -> None:
    with (
        running(tmp_path, "--upstream", f"http://127.0.0.1:{unused_port()}") as front,
        Asking(front.address) as client,
    ):
        answer = client.ask(get("/flags", "Expect: 100-continue\r\nContent-Length: 3\r\n", method="POST"))
        assert (answer.status, answer["connection"]) == (502, "close")
        assert client.rest() == b""


# --- clients that fail


def test_the_answer_in_the_place_of_a_lost_one_is_none(tmp_path: Path) -> None:
    """The client half closes while it waits for what is forwarded; what is behind that has its answer, and no place for it."""

    def script(request: Incoming) -> None:
        request.wait_until_gone()

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        client.send(post("/flags/?v=2", b"{}") + CAPTURE + get("/"))
        wait_until(front.records, "the event is stored")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_a_cut_answer_is_a_reset_to_http_1_0(tmp_path: Path) -> None:
    """Nothing else tells it from a whole one."""

    def script(request: Incoming) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n" + b"x" * 50 + b"\r\n")
        reached.wait(PATIENCE_S)
        request.reset()

    reached = threading.Event()
    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        client.send(get("/static/x", version="1.0"))
        found = b""
        while not found.endswith(b"x" * 50):
            found += client.socket.recv(65536)
        reached.set()
        with pytest.raises(ConnectionResetError):
            client.socket.recv(65536)


def test_a_client_that_expects_a_word_and_sends_its_body_at_once_keeps_its_connection(client: Asking) -> None:
    for _ in range(3):
        answer = client.ask(post("/flags/?v=2", b"{}", "Expect: 100-continue\r\n"))
        assert answer.status == 200
        assert answer.all("connection") == []


def test_an_answer_behind_one_that_is_not_taken_waits_at_the_upstream(tmp_path: Path) -> None:
    size = 200 * 1024 * 1024
    sent: list[int] = []

    def script(request: Incoming) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = bytes(256 * 1024)
        for _ in range(size // len(piece)):
            request.send(piece)
            sent.append(len(piece))

    # Each has its verdict in the answer.
    events = [
        {"event": "e", "uuid": str(uuid4()), "distinct_id": "d", "timestamp": "2026-01-01T00:00:00Z"}
        for _ in range(60_000)
    ]
    fields = (
        "Authorization: Bearer phc_x\r\nPostHog-Sdk-Info: a/1\r\nPostHog-Attempt: 1\r\n"
        f"PostHog-Request-Id: {uuid4()}\r\nPostHog-Request-Timestamp: 2026-01-01T00:00:00Z\r\n"
        "Content-Type: application/json\r\nUser-Agent: x\r\n"
    )
    batch = json.dumps({"created_at": "2026-01-01T00:00:00Z", "batch": events}).encode()
    with (
        scripted(script) as upstream,
        fronting(tmp_path, upstream) as front,
        Asking(front.address, receive_bytes=4096) as client,
    ):
        client.send(post("/i/v1/analytics/events", batch, fields) + get("/static/x"))
        wait_until(lambda: sent, "the upstream answers")
        known = -1
        while known != len(sent):
            known = len(sent)
            time.sleep(0.5)
        assert sum(sent) < size // 4


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("when", ["before the answer", "within the answer", "within the body"])
def test_a_lost_client_ends_the_request_at_the_upstream(tmp_path: Path, how: str, when: str) -> None:
    gone = threading.Event()

    def script(request: Incoming) -> None:
        if when == "within the answer":
            request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
        request.wait_until_gone()
        gone.set()

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front:
        client = Asking(front.address)
        body = b"Content-Length: 1000\r\n\r\nx" if when == "within the body" else b"\r\n"
        client.send(b"POST /flags HTTP/1.1\r\nHost: h\r\n" + body)
        wait_until(lambda: upstream.seen, "the request is there")
        if when == "within the answer":
            client.head()
        if how == "reset":
            client.reset()
        else:
            client.close()
        assert gone.wait(PATIENCE_S)
        wait_until(lambda: failures(front, "client_gone") == 1, "it is counted")
        assert front.metrics()['edge_upstream_requests{worker="0"}'] == 0


def test_a_body_that_turns_out_wrong_ends_the_request_at_the_upstream(tmp_path: Path) -> None:
    gone = threading.Event()

    def script(request: Incoming) -> None:
        request.wait_until_gone()
        gone.set()

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        client.send(get("/flags", "Transfer-Encoding: chunked\r\n", method="POST") + b"3\r\nabc\r\n")
        wait_until(lambda: upstream.seen, "the request is there")
        answer = client.ask(b"no size\r\n")
        assert (answer.status, answer["connection"]) == (400, "close")
        assert gone.wait(PATIENCE_S)


def test_a_body_that_does_not_come_ends_the_request_at_the_upstream(tmp_path: Path) -> None:
    gone = threading.Event()

    def script(request: Incoming) -> None:
        request.wait_until_gone()
        gone.set()

    with (
        scripted(script) as upstream,
        fronting(tmp_path, upstream, "--body-timeout", "300ms") as front,
        Asking(front.address) as client,
    ):
        answer = client.ask(get("/flags", "Content-Length: 10\r\n", method="POST") + b"abc")
        assert answer.status == 504
        assert gone.wait(PATIENCE_S)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_above_the_limit_is_refused(tmp_path: Path, announced: bool) -> None:
    body = bytes(150_000)
    with (
        scripted(echo) as upstream,
        fronting(tmp_path, upstream, "--upstream-body-bytes-max", "100KB") as front,
        Asking(front.address) as client,
    ):
        if announced:
            assert client.ask(post("/flags", body)).status == 413
            assert client.ask(get("/flags")).status == 200
        else:
            more = "Transfer-Encoding: chunked\r\n"
            assert client.ask(get("/flags", more, method="POST") + chunked(body, 5000)).status == 413


def test_an_answer_before_the_end_of_the_body_leaves_the_connection_usable(tmp_path: Path) -> None:
    def script(request: Incoming) -> None:
        request.send(answering(b"too much", status=b"413 Payload Too Large"))
        request.wait_until_gone()

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        client.send(get("/flags", "Content-Length: 1000000\r\n", method="POST") + bytes(1000))
        assert client.answer().status == 413
        client.send(bytes(999_000))
        assert client.ask(CAPTURE).status == 200


def test_a_stop_waits_for_an_answer_that_is_under_way(tmp_path: Path) -> None:
    wait = threading.Event()

    def script(request: Incoming) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx")
        assert wait.wait(PATIENCE_S)
        request.send(b"y")

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        client.send(get("/api/x"))
        _, fields = client.head()
        stopping = threading.Thread(target=front.stop)
        stopping.start()
        wait_until(lambda: "stopping" in front.log_text() or not _accepts(front), "it stops")
        wait.set()
        assert client.body(fields) == b"xy"
        assert client.rest() == b""
        stopping.join()


def _accepts(server: Server) -> bool:
    try:
        with socket.create_connection(server.address, 1):
            return True
    except OSError:
        return False


def test_a_stop_does_not_wait_for_an_upstream_for_ever(tmp_path: Path) -> None:
    with (
        scripted(Incoming.wait_until_gone) as upstream,
        fronting(tmp_path, upstream) as front,
        Asking(front.address) as client,
    ):
        client.send(get("/api/x"))
        wait_until(lambda: upstream.seen, "the request is there")
        assert front.stop() == 0
        assert client.answer().status == 503


# --- nothing held, nobody delayed


def rss_bytes(server: Server) -> int:
    (worker,) = server.workers()
    return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096


def settle(measure: object) -> None:
    """Until a figure stays the same for a moment."""
    assert callable(measure)
    before, deadline = None, time.monotonic() + PATIENCE_S
    while (found := measure()) != before and time.monotonic() < deadline:
        before = found
        time.sleep(0.5)


def test_what_is_fetched_is_byte_for_byte_the_same(tmp_path: Path) -> None:
    contents = {
        "/decide?v=3": random.Random(3).randbytes(20_000),
        "/flags/?v=2": random.Random(4).randbytes(2_000),
        "/array/phc_x/config.js": random.Random(5).randbytes(30_000),
        "/static/large.bin": random.Random(6).randbytes(LARGE),
    }

    def script(request: Incoming) -> None:
        request.read()
        request.send(answering(contents[request.target]))

    with (
        scripted(script) as upstream,
        scripted(script) as assets,
        fronting(tmp_path, upstream, "--assets-upstream", assets.url) as front,
        Asking(front.address) as client,
    ):
        for target, content in contents.items():
            asked = post(target, b"{}") if target[1] in "df" else get(target)
            assert hashlib.sha256(client.ask(asked).body).digest() == hashlib.sha256(content).digest()
        assert [line.split(" ")[1] for line in upstream.seen] == ["/decide?v=3", "/flags/?v=2"]
        assert [line.split(" ")[1] for line in assets.seen] == ["/array/phc_x/config.js", "/static/large.bin"]
        metrics = front.metrics()
        assert metrics['edge_upstream_answers_total{upstream="main",status="2xx"}'] == 2
        assert metrics['edge_upstream_answers_total{upstream="assets",status="2xx"}'] == 2


def test_a_slow_client_holds_the_upstream_back_and_no_memory(tmp_path: Path) -> None:
    content = random.Random(7).randbytes(LARGE)
    sent = [0]

    def script(request: Incoming) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        for at in range(0, LARGE, 65536):
            request.send(content[at : at + 65536])
            sent[0] += 65536

    with (
        scripted(script) as upstream,
        fronting(tmp_path, upstream) as front,
        Asking(front.address, receive_bytes=65536) as client,
    ):
        assert client.ask(CAPTURE).status == 200
        client.ask(get("/_liveness"))
        before = rss_bytes(front)
        client.send(get("/static/large.bin"))
        client.head()
        settle(lambda: sent[0])
        assert sent[0] < LARGE, "expected the upstream to be held back"
        most = rss_bytes(front)
        digest = hashlib.sha256()
        for _ in range(LARGE // (1 << 20)):
            digest.update(client.exactly(1 << 20))
            most = max(most, rss_bytes(front))
        assert digest.digest() == hashlib.sha256(content).digest()
        print(f"RSS grew by {(most - before) / 1024:.0f} KiB while {LARGE >> 20} MiB passed")
        assert most - before < 16 * 1024 * 1024


def test_a_slow_upstream_holds_the_client_back_and_no_memory(tmp_path: Path) -> None:
    content = random.Random(8).randbytes(LARGE)
    wait = threading.Event()

    def script(request: Incoming) -> None:
        assert wait.wait(PATIENCE_S)
        request.send(answering(hashlib.sha256(request.read()).hexdigest().encode()))

    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as client:
        assert client.ask(CAPTURE).status == 200
        before = rss_bytes(front)
        sent = [0]

        def send() -> None:
            client.send(get("/i/v1/logs", f"Content-Length: {LARGE}\r\n", method="POST"))
            for at in range(0, LARGE, 65536):
                client.send(content[at : at + 65536])
                sent[0] += 65536

        sending = threading.Thread(target=send)
        sending.start()
        settle(lambda: sent[0])
        assert sent[0] < LARGE, "expected the client to be held back"
        most = rss_bytes(front)
        wait.set()
        assert client.answer().body.decode() == hashlib.sha256(content).hexdigest()
        sending.join()
        most = max(most, rss_bytes(front))
        print(f"RSS grew by {(most - before) / 1024:.0f} KiB while {LARGE >> 20} MiB passed")
        assert most - before < 16 * 1024 * 1024


def test_events_are_answered_beside_an_upstream_that_hangs_or_dies(tmp_path: Path) -> None:
    """Events are answered beside requests that hang at the upstream and answers that break off, in turns with none of them.

    What waited for a request that hangs would have no answer, as that has none. The ratio is printed, and noise.
    """

    def script(request: Incoming) -> None:
        if request.target == "/static/dies":
            request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
            raise Gone
        request.wait_until_gone()

    def median_s(client: Asking) -> float:
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            assert client.ask(CAPTURE).status == 200
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    rounds = 7
    ratios = []
    with scripted(script) as upstream, fronting(tmp_path, upstream) as front, Asking(front.address) as events:
        for _ in range(rounds):
            alone_s = median_s(events)
            upstream.seen.clear()
            waiting = [Asking(front.address) for _ in range(10)]
            for client in waiting:
                client.send(post("/flags/?v=2", b"{}"))
            wait_until(lambda: len(upstream.seen) == 10, "all wait at the upstream")
            dying = [Asking(front.address) for _ in range(10)]
            for client in dying:
                client.send(get("/static/dies"))
            ratios.append(median_s(events) / alone_s)
            for client in waiting:
                client.socket.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.socket.recv(1)
                client.socket.close()
            for client in dying:
                with pytest.raises(Gone):
                    client.answer()
                client.socket.close()
        print(
            "an event's time beside a hanging and dying upstream, beside its own:",
            *(f"{ratio:.2f}" for ratio in ratios),
        )
        assert len(front.records()) == rounds * 2 * 50
