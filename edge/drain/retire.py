"""Delete what every sink has confirmed and nobody wants to keep: the last step of a segment's life.

What is kept for replay is the newest: of a size, of a time since the segment was last written to, or within both limits.
Neither ever concerns what a sink has not confirmed. Room for what clients send goes first: while the disk is short of it, only
the newest half of what is kept stays, and of that half again at the next look.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from edge.checkpoints import Position
from edge.config import Retention
from edge.disk import Disk
from edge.layout import Layout
from edge.segment.name import State, parse_name

DELETE: Final = Retention()
"""Keep nothing."""


class Shipped(msgspec.Struct, frozen=True):
    """A finished segment that every sink has confirmed."""

    slot: int
    path: str
    bytes: int


def retire(
    disk: Disk,
    layout: Layout,
    positions: Mapping[int, Sequence[Position | None]],
    retain: Retention = DELETE,
    now_s: float = 0.0,
    *,
    scarce: bool = False,
) -> int:
    """Delete finished segments that lie wholly before every sink's position in their slot, which must be durable. How many.

    `now_s` is Unix time. Raises `OSError`.
    """
    shipped = [found for slot, of_slot in positions.items() for found in _shipped(disk, layout, slot, of_slot)]
    touched = set()
    if scarce and retain != DELETE:
        half = sum(each.bytes for each in shipped) // 2
        retain = Retention(retain.age_s, half if retain.bytes is None else min(half, retain.bytes))
    finished = shipped if retain == DELETE else _beyond(shipped, retain, now_s)
    for found in finished:
        disk.unlink(found.path)
        touched.add(found.slot)
    for slot in sorted(touched):
        disk.sync_directory(str(layout.slot(slot)))
    return len(finished)


def _beyond(shipped: list[Shipped], retain: Retention, now_s: float) -> list[Shipped]:
    """What is not among the newest that are to be kept, oldest first."""
    beyond = []
    kept_bytes = 0
    newest_first = sorted(((os.stat(each.path).st_mtime, each.path, each) for each in shipped), reverse=True)
    for written_s, _, each in newest_first:
        kept_bytes += each.bytes
        if (retain.age_s is not None and now_s - written_s >= retain.age_s) or (
            retain.bytes is not None and kept_bytes > retain.bytes
        ):
            beyond.append(each)
    return beyond[::-1]


def _shipped(disk: Disk, layout: Layout, slot: int, positions: Sequence[Position | None]) -> list[Shipped]:
    if not positions or any(position is None for position in positions):
        return []
    least = min((position for position in positions if position is not None), key=lambda position: position.place)
    directory = str(layout.slot(slot))
    found = []
    for file_name in sorted(disk.listdir(directory)):
        parsed = parse_name(file_name)
        if parsed is None or parsed[1] not in (State.SEALED, State.SUSPECT) or parsed[0] > least.name:
            continue
        path = f"{directory}/{file_name}"
        size = _size(disk, path)
        if parsed[0] < least.name or least.offset >= size:
            found.append(Shipped(slot, path, size))
    return found


def _size(disk: Disk, path: str) -> int:
    fd = disk.open(path)
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)
