"""What a forwarded request and its answer look like on the other side: targets, header fields, framing (RFC 9110, 9112).

Everything end-to-end is passed as it is, order, spelling and repetitions included; bodies are never looked at.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from edge.wire.request import MIB
from edge.wire.routes import Kind, behind_scheme, find_route

Fields = Iterable[tuple[bytes, bytes]]
"""Header fields in the order of the wire, names as they were spelled."""

VIA: Final = "1.1 edge"

_HOP_BY_HOP: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"http2-settings", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
    }
)
"""RFC 9110 section 7.6.1, and what is said to a proxy only. Trailers are not passed on, so they are not announced."""

_SAID_OF_THE_CLIENT: Final = frozenset(
    {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"forwarded", b"x-real-ip"}
)
"""Believed from trusted proxies only."""

_ASSETS: Final = (b"/static/", b"/array/")
_SDK_PATHS: Final = (
    *(b"flags", b"decide", b"array", b"static", b"i", b"s", b"report", b"record"),
    *(b"api/surveys", b"api/early_access_features", b"api/web_experiments", b"api/product_tours"),
)
"""What libraries in pages of any origin call, with the project's key and no session."""


class Upstream(msgspec.Struct, frozen=True):
    """Where requests are forwarded to."""

    origin: str
    """Scheme and authority, without a slash at the end."""
    authority: str
    """The `Host` it is asked by."""
    prefix: str
    """What is put in front of every path: empty, or a path without a slash at the end."""


class UpstreamSettings(msgspec.Struct, frozen=True):
    """Where to, and how far. Sizes in bytes, times in seconds."""

    upstream: str = ""
    """Empty: nothing is forwarded."""
    assets_upstream: str = ""
    """For `/static/*` and `/array/*`; empty: the same."""
    requests_max: int = 256
    """Under way at once, per upstream and worker."""
    body_bytes_max: int = 64 * MIB
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    """Between two signs of life of an upstream that is waited for."""


class Order(msgspec.Struct):
    """One request as it goes to the upstream, its body apart."""

    method: str
    target: bytes
    """Origin form."""
    fields: list[tuple[str, str]]
    has_body: bool


class Framing(Enum):
    """How the end of a forwarded answer's body is told to the client."""

    EMPTY = "empty"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


def parse_upstream(text: str) -> Upstream:
    """`http://HOST[:PORT][/PREFIX]` or `https://…`. Raises `ValueError` with what was expected."""
    expected = "expected http://HOST[:PORT][/PREFIX] or https://HOST[:PORT][/PREFIX]"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(expected) from error
    host = parts.hostname or ""
    plain = text.strip().isascii() and text.strip().isprintable() and " " not in text.strip()
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise ValueError(expected)
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError(f"{expected}, without a user, a query or a fragment")
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority += f":{port}"
    return Upstream(f"{parts.scheme}://{authority}", authority, parts.path.rstrip("/"))


def origin_form(target: bytes) -> bytes:
    """Path and query of a request target: absolute form (RFC 9112 section 3.2.2) loses its authority, any form its fragment.

    Empty when it has neither form.
    """
    target = target.partition(b"#")[0]
    if not target.startswith(b"/"):
        target = behind_scheme(target)
        if not target:
            return b""
        at = min((found for found in (target.find(b"/"), target.find(b"?")) if found >= 0), default=len(target))
        target = target[at:]
        if not target.startswith(b"/"):
            target = b"/" + target
    return target


def is_asset(path: bytes) -> bool:
    """Whether the path, or the target that begins with it, is one of the assets host: `/static/*` and `/array/*`."""
    return path.startswith(_ASSETS)


def is_sdk_path(path: bytes) -> bool:
    """Whether libraries in pages call the path, so that any origin may read the answer."""
    inside = path.strip(b"/")
    return any(inside == part or inside.startswith(part + b"/") for part in _SDK_PATHS)


