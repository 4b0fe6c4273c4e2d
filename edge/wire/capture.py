"""The request path in one function: a complete HTTP request → the record to store, or a rejection."""

from binascii import a2b_base64
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from edge.segment.record import RecordIds, encode_record
from edge.wire.encoding import OBJECT_AS_BASE64, decode_body
from edge.wire.fields import FIELDS_MAX, parse_fields
from edge.wire.payload import read_payload
from edge.wire.request import Heavy, Limits, Request
from edge.wire.routes import Route
from edge.wire.validate import choose_token


class Captured(msgspec.Struct, gc=False):
    """What the connection needs of an accepted request."""

    record: bytes
    """The line to append to the spool."""
    events: int
    beacon: bool
    """The answer is 204: the client cannot read one."""
    terse: bool
    """The answer is `1`: a Mixpanel library that did not ask for JSON."""
    layers: tuple[str, ...]
    """Encodings unwrapped, and `repair` where the JSON needed it: the slow paths, for a metric."""


_JSON_STARTS: Final = (b"{", b"[")
_JSON_ENDS: Final = (b"}", b"]")
_SILENT_FIELDS: Final = frozenset((b"ip", b"ver", b"v", b"retry_count"))
"""What browsers put into the query for the server that is not there any more, or for people."""
_SILENT_PAIRS: Final = frozenset((b"compression=gzip-js", b"compression=gzip"))
_SENT_AT_FIELDS: Final = ("_", "sent_at", "sentAt")
_NO_FIELDS: Mapping[str, bytes] = {}


Choose = Callable[[tuple[object, ...], Mapping[str, bytes], Mapping[str, bytes], Request, Route, bytes], str]
"""Chooses the project key: of the keys in the payload, the fields of form and query, the request, its route, its JSON text."""


def capture(request: Request, route: Route, limits: Limits, ids: RecordIds, choose: Choose | None = None) -> Captured:
    """Decode, read and judge one request. Raises `Rejected`, and `Heavy`; changes nothing but the next id.

    `choose` looks keys up, and is left out where none are looked up.
    """
    text = request.body
    light = limits.light
    if light is not None and (len(text) > light.text_bytes_max or len(request.query) > light.wrapped_bytes_max):
        raise Heavy
    query = form = _NO_FIELDS
    layers: tuple[str, ...] = ()
    sent_at = user_agent = ""
    beacon = False
    terse = route.mixpanel
    if request.query or request.content_encoding or not (text.startswith(_JSON_STARTS) and text.endswith(_JSON_ENDS)):
        query = parse_fields(request.query)
        decoded = decode_body(request, query, limits)
        text = decoded.text
        form = decoded.fields
        layers = decoded.layers
        sent_at = _sent_at(query, form)
        beacon = query.get("beacon") == b"1"
        if terse:
            terse = b"1" not in (query.get("verbose"), form.get("verbose"))
    payload = read_payload(text, light, limits.events_max)
    if choose is not None:
        token = choose(payload.tokens, form, query, request, route, payload.text)
    else:
        token = choose_token(payload.tokens, form, query, request)
    if route.replay:
        user_agent = request.user_agent.decode("latin-1")
    record = encode_record(
        ids, request.received_us, token, route.name, request.client_ip, payload.text, sent_at, user_agent
    )
    if payload.repaired:
        layers = (*layers, "repair")
    return Captured(record, payload.events, beacon, terse, layers)


def _sent_at(query: Mapping[str, bytes], form: Mapping[str, bytes]) -> str:
    """When the client sent the request, as far as it says so beside the payload. What begins no time is passed over."""
    for fields in (query, form):
        for name in _SENT_AT_FIELDS:
            value = fields.get(name, b"").strip()
            if value[:1].isdigit():
                return value.decode("utf-8", "replace")
    return ""


def is_terse(request: Request, route: Route) -> bool:
    """Whether the success of a request without a payload is `1`."""
    return route.mixpanel and parse_fields(request.query).get("verbose") != b"1"


def read_plain_query(query: bytes) -> bytes | None:
    """The `sent_at` of a query that says nothing else, as a browser's, but that the body is gzip, which its first bytes tell;
    `None` when it may say more, and `capture` must look."""
    if not query:
        return b""
    found = _plain_fields(query, _SILENT_PAIRS)
    return None if found is None or found[0] is not None else found[1]


def read_data_query(query: bytes) -> tuple[bytes, bytes] | None:
    """The JSON object in `data`, as base64, and the `sent_at` of a query that says nothing else; `None` when it is not that."""
    found = _plain_fields(query)
    if found is None or found[0] is None or (text := read_plain_data(found[0])) is None:
        return None
    return text, found[1]


def read_plain_data(data: bytes) -> bytes | None:
    """The JSON object in a query's `data`, still escaped; `None` when it is not plainly that, and `capture` must look."""
    # An unescaped plus may be a space, or a digit.
    if not data.startswith(OBJECT_AS_BASE64) or b"+" in data:
        return None
    if b"%" in data:
        data = data.replace(b"%3D", b"=")
        if b"%" in data:
            data = data.replace(b"%2B", b"+").replace(b"%2F", b"/")
    try:
        text = a2b_base64(data, strict_mode=True)
    except ValueError:
        return None
    return text if text.endswith(b"}") else None


def _plain_fields(query: bytes, silent: frozenset[bytes] = frozenset()) -> tuple[bytes | None, bytes] | None:
    """`data`, still escaped, and `_` of a query; `None` when it says more, or not plainly."""
    data: bytes | None = None
    sent_at = b""
    for pair in query.split(b"&", FIELDS_MAX - 1):
        name, _, value = pair.partition(b"=")
        if name == b"_":
            if sent_at or not value.isdigit():
                return None
            sent_at = value
        elif name == b"data":
            if data is not None:
                return None
            data = value
        elif name not in _SILENT_FIELDS and pair not in silent:
            return None
    return data, sent_at


def empty_poll(request: Request) -> bool:
    """A GET whose query names a client but carries no data, which posthog-js 1.0 to 1.20 send with `api_method: GET`.

    There is nothing to lose in it, and an error page makes 1.20 send it ten more times.
    """
    if request.method not in ("GET", "HEAD") or request.body:
        return False
    query = parse_fields(request.query)
    return not query.get("data") and "ip" in query and "_" in query
