import io
import random
import subprocess
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.segment.frame import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, Compressor, frame_checksum
from edge.segment.name import State
from edge.segment.scan import Damage, Frame, scan, written_end
from tests.segments import NAME, OTHER, damage, flipped, found, pair, records, segment

GROUPS = [records(1), records(2, first=1), records(1, first=3)]
DATA, OFFSETS = segment(GROUPS)
NOISE = random.Random(7).randbytes(4096)


def test_whole_segment_yields_its_frames_in_order_and_no_damage() -> None:
    frames = [item for item in scan(DATA, NAME.incarnation) if isinstance(item, Frame)]
    assert [(frame.offset, frame.end) for frame in frames] == list(pairwise(OFFSETS))
    assert [frame.header.sequence for frame in frames] == [0, 1, 2]
    assert found(DATA) == GROUPS
    assert damage(DATA) == []


def test_previous_lengths_walk_backwards_from_the_tail_to_the_first_frame() -> None:
    frames = [item for item in scan(DATA, NAME.incarnation) if isinstance(item, Frame)]
    at = frames[-1].offset
    walked = [at]
    for frame in reversed(frames):
        assert frame.offset == at
        at -= frame.header.previous_bytes
        walked.append(at)
    assert walked == [*reversed(OFFSETS[:-1]), OFFSETS[0]]


def test_segment_cut_at_every_offset_yields_exactly_its_whole_frames() -> None:
    for cut in range(len(DATA) + 1):
        whole = sum(end <= cut for end in OFFSETS[1:])
        assert found(DATA[:cut]) == GROUPS[:whole], cut
        assert damage(DATA[:cut]) == [], cut


def test_every_flipped_bit_costs_at_most_its_frame_and_invents_nothing() -> None:
    for bit in range(len(DATA) * 8):
        changed = flipped(DATA, bit)
        hit = sum(end <= bit // 8 for end in OFFSETS) - 1  # -1: the segment's own header
        expected = [group for index, group in enumerate(GROUPS) if index != hit]
        assert found(changed) == expected, bit
        behind_is_good = 0 <= hit < len(GROUPS) - 1
        assert damage(changed) == ([(OFFSETS[hit], OFFSETS[hit + 1])] if behind_is_good else []), bit


@pytest.mark.parametrize("tail", [b"\0", bytes(47), bytes(4096), NOISE, DATA[:SEGMENT_HEADER_BYTES], NOISE[:56]])
def test_bytes_after_the_last_frame_are_tail_and_no_damage(tail: bytes) -> None:
    assert found(DATA + tail) == GROUPS
    assert damage(DATA + tail) == []


def test_segment_without_a_frame_yields_nothing() -> None:
    for data in (b"", DATA[:10], DATA[:SEGMENT_HEADER_BYTES], DATA[:SEGMENT_HEADER_BYTES] + bytes(100), NOISE):
        assert list(scan(data, NAME.incarnation)) == []


@pytest.mark.parametrize(
    ("between", "name"),
    [
        pytest.param(bytes(4096), "zeroes", id="zeroed pages"),
        pytest.param(NOISE, "noise", id="noise"),
        pytest.param(pair(GROUPS[1], NAME.incarnation, 1)[:-1], "cut", id="a frame cut short"),
        pytest.param(pair(GROUPS[1], OTHER.incarnation, 1), "foreign", id="a frame of another segment"),
        pytest.param(segment(GROUPS, OTHER)[0], "segment", id="another segment whole"),
        pytest.param(pair(GROUPS[1], NAME.incarnation)[:FRAME_HEADER_BYTES] * 9, "headers", id="headers alone"),
        pytest.param(bytes([0x5E, 0x2A, 0x4D, 0x18]) * 50, "magics", id="magic numbers"),
        pytest.param(b"\x5e\x2a", "start", id="the beginning of a magic number"),
    ],
)
def test_damage_between_good_frames_is_skipped_and_reported(between: bytes, name: str) -> None:
    start, end = OFFSETS[1], OFFSETS[1] + len(between)
    data = DATA[:start] + between + DATA[OFFSETS[1] :]
    assert found(data) == GROUPS, name
    assert damage(data) == [(start, end)], name


@pytest.mark.parametrize("place", range(3))
def test_frames_of_another_segment_are_refused_wherever_they_stand(place: int) -> None:
    foreign = pair(records(1, first=9), OTHER.incarnation, place)
    data = DATA[: OFFSETS[place]] + foreign + DATA[OFFSETS[place + 1] :]
    assert found(data) == [group for index, group in enumerate(GROUPS) if index != place]


def embedding(seed: int) -> bytes:
    """A segment whose second frame holds, stored as it is, a frame that somebody sent as an event; its header is damaged."""
    sent = NOISE[:600] + pair([b'{"forged":1}\n'], seed) + NOISE[600:1200] + b"\n"
    data, offsets = segment([GROUPS[0], sent.splitlines(keepends=True), GROUPS[2]])
    assert pair([b'{"forged":1}\n'], seed) in data, "the frame is in the file uncompressed"
    return flipped(data, offsets[1] * 8)


def test_frame_embedded_in_an_event_is_not_taken_for_one() -> None:
    data = embedding(OTHER.incarnation)
    assert found(data) == [GROUPS[0], GROUPS[2]]


def test_only_the_secret_incarnation_keeps_an_embedded_frame_out() -> None:
    assert found(embedding(NAME.incarnation)) == [GROUPS[0], [b'{"forged":1}\n'], GROUPS[2]]


def test_scan_from_a_frame_boundary_gives_the_rest_with_offsets_of_the_file() -> None:
    for index, offset in enumerate(OFFSETS):
        items = list(scan(DATA[offset:], NAME.incarnation, offset))
        assert [item.offset for item in items] == OFFSETS[index:-1]
        assert [item.end for item in items] == OFFSETS[index + 1 :]
    rest = DATA[OFFSETS[1] :]
    items = list(scan(flipped(rest, 0), NAME.incarnation, OFFSETS[1]))
    assert [(type(item), item.offset, item.end) for item in items] == [
        (Damage, OFFSETS[1], OFFSETS[2]),
        (Frame, OFFSETS[2], OFFSETS[3]),
    ]


def test_views_are_scanned_like_bytes() -> None:
    data = flipped(DATA, OFFSETS[1] * 8)
    assert found(memoryview(data)) == found(data)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 600)), max_size=4))
