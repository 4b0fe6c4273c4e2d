"""An event, or what was dropped, as one line for people. Pure functions.

    2025-11-21T01:53:20.123Z  phc_x  $pageview  ada  {"$current_url":"https://…"}
    dropped no_event_name 2, no_distinct_id 1  2025-11-21T01:53:20.123Z  phc_x  batch  {"batch":[{"distinct_id":…

Clients decide what is in it, and a terminal obeys what it is shown: whatever is not printable is shown as an escape, `\\u001b`.
"""

import unicodedata
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

from edge.drain.event import Event
from edge.drain.timestamps import format_time
from edge.segment.record import Record

DROPPED_BYTES_MAX: Final = 1000
"""Shown of what a client sent where something of it is dropped and no width limits it: it may be a batch of megabytes."""

_GAP: Final = "  "
_CUT: Final = "…"
_BYTES_PER_COLUMN: Final = 16
"""Looked at: four are a character, and more may stand in its column."""


def event_text(event: Event, columns: int | None) -> str:
    """Time, project key, name, distinct_id, and as much of the properties as there is room in so many columns, or all."""
    head = map(printable, (format_time(event.timestamp_us), event.token, event.event, event.distinct_id))
    properties = bytes(event.members.get("properties", b"{}"))
    return _line(_GAP.join(head), b"{}" if properties == b"null" else properties, columns)


def dropped_text(record: Record, dropped: Mapping[str, int], columns: int | None) -> str:
    """Reasons with their counts, time of receipt, project key, route, and the beginning of what the client sent."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    head = _GAP.join((f"dropped {reasons}", format_time(record.at), printable(record.token), printable(record.path)))
    if columns is None:
        return head + _GAP + _beginning(record.data, DROPPED_BYTES_MAX)
    return _line(head, record.data, columns)


def printable(text: str) -> str:
    """With escapes for what moves the cursor, changes the direction, cannot be seen, or is no character."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _line(head: str, data: bytes, columns: int | None) -> str:
    if columns is None:
        return head + _GAP + _beginning(data, len(data))
    room = columns - sum(map(_columns, head)) - len(_GAP)
    if room < 1:
        return head
    return head + _GAP + _cut(_beginning(data, room * _BYTES_PER_COLUMN), room)


def _beginning(data: bytes, size: int) -> str:
    """Of JSON text; a character that is cut in two is left out."""
    return printable(data[:size].decode("utf-8", "ignore")) + (_CUT if len(data) > size else "")


def _cut(text: str, columns: int) -> str:
    fitting = 0
    for place, used in enumerate(accumulate(map(_columns, text)), 1):
        if used > columns:
            return text[:fitting] + _CUT
        if used < columns:
            fitting = place
    return text


def _columns(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