def hides_capture(path: bytes) -> bool:
    """Whether a lenient server may take the path for a capture route's: escaped, with dots or empty segments.

    Such a request is not forwarded: what is accepted behind the edge's back is not on stable storage.
    """
    segments: list[bytes] = []
    for segment in unquote_to_bytes(path).replace(b"\\", b"/").split(b"/"):
        # What follows a semicolon is a parameter of its segment to some servers.
        name = segment.partition(b";")[0]
        if name == b"..":
            del segments[-1:]
        elif name not in (b"", b"."):
            segments.append(name)
    route, _ = find_route(b"/" + b"/".join(segments))
    return route is not None and route.kind in (Kind.CAPTURE, Kind.CAPTURE_V1)


def request_fields(
    fields: Fields, *, authority: str, peer: str, trusted: bool, scheme: str = "http"
) -> list[tuple[str, str]]:
    """The header fields for the upstream. `peer` is the address the request came from; `trusted` when it is a proxy of ours.

    RFC 9110 sections 7.6.1 (hop-by-hop fields), 7.6.3 (`Via`), 10.1.1 (`Expect`, which the edge answers itself).
    A value that is no UTF-8 has its odd bytes replaced: the client library takes text.
    """
    listed = list(fields)
    dropped = _HOP_BY_HOP | _nominated(listed) | {b"host", b"expect", b"via", b"x-forwarded-for"}
    if not trusted:
        dropped |= _SAID_OF_THE_CLIENT
    kept = [("Host", authority)]
    seen = {b"host": b"", b"via": b"", b"x-forwarded-for": b""}
    names = set()
    for name, value in listed:
        lower = name.lower()
        if lower in seen:
            seen[lower] = seen[lower] + b", " + value if seen[lower] else value
        if lower not in dropped:
            names.add(lower)
            kept.append((name.decode("latin-1"), _text(value)))
    came_by = [_text(seen[b"x-forwarded-for"])] if trusted and seen[b"x-forwarded-for"] else []
    if peer:
        came_by.append(peer)
    if came_by:
        kept.append(("X-Forwarded-For", ", ".join(came_by)))
    if b"x-forwarded-host" not in names and seen[b"host"]:
        kept.append(("X-Forwarded-Host", _text(seen[b"host"])))
    if b"x-forwarded-proto" not in names:
        kept.append(("X-Forwarded-Proto", scheme))
    kept.append(("Via", f"{_text(seen[b'via'])}, {VIA}" if seen[b"via"] else VIA))
    return kept


def answer_head(
    status: int, reason: str, fields: Fields, *, method: str, http_1_0: bool, close: bool, cors: bytes, date: bytes
) -> tuple[bytes, Framing]:
    """The head for the client, and how the body's end is told. `cors` are header lines for an answer that has none.

    RFC 9112 section 6.3: no body after HEAD, 204 and 304; else the length if the upstream told it, chunks to those who know
    them, the end of the connection to HTTP/1.0.
    """
    listed = list(fields)
    dropped = _HOP_BY_HOP | _nominated(listed)
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in listed)
    lengths = [] if chunked else [value for name, value in listed if name.lower() == b"content-length"]
    if method == "HEAD" or status in (204, 304):
        framing = Framing.EMPTY
    elif lengths:
        framing = Framing.LENGTH
    elif http_1_0:
        framing = Framing.CLOSE
    else:
        framing = Framing.CHUNKED
    lines = [f"HTTP/1.1 {status} {reason}".encode("latin-1", "replace")]
    names = set()
    for name, value in listed:
        lower = name.lower()
        if lower in dropped or lower == b"content-length":
            continue
        names.add(lower)
        lines.append(name + b": " + value)
    if lengths and status != 204:
        lines.append(b"Content-Length: " + lengths[0])
    if framing is Framing.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    if b"date" not in names:
        lines.append(b"Date: " + date)
    if close or framing is Framing.CLOSE:
        lines.append(b"Connection: close")
    if any(name.startswith(b"access-control-") for name in names):
        cors = b""
    return b"\r\n".join(lines) + b"\r\n" + cors + b"\r\n", framing


def _nominated(fields: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """What `Connection` names as being for this hop. The framing of a body is not up to it."""
    named = (
        part.strip().lower() for name, value in fields if name.lower() == b"connection" for part in value.split(b",")
    )
    return frozenset(named) - {b"content-length"}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
