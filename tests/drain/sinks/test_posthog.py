import json
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.sink import Batch, Paused, Refusal, Refused, Retryable, Sink, TooLarge, split_url
from edge.drain.sinks.posthog import BODY_BYTES_MAX, EVENTS_MAX, interpret, make, recording, sent
from edge.segment.name import SegmentName
from edge.segment.record import Record
from tests.downstream import TAKE, Call, Downstream, Reply

AT_US = 1_763_690_000_123_456


def events(
    data: object, token: str = "phc_x", path: str = "e", ip: str = "203.0.113.7", number: int = 1
) -> list[Event]:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return expand(Record(f"5c0d2e88b1f09a37-{number}", AT_US, token, path, ip, text, "1763689990123")).events


def named(name: str, token: str = "phc_x", **members: object) -> Event:
    [event] = events({"event": name, "distinct_id": "u", **members}, token)
    return event


def batch(*found: Event) -> Batch:
    return Batch(0, SegmentName(1, 2), 0, 100, list(found))


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    with Downstream() as running:
        yield running


@pytest.fixture
def sink(downstream: Downstream) -> Iterator[Sink]:
    _, found = make(split_url(downstream.url))
    yield found
    found.close()


def test_a_batch_is_one_request_of_the_wrapped_shape(sink: Sink, downstream: Downstream) -> None:
    size = sink.ship(batch(named("a"), named("b")))
    [call] = downstream.calls
    assert call.path == "/batch/"
    assert call.headers["content-encoding"] == "gzip"
    assert call.headers["content-type"] == "application/json"
    assert call.size == size
    assert set(call.body) == {"api_key", "historical_migration", "batch"}
    assert (call.body["api_key"], call.body["historical_migration"]) == ("phc_x", False)
    assert [event["event"] for event in call.events] == ["a", "b"]


def test_uuid_and_time_are_the_edges_and_nothing_moves_them() -> None:
    [event] = events(
        {"event": "e", "distinct_id": "u", "timestamp": "2025-11-21T01:00:00Z", "sent_at": "2025-11-21T01:00:05Z"}
        | {"offset": 1000, "_": 7, "sentAt": "2025-11-21T01:00:05Z", "properties": {"a": 1}}
    )
    found = json.loads(sent(event, with_ip=False))
    assert set(found) == {"uuid", "event", "distinct_id", "timestamp", "properties"}
    assert found["uuid"] == event.uuid
    assert sent(event, with_ip=False) == sent(event, with_ip=False)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ("{}", '{"$ip":"203.0.113.7"}'),
        ("{ }", '{"$ip":"203.0.113.7"}'),
        ('{"a":1e999}', '{"$ip":"203.0.113.7","a":1e999}'),
        ('{"$ip":"10.0.0.1","a":1}', '{"$ip":"10.0.0.1","a":1}'),
        ('{"a":{"$ip":"10.0.0.1"}}', '{"$ip":"203.0.113.7","a":{"$ip":"10.0.0.1"}}'),
        ('{"\\u0024ip":"10.0.0.1", "$ip2":1}', '{"\\u0024ip":"10.0.0.1", "$ip2":1}'),
        ("null", '{"$ip":"203.0.113.7"}'),
    ],
)
def test_the_clients_address_goes_along_unless_the_client_named_one(properties: str, expected: str) -> None:
    [event] = events(b'{"event":"e","distinct_id":"u","properties":%b}' % properties.encode())
    assert sent(event, with_ip=True).endswith(b'"properties":%b}' % expected.encode())


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ('{"a": 1e999,"$cookieless_mode":null}', '{"a":1e999}'),
        ('{"$cookieless_mode":"yes","b":[1, 2]}', '{"b":[1, 2]}'),
        ('{"\\u0024cookieless\\u005fmode":1}', "{}"),
        ('{"$cookieless_mode":false,"$cookieless_mode":{}}', "{}"),
        ('{"$cookieless_mode":{}, "$cookieless_mode":false}', '{"$cookieless_mode":{}, "$cookieless_mode":false}'),
        ('{"$cookieless_mode": true, "a":"\\u00e9"}', '{"$cookieless_mode": true, "a":"\\u00e9"}'),
        ('{"a": "\\u00e9 cookieless_mode"}', '{"a": "\\u00e9 cookieless_mode"}'),
        ('{"a":{"$cookieless_mode": 1}}', '{"a":{"$cookieless_mode": 1}}'),
    ],
)
def test_a_cookieless_mode_that_is_no_boolean_is_left_out(properties: str, expected: str) -> None:
    """Capture services refuse the whole batch for it; the edge took the event, and takes the mode for false."""
    [event] = events(b'{"event":"e","distinct_id":"u","properties":%b}' % properties.encode())
    assert sent(event, with_ip=False).endswith(b'"properties":%b}' % expected.encode())


