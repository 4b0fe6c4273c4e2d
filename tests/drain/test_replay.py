import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.event import Event, Expansion
from edge.drain.expand import expand
from edge.drain.replay import assemble, decode_snapshot, read_items, read_session_id
from edge.drain.timestamps import format_time
from edge.segment.record import Record

NOW = 1_751_367_600_123_456
SESSION = "018a981f-4b35-7c66-825e-8b0eeae65714"


def properties(**others: Any) -> dict[str, Any]:
    return {"$session_id": SESSION, "distinct_id": "u", "$snapshot_data": [{"type": 2}], **others}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in properties().items() if name != key}


def snapshot(**others: Any) -> dict[str, Any]:
    return {"event": "$snapshot", "properties": properties(**others)}


def expanded(data: object, sent_at: str = "", user_agent: str = "") -> Expansion:
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return expand(Record("5c0d2e88b1f09a37-1f", NOW, "phc_x", "s", "203.0.113.7", data, sent_at, user_agent))


def replay_of(data: object, sent_at: str = "", user_agent: str = "") -> Event:
    expansion = expanded(data, sent_at, user_agent)
    assert expansion.dropped == {}
    assert len(expansion.events) == 1
    return expansion.events[0]


def shipped(event: Event) -> dict[str, Any]:
    """The properties of the assembled event, which its two forms agree on."""
    body = json.loads(event.body)
    assert body["event"] == "$snapshot_items"
    assert {name: json.loads(bytes(raw)) for name, raw in event.members.items()} == body
    assert isinstance(body["properties"], dict)
    return body["properties"]


def test_a_request_becomes_one_event() -> None:
    first = snapshot(**{"$window_id": "w", "$lib": "web", "$snapshot_data": [{"type": 4}, {"type": 2}]})
    second = snapshot(**{"$window_id": "other", "$snapshot_data": {"type": 3}})
    third = snapshot(**{"$snapshot_data": []})
    event = replay_of([first, second, third])
    assert (event.event, event.lane, event.session_id, event.distinct_id) == ("$snapshot_items", "replay", SESSION, "u")
    assert (event.token, event.ip, event.received_us, event.historical) == ("phc_x", "203.0.113.7", NOW, False)
    assert shipped(event) == {
        "distinct_id": "u",
        "$session_id": SESSION,
        "$window_id": "w",
        "$snapshot_source": "web",
        "$snapshot_items": [{"type": 4}, {"type": 2}, {"type": 3}],
        "$lib": "web",
    }


def test_snapshot_bytes_are_copied() -> None:
    data = b'[ {"type":3 , "n":1e999,"big":123456789012345678901234567890,"n":0}, "\\u00e9" ]'
    text = b'{"properties":{"$session_id":"s","distinct_id":"u","$snapshot_data":%b}}' % data
    event = replay_of(b"[%b,%b]" % (text, text))
    assert b'"$snapshot_items":[%b,%b]' % (data[1:-1].strip(), data[1:-1].strip()) in event.body


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda event: event, id="single"),
        pytest.param(lambda event: [event], id="list"),
        pytest.param(lambda event: {"batch": [event], "api_key": "phc_x", "historical_migration": True}, id="batch"),
    ],
)
def test_every_shape_is_taken_and_none_is_historical(wrap: Any) -> None:
    event = replay_of(wrap(snapshot()))
    assert shipped(event)["$snapshot_items"] == [{"type": 2}]
    assert (event.historical, event.lane) == (False, "replay")


