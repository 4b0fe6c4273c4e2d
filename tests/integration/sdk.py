"""What a test of any client library asks of the delivered events."""

from collections import Counter
from datetime import datetime
from typing import Any, Final

from tests.integration.edge_process import Event

TEXT: Final = 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back'
NESTED: Final = [1, 2.5, None, True, {"deep": [["x"], {}]}]
HALF_AN_EMOJI: Final = "cut \ud83e here"
"""JavaScript sends it, nothing downstream could read it."""
MENDED: Final = "cut \ufffd here"


def by_name(events: list[Event], name: str) -> Event:
    """The only event of that name."""
    found = [event for event in events if event["event"] == name]
    assert len(found) == 1, f"expected {name!r} once, found it {len(found)} times"
    return found[0]


def assert_each_once(events: list[Event]) -> None:
    twice = [uuid for uuid, count in Counter(event["uuid"] for event in events).items() if count > 1]
    assert not twice, f"delivered more than once: {twice}"


def assert_contains(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every member of `expected` is in `found` with an equal value; objects may hold more than expected at the top level."""
    assert {key: found.get(key, "absent") for key in expected} == expected


def instant(text: str) -> datetime:
    """An RFC 3339 time with a zone."""
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo is not None, f"expected a zone, found {text}"
    return parsed


def corrected(event: Event, client_time: datetime) -> datetime:
    """The time an event is to have by the edge's clock: the client's, less what the client's clock was ahead."""
    return client_time + (instant(event["now"]) - instant(event["sent_at"]))


def assert_within(event: Event, earliest_s: float, latest_s: float, tolerance_s: float = 2.0) -> None:
    """The event's time lies between two Unix times."""
    seconds = instant(event["timestamp"]).timestamp()
    assert earliest_s - tolerance_s <= seconds <= latest_s + tolerance_s, f"{event['event']}: {event['timestamp']}"
