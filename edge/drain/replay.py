"""Session replay: the snapshot events of one request become one `$snapshot_items` event.

    [{"event":"$snapshot","properties":{"$session_id":"s","$snapshot_data":[A,B]}},
     {"event":"$snapshot","properties":{"$session_id":"s","$snapshot_data":C}}]

becomes the properties

    {"distinct_id":"u","$session_id":"s","$window_id":"s","$snapshot_source":"web","$snapshot_items":[A,B,C],"$lib":"web"}

Snapshots are large and opaque: their bytes are copied, never decoded. All but the items is said by the first event
that has a session and somebody it is about.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from edge.wire.drops import DROP_REASONS

SNAPSHOT_ITEMS: Final = "$snapshot_items"

_ABSENT: Final = Raw(b"")
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9-]{1,70}", re.ASCII)
_LIB_UNKNOWN: Final = b'"web"'


class Snapshot(msgspec.Struct, gc=False):
    """The properties of a snapshot event that are read, undecoded, empty when absent."""

    session_id: Raw = msgspec.field(name="$session_id", default=_ABSENT)
    window_id: Raw = msgspec.field(name="$window_id", default=_ABSENT)
    source: Raw = msgspec.field(name="$snapshot_source", default=_ABSENT)
    data: Raw = msgspec.field(name="$snapshot_data", default=_ABSENT)
    lib: Raw = msgspec.field(name="$lib", default=_ABSENT)


class NotReplay(Exception):
    """The event is no session replay. `reason` is a drop reason."""

    def __init__(self, reason: str) -> None:
        assert reason in DROP_REASONS, reason
        super().__init__(reason)
        self.reason = reason


decode_snapshot: Final = msgspec.json.Decoder(Snapshot).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_encode_text: Final = msgspec.json.Encoder().encode


def assemble(first: Snapshot, session_id: str, items: Sequence[bytes], distinct_id: str, user_agent: str) -> bytes:
    """The properties, a JSON object, of the one event that stands for all, of which `items` are what `read_items` found."""
    session_json = _encode_text(session_id)
    source = b'"mobile"' if bytes(first.source) == b'"mobile"' else b'"web"'
    return (
        b'{"distinct_id":%b,"$session_id":%b,"$window_id":%b,"$snapshot_source":%b,"$snapshot_items":[%b],"$lib":%b}'
    ) % (
        _encode_text(distinct_id),
        session_json,
        _non_empty_string(first.window_id) or session_json,
        source,
        b",".join(filter(None, items)),
        _non_empty_string(first.lib) or _lib_of(user_agent),
    )


def read_session_id(snapshot: Snapshot) -> str:
    """A string of 1 to 70 letters, digits and hyphens. Raises `NotReplay`: `no_session_id` or `invalid_session_id`."""
    raw = bytes(snapshot.session_id)
    if raw in (b"", b"null", b'""'):
        raise NotReplay("no_session_id")
    try:
        session_id = _decode_text(raw)
    except msgspec.DecodeError:
        raise NotReplay("invalid_session_id") from None
    if not _SESSION_ID.fullmatch(session_id):
        raise NotReplay("invalid_session_id")
    return session_id


def read_items(snapshot: Snapshot) -> bytes:
    """JSON values separated by commas: the elements of a list, or an object alone. Raises `NotReplay`: `no_snapshot_data`."""
    data = bytes(snapshot.data)
    if data.startswith(b"["):
        return data[1:-1].strip()
    if data.startswith(b"{"):
        return data
    raise NotReplay("no_snapshot_data")


def _non_empty_string(raw: Raw) -> bytes:
    text = bytes(raw)
    return text if text.startswith(b'"') and text != b'""' else b""


def _lib_of(user_agent: str) -> bytes:
    """Libraries that send no `$lib` name themselves in the user agent, browsers do not."""
    library = user_agent.partition("/")[0]
    return _encode_text(library) if "posthog" in library else _LIB_UNKNOWN
