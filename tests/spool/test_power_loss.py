"""A short walk through the states that kills and power cuts leave; `make test-integration ARGS="-k power"` walks far."""

import logging

import pytest

from edge.spool.writer import Durability
from tests.explorer import explore

STATES = 1500


@pytest.mark.parametrize("durability", Durability, ids=lambda durability: durability.value)
def test_whatever_is_left_what_the_mode_promises_is_there_and_the_next_start_works(
    durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        found = explore(1, durability, STATES)
    assert found.acknowledged > 0
    assert found.faults > 0
    met = ["torn tails repaired", "garbage sectors", "lost renames", "lost creates", "recoveries cut"]
    if durability is Durability.FSYNC:
        met.append("segments with room")
    assert [what for what in met if not found.seen[what]] == []
