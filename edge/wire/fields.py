"""`application/x-www-form-urlencoded` text, as in query strings and form bodies -> fields (WHATWG URL, section 5).

Relies on nothing the client promised: whatever the bytes are, they are some list of fields.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

FIELDS_MAX: Final = 100
"""Pairs looked at; what follows is ignored. Clients send ten at most, and a body of `&` alone must not fill the memory."""

_PIECE_BYTES: Final = 16 * 1024


def parse_fields(text: bytes) -> dict[str, bytes]:
    """The first value of each key, percent-decoded, `+` read as a space; keys undecodable as UTF-8 get U+FFFD.

    Never raises: a broken escape stays as it is, a pair without `=` has an empty value, and only the first `=` of a
    pair separates, because clients send base64 unescaped.
    """
    # One look at the whole text spares the usual query, which escapes nothing, two calls per pair.
    escaped = b"%" in text or b"+" in text
    fields: dict[str, bytes] = {}
    for pair in text.split(b"&", FIELDS_MAX)[:FIELDS_MAX]:
        name, _, value = pair.partition(b"=")
        if escaped and (b"%" in pair or b"+" in pair):
            name, value = _unescape(name), _unescape(value)
        key = name.decode("utf-8", "replace")
        if pair and key not in fields:
            fields[key] = value
    return fields


def _unescape(text: bytes) -> bytes:
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    if len(text) <= _PIECE_BYTES:
        return unquote_to_bytes(text)
    # In pieces, since the library makes an object of each escape: megabytes of `%` would become gigabytes.
    pieces: list[bytes] = []
    begin = 0
    while begin < len(text):
        end = begin + _PIECE_BYTES
        if end < len(text):
            # No escape is cut in two.
            end -= {b"%": 1}.get(text[end - 1 : end], 2 if text[end - 2 : end - 1] == b"%" else 0)
        pieces.append(unquote_to_bytes(text[begin:end]))
        begin = end
    return b"".join(pieces)
