from pathlib import Path

import pytest

from edge.checkpoints import Position
from edge.disk import RealDisk
from edge.drain.retire import retire
from tests.drain.spools import Slot


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    slot = Slot(tmp_path)
    for name in "abc":
        slot.commit(name)
        slot.seal()
    slot.commit("open")
    return slot


def position(slot: Slot, index: int, *, whole: bool) -> Position:
    path = slot.files[index]
    return Position(path.name.split(".")[0], path.stat().st_size if whole else 48)


def left(slot: Slot, *positions: Position | None) -> list[int]:
    retire(RealDisk(), slot.layout, slot.slot, list(positions))
    return [int(path.name[:12]) for path in slot.files]


def test_what_lies_before_the_position_is_deleted(slot: Slot) -> None:
    assert left(slot, position(slot, 1, whole=False)) == [2, 3, 4]


def test_the_positions_own_segment_is_deleted_when_it_was_read_to_its_end(slot: Slot) -> None:
    assert left(slot, position(slot, 1, whole=True)) == [3, 4]


def test_the_slowest_sink_decides(slot: Slot) -> None:
    assert left(slot, position(slot, 2, whole=True), position(slot, 0, whole=True)) == [2, 3, 4]


def test_nothing_is_deleted_while_a_sink_has_no_position(slot: Slot) -> None:
    assert left(slot, position(slot, 2, whole=True), None) == [1, 2, 3, 4]
    assert left(slot) == [1, 2, 3, 4]


def test_an_open_segment_is_never_deleted(slot: Slot) -> None:
    assert left(slot, position(slot, 3, whole=True)) == [4]


def test_a_position_in_a_segment_that_is_gone_deletes_only_what_is_before_it(slot: Slot) -> None:
    assert left(slot, Position("000000000002-00000000000000ff", 0)) == [2, 3, 4]
