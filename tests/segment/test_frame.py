import random

import pytest
import xxhash
import zstandard

from edge.segment.frame import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Compressor,
    FrameHeader,
    Packed,
    decode_lines,
    encode_room_header,
    encode_segment_header,
    frame_checksum,
    is_room,
    parse_frame_header,
    parse_segment_header,
)
from edge.segment.name import SegmentName
from tests.segments import CREATED_US, NAME, flipped, pair

LINES = b'{"a":1}\n{"a":2}\n{"a":3}\n'
SEED = NAME.incarnation


def packed(lines: bytes = LINES, records: int = 3) -> Packed:
    return Compressor().pack(lines, records, 7, CREATED_US)


def header_of(pair_bytes: bytes) -> FrameHeader:
    header = parse_frame_header(pair_bytes, 0)
    assert header is not None
    return header


def compressed(lines: bytes = LINES) -> bytes:
    return Compressor().compress(lines)


class TestFrame:
    def test_header_says_what_follows(self) -> None:
        frame = packed()
        header = header_of(frame.header(5, 321, SEED))
        assert header == FrameHeader(
            records=3,
            frame_bytes=len(compressed()),
            raw_bytes=len(LINES),
            sequence=5,
            oldest_us=CREATED_US,
            previous_bytes=321,
            events=7,
            checksum=header.checksum,
        )
        assert header.pair_bytes == FRAME_HEADER_BYTES + len(compressed())
        assert decode_lines(compressed(), header) == LINES.splitlines()

    def test_checksum_covers_header_and_frame_and_is_seeded_by_the_segment(self) -> None:
        frame = packed()
        head = frame.header(5, 321, SEED)
        covered = head[8:48] + compressed()
        assert header_of(head).checksum == xxhash.xxh3_64_intdigest(covered, SEED)
        assert header_of(head).checksum == frame_checksum(head, frame.pieces, SEED)
        assert header_of(frame.header(5, 321, SEED + 1)).checksum != header_of(head).checksum

    def test_frame_is_readable_by_itself_with_its_content_checked(self) -> None:
        frame = compressed()
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.has_checksum
        assert parameters.content_size == len(LINES)
        assert zstandard.ZstdDecompressor().decompress(frame) == LINES

    def test_text_in_which_nothing_repeats_is_coded_all_the_same(self) -> None:
        digits = random.Random(1).randbytes(20_000).hex().encode()
        assert len(compressed(digits)) < 0.55 * len(digits)

    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            pytest.param(0, b"\x5d", id="magic of the segment header"),
            pytest.param(4, b"\x31", id="header size"),
            pytest.param(8, b"\x02", id="later version"),
            pytest.param(9, b"\x01", id="flag"),
            pytest.param(44, b"\x01", id="reserved"),
        ],
    )
    def test_header_of_another_kind_is_refused(self, offset: int, value: bytes) -> None:
        head = packed().header(0, 0, SEED)
        assert parse_frame_header(head[:offset] + value + head[offset + 1 :], 0) is None

    def test_header_is_found_at_an_offset_and_not_beyond_the_end(self) -> None:
        data = b"xyz" + packed().header(4, 0, SEED)
        found = parse_frame_header(data, 3)
        assert found is not None
        assert found.sequence == 4
        assert parse_frame_header(data[:-1], 3) is None
        assert parse_frame_header(b"", 0) is None

    @pytest.mark.parametrize(
        ("frame", "records", "raw_bytes"),
        [
            pytest.param(compressed(), 2, len(LINES), id="more lines than it says"),
            pytest.param(compressed(), 4, len(LINES), id="fewer lines than it says"),
            pytest.param(compressed(), 3, len(LINES) + 1, id="shorter than it says"),
            pytest.param(compressed(), 3, len(LINES) - 1, id="longer than it says"),
            pytest.param(compressed(LINES[:-1]), 2, len(LINES) - 1, id="last line without newline"),
            pytest.param(compressed() + b"\0", 3, len(LINES), id="bytes behind the frame"),
            pytest.param(compressed()[:-1], 3, len(LINES), id="cut frame"),
            pytest.param(b"not a zstd frame", 3, len(LINES), id="no zstd frame"),
            pytest.param(b"", 0, 0, id="nothing"),
            pytest.param(zstandard.ZstdCompressor(write_content_size=False).compress(LINES), 3, 24, id="no size"),
        ],
    )
    def test_frame_that_is_not_what_its_header_says_is_refused(
        self, frame: bytes, records: int, raw_bytes: int
    ) -> None:
        """The checksum may be right and the writer wrong: the reader hears of it as an error it expects."""
        header = FrameHeader(records, len(frame), raw_bytes, 0, 0, 0, 0, 0)
        with pytest.raises(ValueError, match="expected"):
            decode_lines(frame, header)

    def test_pair_begins_with_the_magic_that_the_scan_looks_for(self) -> None:
        assert pair([LINES], SEED).startswith(FRAME_MAGIC)


class TestSegmentHeader:
    HEADER = encode_segment_header(NAME, 3, CREATED_US)

    def test_file_that_lost_its_name_says_which_segment_it_is(self) -> None:
        found = parse_segment_header(self.HEADER + b"more")
        assert found is not None
        assert (found.name, found.slot, found.created_us) == (NAME, 3, CREATED_US)
        assert len(self.HEADER) == SEGMENT_HEADER_BYTES

    def test_extreme_values_fit(self) -> None:
        name = SegmentName(2**64 - 1, 2**64 - 1)
        found = parse_segment_header(encode_segment_header(name, 65_535, 2**64 - 1))
        assert found is not None
        assert found.name == name

    def test_any_flipped_bit_is_noticed(self) -> None:
        for bit in range(len(self.HEADER) * 8):
            assert parse_segment_header(flipped(self.HEADER, bit)) is None, bit

    def test_cut_header_is_none(self) -> None:
        for length in range(SEGMENT_HEADER_BYTES):
            assert parse_segment_header(self.HEADER[:length]) is None


class TestRoom:
    def test_it_is_a_frame_that_zstd_passes_over(self) -> None:
        data = compressed() + encode_room_header(500) + bytes(492)
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            assert reader.read() == LINES

    def test_it_is_known_by_its_header_and_holds_nothing(self) -> None:
        room = encode_room_header(500) + bytes(492)
        assert is_room(room)
        assert is_room(memoryview(room))
        # As far as one looks.
        assert is_room(room[:8])
        assert not is_room(b"")
        assert not is_room(bytes(500))
        assert not is_room(room[:300] + b"x" + room[301:])
        assert not is_room(packed().header(0, 0, SEED))
