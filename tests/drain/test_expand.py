import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.event import Expansion
from edge.drain.expand import expand
from edge.drain.timestamps import format_time
from edge.segment.record import SKEW_KEPT, RecordIds, decode_record, encode_record
from edge.wire.drops import DROP_REASONS
from tests.drain.expanding import (
    NEW_YEAR,
    NOW,
    NOW_TEXT,
    SENT_AT,
    UUID,
    batch,
    event_of,
    expanded,
    record,
    with_id,
    with_properties,
)


class TestShapes:
    EVENTS = ({"event": "a", "distinct_id": "1"}, {"event": "b", "distinct_id": "2"})

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param([*EVENTS], id="list"),
            pytest.param({"api_key": "phc_x", "batch": [*EVENTS]}, id="batch"),
            pytest.param({"batch": [*EVENTS], "event": "not this", "distinct_id": "3"}, id="batch beside an event"),
        ],
    )
    @pytest.mark.parametrize("path", ["e", "batch", "capture", "engage"])
    def test_every_shape_is_taken_on_every_path_in_order(self, data: object, path: str) -> None:
        expansion = expanded(data, path)
        assert [(event.event, event.distinct_id) for event in expansion.events] == [("a", "1"), ("b", "2")]
        assert expansion.dropped == {}

    @pytest.mark.parametrize("batch", [None, "x", 1, {}])
    def test_a_member_named_batch_that_is_no_list_makes_no_batch(self, batch: object) -> None:
        assert event_of(with_id(batch=batch)).event == "e"

    def test_body_is_the_text_the_client_sent(self) -> None:
        first = (
            b'{ "event" : "\\u0061", "distinct_id":"u","properties":{"z":1e999,"a":1,"a":12345678901234567890123 } }'
        )
        second = '{"event":"é","distinct_id":"u"}'.encode()
        for text in (
            b"[" + first + b" , " + second + b"]",
            b'{"batch": [' + first + b"," + second + b' ],"token":"t"}',
        ):
            assert [event.body for event in expanded(text).events] == [first, second]
        single = event_of(b"  " + first + b" ")
        assert single.body == first
        assert single.event == "a"
        assert bytes(single.members["properties"]) == b'{"z":1e999,"a":1,"a":12345678901234567890123 }'

    def test_what_the_record_says_is_copied_to_every_event(self) -> None:
        event = event_of(with_id(token="other", ip="9.9.9.9"))
        assert (event.token, event.ip, event.received_us, event.session_id) == ("phc_x", "203.0.113.7", NOW, "")

    def test_a_stored_record_expands_like_the_one_in_memory(self) -> None:
        data = b'{"event":"e",\n"distinct_id":"u","properties":{"a":\r\n1}}'
        line = encode_record(RecordIds(0x5C0D2E88B1F09A37), NOW, "phc_x", "e", "203.0.113.7", data, "1751367600000")
        events = expand(decode_record(line)).events
        in_memory = record(
            data.translate(bytes.maketrans(b"\r\n", b"  ")), sent_at="1751367600000", record_id="5c0d2e88b1f09a37-0"
        )
        assert events == expand(in_memory).events
        assert len(events) == 1


