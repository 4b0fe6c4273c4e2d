"""A frame pair: the records of one commit, or of a part of it, as bytes of a segment file (format version 1).

A pair is a zstd *skippable frame* that carries the header, followed by one ordinary zstd frame (content checksum on) whose
content is newline-delimited JSON, one record per line. Little-endian.

    offset size field
         0    4 magic 0x184D2A5E
         4    4 bytes that follow up to the zstd frame: 48
         8    1 format version: 1
         9    1 flags: 0
        10    2 records
        12    4 length of the zstd frame, bytes
        16    4 length of its content, bytes
        20    8 sequence: number of the pair in its segment, from 0
        28    8 receive time of the oldest record, microseconds since the Unix epoch
        36    4 length of the previous pair, 0 for the first (walks backwards from the tail)
        40    4 events in those records
        44    4 reserved: 0
        48    8 XXH3-64, seed = the segment's incarnation, over bytes 8 to 47 and the zstd frame
        56      the zstd frame

A segment begins with its own header in another skippable frame, so that a file that lost its name can still be read:

         0    4 magic 0x184D2A5D
         4    4 bytes that follow: 40
         8    1 format version: 1
         9    1 flags: 0
        10    2 slot
        12    4 reserved: 0
        16    8 creation time, microseconds since the Unix epoch
        24    8 counter
        32    8 incarnation
        40    8 XXH3-64, seed = the incarnation, over bytes 8 to 39

Room that was made beforehand and is not used yet stands behind the last pair of an open segment, in one more skippable frame:

         0    4 magic 0x184D2A5C
         4    4 bytes that follow: all of them 0
"""

import struct
import sys
import threading
from collections.abc import Sequence
from typing import Final

import msgspec
import xxhash
import zstandard

from edge.segment.name import SegmentName

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor
else:
    from backports.zstd import CompressionParameter, ZstdCompressor

VERSION: Final = 1
_LITERAL_COMPRESSION_MODE: Final = 1002
"""zstd's number for a parameter that Python has no name for; its value 1 has literals coded always."""
_COMPRESSION: Final[dict[int, int]] = {
    # Level 3 is slower on event JSON in groups and no smaller.
    CompressionParameter.compression_level: 1,
    CompressionParameter.window_log: 18,
    # A table that fits into the processor's first cache, and no matches that short: 3 to 10 % faster than the level's own
    # values for event JSON in frames of every size, which stay as large.
    CompressionParameter.hash_log: 12,
    CompressionParameter.min_match: 7,
    # Where nothing matches, the next place looked at is six bytes on: 17 to 28 % faster for 3 to 6 % more bytes. By itself
    # zstd would then not code the literals, as in its negative levels, which makes half as many bytes again.
    CompressionParameter.target_length: 5,
    _LITERAL_COMPRESSION_MODE: 1,
    CompressionParameter.content_size_flag: 1,
    CompressionParameter.checksum_flag: 1,
}

FRAME_MAGIC: Final = (0x184D2A5E).to_bytes(4, "little")
FRAME_HEADER_BYTES: Final = 56
FRAME_RAW_BYTES_MAX: Final = 256 * 1024
"""Content of a frame of several records: bounds the damage of a bad one and the reader's memory. One record may be larger."""
FRAME_RECORDS_MAX: Final = 1000

SEGMENT_MAGIC: Final = (0x184D2A5D).to_bytes(4, "little")
SEGMENT_HEADER_BYTES: Final = 48

ROOM_MAGIC: Final = (0x184D2A5C).to_bytes(4, "little")
ROOM_HEADER_BYTES: Final = 8

_FRAME: Final = struct.Struct("<4sIBBHIIQQIIIQ")
_SEGMENT: Final = struct.Struct("<4sIBBHIQQQQ")
_HASHED_FROM: Final = 8
_HASH_AT: Final = 48

assert _FRAME.size == FRAME_HEADER_BYTES
assert _SEGMENT.size == SEGMENT_HEADER_BYTES


class FrameHeader(msgspec.Struct, gc=False, frozen=True):
    """What a frame pair says of itself; lengths in bytes."""

    records: int
    frame_bytes: int
    raw_bytes: int
    sequence: int
    oldest_us: int
    previous_bytes: int
    events: int
    checksum: int

    @property
    def pair_bytes(self) -> int:
        return FRAME_HEADER_BYTES + self.frame_bytes


class SegmentHeader(msgspec.Struct, frozen=True):
    """What a segment says of itself at its very start."""

    name: SegmentName
    slot: int
    created_us: int


