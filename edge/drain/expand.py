"""A record to its events: what each is called, whose it is, when it happened, which stream it belongs to.

A pure function of the record. The same record gives the same uuids and times on every retry and on every machine, which
is what lets downstream recognise a duplicate.

Nothing is refused here, the client has its 200: an event nobody could process is dropped and counted by reason, an odd
field counts as absent. Only what is judged is decoded. The rest stays the client's bytes, so big integers, `1e999`,
repeated keys and key order come out as they went in.
"""

import re
from collections import Counter
from typing import Final

import msgspec
from msgspec import Raw

from edge.drain.common import COMMON_PATHS, Outermost, common_event, is_shipped_as_it_is, read_event, read_outermost
from edge.drain.event import DISTINCT_ID_CHARS_MAX, Event, Expansion, lane_of, make_uuid
from edge.drain.mixpanel import GROUP_IDENTIFY, GROUP_PATH, TIMED_PATHS, group_update
from edge.drain.replay import (
    SNAPSHOT_ITEMS,
    NotReplay,
    Snapshot,
    assemble,
    decode_snapshot,
    read_items,
    read_session_id,
)
from edge.drain.timestamps import normalise, parse_number, parse_sent_at, parse_time
from edge.drain.v1 import read_v1
from edge.segment.record import SKEW_KEPT, Record
from edge.wire.drops import DROP_REASONS, MENDED_FIELDS
from edge.wire.routes import V1_PATHS

_INTERNAL_IP: Final = "127.0.0.1"
_PERSON_PROFILE: Final = "$process_person_profile"
_ABSENT: Final = Raw(b"")


class _Judged(msgspec.Struct, gc=False, frozen=True):
    """The properties that are read, undecoded: whatever they hold, it cannot fail the event."""

    distinct_id: Raw = _ABSENT
    ignore_sent_at: Raw = msgspec.field(name="$ignore_sent_at", default=_ABSENT)
    cookieless_mode: Raw = msgspec.field(name="$cookieless_mode", default=_ABSENT)
    capture_internal: Raw = _ABSENT
    process_person_profile: Raw = msgspec.field(name=_PERSON_PROFILE, default=_ABSENT)
    time: Raw = _ABSENT


class _Dropped(Exception):
    def __init__(self, reason: str) -> None:
        assert reason in DROP_REASONS, reason
        super().__init__(reason)
        self.reason = reason


_Members = dict[str, Raw]

_decode_elements: Final = msgspec.json.Decoder(list[Raw]).decode
_decode_members: Final = msgspec.json.Decoder(_Members).decode
_decode_judged: Final = msgspec.json.Decoder(_Judged).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_number: Final = msgspec.json.Decoder(int | float).decode
_decode_time: Final = msgspec.json.Decoder(str | int | float).decode
_decode_any: Final = msgspec.json.Decoder().decode
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode

_UUID: Final = re.compile(
    r"(?:urn:uuid:)?(?P<brace>\{)?[0-9a-f]{8}(?P<hyphen>-?)(?:[0-9a-f]{4}(?P=hyphen)){3}[0-9a-f]{12}(?(brace)\})",
    re.ASCII | re.IGNORECASE,
)


class _Payload(msgspec.Struct, gc=False):
    """The client's JSON taken apart."""

    objects: list[bytes]
    """Each event's text, which need not be an object."""
    top: _Members
    """The members of the batch wrapper or of the single event; empty for a list."""
    batched: bool
    dropped: dict[str, int] = {}
    """What is dropped already, by reason."""
    sessions: list[str] = []
    """Of each object, where they are told outside the properties."""


class _Context(msgspec.Struct, gc=False):
    """What the events of one request share."""

    record: Record
    sent_at_us: int | None
    mended: dict[str, int]
    historical: bool = False

    def mend(self, field: str) -> None:
        assert field in MENDED_FIELDS, field
        self.mended[field] = self.mended.get(field, 0) + 1


