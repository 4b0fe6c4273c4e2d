"""Requests and the Kafka messages they become, in the format PostHog's capture service is tested with (`requests_dump.jsonl`).

One JSON object a line, lines of `#` left out: `path`, `method`, `content_encoding`, `content_type`, `ip` (the client's),
`now` (when it was received), `body` (base64), `output` (the values of the messages), `historical_migration`. Every file in
`dumps/` is run.

The comparison is theirs: `data` is equal as JSON without the members only libraries know, times are equal as instants,
`site_url` is not written, an empty `sent_at` is left out. Values without `timestamp` are for consumers of before 2025.
"""

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from edge.drain.expand import expand
from edge.drain.messages import TOPICS, Messages
from edge.segment.record import RecordIds, decode_record
from edge.wire.capture import capture
from edge.wire.request import Limits, Request
from edge.wire.routes import find_route

DUMPS: Final = Path(__file__).parent / "dumps"
_LIBRARIES_OWN: Final = ("type", "library", "library_version")
_TIMES: Final = ("now", "sent_at", "timestamp")

CASES: Final = [
    pytest.param(json.loads(line), id=f"{path.name}-{number}")
    for path in sorted(DUMPS.glob("*.jsonl"))
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if line and not line.startswith("#")
]


def comparable(value: dict[str, Any]) -> dict[str, Any]:
    data = json.loads(value["data"])
    found = {key: member for key, member in value.items() if key != "site_url" and member != ""}
    found |= {name: datetime.fromisoformat(found[name]) for name in _TIMES if name in found}
    return found | {"data": {key: member for key, member in data.items() if key not in _LIBRARIES_OWN}}


@pytest.mark.parametrize("case", CASES)
def test_a_request_becomes_the_messages(case: dict[str, Any]) -> None:
    route, query = find_route(case["path"].encode())
    assert route is not None, case["path"]
    headers = {
        b"content-type": case["content_type"].encode(),
        b"content-encoding": case["content_encoding"].encode(),
    }
    received = datetime.fromisoformat(case["now"])
    received_us = round(received.timestamp() * 1_000_000)
    request = Request(
        case["method"],
        query,
        base64.b64decode(case["body"]),
        {name: value for name, value in headers.items() if value},
        case["ip"],
        received_us,
    )
    stored = capture(request, route, Limits(), RecordIds(1)).record
    expansion = expand(decode_record(stored))
    envelope = "2025" if any("timestamp" in value for value in case["output"]) else "2023"
    messages = [Messages(TOPICS, envelope).of(event) for event in expansion.events]
    assert [comparable(json.loads(message.value)) for message in messages] == [
        comparable(value) for value in case["output"]
    ]
    assert not expansion.dropped
    topic = TOPICS["historical" if case.get("historical_migration") else "main"]
    assert {message.topic for message in messages} == {topic}


def test_there_are_cases() -> None:
    assert len(CASES) >= 6
