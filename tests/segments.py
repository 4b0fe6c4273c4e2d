"""Bytes of segments, as a writer makes them, for tests to damage."""

from collections.abc import Sequence

from edge.segment.frame import Compressor, encode_segment_header
from edge.segment.name import SegmentName
from edge.segment.record import RecordIds, encode_record
from edge.segment.scan import Damage, Frame, scan

NAME = SegmentName(42, 0x9F31C0AA17BE5D02)
OTHER = SegmentName(43, 0x5C0D2E88B1F09A37)
CREATED_US = 1_751_367_600_000_000


def records(count: int, first: int = 0, text: str = "") -> list[bytes]:
    """Stored lines, every one different."""
    ids = RecordIds(0x0F1E2D3C4B5A6978)
    for _ in range(first):
        ids.next()
    return [
        encode_record(
            ids,
            CREATED_US + number,
            "phc_x",
            "e",
            "203.0.113.7",
            b'{"event":"%d%b","distinct_id":"u"}' % (number, text.encode()),
        )
        for number in range(first, first + count)
    ]


def pair(lines: Sequence[bytes], seed: int, sequence: int = 0, previous_bytes: int = 0) -> bytes:
    """A frame pair."""
    packed = Compressor().pack(b"".join(lines), len(lines), len(lines), CREATED_US)
    return packed.header(sequence, previous_bytes, seed) + b"".join(packed.pieces)


def segment(groups: Sequence[Sequence[bytes]], name: SegmentName = NAME, slot: int = 0) -> tuple[bytes, list[int]]:
    """A whole segment with a frame for every group, and the offset of every frame with the segment's end behind them."""
    data = encode_segment_header(name, slot, CREATED_US)
    offsets = [len(data)]
    previous_bytes = 0
    for sequence, lines in enumerate(groups):
        data += pair(lines, name.incarnation, sequence, previous_bytes)
        previous_bytes = len(data) - offsets[-1]
        offsets.append(len(data))
    return data, offsets


def found(data: bytes | memoryview, name: SegmentName = NAME, base: int = 0) -> list[list[bytes]]:
    """The records of every frame the scan finds, with their newlines."""
    return [
        [line + b"\n" for line in item.lines()]
        for item in scan(data, name.incarnation, base)
        if isinstance(item, Frame)
    ]


def damage(data: bytes, name: SegmentName = NAME) -> list[tuple[int, int]]:
    """The ranges the scan reports as damaged."""
    return [(item.offset, item.end) for item in scan(data, name.incarnation) if isinstance(item, Damage)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