class TestDrops:
    @pytest.mark.parametrize(
        ("element", "reason"),
        [
            pytest.param(None, "not_an_object", id="null"),
            pytest.param("e", "not_an_object", id="string"),
            pytest.param([with_id()], "not_an_object", id="list in a list"),
            pytest.param(7, "not_an_object", id="number"),
            pytest.param({"distinct_id": "u"}, "no_event_name", id="no name"),
            pytest.param({"event": None, "distinct_id": "u"}, "no_event_name", id="name null"),
            pytest.param({"event": "", "distinct_id": "u"}, "no_event_name", id="name empty"),
            pytest.param({"event": 7, "distinct_id": "u"}, "no_event_name", id="name a number"),
            pytest.param({"event": "$performance_event", "distinct_id": "u"}, "performance_event", id="performance"),
            pytest.param(with_id(properties=[]), "invalid_properties", id="properties a list"),
            pytest.param(with_id(properties="{}"), "invalid_properties", id="properties a string"),
            pytest.param(with_id(properties=False), "invalid_properties", id="properties false"),
            pytest.param({"event": "e"}, "no_distinct_id", id="no distinct_id"),
            pytest.param({"event": "e", "distinct_id": None}, "no_distinct_id", id="distinct_id null"),
            pytest.param({"event": "e", "distinct_id": ""}, "no_distinct_id", id="distinct_id empty"),
            pytest.param({"event": "e", "distinct_id": " \t "}, "no_distinct_id", id="distinct_id blank"),
            pytest.param(
                {"event": "e", "distinct_id": "", "properties": {"distinct_id": "u"}},
                "no_distinct_id",
                id="distinct_id empty hides the one in properties",
            ),
            pytest.param(
                {"event": "e", "properties": {"distinct_id": None}}, "no_distinct_id", id="null in properties"
            ),
        ],
    )
    def test_an_unfit_event_is_counted_and_its_neighbours_stay(self, element: object, reason: str) -> None:
        good = with_id(properties=None)
        for data in ([good, element, good, element], {"batch": [good, element, good, element]}):
            expansion = expanded(data)
            assert [event.event for event in expansion.events] == ["e", "e"]
            assert expansion.dropped == {reason: 2}
        assert expanded([element]) == Expansion([], {reason: 1})

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"{", id="cut short"),
            pytest.param(b"event=e", id="no json"),
            pytest.param(b'{"event":"e","distinct_id":"\xff"}', id="no utf-8"),
            pytest.param(b'{"event":"e","distinct_id":"u","x":"\xed\xa0\x80"}', id="no utf-8 in what is copied"),
            pytest.param(b"[" * 400_000 + b"]" * 400_000, id="nested beyond reading"),
            pytest.param(
                b'{"event":"e","distinct_id":' + b"[" * 400_000 + b"]" * 400_000 + b"}", id="nested distinct_id"
            ),
        ],
    )
    @pytest.mark.parametrize("path", ["e", "s", "engage"])
    def test_a_record_that_cannot_be_read_is_one_drop(self, data: bytes, path: str) -> None:
        assert expanded(data, path) == Expansion([], {"unreadable": 1})

    @given(st.binary(), st.sampled_from(["e", "s", "engage"]))
    def test_no_bytes_raise(self, data: bytes, path: str) -> None:
        expansion = expanded(data, path)
        assert set(expansion.dropped) <= set(DROP_REASONS)


class TestEngage:
    @pytest.mark.parametrize("name", [{}, {"event": None}, {"event": ""}, {"event": 3}])
    def test_a_profile_update_without_name_is_an_identify(self, name: dict[str, object]) -> None:
        update = {"$token": "phc_x", "$distinct_id": "u", "$set": {"plan": "free"}, **name}
        for data in (update, [update]):
            event = event_of(data, path="engage")
            assert (event.event, event.distinct_id, event.lane) == ("$identify", "u", "main")
            assert json.loads(bytes(event.members["$set"])) == {"plan": "free"}
            assert json.loads(event.body) == update

    def test_a_name_is_kept(self) -> None:
        assert event_of(with_id(), path="engage").event == "e"

    def test_other_paths_want_a_name(self) -> None:
        assert expanded({"$distinct_id": "u", "$set": {}}, path="track").dropped == {"no_event_name": 1}

    def test_the_person_is_still_required(self) -> None:
        assert expanded({"$set": {}}, path="engage").dropped == {"no_distinct_id": 1}


