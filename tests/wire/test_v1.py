import gzip
import json
import zlib
from typing import Any

import brotli
import pytest
import zstandard

from edge.segment.record import Record, RecordIds, decode_record
from edge.wire.drops import DROP_REASONS
from edge.wire.rejections import REFUSALS, Reason, Rejected
from edge.wire.request import Heavy, Light, Limits, Request
from edge.wire.routes import ROUTES, V1_PATHS
from edge.wire.v1 import (
    DROPS,
    PLACEHOLDER_IDS,
    TAGS,
    CapturedBatch,
    capture_batch,
    error_body,
    is_rfc3339,
    library,
    request_id_header,
)

AT = 1_773_930_605_000_000
UUID = "0191f5c0-7c1a-7b5e-9d2f-0123456789ab"
OTHER_UUID = "0191f5c0-7c1a-7b5e-9d2f-0123456789ac"
ROUTE = ROUTES[b"/i/v1/analytics/events"]
HEADERS = {
    b"authorization": b"Bearer phc_x",
    b"posthog-sdk-info": b"posthog-rs/1.2.3",
    b"posthog-attempt": b"1",
    b"posthog-request-id": b"7d9b2c54-3a4e-4f60-8a1b-0c2d3e4f5a6b",
    b"posthog-request-timestamp": b"2026-03-19T14:30:10.5+01:00",
    b"content-type": b"application/json",
    b"user-agent": b"posthog-rs/1.2.3",
}


def event(**members: Any) -> dict[str, Any]:
    return {"event": "e", "uuid": UUID, "distinct_id": "u", "timestamp": "2026-03-19T14:29:58.123Z", **members}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in event().items() if key != name}


def batch(*events: object, **members: Any) -> bytes:
    return json.dumps({"created_at": "2026-03-19T14:30:00Z", "batch": events, **members}).encode()


def captured(
    body: bytes, headers: dict[bytes, bytes] | None = None, bytes_max: int = 100_000
) -> tuple[CapturedBatch, Record]:
    request = Request("POST", b"", body, HEADERS if headers is None else headers, "203.0.113.7", AT)
    found = capture_batch(request, ROUTE, Limits(bytes_max), RecordIds(0xA))
    return found, decode_record(found.record)


def results(*events: object) -> dict[str, dict[str, str]]:
    answer = json.loads(captured(batch(*events))[0].body)
    assert list(answer) == ["results"]
    found: dict[str, dict[str, str]] = answer["results"]
    return found


def result(told: object) -> dict[str, str]:
    return results(told)[UUID]


def refused(body: bytes, headers: dict[bytes, bytes] | None = None, bytes_max: int = 100_000) -> Rejected:
    with pytest.raises(Rejected) as caught:
        captured(body, headers, bytes_max)
    return caught.value


def test_a_batch_becomes_a_record() -> None:
    body = batch(event(), historical_migration=True)
    found, record = captured(body)
    assert record == Record(
        "000000000000000a-0",
        AT,
        "phc_x",
        "i/v1/analytics/events",
        "203.0.113.7",
        body,
        "2026-03-19T14:30:10.5+01:00",
        "posthog-rs/1.2.3",
    )
    assert (found.events, found.layers) == (1, ())
    assert found.body == b'{"results":{"%b":{"result":"ok"}}}' % UUID.encode()


def test_every_event_gets_its_result_in_order_by_the_uuid_as_it_was_sent() -> None:
    shouted = OTHER_UUID.upper()
    found = results(event(uuid=shouted), event(distinct_id=""), event(uuid="  " + OTHER_UUID[:-1] + "d "))
    assert list(found) == [shouted, UUID, OTHER_UUID[:-1] + "d"]
    assert list(found.values()) == [
        {"result": "ok"},
        {"result": "drop", "details": "missing_distinct_id"},
        {"result": "ok"},
    ]


