import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.expand import expand
from edge.drain.shapes import COLUMNS, SHAPES, captured_line_2023, row_line
from edge.segment.record import Record, RecordIds, decode_record, encode_record

NOW = 1_751_367_600_123_456
UUID = "018a981f-4b35-7c66-825e-8b0eeae65714"
ENVELOPE = frozenset(
    (
        *("uuid", "event", "distinct_id", "timestamp", "token", "ip"),
        *("now", "sent_at", "lane", "historical_migration", "properties"),
    )
)
OTHER_SPELLINGS = frozenset(("$distinct_id", "$token", "api_key", "offset", "sentAt", "batch"))


def lines(data: object, shape: str, path: str = "e", sent_at: str = "") -> list[bytes]:
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    stored = encode_record(RecordIds(0x5C0D2E88B1F09A37), NOW, "phc_x", path, "203.0.113.7", data, sent_at)
    return [SHAPES[shape](event) for event in expand(decode_record(stored)).events]


def line(data: object, shape: str, path: str = "e", sent_at: str = "") -> bytes:
    only = lines(data, shape, path, sent_at)
    assert len(only) == 1
    return only[0]


def test_flat_event_is_the_envelope_then_the_clients_members_in_its_own_bytes() -> None:
    text = (
        b'{"event":"$pageview","distinct_id":"u1","uuid":"%b","timestamp":"2025-07-01T10:59:58Z",'
        b'"properties":{ "b":1e999,"a":123456789012345678901,"b":0 },"$set": {"x":1},"context":[1, 2],"\\u00e9":null}'
    ) % UUID.encode()
    assert (
        line(text, "event", sent_at="1751367600000")
        == (
            b'{"uuid":"%b","event":"$pageview","distinct_id":"u1","timestamp":"2025-07-01T10:59:58.123456Z",'
            b'"token":"phc_x","ip":"203.0.113.7","now":"2025-07-01T11:00:00.123456Z","sent_at":"2025-07-01T11:00:00Z",'
            b'"lane":"main","properties":{ "b":1e999,"a":123456789012345678901,"b":0 },'
            b'"$set":{"x":1},"context":[1, 2],"\xc3\xa9":null}'
        )
        % UUID.encode()
    )


def test_captured_event_is_the_message_ingestion_reads() -> None:
    text = (
        b'{"event":"$pageview","distinct_id":"u1","uuid":"%b","properties":{"t":"\xe2\x82\xac \\"q\\" \\n"},'
        b'"timestamp":"2025-07-01T10:59:58.123456Z"}' % UUID.encode()
    )
    captured = line(text, "captured", sent_at="2025-07-01T11:00:00.123456Z")
    assert captured == b"".join(
        (
            b'{"uuid":"%b","distinct_id":"u1","ip":"203.0.113.7","data":' % UUID.encode(),
            json.dumps(text.decode(), ensure_ascii=False).encode(),
            b',"now":"2025-07-01T11:00:00.123456Z","sent_at":"2025-07-01T11:00:00.123456Z","token":"phc_x",',
            b'"event":"$pageview","timestamp":"2025-07-01T10:59:58.123456Z"}',
        )
    )


@pytest.mark.parametrize("shape", ["event", "captured"])
def test_what_is_unknown_or_false_is_left_out(shape: str) -> None:
    read = json.loads(line({"event": "e", "distinct_id": "u"}, shape))
    assert not read.keys() & {"sent_at", "historical_migration", "is_cookieless_mode"}


def test_flags_are_true_when_set() -> None:
    event = {"event": "e", "distinct_id": "u", "properties": {"$cookieless_mode": True}}
    batch = {"batch": [event], "historical_migration": True}
    captured = json.loads(line(batch, "captured"))
    assert captured["is_cookieless_mode"] is True
    assert captured["historical_migration"] is True
    assert list(captured)[-2:] == ["is_cookieless_mode", "historical_migration"]
    flat = json.loads(line(batch, "event"))
    assert (flat["historical_migration"], flat["lane"]) == (True, "historical")


@pytest.mark.parametrize("shape", ["event", "captured"])
def test_internal_capture_has_the_loopback_address(shape: str) -> None:
    event = {"event": "e", "distinct_id": "u", "properties": {"capture_internal": None}}
    assert json.loads(line(event, shape))["ip"] == "127.0.0.1"


@pytest.mark.parametrize("properties", [b"", b',"properties":null', b',"properties":{}'])
def test_flat_properties_are_always_an_object(properties: bytes) -> None:
    assert json.loads(line(b'{"event":"e","distinct_id":"u"%b}' % properties, "event"))["properties"] == {}


def test_flat_event_names_nothing_twice() -> None:
    names = ENVELOPE | OTHER_SPELLINGS - {"batch"}
    event = dict.fromkeys(sorted(names), "client") | {"distinct_id": "u", "$set_once": 1, "data": 2, "properties": {}}
    pairs = json.loads(line(event, "event"), object_pairs_hook=list)
    assert [name for name, _ in pairs] == [
        *("uuid", "event", "distinct_id", "timestamp", "token", "ip", "now", "lane", "properties", "$set_once", "data")
    ]
    assert dict(pairs)["ip"] == "203.0.113.7"