class Packed(msgspec.Struct, gc=False, frozen=True):
    """Compressed records on their way into a segment, any segment: only the pair's header depends on which."""

    pieces: Sequence[bytes | memoryview]
    """The zstd frame, in order."""
    frame_bytes: int
    records: int
    events: int
    raw_bytes: int
    oldest_us: int

    def header(self, sequence: int, previous_bytes: int, seed: int) -> bytes:
        """The pair's first part, for a place in the segment whose incarnation is `seed`."""
        counts = (self.records, self.frame_bytes, self.raw_bytes, sequence, self.oldest_us, previous_bytes, self.events)
        head = _FRAME.pack(FRAME_MAGIC, FRAME_HEADER_BYTES - 8, VERSION, 0, *counts, 0, 0)[:_HASH_AT]
        return head + frame_checksum(head, self.pieces, seed).to_bytes(8, "little")


class Compressor:
    """Holds zstd's working memory: one per writer, used by one thread at a time."""

    def __init__(self) -> None:
        self._zstd = ZstdCompressor(options=_COMPRESSION)

    def compress(self, lines: bytes) -> bytes:
        """The zstd frame by itself."""
        return self._zstd.compress(lines, ZstdCompressor.FLUSH_FRAME)

    def pack(self, lines: bytes, records: int, events: int, oldest_us: int) -> Packed:
        """`lines` holds `records` newline-terminated lines."""
        frame = self.compress(lines)
        return Packed((frame,), len(frame), records, events, len(lines), oldest_us)


class _Decompressor(threading.local):
    """Holds zstd's working memory, some 160 KiB, which is dear to make anew for every frame."""

    def __init__(self) -> None:
        self.decompress: Final = zstandard.ZstdDecompressor().decompress


_of_this_thread: Final = _Decompressor()


def frame_checksum(head: bytes, pieces: Sequence[bytes | memoryview], seed: int) -> int:
    """XXH3-64 over the header's bytes 8 to 47 and the zstd frame."""
    state = xxhash.xxh3_64(head[_HASHED_FROM:_HASH_AT], seed)
    for piece in pieces:
        state.update(piece)
    return state.intdigest()


def parse_frame_header(data: bytes | memoryview, offset: int) -> FrameHeader | None:
    """The header at `offset` if its fixed fields are right; the checksum is not looked at. `None` otherwise."""
    if offset + FRAME_HEADER_BYTES > len(data):
        return None
    fields = _FRAME.unpack_from(data, offset)
    (
        magic,
        size,
        version,
        flags,
        records,
        frame_bytes,
        raw_bytes,
        sequence,
        oldest_us,
        previous,
        events,
        reserved,
        checksum,
    ) = fields
    if magic != FRAME_MAGIC or size != FRAME_HEADER_BYTES - 8 or version != VERSION or flags or reserved:
        return None
    return FrameHeader(records, frame_bytes, raw_bytes, sequence, oldest_us, previous, events, checksum)


def decode_lines(frame: bytes | memoryview, header: FrameHeader) -> list[bytes]:
    """The records of a zstd frame whose checksum was verified, without their newlines.

    Raises `ValueError` when it does not hold what it says.
    """
    try:
        # Asked first: it bounds what the decompressor allocates.
        if zstandard.frame_content_size(frame) != header.raw_bytes:
            raise ValueError(f"expected a zstd frame of {header.raw_bytes} bytes of content")
        text = _of_this_thread.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"expected a zstd frame: {error}") from error
    lines = text.split(b"\n")
    rest = lines.pop()
    if len(lines) != header.records or rest:
        raise ValueError(f"expected {header.records} lines, found {len(lines)} and {rest[-8:]!r} behind the last one")
    return lines


def encode_segment_header(name: SegmentName, slot: int, created_us: int) -> bytes:
    head = _SEGMENT.pack(
        SEGMENT_MAGIC, SEGMENT_HEADER_BYTES - 8, VERSION, 0, slot, 0, created_us, name.counter, name.incarnation, 0
    )[:-8]
    return head + xxhash.xxh3_64_intdigest(head[_HASHED_FROM:], name.incarnation).to_bytes(8, "little")


def parse_segment_header(data: bytes | memoryview) -> SegmentHeader | None:
    """The header a segment begins with, `None` when it is damaged or of another version."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    magic, size, version, flags, slot, reserved, created_us, counter, incarnation, checksum = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC or size != SEGMENT_HEADER_BYTES - 8 or version != VERSION or flags or reserved:
        return None
    if xxhash.xxh3_64_intdigest(bytes(data[_HASHED_FROM : SEGMENT_HEADER_BYTES - 8]), incarnation) != checksum:
        return None
    return SegmentHeader(SegmentName(counter, incarnation), slot, created_us)


def encode_room_header(size: int) -> bytes:
    """For `size` unused bytes, those of the header, eight, included."""
    return ROOM_MAGIC + (size - ROOM_HEADER_BYTES).to_bytes(4, "little")


def is_room(data: bytes | memoryview) -> bool:
    """Whether nothing but unused room begins here; of one that is cut short, as far as it goes."""
    return bytes(data[:4]) == ROOM_MAGIC and data[ROOM_HEADER_BYTES:] == bytes(max(0, len(data) - ROOM_HEADER_BYTES))