DROPPED = {
    "no name": (without("event"), "missing_event_name"),
    "an empty name": (event(event=""), "missing_event_name"),
    "a name that is null": (event(event=None), "missing_event_name"),
    "a name that is no string": (event(event=7), "missing_event_name"),
    "a name of 201 characters": (event(event="é" * 201), "event_name_too_long"),
    "$performance_event": (event(event="$performance_event"), "dropped_performance_event"),
    "no distinct id": (without("distinct_id"), "missing_distinct_id"),
    "a distinct id that is null": (event(distinct_id=None), "missing_distinct_id"),
    "a blank distinct id": (event(distinct_id=" \t\n"), "missing_distinct_id"),
    "a distinct id that is a number": (event(distinct_id=7), "malformed_distinct_id"),
    "a distinct id that is an object": (event(distinct_id={"a": 1}), "malformed_distinct_id"),
    "a distinct id of 201 characters": (event(distinct_id="é" * 201), "distinct_id_too_large"),
    "no timestamp": (without("timestamp"), "invalid_event_timestamp"),
    "a timestamp without a zone": (event(timestamp="2026-03-19T14:29:58"), "invalid_event_timestamp"),
    "a timestamp that is a number": (event(timestamp=1773930605), "invalid_event_timestamp"),
    "a day there is not": (event(timestamp="2026-02-29T14:29:58Z"), "invalid_event_timestamp"),
    "properties that are a list": (event(properties=[1]), "malformed_event_properties"),
    "properties that are text": (event(properties="{}"), "malformed_event_properties"),
    "options that are a list": (event(options=[]), "invalid_options"),
    "an option that is an object": (event(options={"cookieless_mode": {}}), "invalid_options"),
    "an option that is another word": (event(options={"process_person_profile": "maybe"}), "invalid_options"),
    "an option that is a list": (event(options={"disable_skew_correction": [True]}), "invalid_options"),
    "a tour that is a truth": (event(options={"product_tour_id": True}), "invalid_options"),
    "a tour that is a fraction": (event(options={"product_tour_id": 1.5}), "invalid_options"),
}


@pytest.mark.parametrize(("told", "details"), DROPPED.values(), ids=DROPPED)
def test_an_event_that_cannot_be_taken_is_dropped_alone(told: object, details: str) -> None:
    found = results(told, event(uuid=OTHER_UUID))
    assert found == {UUID: {"result": "drop", "details": details}, OTHER_UUID: {"result": "ok"}}


TAKEN = {
    "a name of 200 characters": event(event="é" * 200),
    "a distinct id of 200 characters": event(distinct_id="é" * 200),
    "a distinct id with blanks around 200 characters": event(distinct_id=" " + "é" * 200 + " "),
    "no properties": event(),
    "properties that are null": event(properties=None),
    "options that are null": event(options=None),
    "options that are text and numbers": event(
        options={"cookieless_mode": " TRUE", "disable_skew_correction": 0, "process_person_profile": "0"}
    ),
    "options that are null each": event(options={"cookieless_mode": None, "product_tour_id": None}),
    "options nobody knows": event(options={"tomorrow": [1]}),
    "members nobody knows": event(tomorrow=[1], session_id=7),
    "the 29th of February": event(timestamp="2028-02-29T23:59:60.123456789-05:30"),
}


@pytest.mark.parametrize("told", TAKEN.values(), ids=TAKEN)
def test_what_is_unusual_but_meant_is_taken(told: object) -> None:
    assert result(told) == {"result": "ok"}


@pytest.mark.parametrize("name", sorted(PLACEHOLDER_IDS))
def test_an_id_that_stands_for_nobody_is_taken_without_a_person(name: str) -> None:
    expected = {"result": "warning", "details": "person_processing_disabled"}
    assert result(event(distinct_id=name)) == expected
    assert result(event(distinct_id=f" {name.title()} ")) == expected


PACKED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "GZIP": gzip.compress,
}


@pytest.mark.parametrize(("name", "pack"), PACKED.items(), ids=PACKED)
def test_every_content_encoding_is_read(name: str, pack: Any) -> None:
    body = batch(event())
    found, record = captured(pack(body), {**HEADERS, b"content-encoding": name.encode()})
    assert record.data == body
    assert found.layers == (name.lower(),)


