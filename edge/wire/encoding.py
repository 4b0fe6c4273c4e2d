"""The JSON text of a request, out of everything clients wrap around it.

A client may put its JSON into base64, lz-string, gzip, deflate, zstd, a form or the query, several inside each other,
and may name them in the query (`compression`), in the form, in `Content-Encoding`, in none or wrongly. So the bytes
decide wherever they can, and names only where they must: lz-string text is base64 too, and raw deflate and brotli
look like nothing.

Nearly all requests are plain JSON, gzip of it, or base64 of it in the query, and take the first lines of `decode_body`.
Every decoder has an output cap, since small in says nothing about small out.
"""

import re
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import brotli
import msgspec
import zstandard
from isal import isal_zlib

from edge.wire.fields import parse_fields
from edge.wire.lz import TooLarge, decompress_base64
from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Heavy, Limits, Request
from edge.wire.utf8 import is_utf8

LAYERS_MAX: Final = 4
GZIP_MEMBERS_MAX: Final = 64
"""Clients send one; each further one costs a copy of the rest of the body."""

GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_AS_TEXT: Final = b"\x1f\xef\xbf\xbd"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_BYTES_MAX: Final = 2**23
"""What every decoder must offer (RFC 8878, 3.1.1.1.2); more is a client asking us for memory."""
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n\v\f\0"
_OPENINGS: Final = b"{["

_SPOT_BYTES: Final = 128
"""Of a long text, enough to tell what it is."""

_FORM_TYPE: Final = b"application/x-www-form-urlencoded"
_form_start: Final = re.compile(rb"(?:[^&]*&)*?(?:data|_|ip|compression)=").match

_scalar: Final = re.compile(rb'"|(?:-?[0-9][0-9.eE+-]*|true|false|null)\Z').match

_base64_spot: Final = re.compile(rb"[A-Za-z0-9+/=_\- \t\r\n]+").fullmatch
OBJECT_AS_BASE64: Final = b"ey"
"""How the base64 of `{"` begins."""
_JSON_AS_BASE64: Final = (OBJECT_AS_BASE64, b"W3s")
"""The same, or of `[{`."""
_BASE64_DIGITS: Final = bytes.maketrans(b" -_", b"++/")
_LINE_BREAKS: Final = b"\t\r\n"
_BASE64_LIKELY_BYTES: Final = 24
"""Unbroken text of this length is base64 gone wrong rather than a word."""


class Decoded(msgspec.Struct, gc=False):
    """What was inside the wrappings."""

    text: bytes
    """JSON text so far as its first byte, `{` or `[`, can tell; no blanks around it."""
    fields: dict[str, bytes]
    """The form it came in, empty if it came in none."""
    layers: tuple[str, ...]
    """Names of the layers removed, outermost first."""


def decode_body(request: Request, query: Mapping[str, bytes], limits: Limits) -> Decoded:
    """The JSON text of `request`, whose parsed query is given; its `data` counts before the body.

    Raises `Rejected`, and `Heavy`.
    """
    body = request.body
    data = query.get("data")
    if data:
        if data.startswith(_JSON_AS_BASE64) and not (request.content_encoding or "compression" in query):
            # What it is instead, or why it is refused, `_unwrapped` says.
            with suppress(ValueError):
                return Decoded(unbase64(data, limits.decoded_bytes_max).strip(_BLANK), {}, ("base64",))
    elif body:
        if body[0] in _OPENINGS and not (request.content_encoding or "compression" in query):
            return Decoded(body.strip(_BLANK), {}, ())
        if body.startswith(GZIP_MAGIC):
            text = _opened("gzip", body, limits)
            if text and text[0] in _OPENINGS:
                return Decoded(text.strip(_BLANK), {}, ("gzip",))
    return _unwrapped(request, query, limits)


def gunzip(data: bytes, bytes_max: int) -> bytes:
    """RFC 1952, members one after another; what follows the last is ignored, as gzip itself does."""
    output: list[bytes] = []
    for _ in range(GZIP_MEMBERS_MAX):
        member, data = _inflated(data, 31, bytes_max)
        output.append(member)
        bytes_max -= len(member)
        if not data.startswith(GZIP_MAGIC):
            return b"".join(output)
    raise ValueError(f"expected at most {GZIP_MEMBERS_MAX} members")


