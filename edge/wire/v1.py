"""Capture v1, `POST /i/v1/analytics/events`: what the older protocol has in the body is in headers, and every event of a
batch gets an answer of its own.

    {"created_at":"2026-03-19T14:30:00Z","historical_migration":true,"capture_internal":true,
     "batch":[{"event":"e","uuid":"…","distinct_id":"u","timestamp":"…Z","session_id":"s","window_id":"w",
               "options":{"process_person_profile":false},"properties":{…}}]}

    {"results":{"…":{"result":"ok"},"…":{"result":"drop","details":"missing_distinct_id"}}}

An event's verdict is a function of its text alone. The edge answers with it before anything is expanded, and the drainer
reads the stored text with the same function, so what was told `ok` is delivered and what was told `drop` is not.

Follows PostHog's capture service, wire version 1, but for what would cost a batch: a member that is missing or of a wrong
type costs its event, not its neighbours.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Final

import msgspec
from msgspec import Raw

from edge.segment.record import RecordIds, encode_record
from edge.wire.capture import Choose
from edge.wire.encoding import DECODERS, REASONS
from edge.wire.fields import parse_fields
from edge.wire.lz import TooLarge
from edge.wire.payload import read_payload
from edge.wire.rejections import REFUSALS, Reason, Rejected
from edge.wire.request import Heavy, Limits, Request
from edge.wire.routes import Route
from edge.wire.validate import judge_token

CONTENT_ENCODINGS: Final = ("gzip", "deflate", "br", "zstd")
REQUIRED_HEADERS: Final = (
    "PostHog-Sdk-Info",
    "PostHog-Attempt",
    "PostHog-Request-Id",
    "PostHog-Request-Timestamp",
    "Content-Type",
    "User-Agent",
)
EVENT_NAME_CHARS_MAX: Final = 200
DISTINCT_ID_CHARS_MAX: Final = 200
SDK_INFO_CHARS_MAX: Final = 200
"""It is put into every event of the batch; libraries send some twenty."""
REQUEST_ID_CHARS_MAX: Final = 64
"""Of a request id that is sent back."""

PLACEHOLDER_IDS: Final = frozenset(
    (
        *("0", "00000000-0000-0000-0000-000000000000", "[object object]", "anonymous", "anonymous-user", "backend"),
        *("distinct_id", "distinctid", "email", "false", "guest", "id", "nan", "none", "not_authenticated", "null"),
        *("system", "true", "undefined", "user"),
    )
)
"""Distinct ids, in lower case, that stand for nobody in particular: a person made of them would be everybody."""

ERROR_URI: Final = "https://posthog.com/docs/api"

TAGS: Final[dict[Reason, str]] = {
    Reason.NO_DATA: "empty_body",
    Reason.BAD_GZIP: "request_decoding_error",
    Reason.BAD_DEFLATE: "request_decoding_error",
    Reason.BAD_BROTLI: "request_decoding_error",
    Reason.BAD_ZSTD: "request_decoding_error",
    Reason.BAD_UTF8: "request_parsing_error",
    Reason.BAD_JSON: "request_parsing_error",
    Reason.TOO_NESTED: "request_parsing_error",
    Reason.BAD_SHAPE: "request_parsing_error",
    Reason.EMPTY_BATCH: "empty_batch",
    Reason.NO_TOKEN: "missing_authorization",
    Reason.TOKEN_EMPTY: "invalid_api_token",
    Reason.TOKEN_TOO_LONG: "invalid_api_token",
    Reason.TOKEN_NOT_ASCII: "invalid_api_token",
    Reason.TOKEN_PERSONAL: "invalid_api_token",
    Reason.TOKEN_NULL_BYTE: "invalid_api_token",
    Reason.UNKNOWN_KEY: "invalid_api_token",
    Reason.UNKNOWN_PERSONAL_KEY: "invalid_api_token",
    Reason.BODY_TOO_LARGE: "payload_too_large",
    Reason.DECODED_TOO_LARGE: "payload_too_large",
    Reason.TOO_MANY_EVENTS: "payload_too_large",
    Reason.REQUEST_TIMEOUT: "gateway_timeout",
    Reason.TOO_MANY_CONNECTIONS: "service_unavailable",
    Reason.OVERLOADED: "service_unavailable",
    Reason.STOPPING: "service_unavailable",
    Reason.STORAGE: "service_unavailable",
    Reason.INTERNAL: "internal_error",
}
"""What this protocol calls a refusal; the others are called as everywhere."""

DROPS: Final = {
    "missing_event_name": "no_event_name",
    "event_name_too_long": "event_name_too_long",
    "dropped_performance_event": "performance_event",
    "missing_distinct_id": "no_distinct_id",
    "malformed_distinct_id": "malformed_distinct_id",
    "distinct_id_too_large": "distinct_id_too_long",
    "invalid_event_timestamp": "invalid_timestamp",
    "malformed_event_properties": "invalid_properties",
    "invalid_options": "invalid_options",
}
"""What the client is told of an event that is not delivered, and the cause it is counted by."""

PERSON_PROCESSING_DISABLED: Final = "person_processing_disabled"

_BEARER: Final = b"bearer "
_ABSENT: Final = Raw(b"")
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ]([01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_UUID: Final = re.compile(
    r"(?:urn:uuid:)?(?P<brace>\{)?[0-9a-f]{8}(?P<hyphen>-?)(?:[0-9a-f]{4}(?P=hyphen)){3}[0-9a-f]{12}(?(brace)\})",
    re.ASCII | re.IGNORECASE,
)
_NOT_DIGITS: Final = str.maketrans("", "", "-{}")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}

_encode: Final = msgspec.json.Encoder().encode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_number: Final = msgspec.json.Decoder(int | float).decode
_decode_integer: Final = msgspec.json.Decoder(int).decode


class Options(msgspec.Struct, gc=False):
    """An event's `options` as JSON ready to be a property, empty where absent."""

    cookieless_mode: bytes = b""
    disable_skew_correction: bytes = b""
    process_person_profile: bytes = b""
    product_tour_id: bytes = b""


