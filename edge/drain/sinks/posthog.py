"""`posthog+https://HOST`, `posthog+http://HOST`: a PostHog cluster, or another edge, by the requests its clients make.

A request holds events of one token, and either historical ones or not:

    POST /batch/  {"api_key":"phc_x","historical_migration":true,"batch":[{"uuid":…,"event":…,"distinct_id":…,
                  "timestamp":…,"properties":{…,"$ip":…},"$set":{…}}, …]}
    POST /s/      [{"token":"phc_x","event":"$snapshot","uuid":…,"properties":{…,"$snapshot_data":[…]}}]

Uuid and time are those the edge gave the event, the same on every attempt. There is no `sent_at` and no `offset`: downstream
would shift the event by the time it spent here. The client's address goes into `$ip` where the client sent none, since
downstream sees ours.
"""

import gzip
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec
import xxhash
from msgspec import Raw

from edge import __version__
from edge.drain.event import Event
from edge.drain.posting import Poster, require_address, retry_after_s
from edge.drain.sink import PROBE_S, Batch, Paused, Refusal, Refused, Retryable, Sink, SinkUrl, TooLarge
from edge.drain.timestamps import format_time
from edge.segment.name import SegmentName
from edge.wire.rejections import Rejected
from edge.wire.repair import repair_json

LINGER_S: Final = 0.1
READ_BYTES: Final = 256 * 1024
EVENTS_MAX: Final = 1000
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""JSON text of a request, unless a single event is larger: a fifth of what downstream accepts."""
PORTS: Final = {"http": 80, "https": 443}
_HEADERS: Final = {
    "Content-Type": "application/json",
    "Content-Encoding": "gzip",
    "User-Agent": f"edge/{__version__}",
}
_OVERHEAD_BYTES: Final = 400
"""At most what an event's text grows by: uuid, times, address."""
_GZIP_LEVEL: Final = 1
_BUSY: Final = frozenset({408, 425, 429})
_BAD: Final = frozenset({400, 422})
_EVENTS_PATH: Final = "/batch/"
_PREFLIGHT: Final = {
    "Origin": "null",
    "Access-Control-Request-Method": "POST",
    "User-Agent": _HEADERS["User-Agent"],
}
_NOT_ASKED_SO: Final = frozenset({400, 405, 413, 422, 501})
"""What a server says that knows no such question, whatever it says to events."""

_EMPTY_OBJECT: Final = Raw(b"{}")
_FALSE: Final = Raw(b"false")
_COOKIELESS_MODE: Final = "$cookieless_mode"
_NOT_SENT: Final = frozenset(
    {
        *("uuid", "event", "distinct_id", "timestamp", "properties"),
        *("$distinct_id", "token", "$token", "api_key", "offset", "sent_at", "sentAt", "_"),
    }
)
"""Members that the edge's own take the place of, or that would move the event in time."""
_OBJECTS: Final = frozenset({"$set", "$set_once"})
"""Members that make downstream refuse a whole batch when they are anything but objects."""


class _Sent(msgspec.Struct, gc=False, kw_only=True):
    uuid: str
    event: str
    distinct_id: str
    timestamp: str
    properties: Raw


class _Recording(msgspec.Struct, gc=False, kw_only=True):
    token: str
    uuid: str
    event: str
    distinct_id: str
    timestamp: str
    properties: dict[str, Raw]


class _Answer(msgspec.Struct, gc=False):
    quota_limited: list[str] | None = None


_encode: Final = msgspec.json.Encoder().encode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_answer: Final = msgspec.json.Decoder(_Answer).decode


class PostHogSink:
    linger_s = LINGER_S
    read_bytes = READ_BYTES
    by_range = False

    def __init__(self, secure: bool, host: str, port: int, prefix: str, with_ip: bool) -> None:
        self._poster = Poster(host, port, secure=secure)
        self._prefix = prefix
        self._with_ip = with_ip

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        pieces: list[list[Event]] = []
        filling: dict[str, _Piece] = {}
        for event in events:
            piece = filling.get(event.token)
            if piece is None or not piece.takes(event):
                piece = filling[event.token] = _Piece(event)
                pieces.append(piece.events)
            else:
                piece.add(event)
        return pieces

    def ship(self, batch: Batch) -> int:
        if not batch.events:
            return 0
        first = batch.events[0]
        if first.lane == "replay":
            path = "/s/"
            body = b"[%b]" % b",".join([recording(event) for event in batch.events])
        else:
            path = _EVENTS_PATH
            body = b'{"api_key":%b,"historical_migration":%b,"batch":[%b]}' % (
                _encode(first.token),
                b"true" if first.historical else b"false",
                b",".join([sent(event, self._with_ip) for event in batch.events]),
            )
        try:
            size, limited = self._send(path, body)
        except Refused:
            # The edge takes numbers no double holds, others do not; they are too rare to be looked for in every event.
            repaired = repaired_json(body) if len(batch.events) == 1 else body
            if repaired == body:
                raise
            size, limited = self._send(path, repaired)
        if limited:
            batch.limited += len(batch.events)
        return size

    def _send(self, path: str, body: bytes) -> tuple[int, bool]:
        """Bytes on the wire, and whether downstream is over quota. Raises `Refusal`."""
        data = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        status, headers, answer = self._poster.post(self._prefix + path, data, _HEADERS)
        refusal = interpret(status, headers, answer)
        if refusal is not None:
            raise refusal
        return len(data), bool(answer and _decode_answer(answer).quota_limited)

    def probe(self) -> str:
        """By the question browsers ask before they send events from another site's page: it changes nothing, and every capture
        service answers it, 2xx. Project keys are no part of it."""
        target = self._prefix + _EVENTS_PATH
        status, headers, answer = self._poster.ask("OPTIONS", target, _PREFLIGHT, PROBE_S)
        if status >= 300 and status not in _NOT_ASKED_SO:
            refusal = interpret(status, headers, answer)
            assert refusal is not None
            raise refusal
        return f"OPTIONS {target} is answered {status}; whether it knows the project keys only events tell"

    def close(self) -> None:
        self._poster.close()