def read_plain_gzip(data: bytes, bytes_max: int) -> bytes | None:
    """The JSON text in one whole gzip stream, `bytes_max` long at most; `None` when it is not plainly that."""
    # What it says of its length is looked at so that nothing is inflated twice, and not believed.
    if int.from_bytes(data[-4:], "little") > bytes_max:
        return None
    stream = isal_zlib.decompressobj(31)
    try:
        text: bytes = stream.decompress(data, bytes_max)
    except isal_zlib.IsalError:  # type: ignore[misc]  # its stubs call the class an instance
        return None
    whole = stream.eof and not stream.unused_data
    return text if whole and text.startswith((b"{", b"[")) and text.endswith((b"}", b"]")) else None


def inflate(data: bytes, bytes_max: int) -> bytes:
    """What HTTP calls deflate: in the wrapping of RFC 1950 as told, or bare (RFC 1951) as some do."""
    try:
        return _inflated(data, 15, bytes_max)[0]
    except TooLarge:
        raise
    except ValueError as wrapped:
        try:
            return _inflated(data, -15, bytes_max)[0]
        except TooLarge:
            raise
        except ValueError:
            raise wrapped from None


def _inflated(data: bytes, window_bits: int, bytes_max: int) -> tuple[bytes, bytes]:
    """The output of one stream, and the bytes behind it."""
    stream = isal_zlib.decompressobj(window_bits)
    try:
        output = stream.decompress(data, bytes_max + 1)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stubs call the class an instance
        raise ValueError(str(error)) from None
    if len(output) > bytes_max:
        raise TooLarge
    if not stream.eof:
        raise ValueError(f"the stream ends early, after {len(output)} bytes of output")
    return output, stream.unused_data


# zstandard's reader ends quietly where its input ends, in the middle of a frame too. So this frame is read behind the
# client's: its output comes out last only when all before it is whole. The output does not occur in the frame itself.
_ZSTD_END: Final = bytes(64)
_ZSTD_END_FRAME: Final = zstandard.ZstdCompressor(write_checksum=False).compress(_ZSTD_END)


