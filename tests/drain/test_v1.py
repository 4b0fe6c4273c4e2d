import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.event import Event, Expansion
from edge.drain.expand import expand
from edge.drain.shapes import captured_line, event_line
from edge.drain.timestamps import format_time
from edge.drain.v1 import read_v1
from edge.segment.record import Record, RecordIds, decode_record
from edge.wire.rejections import Rejected
from edge.wire.request import Limits, Request
from edge.wire.routes import ROUTES
from edge.wire.v1 import DROPS, capture_batch
from tests.wire.test_v1 import DROPPED, HEADERS, OTHER_UUID, TAKEN, UUID, batch, event

NOW = 1_751_367_600_123_456  # 2025-07-01T11:00:00.123456Z
ROUTE = ROUTES[b"/i/v1/analytics/events"]
LIBRARY = {"$lib": "posthog-rs", "$lib_version": "1.2.3"}


def record(body: bytes, sent_at: str = "2025-07-01T11:00:10.123456Z", library: str = "posthog-rs/1.2.3") -> Record:
    return Record("5c0d2e88b1f09a37-1f", NOW, "phc_x", ROUTE.name, "203.0.113.7", body, sent_at, library)


def expanded(*events: object, **members: Any) -> Expansion:
    return expand(record(batch(*events, **members)))


def event_of(told: object, **members: Any) -> Event:
    expansion = expanded(told, **members)
    assert expansion.dropped == {}
    assert len(expansion.events) == 1
    return expansion.events[0]


def properties(found: Event) -> dict[str, Any]:
    decoded = json.loads(found.body)["properties"]
    assert json.loads(bytes(found.members["properties"])) == decoded
    assert isinstance(decoded, dict)
    return decoded


def test_an_event_comes_out_as_by_the_other_routes() -> None:
    found = event_of(event(uuid=UUID.upper(), distinct_id=" u ", properties={"a": 1, "$set": {"b": 2}}))
    assert (found.uuid, found.event, found.distinct_id, found.lane) == (UUID, "e", "u", "main")
    assert (found.token, found.ip, found.received_us) == ("phc_x", "203.0.113.7", NOW)
    assert properties(found) == {"a": 1, "$set": {"b": 2}, **LIBRARY}
    assert list(json.loads(found.body)) == ["event", "uuid", "distinct_id", "timestamp", "properties"]
    flat = json.loads(event_line(found))
    assert (flat["distinct_id"], flat["properties"]) == ("u", {"a": 1, "$set": {"b": 2}, **LIBRARY})
    assert json.loads(json.loads(captured_line(found))["data"])["distinct_id"] == "u"


def test_the_clients_clock_is_corrected_by_the_requests_time_unless_the_event_says_not_to() -> None:
    assert format_time(event_of(event(timestamp="2025-07-01T10:00:00Z")).timestamp_us) == "2025-07-01T09:59:50Z"
    kept = event_of(event(timestamp="2025-07-01T10:00:00Z", options={"disable_skew_correction": "1"}))
    assert format_time(kept.timestamp_us) == "2025-07-01T10:00:00Z"
    assert properties(kept)["$ignore_sent_at"] is True


def test_the_age_of_the_older_protocol_is_no_time_here() -> None:
    assert event_of(event(offset=5000)).timestamp_us == event_of(event()).timestamp_us


def test_sessions_and_options_become_properties() -> None:
    options = {"cookieless_mode": 1, "process_person_profile": False, "product_tour_id": 7, "tomorrow": 1}
    found = event_of(event(session_id="s", window_id="w", options=options))
    assert properties(found) == {
        "$session_id": "s",
        "$window_id": "w",
        "$cookieless_mode": True,
        "$product_tour_id": "7",
        "$process_person_profile": False,
        **LIBRARY,
    }
    assert found.cookieless
    assert found.session_id == "s"
    assert event_of(event(session_id=7)).session_id == ""
    assert not {"options", "session_id", "window_id"} & found.members.keys()


def test_what_is_not_said_is_not_added() -> None:
    found = event_of(event(session_id=None, window_id=None, options={"cookieless_mode": None}, properties=None))
    assert properties(found) == LIBRARY
    assert not found.cookieless
    [bare] = expand(record(batch(event()), library="")).events
    assert properties(bare) == {}


def test_the_envelope_wins_over_properties_of_the_same_name_and_no_name_stands_twice() -> None:
    told = event(properties={"$lib": "mine", "a": [1], "$session_id": "old"}, session_id="new")
    found = event_of(told)
    assert properties(found) == {"a": [1], "$session_id": "new", **LIBRARY}
    assert found.body.count(b'"$lib"') == 1
    assert found.body.count(b'"$session_id"') == 1


