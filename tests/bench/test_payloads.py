import gzip
import json
import uuid
from datetime import datetime
from typing import Any

import pytest

from bench import payloads

EVERY_NAME = pytest.mark.parametrize("name", payloads.NAMES)


def taken_apart(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode("ascii").split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body


def events_of(request: bytes) -> list[dict[str, Any]]:
    _, headers, body = taken_apart(request)
    decoded = json.loads(gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body)
    assert decoded["api_key"] == "phc_bench"
    events: list[dict[str, Any]] = decoded.get("batch", [decoded])
    return events


@EVERY_NAME
def test_there_are_at_least_256_requests_and_all_events_differ(name: str) -> None:
    payload = payloads.build(name)
    assert len(payload.requests) >= 256
    uuids = {event["uuid"] for request in payload.requests for event in events_of(request)}
    assert len(uuids) == len(payload.requests) * payload.events


@EVERY_NAME
def test_the_same_seed_gives_the_same_requests(name: str) -> None:
    assert payloads.build(name, variants=5) == payloads.build(name, variants=5)
    assert payloads.build(name, variants=5, seed=2) != payloads.build(name, variants=5)


@pytest.mark.parametrize(
    ("name", "head_bytes", "headers", "body_bytes"),
    [
        pytest.param("A", (306, 318), 10, (350, 350), id="A"),
        pytest.param("B", (307, 319), 10, (1034, 1034), id="B"),
        pytest.param("C", (325, 345), 11, (10_500, 11_500), id="C"),
        pytest.param("F", (1330, 1345), 20, (350, 350), id="F"),
    ],
)
def test_heads_and_bodies_have_the_documented_sizes(
    name: str, head_bytes: tuple[int, int], headers: int, body_bytes: tuple[int, int]
) -> None:
    for request in payloads.build(name, variants=20).requests:
        _, found, body = taken_apart(request)
        assert len(found) == headers
        assert head_bytes[0] <= len(request) - len(body) <= head_bytes[1]
        assert body_bytes[0] <= len(body) <= body_bytes[1]


@EVERY_NAME
def test_content_length_is_the_length_of_the_body_and_host_is_the_one_given(name: str) -> None:
    for request in payloads.build(name, "edge.example:8000", variants=20).requests:
        line, headers, body = taken_apart(request)
        assert line.startswith("POST /")
        assert line.endswith(" HTTP/1.1")
        assert int(headers["Content-Length"]) == len(body)
        assert headers["Host"] == "edge.example:8000"


@EVERY_NAME
def test_every_event_has_name_identity_uuid_time_and_properties(name: str) -> None:
    payload = payloads.build(name, variants=20)
    for request in payload.requests:
        events = events_of(request)
        assert len(events) == payload.events
        for event in events:
            assert event["event"]
            assert event["distinct_id"]
            assert str(uuid.UUID(event["uuid"])) == event["uuid"]
            assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
            assert event["properties"]["$lib"]


def test_the_batch_is_50_events_in_25_kb_of_json() -> None:
    assert payloads.build("C", variants=1).events == 50
    for request in payloads.build("C", variants=20).requests:
        assert 24_500 <= len(gzip.decompress(taken_apart(request)[2])) <= 26_000


@pytest.mark.parametrize("name", ["B", "F"])
def test_browser_requests_are_text_with_an_origin(name: str) -> None:
    _, headers, _ = taken_apart(payloads.build(name, variants=1).requests[0])
    assert headers["Content-Type"] == "text/plain"
    assert headers["Origin"].startswith("https://")


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(KeyError):
        payloads.build("Z")