def test_deflate_may_be_bare_and_identity_is_none() -> None:
    body = batch(event())
    bare = zlib.compressobj(wbits=-15)
    packed = bare.compress(body) + bare.flush()
    assert captured(packed, {**HEADERS, b"content-encoding": b"deflate"})[1].data == body
    assert captured(body, {**HEADERS, b"content-encoding": b"identity"})[1].data == body


def test_what_javascript_and_python_write_is_repaired() -> None:
    body = batch(event(properties={"half": "X"})).replace(b'"X"', b'"cut \\ud83e here"')
    found, record = captured(body)
    assert found.layers == ("repair",)
    assert json.loads(record.data)["batch"][0]["properties"] == {"half": "cut \ufffd here"}


def with_header(name: bytes, value: bytes | None) -> dict[bytes, bytes]:
    kept = {key: value for key, value in HEADERS.items() if key != name}
    return kept if value is None else {**kept, name: value}


REFUSED_HEADERS = {
    "no authorization": (with_header(b"authorization", None), Reason.NO_TOKEN, "Bearer"),
    "another scheme": (with_header(b"authorization", b"Basic YTpi"), Reason.BAD_HEADER, "Bearer"),
    "no key": (with_header(b"authorization", b"Bearer "), Reason.BAD_HEADER, "Bearer"),
    "a personal key": (with_header(b"authorization", b"Bearer phx_a"), Reason.TOKEN_PERSONAL, ""),
    "a key that is too long": (with_header(b"authorization", b"Bearer " + b"x" * 65), Reason.TOKEN_TOO_LONG, ""),
    "no library": (with_header(b"posthog-sdk-info", None), Reason.MISSING_HEADERS, "PostHog-Sdk-Info."),
    "no attempt": (with_header(b"posthog-attempt", None), Reason.MISSING_HEADERS, "PostHog-Attempt."),
    "no request id": (with_header(b"posthog-request-id", None), Reason.MISSING_HEADERS, "PostHog-Request-Id."),
    "no time": (with_header(b"posthog-request-timestamp", None), Reason.MISSING_HEADERS, "PostHog-Request-Timestamp."),
    "no content type": (with_header(b"content-type", None), Reason.MISSING_HEADERS, "Content-Type."),
    "no user agent": (with_header(b"user-agent", None), Reason.MISSING_HEADERS, "User-Agent."),
    "attempt zero": (with_header(b"posthog-attempt", b"0"), Reason.BAD_HEADER, "PostHog-Attempt"),
    "an attempt in words": (with_header(b"posthog-attempt", b"one"), Reason.BAD_HEADER, "'one'"),
    "a request id that is none": (with_header(b"posthog-request-id", b"7"), Reason.BAD_HEADER, "a UUID"),
    "a time that is none": (with_header(b"posthog-request-timestamp", b"now"), Reason.BAD_HEADER, "RFC 3339"),
    "text": (with_header(b"content-type", b"text/plain"), Reason.CONTENT_TYPE, "text/plain"),
    "lz4": (with_header(b"content-encoding", b"lz4"), Reason.CONTENT_ENCODING, "'lz4'"),
    "two encodings": (with_header(b"content-encoding", b"gzip, br"), Reason.CONTENT_ENCODING, "gzip, br"),
}


@pytest.mark.parametrize(("headers", "reason", "found"), REFUSED_HEADERS.values(), ids=REFUSED_HEADERS)
def test_headers_that_are_missing_or_wrong_are_named(headers: dict[bytes, bytes], reason: Reason, found: str) -> None:
    rejected = refused(batch(event()), headers)
    assert rejected.reason is reason
    assert found in rejected.detail


