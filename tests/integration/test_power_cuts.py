"""Power cuts by the hundred thousand, on a disk in memory: see `tests/explorer.py`.

The lives are those of the real writer, recovery, shipper and retirement; the states are every kind a device may leave of what
was not synced. Nothing the mode promises is lost, nothing is invented, and the next start always works.
"""

import logging
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from edge.spool.writer import Durability
from tests.explorer import Explored, explore
from tests.integration.scale import scaled

STATES = scaled(100_000, 1_000_000)
PAGE_STATES = STATES // 5
PIECE = 10_000
"""States a process is asked for at a time."""
SEEDS_APART = 1_000_000

SOMETIMES = (
    *("torn writes", "missing sectors", "zeroed sectors", "garbage sectors"),
    *("lost creates", "lost renames", "lost removals"),
    *("segments recovered", "torn tails repaired", "recoveries cut"),
    *("checkpoints found", "checkpoints beyond what is there", "delivered twice"),
)
"""A run in which one of these never came up has proved nothing."""


def _explore(seed: int, durability: Durability) -> Explored:
    logging.disable(logging.CRITICAL)
    return explore(seed, durability, PIECE)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("durability", "wanted"), [(Durability.FSYNC, STATES), (Durability.PAGE, PAGE_STATES)], ids=["fsync", "page"]
)
def test_no_crash_state_loses_what_was_promised(durability: Durability, wanted: int) -> None:
    first = time.time_ns() // 1000 % 10**12 * SEEDS_APART
    started_s = time.monotonic()
    seeds = [first + piece * SEEDS_APART for piece in range(-(-wanted // PIECE))]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_explore, seeds, [durability] * len(seeds)))
    seen: Counter[str] = sum((one.seen for one in found), Counter())
    states = sum(one.states for one in found)
    print(
        f"\n{durability.value}: {states} crash states of {sum(one.lives for one in found)} lives in"
        f" {time.monotonic() - started_s:.0f} s, seeds from {first}, 0 lost, 0 invented\n"
        f"{sum(one.power_cuts for one in found)} power cuts, {states - sum(one.power_cuts for one in found)} kills,"
        f" {sum(one.faults for one in found)} failed calls, {sum(one.acknowledged for one in found)} records acknowledged,"
        f" {sum(one.refused for one in found)} refused\n"
        + ", ".join(f"{count} {what}" for what, count in seen.most_common())
    )
    assert states >= wanted
    assert [what for what in SOMETIMES if not seen[what]] == [], "the run was vacuous"
    assert all(
        sum(counts) for counts in zip(*((one.faults, one.refused, one.acknowledged) for one in found), strict=True)
    )
