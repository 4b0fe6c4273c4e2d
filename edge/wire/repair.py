"""The slow path behind a strict JSON parser: what real clients write and strict JSON forbids, rewritten; the rest refused.

    JavaScript half an emoji as an escape, `"\\ud83c"`           ->  U+FFFD
    old `btoa` helpers an emoji as two three-byte halves (CESU-8)  ->  the emoji; U+FFFD for a lone half
    Python NaN, Infinity, -Infinity                               ->  null
    anybody a number no double holds, `1e999`                     ->  null

Only those tokens change: order, repeated keys and the digits of every other number stay as the client wrote them, and
no tree is built, so memory stays a small multiple of the text whatever it holds. msgspec validates the result and says
what is wrong with text that cannot be repaired.
"""

import math
import re
from collections.abc import Callable
from typing import Final

import msgspec

from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Heavy
from edge.wire.utf8 import is_utf8, mend_cesu8

REPAIRS_MAX: Final = 1_000_000
"""Tokens looked at one by one, about a microsecond each: above what any client sends."""
_EXCERPT_BYTES: Final = 24

_LONE: Final = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# Every repetition is possessive: no backtracking, so time is linear and memory constant on hostile text too.
_INNER: Final = rb'(?:[^"\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|' + _PAIR + rb")*+"
# At most 10**200 * 10**99, so finite without a look; what does not match is converted to find out.
_SMALL_NUMBER: Final = rb"-?[0-9]{1,200}+(?:\.[0-9]++)?+(?:[eE](?:-[0-9]++|\+?[0-9]{1,2}+))?+(?![0-9.eE+-])"
_RUN: Final = rb'(?:[^"\\NI0-9-]++|' + _SMALL_NUMBER + rb'|"' + _INNER + rb'")*+(?:"' + _INNER + rb")?+"

# The longest stretch that needs no repair, beginning outside a string or inside one.
_sound_outside: Final = re.compile(_RUN).match
_sound_inside: Final = re.compile(_INNER + rb'(?:"' + _RUN + rb")?+").match
_lone_surrogate: Final = re.compile(_LONE).match
_constant: Final = re.compile(rb"NaN|-?Infinity").match
_number: Final = re.compile(rb"-?[0-9][0-9.eE+-]*+").match

# Raw skips values without building them, and checks all of the grammar but UTF-8 and the size of numbers.
_validate: Final = msgspec.json.Decoder(msgspec.Raw).decode
_position: Final = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)").fullmatch

_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def repair_json(text: bytes, repairs_max: int = REPAIRS_MAX) -> bytes:
    """Strict JSON in UTF-8 on one line, equivalent to `text`.

    Integers keep every digit up to what a double holds (308 of them); above that JSON readers differ or fail, so it is
    null like any other overflow.

    Raises `Rejected`: BAD_UTF8 with the byte offset; BAD_JSON with what was expected, line and column (from 1, in
    characters), byte offset (from 0) and an excerpt, all of `text` as given; TOO_NESTED. Raises `Heavy` above a
    `repairs_max` that is lower than what is refused.
    """
    try:
        repaired = _rewritten(_utf8(text), _strict, repairs_max)
        _validate(repaired)
    except RecursionError:
        raise Rejected(Reason.TOO_NESTED) from None
    except msgspec.DecodeError as error:
        raise _broken(text, error) from None
    return repaired.translate(_LINE_BREAKS)


def _utf8(text: bytes) -> bytes:
    """CESU-8 halves joined, lone ones U+FFFD."""
    if is_utf8(text):
        return text
    try:
        return mend_cesu8(text)
    except ValueError as error:
        at = int(str(error))
        raise Rejected(Reason.BAD_UTF8, f"Byte {at} is 0x{text[at]:02x}, near `{_excerpt(text, at)}`.") from None


def _rewritten(text: bytes, replace: Callable[[bytes, bytes], bytes], repairs_max: int = REPAIRS_MAX) -> bytes:
    """`text` with each token strict JSON forbids replaced by `replace(token, stand_in)`.

    On text that is no JSON it stops at the first byte that can begin no token; the rest follows unchanged.
    """
    rewritten = bytearray()
    sound = _sound_outside(text, 0)
    for _ in range(repairs_max):
        # Both patterns match the empty string, so there is always a match.
        assert sound is not None
        rewritten += sound[0]
        at = sound.end()
        if token := _lone_surrogate(text, at):
            rewritten += replace(token[0], b"\\ufffd")
            sound = _sound_inside(text, token.end())
        elif token := _constant(text, at):
            rewritten += replace(token[0], b"null")
            sound = _sound_outside(text, token.end())
        elif (token := _number(text, at)) and (overflows := _overflows(token[0])) is not None:
            rewritten += replace(token[0], b"null") if overflows else token[0]
            sound = _sound_outside(text, token.end())
        else:
            rewritten += memoryview(text)[at:]
            return bytes(rewritten)
    if repairs_max < REPAIRS_MAX:
        raise Heavy
    raise Rejected(Reason.BAD_JSON, f"expected at most {REPAIRS_MAX} values that strict JSON forbids")


def _overflows(number: bytes) -> bool | None:
    """Whether a double cannot hold it; None when it is no number."""
    try:
        return math.isinf(float(number))
    except ValueError:
        return None


def _strict(_token: bytes, stand_in: bytes) -> bytes:
    return stand_in


def _same_length(token: bytes, stand_in: bytes) -> bytes:
    """A stand-in that leaves all offsets as they were, and is a value where null is one and nowhere else."""
    return stand_in if len(stand_in) == len(token) else b"{}".ljust(len(token))


def _broken(text: bytes, error: msgspec.DecodeError) -> Rejected:
    """What is wrong with `text`, which cannot be repaired: `error` is about the repaired text and its offsets."""
    said = str(error)
    try:
        _validate(_rewritten(text, _same_length))
    except RecursionError:
        return Rejected(Reason.TOO_NESTED)
    except msgspec.DecodeError as in_original:
        said = str(in_original)
    position = _position(said)
    expected, at = (position[1], min(int(position[2]), len(text))) if position else ("the text ends early", len(text))
    line_start = text.rfind(b"\n", 0, at) + 1
    line = text.count(b"\n", 0, at) + 1
    column = len(text[line_start:at].decode("utf-8", "replace")) + 1
    found = f"{expected} at line {line} column {column} (byte {at}), near `{_excerpt(text, at)}`"
    return Rejected(Reason.BAD_JSON, found)


def _excerpt(text: bytes, at: int) -> str:
    """The text around `at` on one line."""
    nearby = text[max(0, at - _EXCERPT_BYTES) : at + _EXCERPT_BYTES].decode("utf-8", "replace")
    return " ".join(nearby.split())
