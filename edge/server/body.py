"""A request's body while it arrives: in the parser's pieces, then in one buffer, and behind that in blocks."""

from typing import Final

from edge.blocks import Blocks
from edge.server.heavy import Body

_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""A body that comes in pieces is held in one buffer up to about this size: growing it costs a copy of it at times. What is more
of it is held in blocks, which cost the system more."""


class ArrivingBody:
    """Of one request after the other."""

    __slots__ = ("_blocks", "_gathered", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """Of the packet being parsed, for `append`."""
        self._gathered = bytearray()
        self._blocks: Blocks | None = None
        """What is behind that. Few bodies have it, and there is one of these for every connection."""

    @property
    def gathered_bytes(self) -> int:
        return len(self._gathered) + (0 if self._blocks is None else self._blocks.size)

    def gather(self) -> int:
        """Few buffers for what came so far, as a list of small pieces takes many times their size; the bytes they hold."""
        data = self.take_pieces()
        if len(self._gathered) < _BUFFER_BYTES:
            self._gathered += data
        else:
            self._blocks = self._blocks or Blocks()
            self._blocks.append(data)
        return self.gathered_bytes

    def take_pieces(self) -> bytes:
        """What came in this packet, which is then no longer part of the body."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data

    def whole(self, one_piece_bytes_max: int) -> bytes | Body:
        """In one piece, unless it comes in several and is larger than that."""
        if not self._gathered:
            pieces = self.pieces
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        size = self.gather()
        body = [memoryview(self._gathered), *([] if self._blocks is None else self._blocks.views())]
        self._gathered, self._blocks = bytearray(), None
        return b"".join(body) if size <= one_piece_bytes_max else body

    def clear(self) -> None:
        self.pieces.clear()
        self._gathered.clear()
        self._blocks = None


def body_size(body: bytes | Body) -> int:
    return sum(map(len, body)) if isinstance(body, list) else len(body)
