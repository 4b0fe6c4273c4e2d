"""lz-string's `compressToBase64`, decoded (the format of the JavaScript library of that name, all versions).

A base64 text is a stream of bits, most significant first. In it stand codes, least significant bit first, as wide as the
number of phrases known so far needs:

    0   a new 8-bit unit follows, which is also the next phrase      2   the end
    1   a new 16-bit unit follows, likewise                          3+  phrase number `code`

Units are UTF-16 code units. After every code but the first, the phrase before it plus the first unit of this one becomes
a new phrase, so output can grow quadratically with input; the cap is therefore inside the loop.

Where no new unit came up for a while, codes are read many at a time: a phrase then comes out of nothing but two lists. What
such a run meets that is no phrase it knows is left to the plain way, which reads one code and has every rule.
"""

import struct
from binascii import a2b_base64
from functools import cache
from typing import Final

# The last digit of a stream is never `+`, so spaces at the ends cannot have been one.
_SPACES: Final = b" \t\r\n"
_DIGITS: Final = bytes.maketrans(b" ", b"+")
_LINE_BREAKS: Final = b"\t\r\n"
# With the bits of every byte mirrored, a code is the low bits of the little-endian number that begins where it does.
_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PADDING: Final = bytes(8)
_word: Final = struct.Struct("<Q").unpack_from
"""Holds a code and the unit behind it, wherever in a byte they begin."""

_RUN_CODES: Final = 64
_RUN_AFTER_CODES: Final = 16
_LANE_BITS: Final = 32
"""More than any code has: its number is below the cap, which no caller sets above 100 MiB."""
_lanes: Final = struct.Struct(f"<{_RUN_CODES}I").unpack


class TooLarge(ValueError):
    """The output would pass the cap it was given."""


def decompress_base64(text: bytes, bytes_max: int) -> bytes:
    """The text as UTF-8: surrogate pairs joined, lone surrogates U+FFFD, spaces in `text` read as `+`.

    Bits behind the end mark are ignored, as the library does. Raises `TooLarge` when there are more than `bytes_max` bytes, of
    which at most one run is looked at, `ValueError` when `text` is malformed.
    """
    text = text.strip(_SPACES).translate(_DIGITS, _LINE_BREAKS).rstrip(b"=")
    # The encoder pads to any length, one digit beyond a multiple of four included.
    stream = a2b_base64(text + b"A" * (-len(text) % 4), strict_mode=True)
    decoded = _utf8(_decompress(stream, len(text) * 6, bytes_max))
    if len(decoded) > bytes_max:
        raise TooLarge(f"expected at most {bytes_max} bytes")
    return decoded


def _utf8(units: str) -> bytes:
    try:
        return units.encode()
    except UnicodeEncodeError:
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


@cache
def _spreading(width: int) -> list[tuple[int, int, int]]:
    """How a number holding a run of codes side by side becomes one with a code in each lane.

    Halves, then quarters and so on of the run are moved apart: masks of those that stay and those that move, and how far.
    """
    steps = []
    count = _RUN_CODES
    while count > 1:
        count //= 2
        block = (1 << count * width) - 1
        stay = sum(block << at for at in range(0, _RUN_CODES * _LANE_BITS, 2 * count * _LANE_BITS))
        steps.append((stay, stay << count * width, count * (_LANE_BITS - width)))
    return steps


def _run(stream: bytes, at: int, width: int) -> tuple[int, ...]:
    """The next codes from bit `at` on, as if all of them had this width; zeros behind the end."""
    begin = at >> 3
    codes = int.from_bytes(stream[begin : begin + _RUN_CODES * width // 8 + 1], "little") >> (at & 7)
    codes &= (1 << _RUN_CODES * width) - 1
    for stay, move, distance in _spreading(width):
        codes = codes & stay | (codes & move) << distance
    return _lanes(codes.to_bytes(_RUN_CODES * _LANE_BITS // 8, "little"))


def _decompress(stream: bytes, end: int, units_max: int) -> str:
    """The units, surrogates apart, as a string. `end` counts bits."""
    stream = stream.translate(_MIRRORED) + _PADDING
    at = 0
    phrases = ["", "", ""]
    size = 3
    width, widen_at = 2, 4
    run_from = _RUN_AFTER_CODES
    output: list[str] = []
    room = units_max
    previous = ""
    while True:
        if size >= run_from:
            codes = _run(stream, at, width)[: widen_at - size]
            try:
                for code in codes:
                    phrase = phrases[code]
                    # The phrases 0 to 2 are empty and have no first unit.
                    phrases.append(previous + phrase[0])
                    previous = phrase
            except IndexError:
                codes = codes[: len(phrases) - size]
                run_from = len(phrases) + _RUN_AFTER_CODES
            at += len(codes) * width
            text = "".join(map(phrases.__getitem__, codes))
        else:
            if at + width > end:
                raise ValueError("the text ends before its end mark")
            window = _word(stream, at >> 3)[0] >> (at & 7)
            code = window & (widen_at - 1)
            at += width
            if code > 2:
                if code < size:
                    text = phrases[code]
                elif code == size and previous:
                    text = previous + previous[0]
                else:
                    raise ValueError(f"expected a phrase number below {size}, found {code}")
            elif code == 2:
                return "".join(output)
            else:
                text = chr(window >> width & (0xFFFF if code else 0xFF))
                at += 16 if code else 8
                phrases.append(text)
                run_from = size + _RUN_AFTER_CODES
            if previous:
                phrases.append(previous + text[0])
            previous = text
        room -= len(text)
        if room < 0:
            raise TooLarge(f"expected at most {units_max} UTF-16 units")
        output.append(text)
        size = len(phrases)
        if size >= widen_at:
            width += 1
            widen_at <<= 1
