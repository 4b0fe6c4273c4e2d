"""Delete what every sink has confirmed and nobody wants to keep: the last step of a segment's life.

What is kept for replay is the newest: of a size, of a time since the segment was last written to, or within both limits.
Neither ever concerns what a sink has not confirmed.
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

    written_s: float
    slot: int
    path: str
    bytes: int


def retire(
    disk: Disk,
    layout: Layout,
    positions: Mapping[int, Sequence[Position | None]],
    retain: Retention = DELETE,
    now_s: float = 0.0,
) -> int:
    """Delete finished segments that lie wholly before every sink's position in their slot, which must be durable. How many.

    `now_s` is Unix time. Raises `OSError`.
    """
    shipped = [found for slot, of_slot in positions.items() for found in _shipped(disk, layout, slot, of_slot)]
    touched = set()
    kept_bytes = 0
    deleted = 0
    # Newest first: what is kept is without gaps.
    for found in sorted(shipped, key=lambda each: (each.written_s, each.path), reverse=True):
        kept_bytes += found.bytes
        if not _is_kept(retain, now_s - found.written_s, kept_bytes):
            disk.unlink(found.path)
            touched.add(found.slot)
            deleted += 1
    for slot in sorted(touched):
        disk.sync_directory(str(layout.slot(slot)))
    return deleted


def _is_kept(retain: Retention, age_s: float, bytes_with_newer: int) -> bool:
    return (
        retain != DELETE
        and (retain.age_s is None or age_s < retain.age_s)
        and (retain.bytes is None or bytes_with_newer <= retain.bytes)
    )


def _shipped(disk: Disk, layout: Layout, slot: int, positions: Sequence[Position | None]) -> list[Shipped]:
    if not positions or any(position is None for position in positions):
        return []
    least = min((position for position in positions if position is not None), key=lambda p: (p.name, p.offset))
    directory = str(layout.slot(slot))
    found = []
    for file_name in disk.listdir(directory):
        parsed = parse_name(file_name)
        if parsed is None or parsed[1] not in (State.SEALED, State.SUSPECT) or parsed[0] > least.name:
            continue
        path = f"{directory}/{file_name}"
        state = os.stat(path)
        if parsed[0] < least.name or least.offset >= state.st_size:
            found.append(Shipped(state.st_mtime, slot, path, state.st_size))
    return found