def expand(record: Record) -> Expansion:
    """The events of `record`. Never raises: what cannot be read is counted."""
    try:
        if record.path in V1_PATHS:
            return _expand(record, _read_v1(record))
        data = record.data
        # Values that are copied are not decoded, and downstream expects text.
        if not data.isascii():
            data.decode()
        data = data.strip()
        if record.path in COMMON_PATHS and data.startswith(b"{") and (outermost := read_outermost(data)) is not None:
            if outermost.batch is not None:
                return _expand(record, _Payload(list(map(bytes, outermost.batch)), _shared(outermost), True))
            if not (outermost.sent_at or outermost.sent_at_too):
                sent_at_us = _to_correct(record, parse_sent_at(record.sent_at)) if record.sent_at else None
                event = common_event(outermost, data, 0, record, sent_at_us, False)
                if event is not None:
                    return Expansion([event], {})
        return _expand(record, _read(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # No JSON in UTF-8, or nested deeper than decoders follow. The edge accepts neither, a damaged disk may hold it.
        return Expansion([], {"unreadable": 1})


def _expand(record: Record, payload: _Payload) -> Expansion:
    if record.path == "s":
        return _expand_replay(record, payload)
    historical = payload.batched and bytes(payload.top.get("historical_migration", _ABSENT)) in (b"true", b'"true"')
    context = _Context(record, _to_correct(record, _sent_at(payload.top, record.sent_at)), {}, historical)
    events: list[Event] = []
    dropped = dict(payload.dropped)
    common = record.path in COMMON_PATHS
    for index, body in enumerate(payload.objects):
        try:
            event = read_event(body, index, record, context.sent_at_us, historical) if common else None
            if event is None:
                event = _event(body, _members(body), index, context)
        except _Dropped as drop:
            dropped[drop.reason] = dropped.get(drop.reason, 0) + 1
            continue
        if payload.sessions:
            event.session_id = payload.sessions[index]
        events.append(event)
    return Expansion(events, dropped, 0, context.mended)


def _expand_replay(record: Record, payload: _Payload) -> Expansion:
    """One event for the whole request, of the snapshots that can be read. The first that says whose it is speaks for all."""
    dropped: Counter[str] = Counter()
    readable: list[tuple[_Members | None, Snapshot, bytes]] = []
    for body in payload.objects:
        try:
            members = _members(body)
            snapshot = _snapshot(members)
            readable.append((members, snapshot, read_items(snapshot)))
        except (_Dropped, NotReplay) as drop:
            dropped[drop.reason] += 1
    lacking: Counter[str] = Counter()
    for members, snapshot, _ in readable:
        try:
            first = _first(members, snapshot)
        except (_Dropped, NotReplay) as drop:
            lacking[drop.reason] += 1
            continue
        mended: dict[str, int] = {}
        event = _replay_event(record, payload.top, first, [items for _, _, items in readable], mended)
        return Expansion([event], dict(dropped), len(readable) - 1, mended)
    return Expansion([], dict(dropped + lacking))


def _event(body: bytes, members: _Members | None, index: int, context: _Context) -> Event:
    """Raises `_Dropped`."""
    if members is None:
        raise _Dropped("not_an_object")
    record = context.record
    name = _text(members.get("event"))
    if not name:
        # Updates of persons and groups have no name. They come to paths of their own.
        if record.path == "engage":
            name = "$identify"
        elif record.path == GROUP_PATH:
            name = GROUP_IDENTIFY
            members = group_update(members)
            if members is None:
                raise _Dropped("no_distinct_id")
            body = _object(members)
        else:
            raise _Dropped("no_event_name")
    if name == "$performance_event":
        raise _Dropped("performance_event")
    judged = _judged(members)
    distinct_id = _distinct_id(members, judged)
    timestamp_us = _timestamp(members, judged, context)
    uuid = _client_uuid(members, context) or make_uuid(record.id, index, timestamp_us)
    cookieless = _cookieless(judged, context)
    if _PERSON_PROFILE in members and not judged.process_person_profile:
        body, members = _hoist_person_profile(body, members)
    return Event(
        uuid,
        name,
        distinct_id,
        timestamp_us,
        record.at,
        context.sent_at_us,
        record.token,
        _INTERNAL_IP if judged.capture_internal else record.ip,
        lane_of(name, context.historical),
        context.historical,
        cookieless,
        "",
        body,
        members,
    )


class _First(msgspec.Struct, gc=False):
    """The event that speaks for all of a recording."""

    members: _Members
    snapshot: Snapshot
    judged: _Judged
    distinct_id: str
    session_id: str


def _first(members: _Members | None, snapshot: Snapshot) -> _First:
    """Raises `_Dropped` and `NotReplay`."""
    assert members is not None
    judged = _judged(members)
    return _First(members, snapshot, judged, _distinct_id(members, judged), read_session_id(snapshot))


def _replay_event(record: Record, top: _Members, first: _First, items: list[bytes], mended: dict[str, int]) -> Event:
    members, judged, distinct_id = first.members, first.judged, first.distinct_id
    properties = assemble(first.snapshot, first.session_id, items, distinct_id, record.user_agent)
    # A wrapper may say when it was sent, otherwise the first event does.
    sent_at_us = _sent_at(top, "")
    if sent_at_us is None:
        sent_at_us = _sent_at(members, record.sent_at)
    context = _Context(record, _to_correct(record, sent_at_us), mended)
    timestamp_us = _timestamp(members, judged, context)
    return Event(
        _client_uuid(members, context) or make_uuid(record.id, 0, timestamp_us),
        SNAPSHOT_ITEMS,
        distinct_id,
        timestamp_us,
        record.at,
        context.sent_at_us,
        record.token,
        _INTERNAL_IP if judged.capture_internal else record.ip,
        "replay",
        False,
        _cookieless(judged, context),
        first.session_id,
        b'{"event":"%b","properties":%b}' % (SNAPSHOT_ITEMS.encode(), properties),
        {"event": Raw(b'"%b"' % SNAPSHOT_ITEMS.encode()), "properties": Raw(properties)},
    )


def _shared(outermost: Outermost) -> _Members:
    """The members of a batch wrapper that its events share."""
    members = {
        "sent_at": outermost.sent_at,
        "sentAt": outermost.sent_at_too,
        "historical_migration": outermost.historical_migration,
    }
    return {name: raw for name, raw in members.items() if raw}


def _read(data: bytes) -> _Payload:
    """The client's JSON text, no blanks around it, taken apart. Raises `msgspec.DecodeError` and `RecursionError`."""
    if data.startswith(b"["):
        return _Payload(list(map(bytes, _decode_elements(data))), {}, False)
    top = _members(data)
    if top is None:
        return _Payload([data], {}, False)
    elements = _elements(top.get("batch"))
    if elements is None:
        return _Payload([data], top, False)
    return _Payload(list(map(bytes, elements)), top, True)


def _read_v1(record: Record) -> _Payload:
    """The same for capture v1. Raises what `_read` does, and `UnicodeDecodeError`."""
    batch = read_v1(record)
    top = {"historical_migration": batch.historical_migration}
    return _Payload(batch.objects, top, True, batch.dropped, batch.sessions)


def _elements(batch: Raw | None) -> list[Raw] | None:
    """`None` for a single event, which may have a member named `batch` that is no list."""
    if batch is None:
        return None
    try:
        return _decode_elements(batch)
    except msgspec.ValidationError:
        return None


def _members(element: bytes | Raw) -> _Members | None:
    try:
        return _decode_members(element)
    except msgspec.ValidationError:
        return None


def _judged(members: _Members) -> _Judged:
    properties = members.get("properties")
    if properties is None:
        return _Judged()
    try:
        return _decode_judged(properties)
    except msgspec.ValidationError:
        if bytes(properties) == b"null":
            return _Judged()
        raise _Dropped("invalid_properties") from None


def _snapshot(members: _Members | None) -> Snapshot:
    if members is None:
        raise _Dropped("not_an_object")
    properties = members.get("properties")
    if properties is None or bytes(properties) == b"null":
        return Snapshot()
    try:
        return decode_snapshot(properties)
    except msgspec.ValidationError:
        raise _Dropped("invalid_properties") from None


def _text(raw: Raw | None) -> str:
    """The string, empty when absent or something else."""
    if raw is None:
        return ""
    try:
        return _decode_text(raw)
    except msgspec.ValidationError:
        return ""


def _is_true(raw: Raw) -> bool:
    return bool(raw) and bytes(raw) == b"true"


def _cookieless(judged: _Judged, context: _Context) -> bool:
    raw = judged.cookieless_mode
    if raw and bytes(raw) not in (b"true", b"false"):
        context.mend("cookieless_mode")
    return _is_true(raw)


def _distinct_id(members: _Members, judged: _Judged) -> str:
    for raw in (members.get("distinct_id"), members.get("$distinct_id"), judged.distinct_id):
        if not raw:
            continue
        try:
            distinct_id = _decode_text(raw)
        except msgspec.ValidationError:
            distinct_id = _canonical(bytes(raw))
            if distinct_id == "null":
                continue
        if "\0" in distinct_id:
            distinct_id = distinct_id.replace("\0", "\ufffd")
        # The first that is present counts, even if it is blank.
        if not distinct_id or distinct_id.isspace():
            break
        return distinct_id[:DISTINCT_ID_CHARS_MAX]
    raise _Dropped("no_distinct_id")


def _canonical(value: bytes) -> str:
    """Compact JSON with sorted keys: one text for one value."""
    text = value.decode()
    if text.lstrip("-").isdigit():
        return text
    try:
        return _encode_sorted(_decode_any(value)).decode()
    except msgspec.DecodeError:
        # A number out of range for Python: the client's text serves as well.
        return text


def _timestamp(members: _Members, judged: _Judged, context: _Context) -> int:
    timestamp_us = _instant(members.get("timestamp"), context)
    if timestamp_us is None and context.record.path in TIMED_PATHS:
        timestamp_us = _instant(judged.time, context)
    offset = members.get("offset")
    offset_ms = None if offset is None else _number(offset)
    return normalise(context.record.at, timestamp_us, offset_ms, context.sent_at_us, _is_true(judged.ignore_sent_at))


def _instant(raw: Raw | None, context: _Context) -> int | None:
    if not raw:
        return None
    instant_us = None
    try:
        value = _decode_time(raw)
        instant_us = parse_time(value) if isinstance(value, str) else parse_number(value)
    except msgspec.ValidationError:
        if bytes(raw) == b"null":
            return None
    if instant_us is None:
        context.mend("timestamp")
    return instant_us


def _number(raw: Raw) -> float | None:
    try:
        number: float = _decode_number(raw)
    except msgspec.ValidationError:
        return None
    return number


def _sent_at(members: _Members, elsewhere: str) -> int | None:
    """The first usable of `sent_at`, `sentAt` and what was found outside the payload."""
    for key in ("sent_at", "sentAt"):
        raw = members.get(key)
        if raw is not None:
            try:
                sent_at_us = parse_sent_at(_decode_time(raw))
            except msgspec.ValidationError:
                continue
            if sent_at_us is not None:
                return sent_at_us
    return parse_sent_at(elsewhere) if elsewhere else None


def _to_correct(record: Record, sent_at_us: int | None) -> int | None:
    """`sent_at` where times are corrected by it. Otherwise it is as good as unknown: downstream would correct by it, too."""
    if not record.skew_us or sent_at_us is None:
        return sent_at_us
    return None if record.skew_us == SKEW_KEPT or abs(record.at - sent_at_us) < record.skew_us else sent_at_us


def _client_uuid(members: _Members, context: _Context) -> str:
    """The client's uuid, lower case and hyphenated, empty when there is none or it is none."""
    raw = members.get("uuid")
    if raw is None:
        return ""
    text = _text(raw)
    # Nearly all come as they go, which is a third of the cost.
    if is_shipped_as_it_is(text):
        return text
    if not _UUID.fullmatch(text):
        if bytes(raw) not in (b"null", b'""'):
            context.mend("uuid")
        return ""
    digits = text.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _hoist_person_profile(body: bytes, members: _Members) -> tuple[bytes, _Members]:
    """Text and members with the switch among the properties, where downstream reads it.

    The protocol's documentation lists it beside them.
    """
    switch = bytes(members[_PERSON_PROFILE])
    if switch == b"null":
        return body, members
    properties = bytes(members.get("properties", _ABSENT))
    rest = properties[1:-1].strip() if properties.startswith(b"{") else b""
    hoisted = b'{"%b":%b%b}' % (_PERSON_PROFILE.encode(), switch, b"," + rest if rest else b"")
    members = {key: raw for key, raw in members.items() if key != _PERSON_PROFILE} | {"properties": Raw(hoisted)}
    return _object(members), members


def _object(members: _Members) -> bytes:
    return b"{%b}" % b",".join(_encode_sorted(key) + b":" + bytes(raw) for key, raw in members.items())
