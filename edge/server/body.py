"""A request's body while it arrives: in the parser's pieces, then in a few buffers."""

from typing import Final

from edge.server.heavy import Body

_BLOCK_BYTES: Final = 1024 * 1024
"""A body that comes in pieces is held in blocks of about this size: growing one costs a copy of it at times."""


class ArrivingBody:
    """Of one request after the other."""

    __slots__ = ("_blocks", "_gathered", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """Of the packet being parsed, for `append`."""
        self._gathered = bytearray()
        self._blocks: Body = []
        """What was gathered before that."""

    @property
    def gathered_bytes(self) -> int:
        return len(self._gathered) + sum(map(len, self._blocks))

    def gather(self) -> int:
        """Few buffers for what came so far, as a list of small pieces takes many times their size; the bytes they hold."""
        self._gathered += b"".join(self.pieces)
        self.pieces.clear()
        if len(self._gathered) >= _BLOCK_BYTES:
            self._blocks.append(self._gathered)
            self._gathered = bytearray()
        return self.gathered_bytes

    def take_pieces(self) -> bytes:
        """What came in this packet, which is then no longer part of the body."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data

    def whole(self, one_piece_bytes_max: int) -> bytes | Body:
        """In one piece, unless it comes in several and is larger than that."""
        if self._gathered or self._blocks:
            self.gather()
            if self._blocks or len(self._gathered) > one_piece_bytes_max:
                blocks = [*self._blocks, self._gathered]
                self._gathered = bytearray()
                return blocks
            return bytes(self._gathered)
        pieces = self.pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def clear(self) -> None:
        self.pieces.clear()
        self._gathered.clear()
        self._blocks = []


def body_size(body: bytes | Body) -> int:
    return sum(map(len, body)) if isinstance(body, list) else len(body)
