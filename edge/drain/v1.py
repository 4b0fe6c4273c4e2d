"""A record of capture v1 to events as the older protocol has them, which expansion then treats like any others.

    {"event":"e","uuid":"…","distinct_id":" u","timestamp":"…","session_id":"s","options":{"cookieless_mode":true},
     "properties":{"a":1}}

    {"event":"e","uuid":"…","distinct_id":"u","timestamp":"…",
     "properties":{"a":1,"$session_id":"s","$cookieless_mode":true,"$lib":"posthog-python","$lib_version":"7.91.1"}}

A pure function of the record; which events are dropped is decided by the function that the answer was made with.
"""

from typing import Final

import msgspec
from msgspec import Raw

from edge.segment.record import Record
from edge.wire.v1 import DROPS, PERSON_PROCESSING_DISABLED, V1Event, Verdict, judge, library, trimmed

Members = dict[str, Raw]

_ABSENT: Final = Raw(b"")
_NULL: Final = b"null"
_MOVED: Final = ("options", "session_id", "window_id")
"""Members of an event that are properties downstream."""


class V1Batch(msgspec.Struct, gc=False):
    """The client's JSON taken apart."""

    objects: list[tuple[bytes, Members | None]]
    """Text and members of each event that is delivered, in order."""
    historical_migration: Raw
    dropped: dict[str, int]
    """Count by reason, of `DROP_REASONS`."""


class _Batch(msgspec.Struct, gc=False):
    batch: list[Raw]
    historical_migration: Raw = _ABSENT
    capture_internal: Raw = _ABSENT


_decode_batch: Final = msgspec.json.Decoder(_Batch).decode
_decode_members: Final = msgspec.json.Decoder(Members).decode
_decode_event: Final = msgspec.json.Decoder(V1Event).decode
_encode: Final = msgspec.json.Encoder().encode


def read_v1(record: Record) -> V1Batch:
    """Raises `msgspec.DecodeError`, `UnicodeDecodeError` and `RecursionError`."""
    data = record.data
    # Values that are copied are not decoded, and downstream expects text.
    if not data.isascii():
        data.decode()
    batch = _decode_batch(data)
    shared: dict[str, bytes] = {}
    if bytes(batch.capture_internal) == b"true":
        shared["capture_internal"] = b"true"
    named = library(record.user_agent)
    if named is not None:
        shared |= {"$lib": _encode(named[0]), "$lib_version": _encode(named[1])}
    objects: list[tuple[bytes, Members | None]] = []
    dropped: dict[str, int] = {}
    for raw in batch.batch:
        event = _decode_event(raw)
        verdict = judge(event)
        if verdict.dropped:
            reason = DROPS[verdict.details]
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        members = _rewritten(_decode_members(raw), event, verdict, shared)
        objects.append((_object(members), members))
    return V1Batch(objects, batch.historical_migration, dropped)


def _rewritten(members: Members, event: V1Event, verdict: Verdict, shared: dict[str, bytes]) -> Members:
    added = {
        "$session_id": bytes(members.get("session_id", _ABSENT)),
        "$window_id": bytes(members.get("window_id", _ABSENT)),
        "$cookieless_mode": verdict.options.cookieless_mode,
        "$ignore_sent_at": verdict.options.disable_skew_correction,
        "$product_tour_id": verdict.options.product_tour_id,
        "$process_person_profile": verdict.options.process_person_profile,
        **shared,
    }
    if verdict.details == PERSON_PROCESSING_DISABLED:
        added["$process_person_profile"] = b"false"
    rewritten = {name: raw for name, raw in members.items() if name not in _MOVED}
    for name, value in (("uuid", event.uuid), ("distinct_id", event.distinct_id)):
        rewritten[name] = Raw(_encode(trimmed(value)))
    rewritten["properties"] = _with(
        bytes(event.properties), {key: text for key, text in added.items() if text and text != _NULL}
    )
    return rewritten


def _with(properties: bytes, added: dict[str, bytes]) -> Raw:
    """The object with members of its own replaced or behind them; no key twice but those the client wrote twice."""
    if not properties.startswith(b"{"):
        properties = b"{}"
    if any(_encode(key) in properties for key in added):
        kept = {key: raw for key, raw in _decode_members(properties).items() if key not in added}
        properties = _object(kept)
    rest = properties[1:-1].strip()
    pairs = [_encode(key) + b":" + text for key, text in added.items()]
    return Raw(b"{%b}" % b",".join([rest, *pairs] if rest else pairs))


def _object(members: Members) -> bytes:
    return b"{%b}" % b",".join(_encode(key) + b":" + bytes(raw) for key, raw in members.items())
