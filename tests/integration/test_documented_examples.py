"""Every example of the protocol's public documentation, pasted as it stands: what is answered and what is delivered.

The whole table is sent to one edge, which is then stopped, so that what an example delivers is complete when it is looked at.
A row's events are told by its project key, which takes the place of `<ph_project_api_key>` in the body.
"""

import gzip
import json
import re
import socket
import time
from collections import Counter
from datetime import timedelta
from typing import Any, Final

import msgspec
import pytest

from tests.integration.edge_process import Answer, EdgeProcess, Event
from tests.integration.examples import EXAMPLES, KEY, Example
from tests.integration.sdk import instant

SUCCESS: Final = b'{"status":1}'
ORIGIN: Final = "https://shop.example"


class Sent(msgspec.Struct, frozen=True):
    answer: Answer
    delivered: list[Event]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sent]:
    """What became of each example, by id."""
    with EdgeProcess(tmp_path_factory.mktemp("examples")) as edge:
        edge.start()
        answers = {}
        for number, example in enumerate(EXAMPLES):
            body = example.body.replace(KEY, f"phc_{number}").encode()
            answers[example.id] = edge.request("POST", example.path, body, {"Content-Type": "application/json"})
        events = edge.events_when_stopped(sum(len(example.delivered) for example in EXAMPLES), within_s=5)
    by_token: dict[str, list[Event]] = {}
    for found in events:
        by_token.setdefault(found["token"], []).append(found)
    return {
        example.id: Sent(answers[example.id], by_token.get(f"phc_{number}", []))
        for number, example in enumerate(EXAMPLES)
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_an_example_is_accepted_and_delivered(sent: dict[str, Sent], example: Example) -> None:
    answer, delivered = sent[example.id].answer, sent[example.id].delivered
    # Mixpanel's libraries know that path, and take nothing but this.
    assert (answer.status, answer.body) == (200, b"1" if example.path == "/track" else SUCCESS)
    assert answer.headers["content-type"] == "application/json"
    assert [_comparable(found, expected) for found, expected in zip(delivered, example.delivered, strict=True)] == list(
        example.delivered
    )
    assert len({found["uuid"] for found in delivered}) == len(delivered)


def _comparable(found: Event, expected: dict[str, Any]) -> Event:
    """Without what the edge made up, and with the key of the row turned back."""
    rest = {key: value for key, value in found.items() if key not in ("uuid", "token", "ip", "now")}
    assert found["ip"] == "127.0.0.1"
    if "timestamp" not in expected:
        assert rest.pop("timestamp") == found["now"]
    return json.loads(json.dumps(rest).replace(found["token"], KEY))  # type: ignore[no-any-return]


def test_the_time_sent_corrects_the_clock_of_the_client(edge: EdgeProcess) -> None:
    """A client whose clock is a day ahead: the event was ten seconds old when it was sent, and is so when delivered."""
    ahead = time.time() + 86_400
    body = {
        "api_key": "phc_skew",
        "sent_at": _utc(ahead),
        "batch": [{"event": "e", "distinct_id": "u", "timestamp": _utc(ahead - 10)}],
    }
    assert edge.request("POST", "/batch/", json.dumps(body).encode()).status == 200
    [found] = edge.wait_for_events(1, within_s=5)
    assert instant(found["timestamp"]) == instant(found["now"]) - timedelta(seconds=10)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_what_is_not_delivered_is_counted_by_reason(edge: EdgeProcess) -> None:
    body = b"""{"api_key": "phc_dropped", "batch": [
        {"event": "kept first", "distinct_id": "u"},
        {"distinct_id": "u"},
        {"event": "", "distinct_id": "u"},
        {"event": "no id"},
        {"event": "empty id", "distinct_id": ""},
        {"event": "empty id inside", "properties": {"distinct_id": ""}},
        {"event": "kept last", "distinct_id": "u"}
    ]}"""
    answer = edge.request("POST", "/batch/", body)
    assert (answer.status, answer.body) == (200, SUCCESS)
    events = edge.wait_for_events(2, within_s=5)
    assert [found["event"] for found in events] == ["kept first", "kept last"]
    edge.wait_for_sample('capture_events_dropped_total{cause="no_event_name"} 2', within_s=5)
    edge.wait_for_sample('capture_events_dropped_total{cause="no_distinct_id"} 3', within_s=5)
    edge.stop()
    [sink] = edge.status()["sinks"]
    assert (sink["shipped"], sink["dropped"]) == (2, {"no_event_name": 2, "no_distinct_id": 3})
    assert Counter(found["event"] for found in edge.events()) == {"kept first": 1, "kept last": 1}


def test_the_published_sample_without_a_comma_is_refused_where_it_breaks(edge: EdgeProcess) -> None:
    body = """{
    "api_key": "<ph_project_api_key>",
    "event": "$groupidentify",
    "properties": {
        "distinct_id": "static string used for all group events",
        "$group_type": "<group_type>",
        "$group_key": "<company name>",
        "$group_set": {
            "name": "<company_name>",
            "subscription": "premium"
            "date_joined": "2020-01-23T00:00:00.000Z"
        }
    }
}"""
    answer = edge.request("POST", "/capture/", body.encode(), {"Content-Type": "application/json", "Origin": ORIGIN})
    assert answer.status == 400
    error = json.loads(answer.body)
    assert list(error) == ["type", "code", "detail", "attr"]
    assert (error["type"], error["code"], error["attr"]) == ("validation_error", "invalid_payload", None)
    assert re.search(r"\bline 11 column 13\b", error["detail"]), error["detail"]
    assert '"date_joined"' in error["detail"]
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/i/v0/e/", b'{"event": "event name", "distinct_id": "user distinct id"}'),
        ("/batch/", b'{"batch": [{"event": "event name", "distinct_id": "user distinct id"}]}'),
        ("/i/v0/e/", gzip.compress(b'{"event": "event name", "distinct_id": "user distinct id"}')),
    ],
    ids=["single", "batch", "gzip"],
)
def test_a_request_without_a_key_is_refused_in_the_documented_form(edge: EdgeProcess, path: str, body: bytes) -> None:
    answer = edge.request("POST", path, body, {"Content-Type": "application/json"})
    assert answer.status == 401
    assert answer.body == (
        b'{"type":"authentication_error","code":"missing_api_key","detail":"API key not provided. '
        b'You can find your project API key in PostHog project settings.","attr":null}'
    )
    assert answer.headers["content-type"] == "application/json"


