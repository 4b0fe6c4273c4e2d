"""Capture v1 over real sockets: every documented answer, and what comes out of the drainer."""

import base64
import gzip
import json
import random
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard

from edge.drain.expand import expand
from tests.server.running import LOW_LIMITS, Answer, Server, running, wait_until
from tests.wire.test_v1 import OTHER_UUID, UUID, batch, event

REQUEST_ID = "7d9b2c54-3a4e-4f60-8a1b-0c2d3e4f5a6b"
HEADERS = {
    "Host": "edge",
    "Authorization": "Bearer phc_v1",
    "PostHog-Sdk-Info": "posthog-rs/1.2.3",
    "PostHog-Attempt": "1",
    "PostHog-Request-Id": REQUEST_ID,
    "PostHog-Request-Timestamp": "2026-03-19T14:30:10.5+01:00",
    "Content-Type": "application/json",
    "User-Agent": "posthog-rs/1.2.3",
}
PATH = "/i/v1/analytics/events"
V1_LIMITS = ("--v1-body-bytes-max", "32KiB", "--v1-decoded-bytes-max", "128KiB")


def request(
    body: bytes = b"",
    path: str = PATH,
    method: str = "POST",
    *,
    without: str = "",
    **changed: str,
) -> bytes:
    """`changed` headers are written with underscores."""
    headers = {**HEADERS, "Content-Length": str(len(body))}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if name != without]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


