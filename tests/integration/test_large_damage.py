"""A segment of 64 MiB, damaged at random in every way a disk damages files: what is lost lies in the damaged frames."""

import random
import time
from collections import Counter
from itertools import pairwise
from typing import Final

import pytest

from edge.segment.frame import encode_segment_header
from edge.segment.name import SegmentName
from edge.segment.scan import Damage, scan
from tests.integration.scale import scaled
from tests.segments import CREATED_US, NAME, OTHER, pair

ROUNDS: Final = scaled(30, 500)
SEGMENT_BYTES: Final = 64 * 1024 * 1024
SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096


def lines(rng: random.Random) -> list[bytes]:
    """Records of one frame that do not compress."""
    return [rng.randbytes(rng.choice((100, 900, 4000))).hex().encode() + b"\n" for _ in range(rng.randint(1, 12))]


def whole_segment(rng: random.Random, name: SegmentName, size: int) -> tuple[bytes, list[int]]:
    """At least so many bytes, and the offset of every frame with the segment's end behind them."""
    pieces = [encode_segment_header(name, 0, CREATED_US)]
    offsets = [len(pieces[0])]
    while offsets[-1] < size:
        pieces.append(pair(lines(rng), name.incarnation, len(pieces) - 1))
        offsets.append(offsets[-1] + len(pieces[-1]))
    return b"".join(pieces), offsets


def damaged(data: bytes, other: bytes, rng: random.Random, done: Counter[str]) -> bytearray:
    """A copy that has met one to some dozen accidents."""
    changed = bytearray(data)

    def place(unit: int) -> int:
        return rng.randrange(len(changed) // unit) * unit

    for _ in range(rng.choice((1, 3, 40))):
        kind = rng.choice(
            ("zeroed pages", "overwritten sectors", "swapped sectors", "flipped bits", "foreign bytes", "foreign tail")
        )
        at, to = place(SECTOR_BYTES), place(SECTOR_BYTES)
        if kind == "zeroed pages":
            at = place(PAGE_BYTES)
            changed[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
        elif kind == "overwritten sectors":
            changed[at : at + SECTOR_BYTES] = rng.randbytes(SECTOR_BYTES)
        elif kind == "swapped sectors":
            one, two = changed[at : at + SECTOR_BYTES], changed[to : to + SECTOR_BYTES]
            changed[at : at + SECTOR_BYTES], changed[to : to + SECTOR_BYTES] = two, one
        elif kind == "flipped bits":
            changed[at + rng.randrange(SECTOR_BYTES)] ^= 1 << rng.randrange(8)
        elif kind == "foreign bytes":
            # Whole frames of another segment, at the very offsets where they stood there: a recycled block.
            block = other[at : at + rng.choice((PAGE_BYTES, 1 << 18))][: len(changed) - at]
            changed[at : at + len(block)] = block
        elif rng.random() < 0.2:
            cut = rng.randrange(len(changed) - (1 << 20), len(changed))
            changed[cut:] = other[cut : len(changed)]
        else:
            continue
        done[kind] += 1
    return changed[: len(data)]


@pytest.mark.soak
def test_what_is_lost_of_a_large_segment_lies_in_the_damaged_frames() -> None:
    seed = time.time_ns()
    rng = random.Random(seed)
    data, offsets = whole_segment(rng, NAME, SEGMENT_BYTES)
    other, _ = whole_segment(rng, OTHER, SEGMENT_BYTES)
    done: Counter[str] = Counter()
    touched_frames = lost_frames = moved = damages = 0
    started_s = time.monotonic()
    for _ in range(ROUNDS):
        changed = bytes(damaged(data, other, rng, done))
        intact = {(start, end) for start, end in pairwise(offsets) if changed[start:end] == data[start:end]}
        found = set()
        for item in scan(changed, NAME.incarnation):
            if isinstance(item, Damage):
                damages += 1
            else:
                start, end = offsets[item.header.sequence : item.header.sequence + 2]
                assert changed[item.offset : item.end] == data[start:end], "a frame that was never written"
                if item.offset == start:
                    found.add((start, end))
                else:
                    # A sector that changed places took a whole small frame along.
                    moved += 1
        assert found == intact, f"seed {seed}: {len(intact - found)} intact frames lost, {len(found - intact)} invented"
        touched_frames += len(offsets) - 1 - len(intact)
        lost_frames += len(offsets) - 1 - len(found)
    print(
        f"\n{ROUNDS} times a segment of {len(data) / 2**20:.0f} MiB and {len(offsets) - 1} frames, damaged, in"
        f" {time.monotonic() - started_s:.0f} s, seed {seed}: {touched_frames} frames touched, {lost_frames} not"
        f" where they were, {moved} of them elsewhere, {damages} ranges told\n"
        + ", ".join(f"{count} {kind}" for kind, count in done.most_common())
    )
    assert lost_frames == touched_frames > 0
    assert damages > 0
    assert len(done) == 6, f"the run was vacuous: {done}"
