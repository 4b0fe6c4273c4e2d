"""lz-string's `compressToBase64`, decoded (the format of the JavaScript library of that name, all versions).

A base64 text is a stream of bits, most significant first. In it stand codes, least significant bit first, as wide as the
number of phrases known so far needs:

    0   a new 8-bit unit follows, which is also the next phrase      2   the end
    1   a new 16-bit unit follows, likewise                          3+  phrase number `code`

Units are UTF-16 code units. After every code but the first, the phrase before it plus the first unit of this one becomes
a new phrase, so output can grow quadratically with input; the cap is therefore inside the loop.
"""

import struct
from binascii import a2b_base64
from typing import Final

# The last digit of a stream is never `+`, so spaces at the ends cannot have been one.
_SPACES: Final = b" \t\r\n"
_DIGITS: Final = bytes.maketrans(b" ", b"+")
_LINE_BREAKS: Final = b"\t\r\n"
# With the bits of every byte mirrored and the bytes read as little-endian words,
# a code is the low bits of the window.
_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_WORD_BITS: Final = 64


class TooLarge(ValueError):
    """The output would pass the cap it was given."""


def decompress_base64(text: bytes, bytes_max: int) -> bytes:
    """The text as UTF-8: surrogate pairs joined, lone surrogates U+FFFD, spaces in `text` read as `+`.

    Bits behind the end mark are ignored, as the library does. Raises `TooLarge` before more than `bytes_max` units exist,
    `ValueError` when `text` is malformed.
    """
    text = text.strip(_SPACES).translate(_DIGITS, _LINE_BREAKS).rstrip(b"=")
    # The encoder pads to any length; a missing digit stands for zero bits.
    stream = a2b_base64(text + b"A" * (-len(text) % 4), strict_mode=True)
    decoded = _utf8(_decompress(stream, bytes_max))
    if len(decoded) > bytes_max:
        raise TooLarge(f"expected at most {bytes_max} bytes")
    return decoded


def _utf8(units: str) -> bytes:
    try:
        return units.encode()
    except UnicodeEncodeError:
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _decompress(stream: bytes, units_max: int) -> str:
    """The units, surrogates apart, as a string."""
    words = struct.iter_unpack("<Q", stream.translate(_MIRRORED) + bytes(-len(stream) % 8))
    window = bits = 0
    phrases = ["", "", ""]
    add = phrases.append
    size = 3
    width, mask, widen_at = 2, 3, 4
    output: list[str] = []
    put = output.append
    room = units_max
    previous = ""
    try:
        while True:
            if bits < width:
                window |= next(words)[0] << bits
                bits += _WORD_BITS
            code = window & (mask)
            window >>= width
            bits -= width
            if code > 2:
                if code < size:
                    phrase = phrases[code]
                elif code == size and previous:
                    phrase = previous + previous[0]
                else:
                    raise ValueError(f"expected a phrase number below {size}, found {code}")
            elif code == 2:
                return "".join(output)
            else:
                unit_bits = 16 if code else 8
                if bits < unit_bits:
                    window |= next(words)[0] << bits
                    bits += _WORD_BITS
                phrase = chr(window & ((1 << unit_bits) - 1))
                window >>= unit_bits
                bits -= unit_bits
                add(phrase)
                size += 1
            room -= len(phrase)
            if room < 0:
                raise TooLarge(f"expected at most {units_max} UTF-16 units")
            put(phrase)
            if previous:
                add(previous + phrase[0])
                size += 1
            previous = phrase
            if size >= widen_at:
                width += 1
                widen_at <<= 1
                mask = widen_at - 1
    except StopIteration:
        raise ValueError("the text ends before its end mark") from None
