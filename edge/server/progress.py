"""How much has come of a request that takes more than one packet, and when that is too much. Bytes as they are on the wire."""

from typing import Final

_CHUNK_OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Chunk sizes, extensions and trailers of a body; on top of eight times its bytes, which one-byte chunks need."""
_TRAILER_BYTES_MAX: Final = 4096
"""Of a chunked body; they are ignored."""
_BETWEEN_BYTES_MAX: Final = 2 * 4096
"""Between two bytes of a body that arrives: chunk sizes and extensions, and a trailer of which the parser has not told yet."""


class Progress:
    """Of one request after the other of a connection."""

    __slots__ = ("_between_bytes", "_packet", "_trailer_bytes", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        """Of the packets that have come before the request was complete; 0 of one that takes a single packet."""
        self._packet = b""
        """The last one, while a head arrives."""
        self._trailer_bytes = 0
        self._between_bytes = 0

    def begin(self, packet: bytes) -> None:
        """A packet has come between two requests."""
        self._packet = packet

    def go_on(self, packet: bytes) -> None:
        """A packet has come in the middle of a head: with the last bytes of the one before, where the blank line may begin."""
        self._packet = (b"   " + self._packet)[-3:] + packet

    def head_bytes(self, target: bytes) -> int:
        """Of a complete head without its target, 0 of one that came in a single packet."""
        if not self.bytes:
            return 0
        # Up to the end of the blank line; three bytes of the packet count already.
        return self.bytes + self._packet.find(b"\r\n\r\n") + 4 - 3 - len(target)

    def count_head(self, packet: bytes, begin: bytes) -> None:
        """A head goes on in the next packet. `begin` is its method and what is known of its target, empty before that."""
        if not self.bytes:
            # The ends of other requests may stand before it.
            at = 0
            if begin:
                at = max(0, packet.rfind(begin))
            elif not self._packet:
                # They left nothing of it, and where a part of a method begins behind them only the parser knows.
                at = len(packet) - 1
            self._packet = packet
            packet = packet[at:]
        self.bytes += len(packet)

    def begin_body(self, packet_bytes_max: int) -> None:
        """The head is complete. The packet that it is in counts, too."""
        self._between_bytes = -packet_bytes_max

    def count_body(self, packet_bytes: int, *, more: bool) -> None:
        """A body goes on in the next packet; `more` of it was in this one."""
        self.bytes += packet_bytes
        self._between_bytes = 0 if more else self._between_bytes + packet_bytes

    def count_trailers(self, fields: list[tuple[bytes, bytes]]) -> None:
        self._trailer_bytes += sum(len(name) + len(value) + len(b": \r\n") for name, value in fields)

    @property
    def has_long_trailers(self) -> bool:
        return self._trailer_bytes > _TRAILER_BYTES_MAX

    def is_mostly_framing(self, body_bytes: int, head_bytes_max: int) -> bool:
        """Chunks have little in them. `body_bytes` of it have come."""
        wire_bytes_max = head_bytes_max + _CHUNK_OVERHEAD_BYTES_MAX + 8 * body_bytes
        return self._between_bytes > _BETWEEN_BYTES_MAX or self.bytes > wire_bytes_max

    def reset(self) -> None:
        """A request is complete."""
        self.bytes = 0
        self._packet = b""
        self._trailer_bytes = 0