class Verdict(msgspec.Struct, gc=False):
    """What becomes of an event."""

    options: Options
    details: str = ""
    """Why it is dropped, or `person_processing_disabled`; empty for an ordinary one."""

    @property
    def dropped(self) -> bool:
        return self.details in DROPS

    @property
    def result(self) -> str:
        return "drop" if self.dropped else "warning" if self.details else "ok"


class V1Event(msgspec.Struct, gc=False):
    """The members of an event that are read, undecoded: whatever they hold, they cannot fail the batch."""

    event: Raw = _ABSENT
    uuid: Raw = _ABSENT
    distinct_id: Raw = _ABSENT
    timestamp: Raw = _ABSENT
    options: Raw = _ABSENT
    properties: Raw = _ABSENT


class _RawOptions(msgspec.Struct, gc=False):
    cookieless_mode: Raw = _ABSENT
    disable_skew_correction: Raw = _ABSENT
    process_person_profile: Raw = _ABSENT
    product_tour_id: Raw = _ABSENT


class _Batch(msgspec.Struct, gc=False):
    created_at: Raw = _ABSENT
    batch: list[V1Event] | None = None


class CapturedBatch(msgspec.Struct, gc=False):
    """What the connection needs of an accepted batch."""

    record: bytes
    """The line to append to the spool."""
    events: int
    body: bytes
    """Of the answer, true once the record is stored."""
    layers: tuple[str, ...]


_decode_batch: Final = msgspec.json.Decoder(_Batch).decode
_decode_options: Final = msgspec.json.Decoder(_RawOptions).decode