def unzstd(data: bytes, bytes_max: int) -> bytes:
    """RFC 8878, frames one after another. Bounded by what is read: a frame's declared size is the client's word."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    reader = decompressor.stream_reader(data + _ZSTD_END_FRAME, read_across_frames=True)
    try:
        output = reader.read(bytes_max + len(_ZSTD_END) + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if len(output) > bytes_max + len(_ZSTD_END):
        raise TooLarge
    if not output.endswith(_ZSTD_END):
        raise ValueError("the stream ends early")
    return output[: -len(_ZSTD_END)]


def unbrotli(data: bytes, bytes_max: int) -> bytes:
    """RFC 7932, one stream."""
    decompressor = brotli.Decompressor()
    output = bytearray()
    try:
        while True:
            # A piece ends at or above its limit, and may be short of it; the input is all there from the first call on.
            output += decompressor.process(data, output_buffer_limit=bytes_max + 1 - len(output))
            if len(output) > bytes_max:
                raise TooLarge
            if decompressor.is_finished() or decompressor.can_accept_more_data():
                break
            data = b""
    except brotli.error as error:
        raise ValueError(str(error)) from None
    if not decompressor.is_finished():
        raise ValueError(f"the stream ends early, after {len(output)} bytes of output")
    return bytes(output)


def unbase64(data: bytes, bytes_max: int) -> bytes:
    """RFC 4648 in both alphabets, with spaces for `+`, line breaks and without padding."""
    if len(data) % 4 == 0 and len(data) * 3 // 4 <= bytes_max:
        # As the RFC has it, which most are.
        with suppress(ValueError):
            return a2b_base64(data, strict_mode=True)
    digits = data.strip().translate(_BASE64_DIGITS, _LINE_BREAKS).rstrip(b"=")
    if len(digits) * 3 // 4 > bytes_max:
        raise TooLarge
    if len(digits) % 4 == 1:
        raise ValueError(f"{len(digits)} digits are one too many or three too few")
    return a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)


DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "gzip": gunzip,
    "deflate": inflate,
    "br": unbrotli,
    "zstd": unzstd,
    "lz64": decompress_base64,
    "base64": unbase64,
}
"""Layer -> decoder: bytes and output cap in, bytes out; `TooLarge` or another `ValueError` raised. Forms carry fields
and stand beside this table."""

REASONS: Final[dict[str, Reason]] = {
    "gzip": Reason.BAD_GZIP,
    "deflate": Reason.BAD_DEFLATE,
    "br": Reason.BAD_BROTLI,
    "zstd": Reason.BAD_ZSTD,
    "lz64": Reason.BAD_LZ64,
    "base64": Reason.BAD_ENCODING,
}

HINTS: Final[dict[bytes, str]] = {
    b"gzip": "gzip",
    b"x-gzip": "gzip",
    b"gzip-js": "gzip",
    b"deflate": "deflate",
    b"br": "br",
    b"zstd": "zstd",
    b"lz64": "lz64",
    b"lz-string": "lz64",
    b"base64": "base64",
    b"b64": "base64",
}
"""What clients call them, in lower case; other names say nothing."""


def _unwrapped(request: Request, query: Mapping[str, bytes], limits: Limits) -> Decoded:
    """The general way: layer by layer, each recognised by its bytes or, where that is impossible, by a hint."""
    data = query.get("data", b"")
    form_declared = not data and request.content_type.strip().lower().startswith(_FORM_TYPE)
    data = data or request.body
    hints = [*_hints(query.get("compression", b"")), *_hints(request.content_encoding)]
    fields: dict[str, bytes] = {}
    layers: list[str] = []
    while True:
        text = _stripped(data)
        if text[:1] and text[0] in _OPENINGS:
            blind = _opened_blindly(data, text, hints, limits) if len(layers) < LAYERS_MAX else None
            if blind is None:
                return Decoded(text, fields, tuple(layers))
            name, data = blind
            layers.append(name)
            hints = [hint for hint in hints if hint != name]
            continue
        if not text:
            raise Rejected(Reason.NO_DATA, f"Nothing is left inside {' in '.join(reversed(layers))}." if layers else "")
        if len(layers) == LAYERS_MAX:
            raise Rejected(
                Reason.BAD_ENCODING, f"Expected at most {LAYERS_MAX} layers, found {', '.join(layers)} and more."
            )
        if limits.light is not None and len(data) > limits.light.wrapped_bytes_max and not data.startswith(GZIP_MAGIC):
            raise Heavy
        if _is_form(text, form_declared):
            fields = parse_fields(text)
            data = _form_data(fields)
            hints = [*_hints(fields.get("compression", b"")), *hints]
            layers.append("form")
            form_declared = False
            continue
        name, data = _next_layer(data, text, hints, form_declared, limits)
        layers.append(name)
        # Declared twice is still applied once: clients repeat a header's word in the query.
        hints = [hint for hint in hints if hint != name]


def _opened_blindly(data: bytes, text: bytes, hints: list[str], limits: Limits) -> tuple[str, bytes] | None:
    """The declared layer of `data` that has no first byte of its own, and may begin like JSON; `None` for JSON itself."""
    if text.endswith((b"}", b"]")) and is_utf8(text):
        return None
    for name in ("deflate", "br"):
        if name in hints:
            try:
                inside = _opened(name, data, limits)
            except Rejected as failed:
                if failed.reason is Reason.DECODED_TOO_LARGE:
                    raise
                continue
            return name, inside
    return None


def _hints(value: bytes) -> list[str]:
    """The decoders `value` names, which is a list in `Content-Encoding`. Their order decides which one a refusal names."""
    if not value:
        return []
    return [HINTS[name] for name in map(bytes.strip, value.lower().split(b",")) if name in HINTS]


def _stripped(data: bytes) -> bytes:
    text = data.strip(_BLANK)
    return text[len(_BOM) :].lstrip(_BLANK) if text.startswith(_BOM) else text


def _is_form(text: bytes, declared: bool) -> bool:
    if _form_start(text[:_SPOT_BYTES]):
        return True
    return declared and b"&data=" in text


def _form_data(fields: dict[str, bytes]) -> bytes:
    data = fields.get("data")
    if data is None:
        found = ", ".join(fields)
        raise Rejected(Reason.BAD_FORM, f"Expected a field `data`, found {found[:80]}.")
    if not data:
        raise Rejected(Reason.NO_DATA, "The field `data` is empty.")
    return data


_Refusal = tuple[Reason, str]
"""What to raise later. An exception that waits in a variable makes a circle with its frame, and keeps the bytes alive."""


def _next_layer(data: bytes, text: bytes, hints: list[str], form_declared: bool, limits: Limits) -> tuple[str, bytes]:
    """The next layer of `data` and what is inside it. Raises `Rejected` for the layer most likely meant."""
    # A magic number is no accident: behind one, a broken stream is broken and nothing else.
    if data.startswith(GZIP_MAGIC):
        return "gzip", _opened("gzip", data, limits)
    if data.startswith(_ZSTD_MAGIC):
        return "zstd", _opened("zstd", data, limits)
    refusal = _certain_refusal(data, text)
    if refusal:
        raise Rejected(*refusal)
    for name in _candidates(text, hints):
        try:
            inside = _opened(name, data if name in ("deflate", "br") else text, limits)
        except Rejected as failed:
            if failed.reason is Reason.DECODED_TOO_LARGE:
                raise
            if not refusal and (name in hints or _is_likely_base64(text)):
                refusal = failed.reason, failed.found
            continue
        if _is_recognised(inside, [hint for hint in hints if hint != name]):
            return name, inside
        if not refusal and (name in hints or _is_likely_base64(text)):
            refusal = REASONS[name], f"Found `{_shown(inside)}` inside {name}, expected JSON."
    raise Rejected(*(refusal or _refusal(text, hints, form_declared)))


def _opened(name: str, data: bytes, limits: Limits) -> bytes:
    bytes_max = limits.decoded_bytes_max
    if name == "lz64":
        bytes_max = min(bytes_max, limits.lz64_bytes_max)
    light = limits.light
    if light is not None:
        if name == "lz64" and len(data) > light.lz64_bytes_max:
            raise Heavy
        bytes_max = min(bytes_max, light.text_bytes_max)
    try:
        return DECODERS[name](data, bytes_max)
    except TooLarge:
        if light is not None:
            raise Heavy from None
        found = f"Expected at most {bytes_max} bytes after decompression."
        raise Rejected(Reason.DECODED_TOO_LARGE, found) from None
    except ValueError as error:
        raise Rejected(REASONS[name], f"{name}: {error}, in `{_shown(data)}`.") from None


def _candidates(text: bytes, hints: list[str]) -> Iterator[str]:
    """Layers without a magic number, surest first. lz64 looks like base64, so it comes before it."""
    for name in ("deflate", "br", "lz64"):
        if name in hints:
            yield name
    if _base64_spot(text[:_SPOT_BYTES]):
        yield "base64"


def _is_recognised(data: bytes, hints: list[str]) -> bool:
    """Whether it was right to look for a layer here: what was inside is itself something."""
    if data.startswith((GZIP_MAGIC, _ZSTD_MAGIC)) or "deflate" in hints or "br" in hints:
        return True
    text = _stripped(data)
    if text[:1] and text[0] in _OPENINGS:
        return True
    return _is_form(text, declared=False) or _is_likely_base64(text)


def _is_likely_base64(text: bytes) -> bool:
    return len(text) >= _BASE64_LIKELY_BYTES and b" " not in text and _base64_spot(text[:_SPOT_BYTES]) is not None


def _certain_refusal(data: bytes, text: bytes) -> _Refusal | None:
    """For bytes whose beginning says that no layer is left to look for."""
    if data.startswith(_GZIP_AS_TEXT):
        return (Reason.BAD_GZIP, "Something on the way decoded the stream as text: it begins 1f ef bf bd.")
    if data.startswith(_UTF16_MARKS):
        return (Reason.BAD_UTF8, "Found UTF-16, by its byte order mark.")
    if _scalar(text):
        return (Reason.BAD_SHAPE, f"Found `{_shown(text)}`.")
    return None


def _refusal(text: bytes, hints: list[str], form_declared: bool) -> _Refusal:
    """For bytes that are nothing we know."""
    shown = _shown(text)
    if hints:
        return (REASONS[hints[0]], f"Expected {hints[0]} as declared, found `{shown}`.")
    if form_declared:
        return (Reason.BAD_FORM, f"Expected a field `data`, found `{shown}`.")
    if _is_readable(text):
        return (Reason.BAD_JSON, f"expected {{ or [ at the start, found `{shown}`")
    return (Reason.BAD_ENCODING, f"Found `{shown}`.")


def _is_readable(text: bytes) -> bool:
    """Whether the beginning is text, so that the sender must have meant JSON; a character cut at its end is."""
    head = text[:_SPOT_BYTES].decode("utf-8", "replace")
    return all(char.isprintable() or char.isspace() for char in head) and "\ufffd" not in head[:-1]


def _shown(data: bytes) -> str:
    """The first bytes, escaped where they are not ASCII."""
    return repr(b'"' + data[:40])[3:-1].replace("\\'", "'") + ("..." if len(data) > 40 else "")
