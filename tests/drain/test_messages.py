import json
from typing import Any

import pytest

from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.messages import ENVELOPES, TOPICS, Message, Messages
from edge.drain.shapes import captured_line, captured_line_2023
from edge.metrics import LANES
from edge.segment.record import RecordIds, decode_record, encode_record
from edge.wire.routes import V1_PATHS

NOW = 1_751_367_600_123_456
UUID = "018a981f-4b35-7c66-825e-8b0eeae65714"


def events(data: object, path: str = "e") -> list[Event]:
    stored = encode_record(RecordIds(7), NOW, "phc_x", path, "203.0.113.7", json.dumps(data).encode())
    return expand(decode_record(stored)).events


def message(data: object, path: str = "e", **settings: Any) -> Message:
    [event] = events(data, path)
    return Messages(TOPICS, **settings).of(event)


def snapshot(session: str) -> dict[str, Any]:
    return {"event": "$snapshot", "distinct_id": "u", "properties": {"$session_id": session, "$snapshot_data": [1]}}


def test_every_lane_has_a_topic() -> None:
    assert TOPICS.keys() == {*LANES, "overflow"}


def test_a_message_is_keyed_by_person_and_says_everything_in_its_headers() -> None:
    data = {"event": "$pageview", "distinct_id": "u1", "uuid": UUID, "timestamp": "2025-07-01T10:59:58.9999Z"}
    found = message(data)
    assert found.topic == "events_plugin_ingestion"
    assert found.key == b"phc_x:u1"
    assert found.value == captured_line(events(data)[0])
    assert list(found.headers.items()) == [
        ("token", "phc_x"),
        ("distinct_id", "u1"),
        ("session_id", None),
        ("timestamp", "1751367598999"),
        ("event", b"$pageview"),
        ("uuid", UUID),
        ("now", "2025-07-01T11:00:00.123456Z"),
    ]


@pytest.mark.parametrize(
    ("data", "path", "topic"),
    [
        ({"event": "e", "distinct_id": "u"}, "e", "events_plugin_ingestion"),
        ({"event": "$ai_span", "distinct_id": "u"}, "e", "events_plugin_ingestion"),
        ({"event": "$exception", "distinct_id": "u"}, "e", "exceptions_ingestion"),
        ({"event": "$$heatmap", "distinct_id": "u"}, "e", "heatmaps_ingestion"),
        ({"event": "$$client_ingestion_warning", "distinct_id": "u"}, "e", "client_iwarnings_ingestion"),
        (
            {"batch": [{"event": "e", "distinct_id": "u"}], "historical_migration": True},
            "batch",
            "events_plugin_ingestion_historical",
        ),
        (snapshot("s-1"), "s", "session_recording_snapshot_item_events"),
    ],
)
def test_the_lane_chooses_the_topic(data: object, path: str, topic: str) -> None:
    assert message(data, path).topic == topic


def test_without_cookies_the_key_is_the_address() -> None:
    found = message({"event": "e", "distinct_id": "u", "properties": {"$cookieless_mode": True}})
    assert found.key == b"phc_x:203.0.113.7"
    assert found.headers["distinct_id"] == "u"


def test_a_replay_is_keyed_by_its_session() -> None:
    found = message(snapshot("s-1"), "s")
    assert found.key == b"s-1"
    assert found.headers["session_id"] == b"s-1"
    assert found.headers["event"] == b"$snapshot_items"


def test_history_says_so_and_nothing_else_does() -> None:
    events = [{"event": name, "distinct_id": "u"} for name in ("e", "$exception")]
    for event in events:
        assert message({"batch": [event], "historical_migration": True}).headers["historical_migration"] == "true"
        assert "historical_migration" not in message({"batch": [event]}).headers


@pytest.mark.parametrize(("overflow", "spread"), [("phc_x", True), ("phc_x:u", True), ("phc_x:v", False), ("u", False)])
def test_what_overflows_has_no_key_and_leaves_persons_alone(overflow: str, spread: bool) -> None:
    found = message({"event": "e", "distinct_id": "u"}, overflow=frozenset({overflow}))
    assert (found.key is None) == spread
    assert (found.headers.get("force_disable_person_processing") == "true") == spread
    assert found.topic == ("events_plugin_ingestion_overflow" if spread else "events_plugin_ingestion")


@pytest.mark.parametrize("name", ["$exception", "$ai_span", "$$heatmap", "$$client_ingestion_warning"])
def test_only_the_main_lane_overflows(name: str) -> None:
    found = message({"event": name, "distinct_id": "u"}, overflow=frozenset({"phc_x"}))
    assert found.key == b"phc_x:u"
    assert "force_disable_person_processing" not in found.headers


def test_history_never_overflows() -> None:
    batch = {"batch": [{"event": "e", "distinct_id": "u"}], "historical_migration": True}
    assert message(batch, overflow=frozenset({"phc_x"})).key == b"phc_x:u"


def test_a_name_with_a_nul_is_whole_in_the_headers() -> None:
    assert message({"event": "a\0b", "distinct_id": "u"}).headers["event"] == b"a\0b"


def test_a_session_with_a_nul_is_whole_in_the_headers() -> None:
    event = {"event": "e", "distinct_id": "u", "uuid": UUID, "timestamp": "2025-07-01T10:59:58Z", "session_id": "a\0b"}
    stored = encode_record(
        RecordIds(7), NOW, "phc_x", V1_PATHS[0], "203.0.113.7", json.dumps({"batch": [event]}).encode()
    )
    [found] = expand(decode_record(stored)).events
    assert found.session_id == "a\0b"
    assert Messages(TOPICS).of(found).headers["session_id"] == b"a\0b"


def test_the_envelope_of_2023_is_chosen_by_its_year() -> None:
    data = {"event": "e", "distinct_id": "u", "uuid": UUID}
    assert ENVELOPES.keys() == {"2025", "2023"}
    assert message(data, envelope="2023").value == captured_line_2023(events(data)[0])


def test_the_topic_of_what_overflows_is_one_only_where_something_does() -> None:
    assert TOPICS["overflow"] not in Messages(TOPICS).topics
    assert Messages(TOPICS, overflow=frozenset({"phc_hot"})).topics == set(TOPICS.values())