class _Piece:
    """Events of one token that fit one request."""

    def __init__(self, event: Event) -> None:
        self.events = [event]
        self._replay = event.lane == "replay"
        self._historical = event.historical
        self._bytes = len(event.body) + _OVERHEAD_BYTES

    def takes(self, event: Event) -> bool:
        # A recording is already all the snapshots of a request, and downstream would make one of two.
        return (
            not self._replay
            and event.lane != "replay"
            and event.historical == self._historical
            and len(self.events) < EVENTS_MAX
            and self._bytes + len(event.body) + _OVERHEAD_BYTES <= BODY_BYTES_MAX
        )

    def add(self, event: Event) -> None:
        self.events.append(event)
        self._bytes += len(event.body) + _OVERHEAD_BYTES


def sent(event: Event, with_ip: bool) -> bytes:
    """An element of `batch`."""
    members = event.members
    properties = members.get("properties", _EMPTY_OBJECT)
    if not bytes(properties).startswith(b"{"):
        properties = _EMPTY_OBJECT
    if not event.cookieless:
        properties = _without_odd_mode(properties)
    if with_ip and event.ip:
        properties = _with_ip(properties, event.ip)
    line = _encode(
        _Sent(
            uuid=event.uuid,
            event=event.event,
            distinct_id=event.distinct_id,
            timestamp=format_time(event.timestamp_us),
            properties=properties,
        )
    )
    others = [
        _encode(key) + b":" + bytes(raw)
        for key, raw in members.items()
        if key not in _NOT_SENT and (key not in _OBJECTS or bytes(raw).startswith(b"{"))
    ]
    return b"%b,%b}" % (line[:-1], b",".join(others)) if others else line


def recording(event: Event) -> bytes:
    """A session recording as clients send it: downstream assembles it as the edge did."""
    properties = {
        "$snapshot_data" if key == "$snapshot_items" else key: raw
        for key, raw in _decode_members(event.members["properties"]).items()
    }
    return _encode(
        _Recording(
            token=event.token,
            uuid=event.uuid,
            event="$snapshot",
            distinct_id=event.distinct_id,
            timestamp=format_time(event.timestamp_us),
            properties=properties,
        )
    )


def repaired_json(text: bytes) -> bytes:
    """With null for every number no double holds; as it is where there is none, or it cannot be read."""
    try:
        return repair_json(text)
    except Rejected:
        return text


def _without_odd_mode(properties: Raw) -> Raw:
    """Without a `$cookieless_mode` that is no boolean: to the edge it is false, and downstream refuses a whole batch for it."""
    text = bytes(properties)
    # The second is how a letter of a name is escaped. Nothing is decoded for events that have neither.
    if b"cookieless_mode" not in text and b"\\u00" not in text:
        return properties
    members = _decode_members(properties)
    if bytes(members.get(_COOKIELESS_MODE, _FALSE)) in (b"true", b"false"):
        return properties
    del members[_COOKIELESS_MODE]
    return Raw(_encode(members))


def _with_ip(properties: Raw, ip: str) -> Raw:
    text = bytes(properties)
    if b"$ip" in text and "$ip" in _decode_members(properties):
        return properties
    rest = text[1:].lstrip()
    return Raw(b'{"$ip":%b%b%b' % (_encode(ip), b"" if rest.startswith(b"}") else b",", rest))


def interpret(status: int, headers: Mapping[str, str], answer: bytes) -> Refusal | None:
    """What an answer means for the batch: `None` when downstream has it. Header names in lower case."""
    why = f"status {status}: {answer[:200].decode('utf-8', 'replace')}"
    if 200 <= status < 300:
        try:
            if answer:
                _decode_answer(answer)
        except (msgspec.MsgspecError, RecursionError):
            # The front page of a web server says 200 to anything.
            return Paused(f"expected the answer of a capture service, found {why}")
        return None
    if status == 413:
        return TooLarge(why)
    if status in _BAD:
        return Refused(why)
    if status in _BUSY or status >= 500 or status < 200:
        return Retryable(why, retry_after_s(headers))
    return Paused(why)


def make(url: SinkUrl) -> tuple[str, Sink]:
    options = url.take(ip=("property", "none"))
    parts = urlsplit(f"{url.scheme.removeprefix('posthog+')}:{url.target}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    usable = url.target.startswith("//") and parts.hostname and port != -1 and parts.username is None
    if not usable or not parts.hostname or parts.fragment:
        raise ValueError(f"{url.scheme}: expected a host, as in {url.scheme}://HOST:PORT, found {url.target!r}")
    prefix = parts.path.rstrip("/")
    require_address(url.scheme, parts.hostname, prefix)
    port = port or PORTS[parts.scheme]
    address = f"{parts.scheme}://{parts.hostname}:{port}{prefix}"
    sink = PostHogSink(parts.scheme == "https", parts.hostname, port, prefix, options["ip"] == "property")
    return f"posthog-{xxhash.xxh3_64_hexdigest(address.encode())}", sink