def test_without_addresses_properties_are_the_clients_bytes() -> None:
    [event] = events(b'{"event":"e","distinct_id":"u","properties":{"n":123456789012345678901234567890, "x":1e999}}')
    assert b'"properties":{"n":123456789012345678901234567890, "x":1e999}' in sent(event, with_ip=False)


def test_other_members_go_along_and_other_spellings_of_the_key_do_not() -> None:
    [event] = events(
        b'{"event":"e","$distinct_id":"u","token":"phc_x","api_key":"phc_x","$set":{"a":1},"$set_once":[],"odd":[1]}'
    )
    found = json.loads(sent(event, with_ip=False))
    assert set(found) == {"uuid", "event", "distinct_id", "timestamp", "properties", "$set", "odd"}


def test_a_request_holds_one_token_and_one_kind(sink: Sink) -> None:
    historical = events({"historical_migration": True, "batch": [{"event": "h", "distinct_id": "u"}]}, path="batch")
    mixed = [named("a"), named("b", "phc_y"), named("c"), *historical, named("d"), named("e", "phc_y")]
    pieces = [[event.event for event in piece] for piece in sink.cut(mixed)]
    assert pieces == [["a", "c"], ["b", "e"], ["h"], ["d"]]


def test_historical_events_say_so(sink: Sink, downstream: Downstream) -> None:
    sink.ship(
        batch(*events({"historical_migration": True, "batch": [{"event": "h", "distinct_id": "u"}]}, path="batch"))
    )
    assert downstream.calls[0].body["historical_migration"] is True


def test_a_request_is_bounded_in_number_and_size(sink: Sink) -> None:
    many = [named("a") for _ in range(2 * EVENTS_MAX + 1)]
    assert [len(piece) for piece in sink.cut(many)] == [EVENTS_MAX, EVENTS_MAX, 1]
    large = [named("a", properties={"text": "x" * (BODY_BYTES_MAX // 3)}) for _ in range(5)]
    pieces = sink.cut(large)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert all(sum(len(sent(event, with_ip=True)) + 1 for event in piece) < BODY_BYTES_MAX for piece in pieces)
    enormous = [named("a"), named("b", properties={"text": "x" * BODY_BYTES_MAX}), named("c")]
    assert [len(piece) for piece in sink.cut(enormous)] == [1, 1, 1]


def test_a_recording_is_sent_as_clients_send_it_and_assembled_the_same(sink: Sink, downstream: Downstream) -> None:
    properties = {"$session_id": "s-1", "$window_id": "w", "$snapshot_data": [{"type": 2}, {"type": 3}], "$lib": "web"}
    first = events([{"event": "$snapshot", "distinct_id": "u", "properties": properties}], path="s")
    second = events([{"event": "$snapshot", "distinct_id": "u", "properties": properties}], path="s", number=2)
    assert [len(piece) for piece in sink.cut([*first, *second])] == [1, 1]
    sink.ship(batch(*first))
    [call] = downstream.calls
    assert call.path == "/s/"
    again = expand(Record("1-1", AT_US + 10**9, "phc_x", "s", "198.51.100.1", json.dumps(call.body).encode())).events[0]
    [expected] = first
    assert (again.uuid, again.timestamp_us, again.distinct_id) == (expected.uuid, expected.timestamp_us, "u")
    assert json.loads(again.body) == json.loads(expected.body)
    assert json.loads(recording(expected))["token"] == "phc_x"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, None) for status in (200, 202, 204)),
        *((status, TooLarge) for status in (413,)),
        *((status, Refused) for status in (400, 422)),
        *((status, Paused) for status in (301, 302, 307, 308, 401, 402, 403, 404, 405, 407, 410, 415, 431)),
        *((status, Retryable) for status in (408, 425, 429, 500, 501, 502, 503, 504, 599)),
    ],
)
def test_every_status_means_one_thing(status: int, kind: type[Refusal] | None) -> None:
    found = interpret(status, {}, b"")
    assert found is None if kind is None else type(found) is kind
    if found is not None:
        assert str(status) in str(found)


@pytest.mark.parametrize("answer", [b"<!doctype html>", b"1", b"[]", b'{"quota_limited":1}'])
def test_a_friendly_answer_of_somebody_else_is_none(answer: bytes) -> None:
    """A web server's front page answers 200 to everything: no event must count as delivered by that."""
    assert isinstance(interpret(200, {}, answer), Paused)


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b'{"status":1}', b'{"status":"Ok","unknown":[1]}', b'{"quota_limited":null}']
)
def test_the_answers_of_capture_services_are_read(answer: bytes) -> None:
    assert interpret(200, {}, answer) is None


