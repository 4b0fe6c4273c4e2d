"""Records of a client's JSON, and what they expand to."""

import json
from typing import Any

from edge.drain.event import Event, Expansion
from edge.drain.expand import expand
from edge.segment.record import Record

NOW = 1_751_367_600_123_456  # 2025-07-01T11:00:00.123456Z
NOW_TEXT = "2025-07-01T11:00:00.123456Z"
SENT_AT = "2023-09-15T09:15:02"  # 1694769302
NEW_YEAR = "2025-01-01T00:00:00Z"
UUID = "018a981f-4b35-7c66-825e-8b0eeae65714"


def record(data: object, path: str = "e", sent_at: str = "", record_id: str = "5c0d2e88b1f09a37-1f") -> Record:
    """`data` is JSON text, or a value to be written as such."""
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return Record(record_id, NOW, "phc_x", path, "203.0.113.7", data, sent_at)


def expanded(data: object, path: str = "e", sent_at: str = "") -> Expansion:
    return expand(record(data, path, sent_at))


def event_of(data: object, path: str = "e", sent_at: str = "") -> Event:
    """The only event."""
    expansion = expanded(data, path, sent_at)
    assert expansion.dropped == {}
    assert len(expansion.events) == 1
    return expansion.events[0]


def with_id(**members: Any) -> dict[str, Any]:
    return {"event": "e", "distinct_id": "u", **members}


def batch(**members: Any) -> dict[str, Any]:
    return {"batch": [with_id()], **members}


def with_properties(**properties: Any) -> dict[str, Any]:
    return with_id(properties=properties)