class TestDistinctId:
    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            pytest.param(b'"distinct_id":"u"', "u", id="top level"),
            pytest.param(b'"$distinct_id":"u"', "u", id="alias"),
            pytest.param(b'"distinct_id":"a","$distinct_id":"b"', "a", id="both spellings"),
            pytest.param(b'"distinct_id":null,"$distinct_id":"b"', "b", id="null gives way to the alias"),
            pytest.param(b'"properties":{"distinct_id":"myid"}', "myid", id="in properties"),
            pytest.param(
                b'"distinct_id": null ,"properties":{"distinct_id":"p"}', "p", id="null gives way to properties"
            ),
            pytest.param(b'"distinct_id":"t","properties":{"distinct_id":"p"}', "t", id="top level wins"),
            pytest.param(b'"distinct_id":23,"properties":{"distinct_id":"myid"}', "23", id="number"),
            pytest.param(b'"distinct_id":23.4', "23.4", id="fraction"),
            pytest.param(b'"distinct_id":-7', "-7", id="negative"),
            pytest.param(b'"distinct_id":0', "0", id="zero"),
            pytest.param(b'"distinct_id":false', "false", id="false"),
            pytest.param(b'"distinct_id":[]', "[]", id="empty list"),
            pytest.param(b'"distinct_id":{}', "{}", id="empty object"),
            pytest.param(b'"distinct_id":[ "a", "b" ]', '["a","b"]', id="list"),
            pytest.param(b'"distinct_id":{"string":"a","number":3}', '{"number":3,"string":"a"}', id="keys sorted"),
            pytest.param(
                b'"distinct_id":[{"b":{"d":1,"c":2},"a":0}]', '[{"a":0,"b":{"c":2,"d":1}}]', id="keys sorted inside"
            ),
            pytest.param(b'"distinct_id":123456789012345678901234567890', "123456789012345678901234567890", id="big"),
            pytest.param(b'"distinct_id":1e999', "1e999", id="beyond any float"),
            pytest.param(b'"properties":{"distinct_id":42}', "42", id="number in properties"),
            pytest.param(b'"distinct_id":"\\u0000a"', "\ufffda", id="nul"),
            pytest.param(b'"distinct_id":" a "', " a ", id="surrounding space is kept"),
            pytest.param(b'"distinct_id":"' + b"x" * 222 + b'"', "x" * 200, id="long"),
            pytest.param('"distinct_id":"{}"'.format("€" * 150).encode(), "€" * 150, id="450 bytes"),
            pytest.param('"distinct_id":"{}"'.format("😀" * 201).encode(), "😀" * 200, id="long, four bytes each"),
        ],
    )
    def test_whoever_it_is_gets_one_text(self, members: bytes, expected: str) -> None:
        assert event_of(b'{"event":"e",%b}' % members).distinct_id == expected

    def test_the_body_keeps_the_long_one(self) -> None:
        assert json.loads(event_of(with_id(distinct_id="x" * 300)).body)["distinct_id"] == "x" * 300


