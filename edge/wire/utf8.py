"""UTF-8 checked and mended in pieces, because a long text as a Python string may take four times its bytes.

CESU-8 is what old browser libraries write: each half of a surrogate pair as three bytes of its own.
"""

from collections.abc import Iterator
from typing import Final

_PIECE_BYTES: Final = 64 * 1024


def is_utf8(text: bytes) -> bool:
    """Whether `text` is UTF-8 (RFC 3629), so without surrogates."""
    if text.isascii():
        return True
    try:
        for _, piece in _pieces(text):
            piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def mend_cesu8(text: bytes) -> bytes:
    """`text` with encoded surrogates joined to the characters they stand for, and U+FFFD for a lone one.

    Raises `ValueError` with the offset, from 0, of the first byte that is neither UTF-8 nor part of a surrogate.
    """
    mended: list[bytes] = []
    for begin, piece in _pieces(text):
        try:
            halves = piece.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise ValueError(begin + error.start) from None
        mended.append(halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode())
    return b"".join(mended)


def _pieces(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each piece. No character is in two of them, and no surrogate pair."""
    begin = 0
    while begin < len(text):
        end = begin + _PIECE_BYTES
        if end < len(text):
            # A character has three continuation bytes at most; more of them are wrong wherever they are cut.
            for _ in range(3):
                end -= text[end] & 0xC0 == 0x80
            # 0xED 0xA0..0xAF and one more byte are the first half of a pair.
            if text[end - 3] == 0xED and text[end - 2] & 0xF0 == 0xA0:
                end -= 3
        yield begin, text[begin:end]
        begin = end