class V1Answer(msgspec.Struct, gc=False):
    """What the answers to one request have of their own."""

    headers: bytes
    """Complete header lines."""
    body: Sequence[bytes | memoryview] = ()
    """Of the success, in order, once it is known: some megabytes at most, and never put together."""


def capture_batch(
    request: Request,
    route: Route,
    limits: Limits,
    ids: RecordIds,
    choose: Choose | None = None,
) -> CapturedBatch:
    """Decode, read and judge one request. Raises `Rejected`, and `Heavy`; changes nothing but the next id.

    Without `choose` the key of the Authorization header counts as it is.
    """
    light = limits.light
    if light is not None and (len(request.body) > light.text_bytes_max or len(request.query) > light.wrapped_bytes_max):
        raise Heavy
    headers = _require_headers(request)
    key = _bearer(request)
    if choose is None:
        token = judge_token(key)
    _require_header_values(headers)
    encoding = _content_encoding(request)
    text = _decoded(request.body, encoding, limits)
    if not text.startswith(b"{"):
        raise Rejected(Reason.BAD_SHAPE, f"Found `{_shown(text)}`.")
    payload = read_payload(text, light, limits.events_max)
    if light is not None and payload.events > light.verdicts_max:
        raise Heavy
    if choose is not None:
        token = choose((key,), {}, parse_fields(request.query), request, route, payload.text)
    body = _results(_read_batch(payload.text))
    record = encode_record(
        ids,
        request.received_us,
        token,
        route.name,
        request.client_ip,
        payload.text,
        headers["PostHog-Request-Timestamp"],
        headers["PostHog-Sdk-Info"] if library(headers["PostHog-Sdk-Info"]) else "",
    )
    layers = (encoding,) if encoding else ()
    return CapturedBatch(record, payload.events, body, (*layers, "repair") if payload.repaired else layers)


def library(sdk_info: str) -> tuple[str, str] | None:
    """Name and version of the client library, of `PostHog-Sdk-Info: name/version`; `None` when it does not say."""
    name, _, version = sdk_info.rpartition("/")
    name, version = name.strip(), version.strip()
    return (name, version) if name and version and len(sdk_info) <= SDK_INFO_CHARS_MAX else None


def request_id_header(headers: Mapping[bytes, bytes]) -> bytes:
    """The header line that gives the client its request id back, empty when there is none or it cannot be one."""
    request_id = headers.get(b"posthog-request-id", b"").strip()
    if not request_id or len(request_id) > REQUEST_ID_CHARS_MAX or not request_id.isascii():
        return b""
    return b"posthog-request-id: " + request_id + b"\r\n"


def error_body(reason: Reason, detail: str) -> bytes:
    """The body of a refusal in this protocol's form."""
    tag = TAGS.get(reason, REFUSALS[reason].code)
    return _encode({"error": tag, "error_description": detail, "error_uri": ERROR_URI})


def error_headers(reason: Reason) -> bytes:
    """Header lines that a refusal has in this protocol beyond those it has in any."""
    return b"retry-after: 1\r\n" if reason is Reason.REQUEST_TIMEOUT else b""


def judge(event: V1Event) -> Verdict:
    """What becomes of an event: the first rule it breaks. Never raises."""
    options = Options()
    name = text_of(event.event)
    if not name:
        return Verdict(options, "missing_event_name")
    if name == "$performance_event":
        return Verdict(options, "dropped_performance_event")
    if len(name) > EVENT_NAME_CHARS_MAX:
        return Verdict(options, "event_name_too_long")
    distinct_id = trimmed(event.distinct_id)
    if not distinct_id:
        odd = bool(event.distinct_id) and bytes(event.distinct_id)[:1] not in (b'"', b"n")
        return Verdict(options, "malformed_distinct_id" if odd else "missing_distinct_id")
    if len(distinct_id) > DISTINCT_ID_CHARS_MAX:
        return Verdict(options, "distinct_id_too_large")
    if not is_rfc3339(text_of(event.timestamp) or ""):
        return Verdict(options, "invalid_event_timestamp")
    if not _is_absent(event.properties) and not bytes(event.properties).startswith(b"{"):
        return Verdict(options, "malformed_event_properties")
    if not _is_absent(event.options):
        try:
            options = _options(event.options)
        except ValueError:
            return Verdict(Options(), "invalid_options")
    return Verdict(options, PERSON_PROCESSING_DISABLED if distinct_id.lower() in PLACEHOLDER_IDS else "")