class TestTime:
    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            pytest.param({}, NOW_TEXT, id="none"),
            pytest.param({"timestamp": "2025-07-01T10:59:58Z"}, "2025-07-01T10:59:58Z", id="iso"),
            pytest.param({"timestamp": 1751367598}, "2025-07-01T10:59:58Z", id="number of seconds"),
            pytest.param({"timestamp": 1751367598.5}, "2025-07-01T10:59:58.500Z", id="fraction of seconds"),
            pytest.param({"timestamp": 1751367598250}, "2025-07-01T10:59:58.250Z", id="number of milliseconds"),
            pytest.param({"timestamp": "yesterday"}, NOW_TEXT, id="unreadable"),
            pytest.param({"timestamp": None}, NOW_TEXT, id="null"),
            pytest.param({"timestamp": True}, NOW_TEXT, id="true"),
            pytest.param({"timestamp": [1751367598]}, NOW_TEXT, id="list"),
            pytest.param({"timestamp": "2025-07-03T00:00:00Z"}, NOW_TEXT, id="future"),
            pytest.param({"offset": 2000}, "2025-07-01T10:59:58.123456Z", id="offset"),
            pytest.param({"offset": 2000.0}, "2025-07-01T10:59:58.123456Z", id="offset a float"),
            pytest.param({"offset": 0, "timestamp": "2020-01-01"}, NOW_TEXT, id="offset wins"),
            pytest.param({"offset": "2000"}, NOW_TEXT, id="offset a string"),
            pytest.param({"offset": None, "timestamp": "2020-01-01"}, "2020-01-01T00:00:00Z", id="offset null"),
            pytest.param({"offset": True, "timestamp": "2020-01-01"}, "2020-01-01T00:00:00Z", id="offset true"),
        ],
    )
    def test_event_time_from_the_members(self, members: dict[str, object], expected: str) -> None:
        assert format_time(event_of(with_id(**members)).timestamp_us) == expected

    @pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400, b"1e300", b"1" + b"0" * 5000])
    def test_absurd_numbers_cost_only_themselves(self, number: bytes) -> None:
        text = b'{"event":"e","distinct_id":"u","timestamp":%b,"sent_at":%b}' % (number, number)
        event = event_of(text)
        assert (event.timestamp_us, event.sent_at_us) == (NOW, None)
        assert event_of(b'{"event":"e","distinct_id":"u","offset":%b}' % number).timestamp_us in (NOW, 0)

    def test_clock_skew_is_taken_out_unless_the_event_says_not_to(self) -> None:
        late = {"timestamp": "2025-07-01T10:00:10Z", "distinct_id": "u", "event": "e"}
        events = [
            late,
            {**late, "properties": {"$ignore_sent_at": True}},
            {**late, "properties": {"$ignore_sent_at": "true"}},
            {**late, "properties": {"$ignore_sent_at": False}},
        ]
        times = [event.timestamp_us for event in expanded({"batch": events, "sent_at": "2025-07-01T11:00:10Z"}).events]
        assert [format_time(us) for us in times] == [
            "2025-07-01T10:00:00.123456Z",
            "2025-07-01T10:00:10Z",
            "2025-07-01T10:00:00.123456Z",
            "2025-07-01T10:00:00.123456Z",
        ]

    @pytest.mark.parametrize(
        ("skew_us", "corrected"),
        [(0, True), (1, True), (10_000_000, True), (10_000_001, False), (SKEW_KEPT, False)],
    )
    @pytest.mark.parametrize("path", ["e", "batch", "s", "i/v1/analytics/events"])
    def test_a_difference_the_edge_was_told_to_keep_is_kept(self, path: str, skew_us: int, corrected: bool) -> None:
        sent_at = format_time(NOW - 10_000_000)
        event = with_id(timestamp="2025-07-01T10:00:00Z", uuid="0197c5e0-0000-7000-8000-000000000001")
        data: object = event
        if path == "batch":
            data = {"batch": [event], "sent_at": sent_at}
        elif path == "s":
            data = {**event, "properties": {"$session_id": "s", "$snapshot_data": {}}, "event": "$snapshot"}
        elif path != "e":
            data = {"created_at": "2025-07-01T09:00:00Z", "batch": [event]}
        stored = record(data, path, "" if path == "batch" else sent_at)
        stored.skew_us = skew_us
        (found,) = expand(stored).events
        assert format_time(found.timestamp_us) == ("2025-07-01T10:00:10Z" if corrected else "2025-07-01T10:00:00Z")
        # Downstream would correct by it, too.
        assert (found.sent_at_us is not None) == corrected

    @pytest.mark.parametrize(
        ("data", "sent_at", "expected"),
        [
            pytest.param([with_id()], "", None, id="nowhere"),
            pytest.param([with_id()], "1694769302325", SENT_AT + ".325Z", id="outside, milliseconds"),
            pytest.param([with_id()], "1694769302", SENT_AT + "Z", id="outside, seconds"),
            pytest.param([with_id()], "soon", None, id="outside, unusable"),
            pytest.param([with_id(sent_at=NEW_YEAR)], "", None, id="element of a list"),
            pytest.param(batch(sent_at=NEW_YEAR), "1694769302", NEW_YEAR, id="wrapper"),
            pytest.param(batch(sentAt=NEW_YEAR), "", NEW_YEAR, id="wrapper, old spelling"),
            pytest.param(batch(sent_at=1694769302325), "", SENT_AT + ".325Z", id="wrapper, number"),
            pytest.param(batch(sent_at=1694769302.5), "", SENT_AT + ".500Z", id="wrapper, float"),
            pytest.param(batch(sent_at="1694769302"), "", SENT_AT + "Z", id="wrapper, digits"),
            pytest.param(batch(sent_at=None), "1694769302", SENT_AT + "Z", id="wrapper, null"),
            pytest.param(batch(sent_at="?", sentAt=1694769302), "", SENT_AT + "Z", id="wrapper, second try"),
            pytest.param(batch(sent_at={}), "1694769302", SENT_AT + "Z", id="wrapper, object"),
            pytest.param({"batch": [with_id(sent_at=NEW_YEAR)]}, "", None, id="element of a batch"),
            pytest.param(with_id(sent_at=NEW_YEAR), "1694769302", NEW_YEAR, id="single"),
            pytest.param(with_id(sent_at="never"), "1694769302", SENT_AT + "Z", id="single, unusable"),
        ],
    )
    def test_sent_at_is_the_first_usable_of_payload_and_request(
        self, data: object, sent_at: str, expected: str | None
    ) -> None:
        sent_at_us = event_of(data, sent_at=sent_at).sent_at_us
        assert (None if sent_at_us is None else format_time(sent_at_us)) == expected


