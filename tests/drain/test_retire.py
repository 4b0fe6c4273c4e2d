import os
from pathlib import Path

import pytest

from edge.checkpoints import Position
from edge.disk import RealDisk
from edge.drain.retire import retire
from edge.notation import Retention
from tests.drain.spools import Slot
from tests.fakes import EIO, Fault, FaultyDisk


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
    retire(RealDisk(), slot.layout, {slot.slot: list(positions)})
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


Positions = dict[int, list[Position | None]]

NOW_S = 1_763_690_000.0


@pytest.mark.parametrize(
    ("retain", "expected"),
    [
        (Retention(), [4]),
        (Retention(age_s=15.0), [3, 4]),
        (Retention(age_s=25.0), [2, 3, 4]),
        (Retention(bytes=1), [3, 4]),
        (Retention(bytes=2), [2, 3, 4]),
        (Retention(bytes=100), [1, 2, 3, 4]),
        (Retention(age_s=15.0, bytes=2), [3, 4]),
        (Retention(age_s=25.0, bytes=1), [3, 4]),
    ],
    ids=str,
)
def test_the_newest_of_what_was_shipped_is_kept_for_replay(slot: Slot, retain: Retention, expected: list[int]) -> None:
    """Three shipped segments of one size, 30, 20 and 10 seconds old; sizes in the table are in segments."""
    size = slot.files[1].stat().st_size
    for index, path in enumerate(slot.files[:3]):
        assert abs(path.stat().st_size - size) < size // 4
        os.utime(path, (0, NOW_S - 30 + 10 * index))
    if retain.bytes is not None:
        retain = Retention(retain.age_s, retain.bytes * size + size // 2)
    retire(RealDisk(), slot.layout, {slot.slot: [position(slot, 2, whole=True)]}, retain, NOW_S)
    assert [int(path.name[:12]) for path in slot.files] == expected


def test_what_a_sink_has_not_confirmed_counts_for_nothing_and_is_never_deleted(slot: Slot) -> None:
    for path in slot.files:
        os.utime(path, (0, 0))
    positions = {slot.slot: [position(slot, 2, whole=True), position(slot, 0, whole=True)]}
    retire(RealDisk(), slot.layout, positions, Retention(age_s=1.0, bytes=1), NOW_S)
    assert [int(path.name[:12]) for path in slot.files] == [2, 3, 4]


def test_what_is_kept_for_replay_makes_room_by_halves_while_the_disk_is_short_of_it(slot: Slot) -> None:
    positions = {slot.slot: [position(slot, 2, whole=True)]}
    for path in slot.files:
        os.utime(path, (0, int(path.name[:12])))
    left = []
    for _ in range(3):
        retire(RealDisk(), slot.layout, positions, Retention(age_s=1e12), NOW_S, scarce=True)
        left.append([int(path.name[:12]) for path in slot.files])
    assert left == [[3, 4], [4], [4]]


def whole(slot: Slot) -> list[Position | None]:
    return [position(slot, 2, whole=True)]


@pytest.mark.parametrize(
    ("method", "retain"),
    [("unlink", Retention()), ("open", Retention()), ("unlink", Retention(bytes=0)), ("size", Retention(bytes=0))],
    ids=str,
)
def test_a_segment_that_the_disk_refuses_holds_up_no_other_in_any_slot(
    slot: Slot, tmp_path: Path, method: str, retain: Retention
) -> None:
    other = Slot(tmp_path, 1)
    other.commit("a")
    other.seal()
    positions: Positions = {0: whole(slot), 1: [position(other, 0, whole=True)]}
    disk = FaultyDisk(RealDisk())
    disk.fail_next(method, Fault(EIO))
    path = slot.files[0]
    refused = retire(disk, slot.layout, positions, retain, NOW_S)
    assert {path: error.errno for path, error in refused.items()} == {str(path): EIO}
    assert [each.files for each in (slot, other)] == [[path, slot.files[-1]], []]
    assert retire(disk, slot.layout, positions, retain, NOW_S) == {}
    assert [len(each.files) for each in (slot, other)] == [1, 0]


@pytest.mark.parametrize(("method", "left"), [("listdir", 4), ("sync_directory", 1)])
def test_a_slot_that_the_disk_refuses_holds_up_no_other(slot: Slot, tmp_path: Path, method: str, left: int) -> None:
    other = Slot(tmp_path, 1)
    other.commit("a")
    other.seal()
    positions: Positions = {0: whole(slot), 1: [position(other, 0, whole=True)]}
    disk = FaultyDisk(RealDisk())
    disk.fail_next(method, Fault(EIO))
    assert retire(disk, slot.layout, positions).keys() == {str(slot.directory)}
    assert [len(each.files) for each in (slot, other)] == [left, 0]


def test_a_segment_that_goes_meanwhile_is_nothing_to_tell(slot: Slot) -> None:
    class Vanishing(RealDisk):
        def unlink(self, path: str) -> None:
            super().unlink(path)
            super().unlink(path)

    assert retire(Vanishing(), slot.layout, {slot.slot: whole(slot)}) == {}
    assert len(slot.files) == 1


def test_a_segment_that_goes_before_its_age_is_asked_for_is_nothing_to_tell(slot: Slot) -> None:
    first = slot.files[0]

    class Vanishing(RealDisk):
        """It goes when its size was told."""

        def close(self, fd: int) -> None:
            super().close(fd)
            first.unlink(missing_ok=True)

    assert retire(Vanishing(), slot.layout, {slot.slot: whole(slot)}, Retention(bytes=0), NOW_S) == {}
    assert len(slot.files) == 1
