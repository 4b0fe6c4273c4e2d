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
from edge.wire.v1 import DROPS, PERSON_PROCESSING_DISABLED, V1Event, Verdict, judge, library, text_of, trimmed

Members = dict[str, Raw]

_ABSENT: Final = Raw(b"")
_MOVED: Final = ("options", "session_id", "window_id", "offset")
"""Members of an event that are properties downstream; and one that this protocol has not and the older one reads as a time."""


class V1Batch(msgspec.Struct, gc=False):
    """The client's JSON taken apart."""

    objects: list[bytes]
    """Text of each event that is delivered, in order."""
    sessions: list[str]
    """The session of each, empty where there is none."""
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
    shared: dict[bytes, bytes] = {}
    if bytes(batch.capture_internal) == b"true":
        shared[b'"capture_internal"'] = b"true"
    named = library(record.user_agent)
    if named is not None:
        shared |= {b'"$lib"': _encode(named[0]), b'"$lib_version"': _encode(named[1])}
    objects: list[bytes] = []
    sessions: list[str] = []
    dropped: dict[str, int] = {}
    for raw in batch.batch:
        event = _decode_event(raw)
        verdict = judge(event)
        if verdict.dropped:
            reason = DROPS[verdict.details]
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        members = _decode_members(raw)
        sessions.append(text_of(members.get("session_id", _ABSENT)) or "")
        objects.append(_object(_rewritten(members, event, verdict, shared)))
    return V1Batch(objects, sessions, batch.historical_migration, dropped)


def _rewritten(members: Members, event: V1Event, verdict: Verdict, shared: dict[bytes, bytes]) -> Members:
    options = verdict.options
    unwanted = verdict.details == PERSON_PROCESSING_DISABLED
    added = {
        b'"$session_id"': bytes(members.get("session_id", _ABSENT)),
        b'"$window_id"': bytes(members.get("window_id", _ABSENT)),
        b'"$cookieless_mode"': options.cookieless_mode,
        b'"$ignore_sent_at"': options.disable_skew_correction,
        b'"$product_tour_id"': options.product_tour_id,
        b'"$process_person_profile"': b"false" if unwanted else options.process_person_profile,
        **shared,
    }
    rewritten = {name: raw for name, raw in members.items() if name not in _MOVED}
    for name, value in (("uuid", event.uuid), ("distinct_id", event.distinct_id)):
        rewritten[name] = Raw(_encode(trimmed(value)))
    said = {key: text for key, text in added.items() if text not in (b"", b"null")}
    rewritten["properties"] = _with(bytes(event.properties), said)
    return rewritten


def _with(properties: bytes, added: dict[bytes, bytes]) -> Raw:
    """The object with members of its own replaced or behind them; no key twice but those the client wrote twice."""
    if not properties.startswith(b"{"):
        properties = b"{}"
    if any(key in properties for key in added):
        members = _decode_members(properties)
        properties = _object({key: raw for key, raw in members.items() if _encode(key) not in added})
    rest = properties[1:-1].strip()
    pairs = [key + b":" + text for key, text in added.items()]
    return Raw(b"{%b}" % b",".join([rest, *pairs] if rest else pairs))


def _object(members: Members) -> bytes:
    return b"{%b}" % b",".join(_encode(key) + b":" + bytes(raw) for key, raw in members.items())