def test_it_is_asked_no_earlier_than_it_says() -> None:
    found = interpret(503, {"retry-after": "7"}, b"")
    assert isinstance(found, Retryable)
    assert found.retry_after_s == 7.0


def test_an_answer_that_says_over_quota_is_counted_and_not_repeated(sink: Sink, downstream: Downstream) -> None:
    downstream.rule = lambda call: Reply(body=b'{"status":"Ok","quota_limited":["events"]}')
    offered = batch(named("a"), named("b"))
    sink.ship(offered)
    assert offered.limited == 2
    downstream.rule = lambda call: Reply(body=b'{"quota_limited":null}')
    sink.ship(offered)
    assert offered.limited == 2


def strict(call: Call) -> Reply:
    """As a capture service in Rust, which refuses what does not fit a double; Python reads it as infinite."""
    return Reply(400) if any(inf in event["properties"].values() for event in call.events) else TAKE


def test_a_number_no_double_holds_is_sent_as_null_where_it_is_refused(sink: Sink, downstream: Downstream) -> None:
    downstream.rule = strict
    [odd] = events(b'{"event":"odd","distinct_id":"u","properties":{"a":1e999,"b":123456789012345678901}}')
    with pytest.raises(Refused):
        sink.ship(batch(named("a"), odd))
    size = sink.ship(batch(odd))
    call = downstream.calls[-1]
    assert size == call.size
    assert call.events[0]["properties"] == {"a": None, "b": 123456789012345678901, "$ip": "203.0.113.7"}
    assert (call.events[0]["uuid"], len(downstream.calls)) == (odd.uuid, 3)


def test_an_event_that_is_refused_for_anything_else_is_sent_once(sink: Sink, downstream: Downstream) -> None:
    downstream.rule = lambda call: Reply(400)
    with pytest.raises(Refused):
        sink.ship(batch(named("a")))
    assert downstream.requests == 1
    [odd] = events(b'{"event":"odd","distinct_id":"u","properties":{"a":1e999}}')
    with pytest.raises(Refused):
        sink.ship(batch(odd))
    assert downstream.requests == 3


def test_a_path_goes_before_the_routes(downstream: Downstream) -> None:
    _, sink = make(split_url(f"{downstream.url}/ingest/"))
    sink.ship(batch(named("a")))
    assert downstream.calls[0].path == "/ingest/batch/"
    sink.close()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "posthog+https:",
            "posthog+https:host",
            "posthog+https://",
            "posthog+https://:80",
            "posthog+https://host:port",
        ),
        *(
            "posthog+http://host?ip=maybe",
            "posthog+http://host?x=1",
            "posthog+http://user:word@host",
            "posthog+http://h#f",
            "posthog+http://a..b/",
            "posthog+http://h/\u00fc",
            "posthog+http://h/a b",
        ),
    ],
)
def test_a_url_that_cannot_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"posthog\+https?: expected"):
        make(split_url(url))


def test_the_same_destination_has_the_same_id_however_it_is_spelled() -> None:
    def id_of(text: str) -> str:
        return make(split_url(text))[0]

    assert id_of("posthog+https://Host") == id_of("posthog+https://host:443/?ip=none")
    different: list[Any] = [
        id_of(f"posthog+{rest}") for rest in ("https://h", "http://h", "https://h:1", "https://h/p")
    ]
    assert len(set(different)) == 4


# --- asked whether it would take anything


def test_it_is_asked_as_browsers_ask_and_sent_nothing(downstream: Downstream) -> None:
    _, sink = make(split_url(f"{downstream.url}/some/path"))
    assert "OPTIONS /some/path/batch/ is answered 200" in sink.probe()
    sink.close()
    [question] = downstream.questions
    assert (question.method, question.path) == ("OPTIONS", "/some/path/batch/")
    assert question.headers["access-control-request-method"] == "POST"
    assert downstream.calls == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((204, None), (400, None), (405, None), (501, None)),
        *((301, Paused), (308, Paused), (401, Paused), (403, Paused), (404, Paused)),
        *((408, Retryable), (429, Retryable), (500, Retryable), (502, Retryable), (503, Retryable)),
    ],
)
def test_an_answer_means_what_it_would_mean_for_events(
    sink: Sink, downstream: Downstream, status: int, kind: type[Refusal] | None
) -> None:
    """But where it says that nobody knows the question."""
    downstream.rule = lambda call: Reply(status, body=b"")
    if kind is None:
        assert f"is answered {status}" in sink.probe()
        return
    with pytest.raises(kind, match=str(status)):
        sink.probe()


def test_nobody_there_is_worth_a_retry_when_asked() -> None:
    with pytest.raises(Retryable, match="refused"):
        make(split_url("posthog+http://127.0.0.1:1"))[1].probe()