class TestMixpanel:
    @pytest.mark.parametrize("path", ["track", "import"])
    @pytest.mark.parametrize(
        ("properties", "others", "expected"),
        [
            pytest.param({"time": 1751367598}, {}, "2025-07-01T10:59:58Z", id="seconds"),
            pytest.param({"time": 1751367598.25}, {}, "2025-07-01T10:59:58.250Z", id="fraction of seconds"),
            pytest.param({"time": 1751367598250}, {}, "2025-07-01T10:59:58.250Z", id="milliseconds"),
            pytest.param({"time": "2025-07-01T10:59:58Z"}, {}, "2025-07-01T10:59:58Z", id="iso"),
            pytest.param({"time": 1}, {"timestamp": NEW_YEAR}, NEW_YEAR, id="beside a timestamp"),
            pytest.param({"time": None}, {}, NOW_TEXT, id="null"),
            pytest.param({"time": {}}, {}, NOW_TEXT, id="unreadable"),
        ],
    )
    def test_the_time_stands_among_the_properties(
        self, path: str, properties: dict[str, object], others: dict[str, object], expected: str
    ) -> None:
        event = event_of(with_id(properties=properties, **others), path)
        assert format_time(event.timestamp_us) == expected

    def test_elsewhere_time_is_a_property_like_others(self) -> None:
        assert event_of(with_properties(time=1751367598)).timestamp_us == NOW

    def test_a_group_update_is_an_event_about_the_group(self) -> None:
        update = {"$token": "t", "$group_key": "company", "$group_id": "acme", "$set": {"plan": "pro"}}
        event = event_of(update, "groups")
        assert (event.event, event.distinct_id, event.lane) == ("$groupidentify", "$company_acme", "main")
        properties = {"$group_type": "company", "$group_key": "acme", "$group_set": {"plan": "pro"}}
        assert json.loads(bytes(event.members["properties"])) == properties
        assert json.loads(event.body)["properties"] == properties
        assert "$set" not in event.members

    def test_an_update_of_no_group_is_about_nobody(self) -> None:
        assert expanded({"$set": {}}, "groups").dropped == {"no_distinct_id": 1}
        assert expanded({"$group_key": "c", "$group_id": "a"}, "e").dropped == {"no_event_name": 1}


