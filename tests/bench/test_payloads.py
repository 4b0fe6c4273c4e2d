import base64
import gzip
import json
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bench import payloads
from edge.wire.lz import decompress_base64

EVERY_NAME = pytest.mark.parametrize("name", payloads.NAMES)
EVERY_KIND = pytest.mark.parametrize("name", [name for name in payloads.NAMES if name != "mix"])


def taken_apart(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode("ascii").split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body


def text_of(request: bytes) -> bytes:
    line, _, body = taken_apart(request)
    query = parse_qs(urlsplit(line.split()[1]).query)
    if "data" in query:
        return base64.b64decode(query["data"][0], validate=True)
    if query.get("compression") == ["lz64"]:
        return decompress_base64(body, 10**6)
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


def events_of(request: bytes) -> list[dict[str, Any]]:
    decoded = json.loads(text_of(request))
    assert decoded["api_key"] == "phc_bench"
    events: list[dict[str, Any]] = decoded.get("batch", [decoded])
    return events


@EVERY_NAME
def test_there_are_at_least_256_requests_and_all_events_differ(name: str) -> None:
    payload = payloads.build(name)
    assert len(payload.requests) >= 256
    uuids = {event["uuid"] for request in payload.requests for event in events_of(request)}
    assert len(uuids) == round(len(payload.requests) * payload.events)


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
        pytest.param("D", (821, 839), 10, (0, 0), id="D"),
        pytest.param("E", (306, 318), 10, (20_739, 20_739), id="E"),
        pytest.param("G", (316, 328), 10, (3_600, 3_950), id="G"),
        pytest.param("F", (1330, 1345), 20, (350, 350), id="F"),
        pytest.param("H", (625, 640), 17, (780, 840), id="H"),
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
        assert line.startswith(("POST /", "GET /"))
        assert line.endswith(" HTTP/1.1")
        assert int(headers.get("Content-Length", "0")) == len(body)
        assert ("Content-Length" in headers) == line.startswith("POST")
        assert headers["Host"] == "edge.example:8000"


@EVERY_KIND
def test_every_event_has_name_identity_uuid_time_and_properties(name: str) -> None:
    payload = payloads.build(name, variants=20)
    for request in payload.requests:
        events = events_of(request)
        assert len(events) == payload.events
        for event in events:
            assert event["event"]
            assert event.get("distinct_id") or event["properties"]["distinct_id"]
            assert str(uuid.UUID(event["uuid"])) == event["uuid"]
            assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
            assert event["properties"]["$lib"]


def test_todays_browser_library_does_not_say_that_it_is_gzip() -> None:
    for request in payloads.build("H", variants=20).requests:
        line, headers, body = taken_apart(request)
        assert line == "POST /i/v0/e/ HTTP/1.1"
        assert "Content-Encoding" not in headers
        assert 2_000 <= len(gzip.decompress(body)) <= 2_100
        assert all("distinct_id" not in event for event in events_of(request))


def test_the_batch_is_50_events_in_25_kb_of_json() -> None:
    assert payloads.build("C", variants=1).events == 50
    for request in payloads.build("C", variants=20).requests:
        assert 24_500 <= len(gzip.decompress(taken_apart(request)[2])) <= 26_000


@pytest.mark.parametrize("name", ["B", "F", "H"])
def test_browser_requests_are_text_with_an_origin(name: str) -> None:
    _, headers, _ = taken_apart(payloads.build(name, variants=1).requests[0])
    assert headers["Content-Type"] == "text/plain"
    assert headers["Origin"].startswith("https://")


@pytest.mark.parametrize(
    ("name", "events", "size"), [pytest.param("E", 20, 20_739, id="E"), pytest.param("G", 5, 5_100, id="G")]
)
def test_the_other_batches_are_so_many_events_in_so_many_bytes(name: str, events: int, size: int) -> None:
    payload = payloads.build(name, variants=3)
    assert payload.events == events
    assert {len(text_of(request)) for request in payload.requests} == {size}


def test_the_mix_holds_every_kind_by_its_share() -> None:
    mix = payloads.build("mix")
    kinds = {name: set(payloads.build(name, variants=share).requests) for name, share in payloads.MIX.items()}
    assert len(mix.requests) == sum(payloads.MIX.values()) == 1000
    for name, share in payloads.MIX.items():
        assert sum(request in kinds[name] for request in mix.requests) == share
    # By the thousand, one kind after the other would be another load.
    assert len({name for name in kinds if any(request in kinds[name] for request in mix.requests[:50])}) >= 4


def test_another_path_keeps_the_rest_of_the_request() -> None:
    payload = payloads.build("G", variants=2)
    moved = payloads.at_path(payload, "/capture")
    for before, after in zip(payload.requests, moved.requests, strict=True):
        assert after == before.replace(b"POST /batch/?", b"POST /capture?", 1)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(KeyError):
        payloads.build("Z")