def test_all_headers_that_are_missing_are_told_at_once() -> None:
    rejected = refused(batch(event()), {b"authorization": b"Bearer phc_x", b"user-agent": b"x"})
    assert rejected.reason is Reason.MISSING_HEADERS
    assert rejected.found == (
        "PostHog-Sdk-Info, PostHog-Attempt, PostHog-Request-Id, PostHog-Request-Timestamp, Content-Type."
    )


@pytest.mark.parametrize("value", [b"bearer phc_x", b"BEARER   phc_x ", b"Bearer phc_x"])
def test_the_scheme_is_of_any_case_and_the_key_trimmed(value: bytes) -> None:
    assert captured(batch(event()), with_header(b"authorization", value))[1].token == "phc_x"


def test_a_content_type_may_have_parameters() -> None:
    captured(batch(event()), with_header(b"content-type", b"Application/JSON; charset=utf-8"))


GZIP = {**HEADERS, b"content-encoding": b"gzip"}
REFUSED_BODIES = {
    "nothing": (b"", HEADERS, Reason.NO_DATA, ""),
    "blanks": (b" \n", HEADERS, Reason.NO_DATA, ""),
    "nothing inside gzip": (gzip.compress(b""), GZIP, Reason.NO_DATA, ""),
    "no gzip": (b"hello", GZIP, Reason.BAD_GZIP, "gzip"),
    "half of gzip": (gzip.compress(batch(event()))[:-9], GZIP, Reason.BAD_GZIP, "ends early"),
    "no brotli": (b"hello", {**HEADERS, b"content-encoding": b"br"}, Reason.BAD_BROTLI, "br"),
    "half of brotli": (
        brotli.compress(batch(event()))[:-3],
        {**HEADERS, b"content-encoding": b"br"},
        Reason.BAD_BROTLI,
        "ends early",
    ),
    "no JSON": (b"hello", HEADERS, Reason.BAD_SHAPE, "hello"),
    "half of JSON": (batch(event())[:-1], HEADERS, Reason.BAD_JSON, ""),
    "no UTF-8": (batch(event()).replace(b'"u"', b'"\xff"'), HEADERS, Reason.BAD_UTF8, ""),
    "a list": (json.dumps([event()]).encode(), HEADERS, Reason.BAD_SHAPE, ""),
    "no batch": (b'{"created_at":"2026-03-19T14:30:00Z"}', HEADERS, Reason.BAD_SHAPE, "`batch`"),
    "a batch that is an object": (b'{"created_at":"2026-03-19T14:30:00Z","batch":{}}', HEADERS, Reason.BAD_SHAPE, ""),
    "an empty batch": (batch(), HEADERS, Reason.EMPTY_BATCH, ""),
    "an event that is no object": (batch(event(), 7), HEADERS, Reason.BAD_SHAPE, "$.batch[1]"),
    "no created_at": (json.dumps({"batch": [event()]}).encode(), HEADERS, Reason.BAD_BATCH, "found nothing"),
    "a created_at that is no time": (batch(event(), created_at="now"), HEADERS, Reason.BAD_BATCH, '"now"'),
    "an event without a uuid": (batch(event(), without("uuid")), HEADERS, Reason.NO_UUID, "index 1"),
    "an empty uuid": (batch(event(uuid="  ")), HEADERS, Reason.NO_UUID, "index 0"),
    "a uuid that is none": (batch(event(uuid="7")), HEADERS, Reason.BAD_UUID, "'7' at index 0"),
    "a uuid twice": (batch(event(), event(uuid=UUID.upper())), HEADERS, Reason.DUPLICATE_UUID, "index 1"),
    "a uuid twice, in two forms": (
        batch(event(), event(uuid="{" + UUID + "}")),
        HEADERS,
        Reason.DUPLICATE_UUID,
        "index 1",
    ),
}


@pytest.mark.parametrize(("body", "headers", "reason", "found"), REFUSED_BODIES.values(), ids=REFUSED_BODIES)
def test_a_body_nobody_can_answer_event_by_event_is_refused(
    body: bytes, headers: dict[bytes, bytes], reason: Reason, found: str
) -> None:
    rejected = refused(body, headers)
    assert rejected.reason is reason
    assert found in rejected.detail