def text_of(raw: Raw) -> str | None:
    """The string, `None` when absent or something else."""
    if not raw:
        return None
    try:
        return _decode_text(raw)
    except msgspec.ValidationError:
        return None


def trimmed(raw: Raw) -> str:
    """The string without the blanks around it, empty when absent or something else."""
    return (text_of(raw) or "").strip()


def is_rfc3339(text: str) -> bool:
    """Whether the text is a time as RFC 3339 section 5.6 has it, of a day there is; second 60 is one."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return False
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    try:
        # The calendar repeats every 400 years, and has a year 0.
        date(year % 400 + 400, month, day)
    except ValueError:
        return False
    return True


def _require_headers(request: Request) -> dict[str, str]:
    """The headers there must be, by name. All that are missing are told at once."""
    if not request.authorization:
        raise Rejected(Reason.NO_TOKEN, "Expected the header Authorization: Bearer <project API key>.")
    get = request.headers.get
    found = {name: get(name.lower().encode()) for name in REQUIRED_HEADERS}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise Rejected(Reason.MISSING_HEADERS, ", ".join(missing) + ".")
    return {name: (value or b"").decode("latin-1").strip() for name, value in found.items()}


def _bearer(request: Request) -> str:
    authorization = request.authorization.strip()
    if authorization[: len(_BEARER)].lower() != _BEARER:
        raise Rejected(Reason.BAD_HEADER, "Expected Authorization: Bearer <project API key>.")
    return authorization[len(_BEARER) :].strip().decode("latin-1")


def _require_header_values(headers: Mapping[str, str]) -> None:
    if headers["Content-Type"].partition(";")[0].strip().lower() != "application/json":
        found = headers["Content-Type"]
        raise Rejected(Reason.CONTENT_TYPE, f"Expected application/json, found {found[:100]!r}.")
    rules: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        ("PostHog-Request-Id", "a UUID", _UUID.fullmatch),
        ("PostHog-Attempt", "a whole number above zero", _is_count),
        ("PostHog-Request-Timestamp", "a time in RFC 3339", is_rfc3339),
    )
    for name, expected, holds in rules:
        if not holds(headers[name]):
            raise Rejected(Reason.BAD_HEADER, f"{name}: expected {expected}, found {headers[name][:100]!r}.")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:20]) > 0


def _content_encoding(request: Request) -> str:
    """The declared encoding, empty for none."""
    encoding = request.content_encoding.strip().lower().decode("latin-1")
    if encoding in ("", "identity"):
        return ""
    if encoding not in CONTENT_ENCODINGS:
        expected = ", ".join(CONTENT_ENCODINGS)
        raise Rejected(Reason.CONTENT_ENCODING, f"Expected one of {expected}, found {encoding[:100]!r}.")
    return encoding


def _decoded(body: bytes, encoding: str, limits: Limits) -> bytes:
    bytes_max, light = limits.decoded_bytes_max, limits.light
    if not body:
        raise Rejected(Reason.NO_DATA)
    if encoding:
        if light is not None:
            bytes_max = min(bytes_max, light.text_bytes_max)
        try:
            body = DECODERS[encoding](body, bytes_max)
        except TooLarge:
            if light is not None:
                raise Heavy from None
            found = f"Expected at most {bytes_max} bytes after decompression."
            raise Rejected(Reason.DECODED_TOO_LARGE, found) from None
        except ValueError as error:
            raise Rejected(REASONS[encoding], f"{encoding}: {error}.") from None
    elif len(body) > bytes_max:
        raise Rejected(Reason.DECODED_TOO_LARGE, f"Expected at most {bytes_max} bytes.")
    text = body.strip()
    if not text:
        raise Rejected(Reason.NO_DATA)
    return text


def _read_batch(text: bytes) -> list[V1Event]:
    """The events of JSON text that is proved to be some. Raises `Rejected`."""
    try:
        batch = _decode_batch(text)
    except msgspec.ValidationError as error:
        raise Rejected(Reason.BAD_SHAPE, f"Expected an object with a batch of event objects: {error}.") from None
    if batch.batch is None:
        raise Rejected(Reason.BAD_SHAPE, "Expected a member `batch`, a list of events.")
    if not is_rfc3339(text_of(batch.created_at) or ""):
        found = _shown(bytes(batch.created_at)) or "nothing"
        raise Rejected(Reason.BAD_BATCH, f"created_at: expected a time in RFC 3339, found {found}.")
    return batch.batch


def _results(events: list[V1Event]) -> bytes:
    """The answer's body: a verdict per event, by the uuid as the client wrote it. Raises `Rejected`."""
    results = (b'"%b":%b' % (uuid, _result(judge(event))) for uuid, event in _named(events))
    return b'{"results":{%b}}' % b",".join(results)


