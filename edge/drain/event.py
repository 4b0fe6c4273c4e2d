"""An event as the edge understood it, what became of a record's events, and how an event gets its stream and its uuid."""

from typing import Final

import msgspec
import xxhash
from msgspec import Raw

DISTINCT_ID_CHARS_MAX: Final = 200

LANES: Final = {
    "$$client_ingestion_warning": "warnings",
    "$exception": "exceptions",
    "$$heatmap": "heatmaps",
}
"""Event name to stream. All other names: `ai` by prefix, then `historical` by request, then `main`. Replay: `replay`."""

_AI_PREFIX: Final = "$ai_"

_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class Event(msgspec.Struct, gc=False):
    """One event as the edge understood it, beside its own JSON."""

    uuid: str
    """Lower case, hyphenated."""
    event: str
    distinct_id: str
    timestamp_us: int
    """When it happened by our clock."""
    received_us: int
    sent_at_us: int | None
    token: str
    ip: str
    """The client's, or `127.0.0.1` for what is sent on behalf of others (`capture_internal`)."""
    lane: str
    historical: bool
    cookieless: bool
    session_id: str
    """Of session replay and capture v1, empty elsewhere."""
    body: bytes
    """The event's JSON object: the client's own text, unless the edge assembled it or moved a member."""
    taken_apart: dict[str, Raw] | None = None

    @property
    def members(self) -> dict[str, Raw]:
        """The members of `body`, undecoded. `properties` is an object where present and not null."""
        if self.taken_apart is None:
            self.taken_apart = _decode_members(self.body)
        return self.taken_apart


class Expansion(msgspec.Struct, gc=False):
    """What became of a record: every event in it is in `events`, in order, or counted in `dropped` or `merged`."""

    events: list[Event]
    dropped: dict[str, int]
    """Count by reason, of `DROP_REASONS`."""
    merged: int = 0
    """Events that are part of another one in `events`: session replay makes one of all in a record."""
    mended: dict[str, int] = {}
    """Delivered events by the field that was unusable in them, of `MENDED_FIELDS`."""


def lane_of(name: str, historical: bool) -> str:
    if (lane := LANES.get(name)) is not None:
        return lane
    if name.startswith(_AI_PREFIX):
        return "ai"
    return "historical" if historical else "main"


def make_uuid(record_id: str, index: int, timestamp_us: int) -> str:
    """UUIDv7 (RFC 9562 5.7) whose random bits are a hash of the event's place: the same event, the same uuid."""
    noise = xxhash.xxh3_128_hexdigest(f"{record_id}:{index}".encode())
    millis = f"{max(timestamp_us, 0) // 1000:012x}"
    variant = "89ab"[int(noise[3], 16) % 4]
    return f"{millis[:8]}-{millis[8:]}-7{noise[:3]}-{variant}{noise[4:7]}-{noise[7:19]}"