@pytest.mark.parametrize(
    ("others", "user_agent", "key", "expected"),
    [
        pytest.param({}, "", "$window_id", SESSION, id="window defaults to the session"),
        pytest.param({"$window_id": None}, "", "$window_id", SESSION, id="window null"),
        pytest.param({"$window_id": 7}, "", "$window_id", SESSION, id="window no string"),
        pytest.param({"$window_id": "w"}, "", "$window_id", "w", id="window given"),
        pytest.param({}, "", "$snapshot_source", "web", id="source default"),
        pytest.param({"$snapshot_source": "mobile"}, "", "$snapshot_source", "mobile", id="source mobile"),
        pytest.param({"$snapshot_source": "toaster"}, "", "$snapshot_source", "web", id="source unknown"),
        pytest.param({"$lib": "posthog-ios"}, "posthog-android/3.1", "$lib", "posthog-ios", id="lib given"),
        pytest.param({}, "posthog-android/3.1", "$lib", "posthog-android", id="lib of the user agent"),
        pytest.param({}, "posthog-flutter", "$lib", "posthog-flutter", id="lib of a user agent without version"),
        pytest.param({"$lib": ""}, "Mozilla/5.0 posthog/1", "$lib", "web", id="posthog after the slash"),
        pytest.param({"$lib": None}, "", "$lib", "web", id="lib default"),
    ],
)
def test_the_first_event_says_where_it_comes_from(
    others: dict[str, object], user_agent: str, key: str, expected: str
) -> None:
    other = snapshot(**{"$window_id": "x", "$snapshot_source": "mobile", "$lib": "x"})
    other["properties"]["$snapshot_source"] = "web" if expected == "mobile" else "mobile"
    assert shipped(replay_of([snapshot(**others), other], user_agent=user_agent))[key] == expected


def test_identity_and_time_are_the_first_events() -> None:
    first = snapshot(**{"$cookieless_mode": True}) | {
        "distinct_id": "top",
        "uuid": "018A981F4B357C66825E8B0EEAE65714",
        "timestamp": "2025-07-01T10:59:58Z",
    }
    event = replay_of([first, snapshot() | {"uuid": SESSION, "timestamp": "2020-01-01"}])
    assert event.uuid == "018a981f-4b35-7c66-825e-8b0eeae65714"
    assert format_time(event.timestamp_us) == "2025-07-01T10:59:58Z"
    assert event.distinct_id == shipped(event)["distinct_id"] == "top"
    assert event.cookieless is True


def test_distinct_id_is_cut_and_made_text() -> None:
    event = replay_of(snapshot() | {"distinct_id": {"b": "x" * 300, "a": "\0"}})
    assert event.distinct_id == shipped(event)["distinct_id"] == ('{"a":"\\u0000","b":"' + "x" * 300)[:200]


@pytest.mark.parametrize(
    ("data", "sent_at", "expected"),
    [
        pytest.param(
            [snapshot() | {"sent_at": "2025-01-01T00:00:00Z"}, snapshot()], "1694769302", 2025, id="first event"
        ),
        pytest.param([snapshot(), snapshot() | {"sent_at": "2025-01-01T00:00:00Z"}], "1694769302", 2023, id="request"),
        pytest.param(
            {"sent_at": "2024-01-01", "batch": [snapshot() | {"sent_at": "2025-01-01"}]}, "", 2024, id="wrapper"
        ),
        pytest.param(
            {"sent_at": "1970-01-01", "batch": [snapshot() | {"sent_at": "2025-01-01"}]}, "", 1970, id="epoch"
        ),
    ],
)
def test_sent_at_is_the_wrappers_then_the_first_events_then_the_requests(
    data: object, sent_at: str, expected: int
) -> None:
    sent_at_us = replay_of(data, sent_at).sent_at_us
    assert sent_at_us is not None
    assert format_time(sent_at_us).startswith(str(expected))


def test_a_made_uuid_is_that_of_the_first_event() -> None:
    uuid = replay_of([snapshot(), snapshot()]).uuid
    assert uuid == replay_of(snapshot()).uuid
    assert uuid[14] == "7"