class TestMended:
    @pytest.mark.parametrize(
        ("event", "mended"),
        [
            pytest.param(with_id(timestamp="2025-07-01", uuid=UUID), {}, id="nothing"),
            pytest.param(with_id(timestamp=None, uuid=None), {}, id="null is absent"),
            pytest.param(with_id(uuid=""), {}, id="so is an empty uuid"),
            pytest.param(with_properties(**{"$cookieless_mode": False}), {}, id="cookieless, a boolean"),
            pytest.param(with_properties(**{"$cookieless_mode": None}), {"cookieless_mode": 1}, id="cookieless, null"),
            pytest.param(
                with_properties(**{"$cookieless_mode": "true"}), {"cookieless_mode": 1}, id="cookieless, text"
            ),
            pytest.param(with_id(uuid="123"), {"uuid": 1}, id="uuid"),
            pytest.param(with_id(uuid=7), {"uuid": 1}, id="uuid, a number"),
            pytest.param(with_id(timestamp="yesterday"), {"timestamp": 1}, id="timestamp"),
            pytest.param([with_id(timestamp=True, uuid=[])] * 3, {"timestamp": 3, "uuid": 3}, id="of several events"),
        ],
    )
    def test_what_was_unusable_is_counted(self, event: object, mended: dict[str, int]) -> None:
        assert expanded(event).mended == mended

    def test_in_session_replay_it_is_that_of_the_first_event(self) -> None:
        snapshot = with_properties(**{"$session_id": "s", "$snapshot_data": [], "$cookieless_mode": 1})
        assert expanded([snapshot, snapshot], "s").mended == {"cookieless_mode": 1}


class TestProperties:
    @pytest.mark.parametrize(("value", "cookieless"), [(True, True), (False, False), (None, False), ("true", False)])
    def test_cookieless_mode_is_a_boolean_or_off(self, value: object, cookieless: bool) -> None:
        assert event_of(with_properties(**{"$cookieless_mode": value})).cookieless is cookieless

    @pytest.mark.parametrize("value", [True, False, None, "x"])
    def test_internal_capture_hides_the_address_whatever_its_value(self, value: object) -> None:
        assert event_of(with_properties(capture_internal=value)).ip == "127.0.0.1"

    @pytest.mark.parametrize(
        ("properties", "expected"),
        [
            pytest.param(b"", b'{"$process_person_profile":false}', id="no properties"),
            pytest.param(b',"properties":null', b'{"$process_person_profile":false}', id="null"),
            pytest.param(b',"properties":{ }', b'{"$process_person_profile":false}', id="empty"),
            pytest.param(b',"properties":{"n": 1e999 }', b'{"$process_person_profile":false,"n": 1e999}', id="others"),
        ],
    )
    def test_person_profile_switch_moves_into_the_properties(self, properties: bytes, expected: bytes) -> None:
        head = b'{"event":"e","$process_person_profile":false,"distinct_id":"u"'
        event = event_of(head + properties + b',"$set":{"a":1}}')
        assert bytes(event.members["properties"]) == expected
        assert "$process_person_profile" not in event.members
        body = b'{"event":"e","distinct_id":"u","properties":%b,"$set":{"a":1}}' % expected
        assert sorted(json.loads(event.body).items()) == sorted(json.loads(body).items())
        assert expected in event.body

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(
                with_id(**{"$process_person_profile": False, "properties": {"$process_person_profile": True}}),
                id="there already",
            ),
            pytest.param(with_id(**{"$process_person_profile": None}), id="null"),
        ],
    )
    def test_person_profile_switch_stays_where(self, event: dict[str, object]) -> None:
        text = json.dumps(event).encode()
        assert event_of(text).body == text
