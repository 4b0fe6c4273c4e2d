"""An event as the Kafka message PostHog's ingestion consumes: topic, key, value and headers.

    topic    by lane
    key      TOKEN:DISTINCT_ID; TOKEN:IP without cookies; the session of a replay; null for what overflows
    value    the `captured` shape of `shapes.py`
    headers  token, distinct_id, session_id (null when unknown), timestamp (Unix milliseconds), event, uuid, now,
             and only where true force_disable_person_processing and historical_migration

Consumers route, limit and count by the headers before they parse the value, so every message has them.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from edge.drain.event import Event
from edge.drain.shapes import captured_line, captured_line_2023
from edge.drain.timestamps import format_request_time

TOPICS: Final[dict[str, str]] = {
    "main": "events_plugin_ingestion",
    "overflow": "events_plugin_ingestion_overflow",
    "historical": "events_plugin_ingestion_historical",
    "ai": "events_plugin_ingestion",
    "exceptions": "exceptions_ingestion",
    "heatmaps": "heatmaps_ingestion",
    "warnings": "client_iwarnings_ingestion",
    "replay": "session_recording_snapshot_item_events",
}
"""Lane to topic. `overflow` is the part of `main` whose keys are spread over all partitions."""

ENVELOPES: Final[dict[str, Callable[[Event], bytes]]] = {"2025": captured_line, "2023": captured_line_2023}
"""The value by the year of the consumers that read it."""

Headers = dict[str, str | bytes | None]
"""In this order; the client library takes a dict in less time than pairs."""


class Message(msgspec.Struct, gc=False):
    topic: str
    key: bytes | None
    value: bytes
    headers: Headers


class Messages:
    """Makes messages. `topics` has every lane of `TOPICS`, `overflow` the tokens and TOKEN:DISTINCT_IDs that overflow."""

    def __init__(
        self, topics: Mapping[str, str], envelope: str = "2025", overflow: frozenset[str] = frozenset()
    ) -> None:
        assert topics.keys() == TOPICS.keys(), f"expected a topic for each of {', '.join(TOPICS)}"
        self._topics = dict(topics)
        self._value = ENVELOPES[envelope]
        self._overflow = overflow
        self.topics = frozenset(topic for lane, topic in topics.items() if lane != "overflow" or overflow)
        """All that a message may go to."""

    def of(self, event: Event) -> Message:
        """A pure function of the event, as everything that is shipped."""
        token, distinct_id, lane = event.token, event.distinct_id, event.lane
        headers: Headers = {
            "token": token,
            "distinct_id": distinct_id,
            # As bytes: text is cut at a NUL, which a session and a name may have.
            "session_id": event.session_id.encode() or None,
            "timestamp": str(event.timestamp_us // 1000),
            "event": event.event.encode(),
            "uuid": event.uuid,
            "now": format_request_time(event.received_us),
        }
        key: str | None
        if lane == "replay":
            key = event.session_id
        elif event.cookieless:
            key = f"{token}:{event.ip}"
        else:
            key = f"{token}:{distinct_id}"
        if (
            self._overflow
            and lane == "main"
            and (token in self._overflow or f"{token}:{distinct_id}" in self._overflow)
        ):
            # Without a key the events of one person meet in no consumer, so nobody may change the person.
            lane, key = "overflow", None
            headers["force_disable_person_processing"] = "true"
        if event.historical:
            headers["historical_migration"] = "true"
        return Message(self._topics[lane], None if key is None else key.encode(), self._value(event), headers)
