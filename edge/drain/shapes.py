"""An event as one line of JSON, in the shapes downstream takes.

`event` is flat, for files, warehouses and people:

    {"uuid":"…","event":"$pageview","distinct_id":"u","timestamp":"…Z","token":"phc_x","ip":"203.0.113.7","now":"…Z",
     "sent_at":"…Z","lane":"main","historical_migration":true,"properties":{…},"$set":{…}}

`captured` is what PostHog's ingestion consumers read, the client's event as a string inside:

    {"uuid":"…","distinct_id":"u","ip":"203.0.113.7","data":"{\"event\":\"$pageview\",…}","now":"…Z","sent_at":"…Z",
     "token":"phc_x","event":"$pageview","timestamp":"…Z","is_cookieless_mode":true,"historical_migration":true}

In both, `sent_at` is left out when unknown and flags when false. The client's JSON is copied, not decoded.

A row, for tables with a column per key: the flat shape with JSON as text, and all other members the client sent in one column:

    {"uuid":"…",…,"sent_at":null,"lane":"main","historical_migration":false,"properties":"{…}","members":"{\"$set\":{…}}"}

Consumers of before 2025 work out an event's time themselves, and would correct one that is worked out already a second time.
For them `captured_line_2023` leaves out `event`, `timestamp` and the flags, and writes a name and a time they can read into
`data` where the client's text has none: what comes to a path of its own has no name, and a time may be a number or a property.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from edge.drain.event import Event
from edge.drain.timestamps import format_request_time, format_time

_EMPTY_OBJECT: Final = Raw(b"{}")
_NULL: Final = Raw(b"null")
_RFC3339: Final = re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"')


class _Flat(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    uuid: str
    event: str
    distinct_id: str
    timestamp: str
    token: str
    ip: str
    now: str
    sent_at: str = ""
    lane: str
    historical_migration: bool = False
    properties: Raw


class _Captured(msgspec.Struct, gc=False):
    uuid: str
    distinct_id: str
    ip: str
    data: str
    now: str
    sent_at: str | UnsetType
    token: str
    event: str | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    is_cookieless_mode: bool | UnsetType = UNSET
    historical_migration: bool | UnsetType = UNSET


class _Row(msgspec.Struct, gc=False, kw_only=True):
    uuid: str
    event: str
    distinct_id: str
    timestamp: str
    token: str
    ip: str
    now: str
    sent_at: str | None
    lane: str
    historical_migration: bool
    properties: str
    members: str


_REPRESENTED: Final = frozenset(_Flat.__struct_fields__) | {"$distinct_id", "$token", "api_key", "offset", "sentAt"}
"""Members whose meaning the flat shape's own keys carry."""

COLUMNS: Final = _Row.__struct_fields__

_encode: Final = msgspec.json.Encoder().encode
_decode_properties: Final = msgspec.json.Decoder(dict[str, Raw] | None).decode


def event_line(event: Event) -> bytes:
    """The flat shape: what the edge found out, then every other member the client sent."""
    members = event.members
    properties = members.get("properties", _EMPTY_OBJECT)
    line = _encode(
        _Flat(
            uuid=event.uuid,
            event=event.event,
            distinct_id=event.distinct_id,
            timestamp=format_time(event.timestamp_us),
            token=event.token,
            ip=event.ip,
            now=format_request_time(event.received_us),
            sent_at="" if event.sent_at_us is None else format_request_time(event.sent_at_us),
            lane=event.lane,
            historical_migration=event.historical,
            properties=_EMPTY_OBJECT if bytes(properties) == b"null" else properties,
        )
    )
    others = _others(members)
    return b"%b,%b}" % (line[:-1], others) if others else line


def row_line(event: Event) -> bytes:
    """A row of a table."""
    members = event.members
    properties = members.get("properties", _EMPTY_OBJECT)
    return _encode(
        _Row(
            uuid=event.uuid,
            event=event.event,
            distinct_id=event.distinct_id,
            timestamp=format_time(event.timestamp_us),
            token=event.token,
            ip=event.ip,
            now=format_request_time(event.received_us),
            sent_at=None if event.sent_at_us is None else format_request_time(event.sent_at_us),
            lane=event.lane,
            historical_migration=event.historical,
            properties="{}" if bytes(properties) == b"null" else bytes(properties).decode(),
            members=(b"{%b}" % _others(members)).decode(),
        )
    )


def _others(members: dict[str, Raw]) -> bytes:
    """The members no key of ours carries, without the braces."""
    others = members.keys() - _REPRESENTED
    return b",".join([_encode(key) + b":" + bytes(raw) for key, raw in members.items() if key in others])


def captured_line(event: Event) -> bytes:
    """The value of a message to PostHog's ingestion, whose keys win over those inside `data`."""
    captured = _captured(event)
    captured.event = event.event
    captured.timestamp = format_time(event.timestamp_us)
    if event.cookieless:
        captured.is_cookieless_mode = True
    if event.historical:
        captured.historical_migration = True
    return _encode(captured)


def captured_line_2023(event: Event) -> bytes:
    """The value of a message to PostHog's ingestion of before 2025."""
    captured = _captured(event)
    missing = {}
    if _lacks_name(event):
        missing["event"] = Raw(_encode(event.event))
    if _lacks_time(event):
        missing["timestamp"] = Raw(_encode(format_time(_claimed_us(event))))
    if missing:
        captured.data = _encode(event.members | missing).decode()
    return _encode(captured)


def _lacks_name(event: Event) -> bool:
    name = bytes(event.members.get("event", _NULL))
    return not name.startswith(b'"') or name == b'""'


def _lacks_time(event: Event) -> bool:
    """Consumers that work out the event's time would come to another one than the edge."""
    timestamp = bytes(event.members.get("timestamp", _NULL))
    if timestamp != b"null":
        return not _RFC3339.fullmatch(timestamp)
    # They read `offset` as the edge does, and take the time of receipt where there is nothing. A recording's items have times.
    without_offset = bytes(event.members.get("offset", _NULL)) == b"null"
    return without_offset and event.timestamp_us != event.received_us and event.lane != "replay"


def _claimed_us(event: Event) -> int:
    """The time by the client's clock, from which consumers come to the edge's; the edge's where they correct nothing."""
    properties = _decode_properties(event.members.get("properties", _NULL)) or {}
    if event.sent_at_us is None or bytes(properties.get("$ignore_sent_at", _NULL)) == b"true":
        return event.timestamp_us
    return event.timestamp_us + event.sent_at_us - event.received_us


def _captured(event: Event) -> _Captured:
    """What both have."""
    return _Captured(
        uuid=event.uuid,
        distinct_id=event.distinct_id,
        ip=event.ip,
        data=event.body.decode(),
        now=format_request_time(event.received_us),
        sent_at=UNSET if event.sent_at_us is None else format_request_time(event.sent_at_us),
        token=event.token,
    )


SHAPES: Final[dict[str, Callable[[Event], bytes]]] = {"event": event_line, "captured": captured_line}
