import os
from pathlib import Path

import pytest

from edge.disk import RealDisk
from edge.drain import slots as slots_module
from edge.drain.slots import ClaimedSlots, InUse
from edge.layout import Layout
from edge.notation import Share
from tests.drain.spools import Slot
from tests.fakes import EIO, Fault, FaultyDisk


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "LOCK_WAIT_S", 0.1)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    for slot in (0, 1, 2, 5):
        Slot(tmp_path, slot)
    (tmp_path / "ckpt").mkdir()
    return Layout(tmp_path)


def claim(layout: Layout, index: int = 0, count: int = 1) -> ClaimedSlots:
    return ClaimedSlots(RealDisk(), layout, Share(index, count))


def test_the_only_drainer_has_every_slot(layout: Layout) -> None:
    slots = claim(layout)
    assert slots() == [0, 1, 2, 5]
    slots.release()


def test_several_have_every_slot_between_them_and_none_twice(layout: Layout) -> None:
    shares = [claim(layout, index, 3) for index in range(3)]
    assert [slots() for slots in shares] == [[0], [1], [2, 5]]
    for slots in shares:
        slots.release()


def test_a_new_slot_is_claimed_at_first_sight(layout: Layout) -> None:
    slots = claim(layout, 1, 2)
    assert slots() == [1, 5]
    Slot(layout.data, 3)
    Slot(layout.data, 4)
    assert slots() == [1, 3, 5]
    slots.release()


def test_the_same_share_is_held_once(layout: Layout) -> None:
    slots = claim(layout, 1, 2)
    with pytest.raises(InUse, match=rf"another drainer, process {os.getpid()}, holds .*/\.lock-1$"):
        claim(layout, 1, 2)
    slots.release()
    claim(layout, 1, 2).release()


def test_a_slot_is_held_once_whatever_the_number_of_drainers(layout: Layout) -> None:
    """As after `--drainers` was changed, while one of the old ones still ships what it has."""
    old = claim(layout, 1, 2)
    with pytest.raises(InUse, match=r"holds .*/\.lock-slot-01$"):
        claim(layout, 0, 1)
    with pytest.raises(InUse, match=r"holds .*/\.lock-slot-05$"):
        claim(layout, 2, 3)
    old.release()
    # Whoever was refused holds nothing.
    only = claim(layout)
    assert only() == [0, 1, 2, 5]
    only.release()


def test_a_new_slot_that_somebody_else_has_is_refused(layout: Layout) -> None:
    other = claim(layout, 1, 2)
    third, stray = claim(layout, 2, 4), claim(layout, 3, 4)
    Slot(layout.data, 6)
    Slot(layout.data, 7)
    other()
    assert third() == [2, 6]
    with pytest.raises(InUse, match=r"\.lock-slot-07"):
        stray()
    for slots in (other, third, stray):
        slots.release()


def test_what_cannot_be_locked_leaves_nothing_locked(layout: Layout) -> None:
    disk = FaultyDisk(RealDisk())
    disk.fail_nth(3, Fault(EIO))
    with pytest.raises(OSError, match="Input/output"):
        ClaimedSlots(disk, layout, Share(0, 1))
    claim(layout).release()