@pytest.mark.parametrize("shape", ["event", "captured"])
def test_line_breaks_in_the_request_do_not_break_the_line(shape: str) -> None:
    shipped = line(b'{"event":"e",\r\n "distinct_id":"u",\n"properties":{"a":\n"\\n"},\n"$set":{\n}}', shape)
    assert b"\n" not in shipped
    assert b"\r" not in shipped


def test_profile_update_carries_its_members_in_both_shapes() -> None:
    update = {"$token": "phc_x", "$distinct_id": "u", "$set": {"plan": "free"}, "$add": {"n": 1}}
    flat = json.loads(line(update, "event", path="engage"))
    assert (flat["event"], flat["distinct_id"], flat["$set"], flat["$add"]) == (
        "$identify",
        "u",
        {"plan": "free"},
        {"n": 1},
    )
    assert "$token" not in flat
    captured = json.loads(line(update, "captured", path="engage"))
    assert captured["event"] == "$identify"
    assert json.loads(captured["data"]) == update


def test_replay_is_assembled_in_both_shapes() -> None:
    snapshot = {"event": "$snapshot", "properties": {"$session_id": "s", "distinct_id": "u", "$snapshot_data": [1]}}
    flat = json.loads(line(snapshot, "event", path="s"))
    captured = json.loads(line(snapshot, "captured", path="s"))
    assert flat["event"] == captured["event"] == "$snapshot_items"
    assert flat["lane"] == "replay"
    data = json.loads(captured["data"])
    assert data == {"event": "$snapshot_items", "properties": flat["properties"]}
    assert data["properties"]["$snapshot_items"] == [1]
    assert "session_id" not in captured


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.text(), json_values, max_size=4)


@given(
    st.text(min_size=1),
    json_values,
    objects,
    objects,
    st.dictionaries(st.sampled_from(sorted(ENVELOPE | OTHER_SPELLINGS)), json_values, max_size=3),
    st.booleans(),
    st.sampled_from([None, "\t", 1]),
)
def test_any_event_comes_out_as_it_went_in(
    name: str,
    distinct_id: Any,
    properties: dict[str, Any],
    others: dict[str, Any],
    colliding: dict[str, Any],
    ascii_only: bool,
    indent: str | int | None,
) -> None:
    event = {**colliding, **others, "event": name, "distinct_id": distinct_id, "properties": properties}
    text = json.dumps([event], ensure_ascii=ascii_only, indent=indent).encode()
    record = Record("5c0d2e88b1f09a37-1f", NOW, "phc_x", "e", "203.0.113.7", text.replace(b"\n", b" "))
    for expanded in expand(record).events:
        flat_line, captured_line = (SHAPES[shape](expanded) for shape in ("event", "captured"))
        assert b"\n" not in flat_line + captured_line
        flat, captured = json.loads(flat_line), json.loads(captured_line)
        assert flat["event"] == captured["event"] == name
        assert flat["properties"] == properties
        for member, value in others.items():
            if member not in ENVELOPE | OTHER_SPELLINGS:
                assert flat[member] == value
        assert flat.keys() <= ENVELOPE | event.keys()
        assert json.loads(captured["data"]) == event


def test_the_property_above_sees_events() -> None:
    """Its loop is over what was kept, so it says nothing unless this holds."""
    assert len(lines([{"event": "e", "distinct_id": []}, {"event": "e", "distinct_id": {"a": 1}}], "event")) == 2


def test_consumers_of_2023_get_what_they_work_out_times_from_and_no_time_worked_out() -> None:
    text = b'{"event":"e","distinct_id":"u","uuid":"%b","timestamp":"2025-07-01T10:59:58Z"}' % UUID.encode()
    stored = encode_record(RecordIds(1), NOW, "phc_x", "e", "203.0.113.7", text, "1751367600000")
    [event] = expand(decode_record(stored)).events
    assert json.loads(captured_line_2023(event)) == {
        "uuid": UUID,
        "distinct_id": "u",
        "ip": "203.0.113.7",
        "data": text.decode(),
        "now": "2025-07-01T11:00:00.123456Z",
        "sent_at": "2025-07-01T11:00:00Z",
        "token": "phc_x",
    }