def test_the_bytes_of_properties_are_kept() -> None:
    text = b'{ "n": 1.50, "n": 1e999, "big": 123456789012345678901234567890 }'
    body = batch(event(properties="X")).replace(b'"X"', text)
    [found] = expand(record(body)).events
    assert text.strip(b"{ }") in found.body


def test_an_id_that_stands_for_nobody_makes_no_person() -> None:
    found = event_of(event(distinct_id="Anonymous", options={"process_person_profile": True}))
    assert found.distinct_id == "Anonymous"
    assert properties(found)["$process_person_profile"] is False


def test_a_batch_may_be_historical_and_internal() -> None:
    found = event_of(event(), historical_migration=True, capture_internal=True)
    assert (found.historical, found.lane, found.ip) == (True, "historical", "127.0.0.1")
    ordinary = event_of(event(), historical_migration=False, capture_internal=False)
    assert (ordinary.historical, ordinary.lane, ordinary.ip) == (False, "main", "203.0.113.7")


LANES = {"$exception": "exceptions", "$ai_generation": "ai", "$$heatmap": "heatmaps"}


@pytest.mark.parametrize(("name", "lane"), LANES.items())
def test_the_name_chooses_the_lane(name: str, lane: str) -> None:
    assert event_of(event(event=name), historical_migration=True).lane == lane


@pytest.mark.parametrize(("told", "details"), DROPPED.values(), ids=DROPPED)
def test_what_the_client_was_told_is_dropped_is_counted_and_its_neighbour_delivered(told: object, details: str) -> None:
    expansion = expanded(told, event(uuid=OTHER_UUID))
    assert expansion.dropped == {DROPS[details]: 1}
    assert [found.uuid for found in expansion.events] == [OTHER_UUID]


@pytest.mark.parametrize("told", TAKEN.values(), ids=TAKEN)
def test_what_the_client_was_told_is_taken_is_delivered(told: object) -> None:
    assert [found.uuid for found in expanded(told).events] == [UUID]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["true", "1", " ", "\0", "\x1c"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
TIMES = st.datetimes().map(lambda time: time.isoformat() + "Z") | st.sampled_from(
    ["0000-02-29T23:59:60Z", "9999-12-31T23:59:59.999999999-23:59", "2026-03-19t14:30:00+00:00"]
)
OPTIONS = st.dictionaries(
    st.sampled_from(["cookieless_mode", "disable_skew_correction", "process_person_profile", "product_tour_id"]), JSON
)
EVENTS = st.fixed_dictionaries(
    {"event": JSON | st.just("e"), "distinct_id": JSON | st.just("u"), "timestamp": JSON | TIMES},
    optional={
        "properties": JSON | st.dictionaries(st.sampled_from(["$lib", "a", "$session_id"]), JSON),
        "options": JSON | OPTIONS,
        "session_id": JSON,
        "offset": JSON,
    },
)


@given(st.lists(EVENTS, min_size=1, max_size=4), st.booleans(), st.text(max_size=8))
def test_told_and_delivered_agree_for_any_event(events: list[dict[str, Any]], internal: bool, library: str) -> None:
    """The truth of the answer: what is `ok` or `warning` comes out, and nothing else; twice the same."""
    for index, told in enumerate(events):
        told["uuid"] = f"{index:032x}"
    headers = {**HEADERS, b"posthog-sdk-info": b"posthog-rs/1", b"user-agent": library.encode()}
    request = Request("POST", b"", batch(*events, capture_internal=internal), headers, "203.0.113.7", NOW)
    try:
        found = capture_batch(request, ROUTE, Limits(1_000_000), RecordIds(1))
    except Rejected as rejected:
        pytest.fail(f"{rejected.reason}: {rejected.detail}")
    results = json.loads(found.body)["results"]
    expansion = expand(decode_record(found.record))
    delivered = {each.uuid.replace("-", "") for each in expansion.events}
    assert delivered == {uuid for uuid, told in results.items() if told["result"] != "drop"}
    assert sum(expansion.dropped.values()) == len(events) - len(delivered)
    again = expand(decode_record(found.record))
    assert [each.body for each in again.events] == [each.body for each in expansion.events]
    for each in expansion.events:
        json.loads(event_line(each))
        json.loads(captured_line(each))


def test_a_record_that_was_damaged_is_counted() -> None:
    assert expand(record(b'{"batch":[{]}')).dropped == {"unreadable": 1}
    assert expand(record(b'{"batch":7}')).dropped == {"unreadable": 1}
    assert expand(record(b'{"batch":["\xff"]}')).dropped == {"unreadable": 1}


def test_nothing_of_the_record_is_changed() -> None:
    body = batch(event())
    read_v1(record(body))
    assert read_v1(record(body)).objects[0][0] == read_v1(record(body)).objects[0][0]