NOBODYS = [
    pytest.param({"properties": without("$session_id")}, "no_session_id", id="no session"),
    pytest.param(snapshot(**{"$session_id": None}), "no_session_id", id="session null"),
    pytest.param(snapshot(**{"$session_id": ""}), "no_session_id", id="session empty"),
    pytest.param(snapshot(**{"$session_id": 7}), "invalid_session_id", id="session a number"),
    pytest.param(snapshot(**{"$session_id": "a_b"}), "invalid_session_id", id="session with an underscore"),
    pytest.param(snapshot(**{"$session_id": "a\n"}), "invalid_session_id", id="session with a line break"),
    pytest.param(snapshot(**{"$session_id": "é"}), "invalid_session_id", id="session not ascii"),
    pytest.param(snapshot(**{"$session_id": "x" * 71}), "invalid_session_id", id="session of 71"),
    pytest.param({"properties": without("distinct_id")}, "no_distinct_id", id="nobody"),
]
UNREADABLE = [
    pytest.param({"properties": without("$snapshot_data")}, "no_snapshot_data", id="no data"),
    pytest.param(snapshot(**{"$snapshot_data": None}), "no_snapshot_data", id="data null"),
    pytest.param(snapshot(**{"$snapshot_data": "x"}), "no_snapshot_data", id="data a string"),
    pytest.param({"event": "$pageview", "distinct_id": "u", "properties": {}}, "no_snapshot_data", id="other event"),
    pytest.param({"event": "$pageview", "distinct_id": "u"}, "no_snapshot_data", id="no properties"),
    pytest.param({"event": "$pageview", "properties": None}, "no_snapshot_data", id="properties null"),
    pytest.param({"event": "$snapshot", "properties": []}, "invalid_properties", id="properties a list"),
    pytest.param({"event": "$pageview", "properties": 1}, "invalid_properties", id="properties a number"),
    pytest.param("x", "not_an_object", id="string"),
    pytest.param(None, "not_an_object", id="null"),
]


@pytest.mark.parametrize(("unfit", "reason"), NOBODYS + UNREADABLE)
def test_alone_it_is_dropped_by_its_cause(unfit: object, reason: str) -> None:
    assert expanded([unfit]) == Expansion([], {reason: 1})


@pytest.mark.parametrize(("unfit", "reason"), UNREADABLE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_snapshot_is_dropped_alone(unfit: object, reason: str, place: int) -> None:
    sent: list[object] = [snapshot(**{"$window_id": "w"}), snapshot(**{"$window_id": "x"})]
    found = expanded([*sent[:place], unfit, *sent[place:]])
    assert (found.dropped, found.merged) == ({reason: 1}, 1)
    [event] = found.events
    assert shipped(event)["$snapshot_items"] == [{"type": 2}] * 2
    assert shipped(event)["$window_id"] == "w"


@pytest.mark.parametrize(("unfit", "reason"), NOBODYS)
@pytest.mark.parametrize("place", [0, 1])
def test_another_snapshot_says_whose_it_is(unfit: dict[str, Any], reason: str, place: int) -> None:
    unfit = {**unfit, "properties": {**unfit["properties"], "$snapshot_data": [{"type": place}], "$window_id": "x"}}
    sent = [snapshot(**{"$window_id": "w"})]
    sent.insert(place, unfit)
    found = expanded(sent)
    assert (found.dropped, found.merged) == ({}, 1), reason
    [event] = found.events
    assert shipped(event)["$snapshot_items"] == [each["properties"]["$snapshot_data"][0] for each in sent]
    assert (event.session_id, event.distinct_id, shipped(event)["$window_id"]) == (SESSION, "u", "w")


def test_where_no_snapshot_says_whose_it_is_each_is_dropped_by_its_own_cause() -> None:
    unfit = [{"properties": without("$session_id")}, None, {"properties": without("$snapshot_data")}, None]
    assert expanded(unfit) == Expansion([], {"no_session_id": 1, "not_an_object": 2, "no_snapshot_data": 1})


def test_a_session_id_of_70_is_taken() -> None:
    assert replay_of(snapshot(**{"$session_id": "x" * 70})).session_id == "x" * 70


def test_an_empty_list_is_nothing() -> None:
    assert expanded([]) == Expansion([], {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.lists(json_values) | st.dictionaries(st.text(), json_values), min_size=1), st.text(), st.text())
def test_items_are_all_snapshots_in_order(datas: list[Any], distinct_id: str, user_agent: str) -> None:
    snapshots = [
        decode_snapshot(json.dumps({"$session_id": "s", "$snapshot_data": data}, ensure_ascii=bool(n % 2)).encode())
        for n, data in enumerate(datas)
    ]
    items = [read_items(each) for each in snapshots]
    read = json.loads(assemble(snapshots[0], read_session_id(snapshots[0]), items, distinct_id, user_agent))
    assert read["$snapshot_items"] == [item for data in datas for item in (data if isinstance(data, list) else [data])]
    assert read["distinct_id"] == distinct_id
