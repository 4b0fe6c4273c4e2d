"""Every reason to refuse a request, with the answer it gets: the closed list of causes."""

from enum import Enum
from typing import Final

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """One row of the table: HTTP status and the four-key error body of the `docs` profile."""

    status: int
    type: str
    code: str
    detail: str
    """Human sentence; what was expected and found is appended by the code that raises."""
    retry_after: bool = False
    """The answer carries `Retry-After`: the fault is ours or passing, the same bytes may succeed later."""
    attr: str | None = None
    """The parameter at fault."""


class Reason(Enum):
    """Label of the refusal in metrics and logs. The value is the metric label."""

    NO_DATA = "no_data"
    BAD_FORM = "bad_form"
    BAD_GZIP = "bad_gzip"
    BAD_DEFLATE = "bad_deflate"
    BAD_BROTLI = "bad_brotli"
    BAD_ZSTD = "bad_zstd"
    BAD_LZ64 = "bad_lz64"
    BAD_ENCODING = "bad_encoding"
    BAD_UTF8 = "bad_utf8"
    BAD_JSON = "bad_json"
    TOO_NESTED = "too_nested"
    BAD_SHAPE = "bad_shape"
    EMPTY_BATCH = "empty_batch"
    TOO_MANY_EVENTS = "too_many_events"
    NO_TOKEN = "no_token"  # noqa: S105 - a cause, not a secret
    MULTIPLE_TOKENS = "multiple_tokens"
    TOKEN_EMPTY = "token_empty"  # noqa: S105
    TOKEN_NOT_STRING = "token_not_string"  # noqa: S105
    TOKEN_TOO_LONG = "token_too_long"  # noqa: S105
    TOKEN_NOT_ASCII = "token_not_ascii"  # noqa: S105
    TOKEN_PERSONAL = "token_personal_api_key"  # noqa: S105
    TOKEN_NULL_BYTE = "token_null_byte"  # noqa: S105
    UNKNOWN_KEY = "unknown_key"
    UNKNOWN_PERSONAL_KEY = "unknown_personal_key"
    BAD_PROJECT = "bad_project"
    MISSING_HEADERS = "missing_headers"
    BAD_HEADER = "bad_header"
    CONTENT_TYPE = "content_type"
    CONTENT_ENCODING = "content_encoding"
    BAD_BATCH = "bad_batch"
    NO_UUID = "no_uuid"
    BAD_UUID = "bad_uuid"
    DUPLICATE_UUID = "duplicate_uuid"
    BODY_TOO_LARGE = "body_too_large"
    DECODED_TOO_LARGE = "decoded_too_large"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BAD_REQUEST = "bad_request"
    URI_TOO_LONG = "uri_too_long"
    HEADERS_TOO_LARGE = "headers_too_large"
    HTTP_VERSION = "http_version"
    TRANSFER_ENCODING = "transfer_encoding"
    EXPECTATION = "expectation"
    REQUEST_TIMEOUT = "request_timeout"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    OVERLOADED = "overloaded"
    STOPPING = "stopping"
    STORAGE = "storage"
    INTERNAL = "internal"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_DISCONNECTED = "upstream_disconnected"
    UPSTREAM_MALFORMED = "upstream_malformed"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_BUSY = "upstream_busy"


_MALFORMED: Final = "Malformed request data: "
_KEY_HINT: Final = "You can find your project API key in PostHog project settings."


def _invalid(detail: str) -> Refusal:
    return Refusal(400, "validation_error", "invalid_payload", _MALFORMED + detail)


def _bad_token(code: str) -> Refusal:
    return Refusal(401, "authentication_error", code, f"Provided API key is not valid: {code}")


def _ours(detail: str) -> Refusal:
    return Refusal(503, "server_error", "server_error", detail, retry_after=True)


def _upstream(detail: str) -> Refusal:
    return Refusal(502, "server_error", "bad_gateway", detail)