def test_a_body_beyond_the_limit_is_refused_and_the_connection_serves_the_next_request(edge: EdgeProcess) -> None:
    filler = b"x" * (25 * 1024 * 1024)
    small = b'{"api_key": "phc_after", "event": "after", "distinct_id": "u"}'
    with socket.create_connection((edge.host, edge.port), timeout=30) as connection:
        connection.sendall(_post("/batch/", len(filler)))
        connection.sendall(filler)
        status, headers, body = _read_answer(connection)
        assert status == 413
        error = json.loads(body)
        assert list(error) == ["type", "code", "detail", "attr"]
        assert (error["type"], error["code"], error["attr"]) == ("client_error", "request_too_large", None)
        assert error["detail"].startswith("Request too large.")
        assert headers["access-control-allow-origin"] == ORIGIN
        assert headers["access-control-allow-credentials"] == "true"
        assert "retry-after" not in headers
        connection.sendall(_post("/batch/", len(small)) + small)
        assert _read_answer(connection)[::2] == (200, SUCCESS)
    [found] = edge.wait_for_events(1, within_s=5)
    assert found["event"] == "after"


def _post(path: str, content_length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: edge\r\nOrigin: {ORIGIN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {content_length}\r\n\r\n"
    ).encode()


def _read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += (piece := connection.recv(65536))
        assert piece, f"the connection was closed after {data!r}"
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += (piece := connection.recv(65536))
        assert piece, "the connection was closed in the middle of an answer"
    return int(status_line.split()[1]), headers, body
