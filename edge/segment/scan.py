"""Walk the bytes of a segment frame by frame: good frames, damage between them, and what stands at the end.

Damage costs itself only: after bytes that are no valid frame, the next magic whose checksum fits the segment's incarnation
is looked for, and everything from there on is read. What follows the last good frame is the tail: nothing, a frame that is
still being written or was torn by a crash, or zeroes that a file system left after a power cut.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from edge.segment.frame import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    FrameHeader,
    decode_lines,
    frame_checksum,
    parse_frame_header,
)

_BLOCK_BYTES: Final = 4096
"""Nothing that is written has so many zeroes in a row."""


class Frame(msgspec.Struct, gc=False, frozen=True):
    """A frame pair whose checksum was verified. Offsets count from the start of the segment."""

    offset: int
    end: int
    header: FrameHeader
    data: memoryview
    """The zstd frame."""

    def lines(self) -> list[bytes]:
        """The stored records, without their newlines. Raises `ValueError` when they are not what the header says."""
        return decode_lines(self.data, self.header)


class Damage(msgspec.Struct, gc=False, frozen=True):
    """Bytes between two good frames that are not readable."""

    offset: int
    end: int


def scan(data: bytes | memoryview, seed: int, base: int = 0) -> Iterator[Frame | Damage]:
    """The frames of `data` in file order, damage between them included; the tail after the last good frame is not yielded.

    `data` are bytes of a segment from offset `base` on, which must be 0 or the end of a frame. `seed` is the segment's
    incarnation.
    """
    data = bytes(data)  # a copy only of what is no bytes already
    view = memoryview(data)
    position = SEGMENT_HEADER_BYTES if base == 0 else 0
    searched = position
    while position < len(view):
        frame = _frame_at(view, position, seed, base)
        if frame is not None:
            if searched < position:
                yield Damage(base + searched, base + position)
            yield frame
            position = searched = frame.end - base
        else:
            position = data.find(FRAME_MAGIC, position + 1)
            if position < 0:
                return


def _frame_at(view: memoryview, position: int, seed: int, base: int) -> Frame | None:
    header = parse_frame_header(view, position)
    if header is None or position + header.pair_bytes > len(view):
        return None
    start = position + FRAME_HEADER_BYTES
    end = position + header.pair_bytes
    if frame_checksum(bytes(view[position:start]), (view[start:end],), seed) != header.checksum:
        return None
    return Frame(base + position, base + end, header, view[start:end])


def written_end(pread: Callable[[int, int], bytes], start: int, size: int) -> int:
    """Where in a file of `size` bytes what is written ends and unused room begins, to a block, by looking at a few blocks.

    `start` is a place up to which it is written. What `pread` of a size and an offset raises, this raises.
    """
    zeroes = bytes(_BLOCK_BYTES)
    low, high = start, size
    while high - low > _BLOCK_BYTES:
        middle = (low + high) // 2
        block = pread(_BLOCK_BYTES, middle)
        if block == zeroes[: len(block)]:
            high = middle
        else:
            low = middle
    return high