def error(answer: Answer) -> str:
    """The tag, of an answer in the one form all errors have."""
    assert answer.headers["content-type"] == "application/json"
    decoded = answer.json()
    assert list(decoded) == ["error", "error_description", "error_uri"]
    assert decoded["error_description"]
    assert decoded["error_uri"] == "https://posthog.com/docs/api"
    return str(decoded["error"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("v1"), *LOW_LIMITS, *V1_LIMITS) as found:
        yield found


@pytest.mark.parametrize("path", [PATH, PATH + "/", "/i/v1/ai/events", PATH + "?a=b"])
def test_a_batch_is_answered_event_by_event(server: Server, path: str) -> None:
    answer = server.ask(request(batch(event(), event(uuid=OTHER_UUID, event="")), path, Origin="https://a.example"))
    assert answer.status == 200
    assert answer.json() == {
        "results": {UUID: {"result": "ok"}, OTHER_UUID: {"result": "drop", "details": "missing_event_name"}}
    }
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["posthog-request-id"] == REQUEST_ID
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "retry-after" not in answer.headers
    assert answer.headers["date"]


def test_what_is_ok_is_stored_and_comes_out_and_what_is_dropped_does_not(server: Server) -> None:
    told = [event(properties={"n": 1}), event(uuid=OTHER_UUID, distinct_id="  ")]
    answer = server.ask(request(batch(*told, historical_migration=True), Authorization="Bearer phc_stored"))
    assert answer.status == 200
    [record] = server.records_of("phc_stored")
    expansion = expand(record)
    [found] = expansion.events
    assert (found.uuid, found.lane, found.token) == (UUID, "historical", "phc_stored")
    properties = json.loads(found.body)["properties"]
    assert properties == {"n": 1, "$lib": "posthog-rs", "$lib_version": "1.2.3"}
    assert expansion.dropped == {"no_distinct_id": 1}


PACKED: dict[str, Any] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize(("name", "pack"), PACKED.items(), ids=PACKED)
def test_every_content_encoding_is_read(server: Server, name: str, pack: Any) -> None:
    answer = server.ask(request(pack(batch(event())), Content_Encoding=name))
    assert (answer.status, answer.json()) == (200, {"results": {UUID: {"result": "ok"}}})


BIG = batch(event(properties={"x": "y" * 200_000}))
REFUSED = {
    "no authorization": (request(batch(event()), without="Authorization"), 401, "missing_authorization"),
    "another scheme": (request(batch(event()), Authorization="Basic YTpi"), 400, "invalid_header_value"),
    "a personal key": (request(batch(event()), Authorization="Bearer phx_a"), 401, "invalid_api_token"),
    "a long key": (request(batch(event()), Authorization="Bearer " + "x" * 65), 401, "invalid_api_token"),
    "a missing header": (request(batch(event()), without="PostHog-Sdk-Info"), 400, "missing_required_headers"),
    "no request id": (request(batch(event()), without="PostHog-Request-Id"), 400, "missing_required_headers"),
    "a wrong attempt": (request(batch(event()), PostHog_Attempt="0"), 400, "invalid_header_value"),
    "a wrong time": (request(batch(event()), PostHog_Request_Timestamp="now"), 400, "invalid_header_value"),
    "text": (request(batch(event()), Content_Type="text/plain"), 415, "unsupported_content_type"),
    "lz4": (request(batch(event()), Content_Encoding="lz4"), 415, "unsupported_encoding"),
    "no body": (request(), 400, "empty_body"),
    "no gzip": (request(b"hello", Content_Encoding="gzip"), 400, "request_decoding_error"),
    "no JSON": (request(b"hello"), 400, "request_parsing_error"),
    "an empty batch": (request(batch()), 400, "empty_batch"),
    "a batch of no time": (request(batch(event(), created_at="now")), 400, "invalid_batch"),
    "no uuid": (request(batch(event(uuid=""))), 400, "missing_event_uuid"),
    "a wrong uuid": (request(batch(event(uuid="7"))), 400, "invalid_event_uuid"),
    "a uuid twice": (request(batch(event(), event())), 400, "duplicate_event_uuid"),
    "too large on the wire": (request(b"{" * 40_000), 413, "payload_too_large"),
    "much too large on the wire": (request(b"{" * 100_000), 413, "payload_too_large"),
    "too large inside gzip": (request(gzip.compress(BIG), Content_Encoding="gzip"), 413, "payload_too_large"),
    "another method": (request(method="GET"), 405, "method_not_allowed"),
    "a length that is not meant": (
        request(batch(event()), Expect="200-maybe"),
        417,
        "expectation_failed",
    ),
}


@pytest.mark.parametrize(("sent", "status", "tag"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_is_refused_is_answered_in_this_protocols_form(
    server: Server, sent: bytes, status: int, tag: str
) -> None:
    with server.connect() as client:
        answer = client.ask(sent)
    assert (answer.status, error(answer)) == (status, tag)
    assert "retry-after" not in answer.headers
    given = answer.headers.get("posthog-request-id", "")
    assert given == (REQUEST_ID if REQUEST_ID.encode() in sent else "")


@pytest.mark.parametrize("inline", ["384KiB", "1B"], ids=["on the loop", "in the decoder"])
def test_a_request_has_no_more_events_than_allowed(tmp_path: Path, inline: str) -> None:
    many = [event(uuid=f"018f2d5a-1111-7c3d-8e4f-{number:012x}") for number in range(501)]
    with running(tmp_path, "--events-max", "500", "--inline-bytes-max", inline) as server:
        answer = server.ask(request(batch(*many)))
        assert (answer.status, error(answer)) == (413, "payload_too_large")
        assert server.ask(request(batch(*many[1:]))).status == 200


def test_a_body_that_stops_is_504_and_worth_another_try(tmp_path: Path) -> None:
    with running(tmp_path, "--body-timeout", "1s") as server, server.connect() as client:
        answer = client.ask(request(batch(event()))[:-5])
        assert (answer.status, error(answer)) == (504, "gateway_timeout")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["posthog-request-id"] == REQUEST_ID


def test_nothing_is_ok_that_could_not_be_stored(tmp_path: Path) -> None:
    """The disk refuses what is larger than its limit: the library is told to come again, and what it then brings is kept."""
    noise = base64.b64encode(random.Random(1).randbytes(200_000)).decode()
    sent = request(batch(event(properties={"noise": noise})))
    with running(tmp_path) as server:
        [worker] = server.workers()
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        answer = server.ask(sent)
        assert (answer.status, error(answer)) == (503, "service_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["posthog-request-id"] == REQUEST_ID
        assert server.records() == []
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: server.ask(sent).status == 200, "the disk takes it")
        assert len(server.records()) == 1


def test_a_page_may_ask_before(server: Server) -> None:
    answer = server.ask(request(method="OPTIONS", Access_Control_Request_Headers="authorization,posthog-attempt"))
    assert answer.status == 200
    assert answer.headers["access-control-allow-headers"] == "authorization,posthog-attempt"


def test_requests_behind_each_other_are_answered_in_order_with_their_own_results(server: Server) -> None:
    first, second = request(batch(event())), request(batch(event(uuid=OTHER_UUID)), PostHog_Request_Id=OTHER_UUID)
    other = b'POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\n\r\n{"api_key":"k","event":"e","distinct_id":"d"}'
    with server.connect() as client:
        client.send(first + other[:-1] + request(b"") + second)
        answers = [client.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 400, 400, 200]
    assert [answer.headers.get("posthog-request-id") for answer in answers] == [
        REQUEST_ID,
        None,
        REQUEST_ID,
        OTHER_UUID,
    ]
    assert answers[0].json() == {"results": {UUID: {"result": "ok"}}}
    assert answers[3].json() == {"results": {OTHER_UUID: {"result": "ok"}}}


def test_a_batch_that_comes_byte_by_byte_is_answered_alike(server: Server) -> None:
    sent = request(batch(event()))
    whole = server.ask(sent)
    with server.connect() as client:
        client.send_bytewise(sent)
        assert client.answer().lasting == whole.lasting


def test_the_last_answer_of_a_connection_says_so(server: Server) -> None:
    with server.connect() as client:
        answer = client.ask(request(batch(event()), Connection="close"))
        assert answer.json() == {"results": {UUID: {"result": "ok"}}}
        assert answer.headers["connection"] == "close"
        assert client.is_closed()


def test_requests_are_counted_by_route_status_and_cause(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.ask(request(batch(event(), event(uuid=OTHER_UUID))))
        server.ask(request(batch(event(), event())))
        found = server.metrics()
    labels = 'method="POST",path="i/v1/analytics/events"'
    assert found[f'http_requests_total{{{labels},status="200"}}'] == 1
    assert found[f'http_requests_total{{{labels},status="400"}}'] == 1
    assert found['edge_rejected_requests_total{cause="duplicate_uuid"}'] == 1
    assert found["capture_events_ingested_total"] == 2
