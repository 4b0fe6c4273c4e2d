import logging
from pathlib import Path

import pytest

from edge.layout import Layout
from edge.metrics import ROW_SLOTS, Row
from edge.spool.budget import (
    FREE_BYTES_MIN,
    BudgetSettings,
    DiskBudget,
    Pressure,
    budget_bytes,
    free_bytes_min,
    measure_room,
    pressure,
)
from edge.spool.inspect import Extent
from tests.fakes import EIO, ENOSPC, Fault, FaultyDisk, MemoryDisk

LAYOUT = Layout(Path("/data"))
RESERVE = str(LAYOUT.reserve)
MIB = 1 << 20
GIB = 1 << 30


SETTINGS = BudgetSettings(reserve_bytes=8 * MIB)


class Scene:
    """A budget on a disk of 1 GiB, of which others and the spool take what they are told to."""

    def __init__(self, settings: BudgetSettings = SETTINGS) -> None:
        self.inner = MemoryDisk()
        self.inner.makedirs("/data")
        self.inner.capacity = GIB
        self.disk = FaultyDisk(self.inner)
        self.spool_bytes = 0
        self.row = Row(memoryview(bytearray(ROW_SLOTS * 8)).cast("q"))
        self.budget = DiskBudget(self.disk, LAYOUT, settings, lambda: Extent(self.spool_bytes), self.row)

    def measure(self, spool: int, available: int) -> Pressure:
        """With so much in the spool, and the disk filled by others up to so much."""
        self.spool_bytes = spool
        self.inner.others = GIB - available - (self.reserve or 0)
        return self.budget.measure()

    @property
    def reserve(self) -> int | None:
        found = self.inner.tree().get(RESERVE)
        return None if found is None else len(found)


@pytest.mark.parametrize(
    ("spool", "available", "free_min", "limit", "budget"),
    [
        pytest.param(100, 900, 50, None, 950, id="what the disk holds"),
        pytest.param(100, 900, 50, 500, 500, id="a limit below that"),
        pytest.param(100, 900, 50, 5000, 950, id="a limit above that"),
        pytest.param(100, 20, 50, None, 100, id="no room is left"),
        pytest.param(0, 20, 50, None, 0, id="no room and no spool"),
        pytest.param(600, 900, 50, 500, 500, id="a limit below what is there"),
    ],
)
def test_budget_is_the_spool_and_the_room_left_to_it(
    spool: int, available: int, free_min: int, limit: int | None, budget: int
) -> None:
    assert budget_bytes(spool, available, free_min, limit) == budget


@pytest.mark.parametrize(
    ("used", "before", "after"),
    [
        (0.0, Pressure.FULL, Pressure.OK),
        (0.7499, Pressure.OK, Pressure.OK),
        (0.75, Pressure.OK, Pressure.HIGH),
        (0.8999, Pressure.HIGH, Pressure.HIGH),
        (0.90, Pressure.HIGH, Pressure.SHED),
        (0.9699, Pressure.SHED, Pressure.SHED),
        (0.97, Pressure.SHED, Pressure.FULL),
        (1.0, Pressure.OK, Pressure.FULL),
        (0.951, Pressure.FULL, Pressure.FULL),
        (0.949, Pressure.FULL, Pressure.SHED),
        (0.881, Pressure.FULL, Pressure.SHED),
        (0.881, Pressure.SHED, Pressure.SHED),
        (0.879, Pressure.SHED, Pressure.HIGH),
        (0.731, Pressure.HIGH, Pressure.HIGH),
        (0.729, Pressure.HIGH, Pressure.OK),
        (0.735, Pressure.OK, Pressure.OK),
    ],
)
def test_pressure_ends_a_little_below_where_it_began(used: float, before: Pressure, after: Pressure) -> None:
    assert pressure(used, before) is after


