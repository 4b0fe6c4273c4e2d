import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.drain.common import read_event, read_outermost
from edge.drain.expand import expand
from tests.drain.expanding import (
    NOW_TEXT,
    UUID,
    expanded,
    record,
    with_properties,
)

ODD: st.SearchStrategy[object] = st.sampled_from(
    [None, True, 0, 1.5, -3, "", " ", "u", "x" * 201, "a\0b", "null", [], {}, {"a": 1}, "$ai_x", "$performance_event"]
)
TIMES: st.SearchStrategy[object] = st.sampled_from(
    [
        *(
            "2025-07-01T10:59:58.123Z",
            "2025-07-01T10:59:58Z",
            "2025-07-01T10:59:58.123456+00:00",
            "2025-07-01T10:59:58",
        ),
        *(
            "2025-07-01T10:59:58.123456Z",
            "2025-07-01T10:59:58.123+00:00",
            "2025-07-01T10:59:58.12Z",
            "2025-07-01 10:59:58",
        ),
        *(
            "2025-07-01T12:59:58.123+02:00",
            "2025-07-01T10:59:60.123Z",
            "2025-06-31T10:59:58.123Z",
            "9999-01-01T00:00:00.000Z",
        ),
        *("1751367598", 1751367598, "2025-07-01T10:59:58.\u0661\u0662\u0663Z", "yesterday", ""),
    ]
)
UUIDS: st.SearchStrategy[object] = st.sampled_from(
    [
        *(UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", "", None, "no uuid", 7),
        *(
            UUID[:-1],
            UUID + "0",
            UUID[:-1] + "g",
            UUID[:-1] + "\u0661",
            "0" + UUID[:7] + UUID[8:],
            UUID.replace("8-", "-8"),
        ),
    ]
)
JUDGED: st.SearchStrategy[object] = st.dictionaries(
    st.sampled_from(
        [
            "distinct_id",
            "$ignore_sent_at",
            "$cookieless_mode",
            "capture_internal",
            "$process_person_profile",
            "time",
            "a",
        ]
    ),
    ODD | st.just(False),
    max_size=3,
)
MEMBERS = {
    "event": ODD,
    "distinct_id": ODD,
    "timestamp": TIMES,
    "uuid": UUIDS,
    "properties": JUDGED | ODD,
    "offset": ODD,
    "sent_at": TIMES,
    "sentAt": TIMES,
    "batch": ODD,
    "$distinct_id": ODD,
    "$process_person_profile": ODD | st.just(False),
    "$set": ODD,
}
COMMON = with_properties(a=1) | {"uuid": UUID, "timestamp": "2025-07-01T10:59:58.123Z"}
BROWSERS = {"uuid": UUID, "event": "$pageview", "properties": {"token": "phc_x", "distinct_id": "u"}, "offset": 1250}
EVENTS = st.fixed_dictionaries({}, optional=MEMBERS) | st.one_of(
    [
        st.builds(lambda value, name=name, event=event: event | {name: value}, odd)
        for name, odd in MEMBERS.items()
        for event in (COMMON, BROWSERS)
    ]
)
"""Odd in everything, or in one member."""
SHARED = {
    "historical_migration": st.sampled_from([True, "true", False, None, "x", 1]),
    "sent_at": TIMES,
    "sentAt": TIMES,
}
WRAPPERS = st.builds(
    lambda events, shared, odd: {"api_key": "phc_x", "batch": events} | odd | shared,
    st.lists(EVENTS | st.just(BROWSERS), max_size=3),
    st.fixed_dictionaries({}, optional=SHARED),
    st.just({}) | st.fixed_dictionaries({}, optional=MEMBERS),
)


@settings(max_examples=1000)
@given(
    EVENTS | st.lists(EVENTS, max_size=3) | WRAPPERS,
    st.sampled_from(["e", "capture", "batch", "track", "engage"]),
    st.sampled_from(["", "1751367600000", "1751367590", "2025-07-01T11:00:10Z", "x"]),
)
def test_a_common_event_becomes_what_any_event_would(data: object, path: str, sent_at: str) -> None:
    found, expected = expanded(data, path, sent_at), expanded(uncommon(data), path, sent_at)
    assert (found.dropped, found.merged, found.mended) == (expected.dropped, expected.merged, expected.mended)
    for one, other in zip(found.events, expected.events, strict=True):
        assert json.loads(one.body) | {MARK: None} == json.loads(other.body) | {MARK: None}
        # What differs is compared above.
        one.body = other.body = b""
        one.taken_apart = other.taken_apart = None
    assert found.events == expected.events


MARK = "$process_person_profile"
"""A member that means nothing as null, and is looked at."""


def uncommon(data: object) -> object:
    """The same for everybody, but no event in it is common, and no wrapper either."""
    if isinstance(data, list):
        return [marked(event) for event in data]
    assert isinstance(data, dict)
    events = data.get("batch")
    # In a wrapper this member means nothing, and numbers are not what it has in an event.
    return data | {"uuid": 7, "batch": uncommon(events)} if isinstance(events, list) else marked(data)


def marked(event: dict[str, object]) -> dict[str, object]:
    return event if event.get(MARK) is not None else event | {MARK: None}


@pytest.mark.parametrize("properties", [{"a": 1, "nested": {"b": [2]}}, {"distinct_id": "of the browser"}])
@pytest.mark.parametrize("when", [{"timestamp": "2025-07-01T10:59:58.123Z"}, {"offset": 1250.5}, {}])
def test_most_events_are_common(properties: dict[str, object], when: dict[str, object]) -> None:
    ids = {} if "distinct_id" in properties else {"distinct_id": "u"}
    event = {"event": "e", "uuid": UUID, "properties": properties, **ids, **when}
    one = record(event)
    assert read_event(one.data, 0, one, None, False) == expand(one).events[0]
    assert read_event(json.dumps(uncommon(event)).encode(), 0, one, None, False) is None


def test_a_wrapper_is_read_once() -> None:
    found = read_outermost(json.dumps({"api_key": "phc_x", "batch": [COMMON, BROWSERS], "sent_at": NOW_TEXT}).encode())
    assert found is not None
    assert found.batch is not None
    assert [json.loads(bytes(event)) for event in found.batch] == [COMMON, BROWSERS]