@pytest.mark.parametrize("name", ["", "gzip", "deflate", "br", "zstd"])
def test_the_limit_holds_for_what_comes_out(name: str) -> None:
    body = batch(event(properties={"x": "y" * 10_000}))
    pack: Any = PACKED.get(name, bytes)
    headers = {**HEADERS, b"content-encoding": name.encode()}
    assert captured(pack(body), headers, len(body))[1].data == body
    assert refused(pack(body), headers, len(body) - 1).reason is Reason.DECODED_TOO_LARGE


LIBRARIES = {
    "posthog-rs/1.0.0": ("posthog-rs", "1.0.0"),
    "posthog/sub-sdk/2.3.4": ("posthog/sub-sdk", "2.3.4"),
    "  posthog-rs / 1.2.3  ": ("posthog-rs", "1.2.3"),
    "no-slash": None,
    "/1.0.0": None,
    "posthog-rs/": None,
    "": None,
    "posthog-rs/" + "9" * 200: None,
}


@pytest.mark.parametrize(("text", "expected"), LIBRARIES.items())
def test_the_library_is_named_up_to_the_last_slash(text: str, expected: tuple[str, str] | None) -> None:
    assert library(text) == expected
    kept = captured(batch(event()), with_header(b"posthog-sdk-info", text.encode()))[1].user_agent
    assert kept == (text.strip() if expected else "")


def test_a_request_id_is_given_back_where_it_can_be() -> None:
    assert request_id_header(HEADERS) == b"posthog-request-id: 7d9b2c54-3a4e-4f60-8a1b-0c2d3e4f5a6b\r\n"
    for odd in (None, b"", b"\xff", b"x" * 65):
        assert request_id_header(with_header(b"posthog-request-id", odd)) == b""


def test_times_are_as_rfc_3339_has_them() -> None:
    for good in ("2026-03-19T14:30:00Z", "2026-03-19t14:30:00.1z", "0000-01-01T00:00:00+23:59"):
        assert is_rfc3339(good)
    for bad in ("", "2026-03-19", "2026-13-19T14:30:00Z", "2026-03-19T24:00:00Z", "2026-03-19T14:30:00+24:00", "٢"):
        assert not is_rfc3339(bad)


def test_every_refusal_has_a_name_here_too() -> None:
    for reason in REFUSALS:
        found = json.loads(error_body(reason, "why"))
        assert list(found) == ["error", "error_description", "error_uri"]
        assert found["error"] == TAGS.get(reason, REFUSALS[reason].code)
        assert found["error_description"] == "why"


def test_every_drop_is_counted_by_a_cause_of_the_list() -> None:
    assert set(DROPS.values()) <= set(DROP_REASONS)


def test_both_routes_are_there_in_both_spellings() -> None:
    for path in V1_PATHS:
        for spelling in (f"/{path}", f"/{path}/"):
            assert ROUTES[spelling.encode()].name == path


def test_more_events_than_are_judged_at_once_are_heavy() -> None:
    events = [event(uuid=f"0198c0de-0000-7000-8000-{number:012x}") for number in range(101)]

    def at_once(body: bytes, headers: dict[bytes, bytes] = HEADERS) -> CapturedBatch:
        request = Request("POST", b"", body, headers, "203.0.113.7", AT)
        return capture_batch(request, ROUTE, Limits(light=Light()), RecordIds(0xA))

    assert at_once(batch(*events[1:])) == captured(batch(*events[1:]))[0]
    gzipped = HEADERS | {b"content-encoding": b"gzip"}
    large = event(properties={"p": "x" * 390 * 1024})
    for body, headers in (
        (batch(*events), HEADERS),
        (batch(large), HEADERS),
        (gzip.compress(batch(*events)), gzipped),
        (gzip.compress(batch(large)), gzipped),
    ):
        with pytest.raises(Heavy):
            at_once(body, headers)