class TestMeasuring:
    def test_pressure_rises_and_falls_with_the_spool_and_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        scene = Scene(BudgetSettings(spool_bytes_max=100 * MIB))
        with caplog.at_level(logging.INFO):
            found = [scene.measure(used * MIB, 900 * MIB) for used in (10, 80, 80, 92, 98, 96, 94, 60)]
        assert found == [0, 1, 1, 2, 3, 3, 2, 0]
        assert len(caplog.records) == 5
        assert "was ok and is high: the spool has 83886080 of 104857600 bytes" in caplog.messages[0]

    def test_others_that_fill_the_disk_leave_no_room(self) -> None:
        """5 % of the disk is theirs."""
        scene = Scene()
        assert scene.measure(5 * MIB, 500 * MIB) is Pressure.OK
        assert scene.measure(5 * MIB, 51 * MIB) is Pressure.FULL
        assert scene.measure(5 * MIB, 0) is Pressure.FULL
        assert scene.measure(0, 51 * MIB) is Pressure.FULL
        assert scene.measure(0, 60 * MIB) is Pressure.OK

    def test_what_is_left_to_others_is_bounded_and_can_be_chosen(self) -> None:
        assert free_bytes_min(BudgetSettings(), 100 * GIB) == FREE_BYTES_MIN
        chosen = Scene(BudgetSettings(free_bytes_min=10 * MIB))
        assert chosen.measure(0, 51 * MIB) is Pressure.OK
        assert chosen.measure(0, 10 * MIB) is Pressure.FULL

    def test_figures_are_shown(self) -> None:
        scene = Scene(BudgetSettings(free_bytes_min=10 * MIB))
        scene.measure(95 * MIB, 15 * MIB)
        shown = [
            scene.row.get(name)
            for name in ("edge_disk_pressure", "edge_disk_available_bytes", "edge_spool_budget_bytes")
        ]
        assert shown == [Pressure.SHED, 15 * MIB, 100 * MIB]


class TestReserve:
    def test_it_is_made_when_there_is_room_and_only_once(self) -> None:
        scene = Scene()
        scene.measure(0, 900 * MIB)
        scene.budget.tend_reserve()
        assert scene.reserve == 8 * MIB
        scene.budget.tend_reserve()
        assert scene.disk.methods("allocate", "unlink") == ["allocate"]
        assert scene.inner.open_descriptors == []

    def test_it_is_a_small_part_of_a_small_disk(self) -> None:
        scene = Scene(BudgetSettings(reserve_bytes=64 * MIB))
        scene.measure(0, 900 * MIB)
        scene.budget.tend_reserve()
        assert scene.reserve == GIB // 50

    def test_it_is_given_back_when_the_disk_is_full_and_made_again_when_there_is_room(self) -> None:
        scene = Scene()
        scene.measure(0, 900 * MIB)
        scene.budget.tend_reserve()
        scene.measure(0, 3 * MIB)
        scene.budget.tend_reserve()
        assert scene.reserve == 8 * MIB
        scene.measure(0, 1 * MIB)
        scene.budget.tend_reserve()
        assert scene.reserve is None
        assert scene.budget.measure() is Pressure.FULL
        scene.budget.tend_reserve()
        assert scene.reserve is None
        scene.measure(0, 900 * MIB)
        scene.budget.tend_reserve()
        assert scene.reserve == 8 * MIB

    @pytest.mark.parametrize("spool", [0, 80], ids=["little room", "pressure"])
    def test_it_is_not_made_where_room_is_scarce(self, spool: int) -> None:
        scene = Scene(BudgetSettings(reserve_bytes=8 * MIB, spool_bytes_max=100 * MIB))
        scene.measure(spool * MIB, 900 * MIB if spool else 60 * MIB)
        scene.budget.tend_reserve()
        assert scene.reserve is None

    @pytest.mark.parametrize("fault", [Fault(ENOSPC), Fault(EIO)], ids=["full", "error"])
    def test_one_that_cannot_be_allocated_leaves_nothing(self, fault: Fault) -> None:
        scene = Scene()
        scene.measure(0, 900 * MIB)
        scene.disk.fail_next("allocate", fault)
        with pytest.raises(OSError, match=r"No space|Input"):
            scene.budget.tend_reserve()
        assert scene.reserve is None
        assert scene.inner.open_descriptors == []


def test_room_is_measured_without_a_spool_of_its_own() -> None:
    disk = MemoryDisk()
    found = measure_room(disk, "/data", BudgetSettings(spool_bytes_max=10 * MIB), 8 * MIB)
    assert (found.spool_bytes, found.budget_bytes, found.used) == (8 * MIB, 10 * MIB, 0.8)
    assert found.available == disk.room("/data")[0]
    assert measure_room(disk, "/data", BudgetSettings(spool_bytes_max=10 * MIB), 11 * MIB).used == 1.0