def test_random_damage_costs_only_the_frames_it_touches(seed: int, places: list[tuple[int, int]]) -> None:
    groups = [records(3, first=3 * index, text="x" * 20) for index in range(40)]
    data, offsets = segment(groups)
    changed = bytearray(data)
    noise = random.Random(seed)
    for place, length in places:
        start = SEGMENT_HEADER_BYTES + place % (len(data) - SEGMENT_HEADER_BYTES)
        end = min(len(data), start + length)
        changed[start:end] = noise.choice([bytes(end - start), noise.randbytes(end - start)])
    untouched = [
        group
        for group, (start, end) in zip(groups, pairwise(offsets), strict=True)
        if changed[start:end] == data[start:end]
    ]
    assert found(bytes(changed)) == untouched


def test_standard_tools_read_a_segment(tmp_path: Path) -> None:
    path = tmp_path / NAME.file_name(State.SEALED)
    path.write_bytes(DATA)
    lines = b"".join(line for group in GROUPS for line in group)
    assert subprocess.run(["zstdcat", path], capture_output=True, check=True).stdout == lines
    subprocess.run(["zstd", "-t", "-q", path], check=True)
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(DATA), read_across_frames=True) as reader:
        assert reader.read() == lines


def test_frame_that_claims_more_than_there_is_is_refused_even_with_a_fitting_checksum() -> None:
    packed = Compressor().pack(GROUPS[0][0], 1, 1, 0)
    head = bytearray(packed.header(0, 0, NAME.incarnation))
    head[12:16] = (packed.frame_bytes + 1).to_bytes(4, "little")
    head[48:56] = frame_checksum(bytes(head), packed.pieces, NAME.incarnation).to_bytes(8, "little")
    assert found(DATA[:SEGMENT_HEADER_BYTES] + head + packed.pieces[0]) == []


@pytest.mark.parametrize("size", [60, 4096, 4097, 50_000, 1_000_000])
@pytest.mark.parametrize("written", [0, 1, 50, 4095, 4096, 4097, 12_345, 49_999])
@pytest.mark.parametrize("start", [0, 48, 4000])
def test_the_end_of_what_is_written_is_found_to_a_block_by_a_few_looks(size: int, written: int, start: int) -> None:
    if not start <= written <= size:
        return
    data = Random(written).randbytes(written).replace(b"\0", b"x") + bytes(size - written)
    looks = []

    def pread(count: int, offset: int) -> bytes:
        looks.append(offset)
        return data[offset : offset + count]

    end = written_end(pread, start, size)
    assert written <= end <= min(size, written + 4096)
    assert len(looks) < 10
    assert not looks or min(looks) >= start
