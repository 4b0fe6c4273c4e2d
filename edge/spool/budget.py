"""How full the disk is, measured by one process for all, and what follows from it.

What the spool may grow to is what it has plus the room that is left, less what is left to others, and never more than its own
limit. The share of that which is used gives the pressure:

    75 %  high   told in the log
    90 %  shed   session replays are refused, which are large
    97 %  full   everything is refused: 503, until room returns

A pressure ends two points below where it began. A reserve is kept beside the spool, really allocated, and given back when the
disk is about to be full all the same, others having written: so that segments can be sealed and checkpoints written.
"""

import contextlib
import logging
from collections.abc import Callable
from enum import IntEnum
from typing import Final

import msgspec

from edge.disk import Disk
from edge.layout import Layout
from edge.metrics import Row
from edge.spool.inspect import Extent

log = logging.getLogger(__name__)

CHECK_S: Final = 0.25
"""How often it is to be measured."""

FREE_SHARE_MIN: Final = 0.05
FREE_BYTES_MIN: Final = 2 * 1024**3
"""What is left to others by default: this share of the disk, and not more than so much."""
RESERVE_SHARE_MAX: Final = 50
"""The reserve is at most this part of the disk."""
_STEP_BACK: Final = 0.02


class Pressure(IntEnum):
    OK = 0
    HIGH = 1
    SHED = 2
    FULL = 3


_THRESHOLDS: Final = ((Pressure.FULL, 0.97), (Pressure.SHED, 0.90), (Pressure.HIGH, 0.75))


class BudgetSettings(msgspec.Struct, frozen=True):
    """Sizes in bytes, `None` for the default."""

    spool_bytes_max: int | None = None
    free_bytes_min: int | None = None
    reserve_bytes: int = 64 * 1024 * 1024


def budget_bytes(spool_bytes: int, available: int, free_bytes_min: int, spool_bytes_max: int | None) -> int:
    """What the spool may grow to."""
    possible = spool_bytes + max(0, available - free_bytes_min)
    return possible if spool_bytes_max is None else min(possible, spool_bytes_max)


def pressure(used: float, before: Pressure) -> Pressure:
    """The pressure at this share of the budget, after another."""
    for level, threshold in _THRESHOLDS:
        if used >= threshold - (_STEP_BACK if before >= level else 0.0):
            return level
    return Pressure.OK


class Room(msgspec.Struct, frozen=True):
    """Of the spool, as it was measured. Bytes."""

    spool_bytes: int
    budget_bytes: int
    available: int
    """On the disk, to us."""

    @property
    def used(self) -> float:
        """The share of the budget that is used, 1 where there is none."""
        return self.spool_bytes / self.budget_bytes if self.spool_bytes < self.budget_bytes else 1.0


def measure_room(disk: Disk, data: str, settings: BudgetSettings, spool_bytes: int) -> Room:
    """Of a spool that has so many bytes. Raises `OSError`."""
    available, total = disk.room(data)
    budget = budget_bytes(spool_bytes, available, free_bytes_min(settings, total), settings.spool_bytes_max)
    return Room(spool_bytes, budget, available)


def free_bytes_min(settings: BudgetSettings, total: int) -> int:
    """What is left to others of a disk of `total` bytes."""
    if settings.free_bytes_min is not None:
        return settings.free_bytes_min
    return min(int(total * FREE_SHARE_MIN), FREE_BYTES_MIN)


class DiskBudget:
    """Used by one thread. `extent` measures the spool; `row` takes the figures. Raises `OSError`."""

    def __init__(
        self, disk: Disk, layout: Layout, settings: BudgetSettings, extent: Callable[[], Extent], row: Row
    ) -> None:
        self.pressure = Pressure.OK
        self.spool = Extent()
        """As it was measured last."""
        self._disk = disk
        self._data = str(layout.data)
        self._reserve = str(layout.reserve)
        self._reserve_name = layout.reserve.name
        self._settings = settings
        self._extent = extent
        self._row = row

    def measure(self) -> Pressure:
        """The pressure now, for whoever takes requests in."""
        self.spool = self._extent()
        room = measure_room(self._disk, self._data, self._settings, self.spool.bytes)
        before = self.pressure
        self.pressure = pressure(room.used, before)
        if self.pressure is not before:
            log.log(
                logging.WARNING if self.pressure else logging.INFO,
                "disk pressure was %s and is %s: the spool has %d of %d bytes, %d are available on the disk",
                *(before.name.lower(), self.pressure.name.lower(), room.spool_bytes, room.budget_bytes, room.available),
            )
        self._row.set("edge_disk_pressure", self.pressure)
        self._row.set("edge_disk_available_bytes", room.available)
        self._row.set("edge_spool_budget_bytes", room.budget_bytes)
        return self.pressure

    def tend_reserve(self) -> None:
        """Give the reserve back when the disk is about to be full, make it when there is room."""
        available, total = self._disk.room(self._data)
        size = min(self._settings.reserve_bytes, total // RESERVE_SHARE_MAX)
        held = self._reserve_name in self._disk.listdir(self._data)
        if held and available < size // 4:
            self._disk.unlink(self._reserve)
            log.warning("the disk is full, the reserve of %d bytes is given back", size)
        elif not held and self.pressure is Pressure.OK and available > 2 * size + free_bytes_min(self._settings, total):
            self._make_reserve(size)

    def _make_reserve(self, size: int) -> None:
        fd = self._disk.create(self._reserve)
        try:
            self._disk.allocate(fd, size)
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.unlink(self._reserve)
            raise
        finally:
            self._disk.close(fd)