def worked_out(value: dict[str, Any]) -> tuple[str, int]:
    """Name and time, microseconds, as consumers of 2023 work them out: JavaScript's Date, whose numbers are milliseconds."""
    event = json.loads(value["data"])
    now = datetime.fromisoformat(value["now"])
    at, offset = event.get("timestamp"), event.get("offset")
    if not at:
        found = now - timedelta(milliseconds=offset) if offset else now
    else:
        found = datetime.fromtimestamp(at / 1000, UTC) if isinstance(at, int | float) else datetime.fromisoformat(at)
        if "sent_at" in value and not (event.get("properties") or {}).get("$ignore_sent_at"):
            found += now - datetime.fromisoformat(value["sent_at"])
    return event["event"], round((found - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


READ_OTHERWISE_IN_2023: dict[str, tuple[str, dict[str, Any]]] = {
    "an update of a person": ("engage", {"$set": {"a": 1}}),
    "an update with a name that is none": ("engage", {"$set": {"a": 1}, "event": None}),
    "an update with an empty name": ("engage", {"$set": {"a": 1}, "event": ""}),
    "an update of a group": ("groups", {"$group_key": "company", "$group_id": "acme", "$set": {"a": 1}}),
    "seconds": ("e", {"event": "e", "timestamp": 1_751_367_000}),
    "seconds with a fraction": ("e", {"event": "e", "timestamp": 1_751_367_000.25}),
    "milliseconds": ("e", {"event": "e", "timestamp": 1_751_367_000_123}),
    "seconds as text": ("e", {"event": "e", "timestamp": "1751367000"}),
    "seconds ahead": ("e", {"event": "e", "timestamp": 2_751_367_000}),
    "seconds, not to be corrected": (
        "e",
        {"event": "e", "timestamp": 1_751_367_000, "properties": {"$ignore_sent_at": True}},
    ),
    "no properties": ("e", {"event": "e", "timestamp": 1_751_367_000, "properties": None}),
    "a short zone": ("e", {"event": "e", "timestamp": "2025-07-01T10:00:00+03"}),
    "a leap second": ("e", {"event": "e", "timestamp": "2016-12-31T23:59:60Z"}),
    "no time at all": ("e", {"event": "e", "timestamp": "soon"}),
    "a property": ("track", {"event": "e", "properties": {"time": 1_751_367_000}}),
    "a property beside null": ("import", {"event": "e", "timestamp": None, "properties": {"time": 1_751_367_000_123}}),
    "offset": ("e", {"event": "e", "offset": 5000}),
    "nothing": ("e", {"event": "e"}),
}


@pytest.mark.parametrize("sent_at", ["", "1751367590123"], ids=["no sent_at", "sent_at"])
@pytest.mark.parametrize(("path", "data"), READ_OTHERWISE_IN_2023.values(), ids=READ_OTHERWISE_IN_2023)
def test_consumers_of_2023_come_to_the_name_and_time_of_the_edge(path: str, data: dict[str, Any], sent_at: str) -> None:
    text = json.dumps({"distinct_id": "u", "odd": 1, **data}).encode()
    stored = encode_record(RecordIds(1), NOW, "phc_x", path, "203.0.113.7", text, sent_at)
    [event] = expand(decode_record(stored)).events
    value = json.loads(captured_line_2023(event))
    assert "event" not in value
    assert "timestamp" not in value
    assert json.loads(value["data"])["odd"] == 1
    assert worked_out(value) == (event.event, event.timestamp_us)


def test_what_consumers_of_2023_read_as_the_edge_does_is_the_clients_text() -> None:
    for text in (
        b'{"event":"e", "distinct_id":"u","timestamp":"2025-07-01T10:59:58.123+02:00"}',
        b'{"event":"e", "distinct_id":"u","offset":5000}',
        b'{"event":"e", "distinct_id":"u"}',
    ):
        stored = encode_record(RecordIds(1), NOW, "phc_x", "e", "203.0.113.7", text, "1751367590123")
        [event] = expand(decode_record(stored)).events
        assert json.loads(captured_line_2023(event))["data"] == text.decode()


def test_a_recording_for_consumers_of_2023_stays_as_it_was_assembled() -> None:
    properties = {"$session_id": "s", "distinct_id": "u", "$snapshot_data": [1]}
    text = json.dumps({"event": "$snapshot", "timestamp": "2025-07-01T10:59:58Z", "properties": properties}).encode()
    stored = encode_record(RecordIds(1), NOW, "phc_x", "s", "203.0.113.7", text, "")
    [event] = expand(decode_record(stored)).events
    assert json.loads(captured_line_2023(event))["data"] == event.body.decode()


def test_a_row_has_every_column_and_json_as_the_clients_text() -> None:
    text = b'{"event":"e","distinct_id":"u","properties":{ "n":1e999 },"$set": {"x":1},"odd":null}'
    for data, properties, members in (
        (text, '{ "n":1e999 }', '{"$set":{"x":1},"odd":null}'),
        (b'{"event":"e","distinct_id":"u","properties":null}', "{}", "{}"),
    ):
        stored = encode_record(RecordIds(0x5C0D2E88B1F09A37), NOW, "phc_x", "e", "203.0.113.7", data, "")
        [event] = expand(decode_record(stored)).events
        row = json.loads(row_line(event))
        assert tuple(row) == COLUMNS
        assert (row["properties"], row["members"]) == (properties, members)
        assert (row["sent_at"], row["historical_migration"]) == (None, False)
        assert row["timestamp"] == "2025-07-01T11:00:00.123456Z"