REFUSALS: Final[dict[Reason, Refusal]] = {
    Reason.NO_DATA: Refusal(
        400,
        "validation_error",
        "no_data",
        "No data found. Make sure to use a POST request when sending the payload in the body of the request.",
    ),
    Reason.BAD_FORM: _invalid("Invalid form data."),
    Reason.BAD_GZIP: _invalid("Failed to decompress data. Invalid gzip data."),
    Reason.BAD_DEFLATE: _invalid("Failed to decompress data. Invalid deflate data."),
    Reason.BAD_BROTLI: _invalid("Failed to decompress data. Invalid brotli data."),
    Reason.BAD_ZSTD: _invalid("Failed to decompress data. Invalid zstd data."),
    Reason.BAD_LZ64: _invalid("Failed to decompress data. Invalid lz64 data."),
    Reason.BAD_ENCODING: _invalid("Expected JSON, base64, a form, gzip, deflate, zstd or lz64."),
    Reason.BAD_UTF8: _invalid("Invalid UTF-8."),
    Reason.BAD_JSON: _invalid("Invalid JSON:"),
    Reason.TOO_NESTED: _invalid("Invalid JSON: nested too deeply."),
    Reason.BAD_SHAPE: _invalid("Expected an event object, a list of events or a batch."),
    Reason.EMPTY_BATCH: _invalid("The request holds no event."),
    Reason.TOO_MANY_EVENTS: Refusal(413, "client_error", "request_too_large", "Too many events in one request."),
    Reason.NO_TOKEN: Refusal(401, "authentication_error", "missing_api_key", "API key not provided. " + _KEY_HINT),
    Reason.MULTIPLE_TOKENS: Refusal(
        401, "authentication_error", "invalid_api_key", "Batch submitted with inconsistent API key values."
    ),
    Reason.TOKEN_EMPTY: _bad_token("empty"),
    Reason.TOKEN_NOT_STRING: _bad_token("not_string"),
    Reason.TOKEN_TOO_LONG: _bad_token("too_long"),
    Reason.TOKEN_NOT_ASCII: _bad_token("not_ascii"),
    Reason.TOKEN_PERSONAL: _bad_token("personal_api_key"),
    Reason.TOKEN_NULL_BYTE: _bad_token("null_byte"),
    Reason.UNKNOWN_KEY: Refusal(
        401, "authentication_error", "invalid_api_key", "Project API key invalid. " + _KEY_HINT
    ),
    Reason.UNKNOWN_PERSONAL_KEY: Refusal(
        401, "authentication_error", "invalid_personal_api_key", "Invalid Personal API key."
    ),
    Reason.BAD_PROJECT: Refusal(400, "validation_error", "invalid_project", "Invalid Project ID.", attr="project_id"),
    Reason.MISSING_HEADERS: Refusal(
        400, "validation_error", "missing_required_headers", "The request is missing required headers:"
    ),
    Reason.BAD_HEADER: Refusal(400, "validation_error", "invalid_header_value", "Invalid header value."),
    Reason.CONTENT_TYPE: Refusal(415, "client_error", "unsupported_content_type", "Unsupported content type."),
    Reason.CONTENT_ENCODING: Refusal(415, "client_error", "unsupported_encoding", "Unsupported content encoding."),
    Reason.BAD_BATCH: Refusal(400, "validation_error", "invalid_batch", "Invalid batch."),
    Reason.NO_UUID: Refusal(400, "validation_error", "missing_event_uuid", "Event submitted without a uuid."),
    Reason.BAD_UUID: Refusal(400, "validation_error", "invalid_event_uuid", "Event submitted with an invalid uuid."),
    Reason.DUPLICATE_UUID: Refusal(400, "validation_error", "duplicate_event_uuid", "Duplicate event uuid."),
    Reason.BODY_TOO_LARGE: Refusal(413, "client_error", "request_too_large", "Request too large."),
    Reason.DECODED_TOO_LARGE: Refusal(413, "client_error", "request_too_large", "Request too large."),
    Reason.NOT_FOUND: Refusal(404, "client_error", "not_found", "Not found."),
    Reason.METHOD_NOT_ALLOWED: Refusal(405, "client_error", "method_not_allowed", "Method not allowed."),
    Reason.BAD_REQUEST: Refusal(400, "client_error", "bad_request", "Malformed HTTP request."),
    Reason.URI_TOO_LONG: Refusal(414, "client_error", "uri_too_long", "Request target too long."),
    Reason.HEADERS_TOO_LARGE: Refusal(431, "client_error", "headers_too_large", "Request headers too large."),
    Reason.HTTP_VERSION: Refusal(505, "client_error", "http_version", "Expected HTTP/1.1 or HTTP/1.0."),
    Reason.TRANSFER_ENCODING: Refusal(
        501, "client_error", "transfer_encoding", "Expected Transfer-Encoding: chunked, or none."
    ),
    Reason.EXPECTATION: Refusal(417, "client_error", "expectation_failed", "Expected Expect: 100-continue, or none."),
    # Not 408, after which posthog-js and half of the server libraries drop their events: all of them try again after a 5xx.
    Reason.REQUEST_TIMEOUT: Refusal(504, "timeout_error", "timeout", "The request took too long to arrive."),
    Reason.TOO_MANY_CONNECTIONS: _ours("Too many connections. Please try again."),
    Reason.OVERLOADED: _ours("Too much data in flight. Please try again."),
    Reason.STOPPING: _ours("The server is restarting. Please try again."),
    Reason.STORAGE: _ours(
        "Unable to store event. Please try again. "
        "If you are the owner of this app you can check the logs for further details."
    ),
    Reason.INTERNAL: _ours("The server met a fault of its own. Please try again."),
    Reason.UPSTREAM_UNREACHABLE: _upstream("The service behind this path cannot be reached."),
    Reason.UPSTREAM_DISCONNECTED: _upstream("The service behind this path closed the connection without an answer."),
    Reason.UPSTREAM_MALFORMED: _upstream("The service behind this path answered with something that is no HTTP."),
    Reason.UPSTREAM_TIMEOUT: Refusal(
        504, "timeout_error", "gateway_timeout", "The service behind this path did not answer in time."
    ),
    Reason.UPSTREAM_BUSY: _ours("Too many requests wait for the service behind this path. Please try again."),
}


class Rejected(Exception):
    """The client sent something unacceptable; final for these bytes.

    `found` completes the table's sentence with what was expected and found, and may be empty.
    """

    def __init__(self, reason: Reason, found: str = "") -> None:
        super().__init__(reason, found)
        self.reason = reason
        self.found = found

    @property
    def detail(self) -> str:
        detail = REFUSALS[self.reason].detail
        return f"{detail} {self.found}" if self.found else detail
