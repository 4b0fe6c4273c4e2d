"""Delete what every sink has confirmed: the last step of a segment's life."""

import logging

from edge.checkpoints import Position
from edge.disk import Disk
from edge.layout import Layout
from edge.segment.name import State, parse_name

log = logging.getLogger(__name__)


def retire(disk: Disk, layout: Layout, slot: int, positions: list[Position | None]) -> int:
    """Delete the slot's finished segments that lie wholly before all `positions`, which must be durable. How many."""
    if not positions or any(position is None for position in positions):
        return 0
    least = min((position for position in positions if position is not None), key=lambda p: (p.name, p.offset))
    directory = str(layout.slot(slot))
    deleted = 0
    for file_name in sorted(disk.listdir(directory)):
        parsed = parse_name(file_name)
        if parsed is None or parsed[1] not in (State.SEALED, State.SUSPECT):
            continue
        name = parsed[0]
        path = f"{directory}/{file_name}"
        if name < least.name or (name == least.name and least.offset >= _size(disk, path)):
            disk.unlink(path)
            deleted += 1
    if deleted:
        disk.sync_directory(directory)
    return deleted


def _size(disk: Disk, path: str) -> int:
    fd = disk.open(path)
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)