def _result(verdict: Verdict) -> bytes:
    if not verdict.details:
        return b'{"result":"ok"}'
    return b'{"result":"%b","details":"%b"}' % (verdict.result.encode(), verdict.details.encode())


def _named(events: list[V1Event]) -> Iterator[tuple[bytes, V1Event]]:
    """Each event with its uuid. Without one, or with another's, it could not be told what became of it."""
    seen: set[str] = set()
    for index, event in enumerate(events):
        uuid = trimmed(event.uuid)
        if not uuid:
            raise Rejected(Reason.NO_UUID, f"Expected a uuid in every event, found none at index {index}.")
        if not _UUID.fullmatch(uuid):
            raise Rejected(Reason.BAD_UUID, f"Found {uuid[:100]!r} at index {index}.")
        digits = uuid.lower().removeprefix("urn:uuid:").translate(_NOT_DIGITS)
        if digits in seen:
            raise Rejected(Reason.DUPLICATE_UUID, f"Found {uuid!r} again at index {index}.")
        seen.add(digits)
        yield uuid.encode(), event


def _options(raw: Raw) -> Options:
    """Raises `ValueError` for options that are no object, or hold a value that cannot be meant."""
    try:
        found = _decode_options(raw)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return Options(
        _boolean(found.cookieless_mode),
        _boolean(found.disable_skew_correction),
        _boolean(found.process_person_profile),
        _option_text(found.product_tour_id),
    )


def _boolean(raw: Raw) -> bytes:
    """`true`, `false`, or nothing. Text of a truth and numbers count as one."""
    text = bytes(raw)
    if text in (b"", b"null"):
        return b""
    if text in (b"true", b"false"):
        return text
    word = text_of(raw)
    if word is not None:
        value = _BOOLEANS.get(word.strip().lower())
        if value is None:
            raise ValueError("expected true or false")
    else:
        try:
            value = _decode_number(raw) != 0
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from None
    return b"true" if value else b"false"


def _option_text(raw: Raw) -> bytes:
    """A JSON string, or nothing. A whole number counts as its digits."""
    if _is_absent(raw):
        return b""
    if text_of(raw) is not None:
        return bytes(raw)
    try:
        return b'"%d"' % _decode_integer(raw)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def _is_absent(raw: Raw) -> bool:
    return not raw or bytes(raw) == b"null"


def _shown(text: bytes) -> str:
    return repr(b'"' + text[:40])[3:-1]
