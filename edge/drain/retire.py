"""Delete what every sink has confirmed and nobody wants to keep: the last step of a segment's life.

What is kept for replay is the newest: of a size, of a time since the segment was last written to, or within both limits.
Neither ever concerns what a sink has not confirmed. Room for what clients send goes first: while the disk is short of it, only
the newest half of what is kept stays, and of that half again at the next look.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from edge.checkpoints import Position
from edge.disk import Disk
from edge.layout import Layout
from edge.notation import Retention
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
) -> dict[str, OSError]:
    """Delete finished segments that lie wholly before every sink's position in their slot, which must be durable.

    `now_s` is Unix time. What the disk refuses keeps nothing else from being deleted: the refusals, by path.
    """
    refused: dict[str, OSError] = {}
    shipped = [each for slot, of_slot in positions.items() for each in _shipped(disk, layout, slot, of_slot, refused)]
    if scarce and retain != DELETE:
        half = sum(each.bytes for each in shipped) // 2
        retain = Retention(retain.age_s, half if retain.bytes is None else min(half, retain.bytes))
    finished = shipped if retain == DELETE else _beyond(shipped, retain, now_s, refused)
    touched = set()
    for each in finished:
        with _noting(refused, each.path):
            disk.unlink(each.path)
            touched.add(each.slot)
    for slot in sorted(touched):
        directory = str(layout.slot(slot))
        with _noting(refused, directory):
            disk.sync_directory(directory)
    return refused


@contextmanager
def _noting(refused: dict[str, OSError], path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        # It went or was renamed meanwhile, as by recovery.
        return
    except OSError as error:
        refused[path] = error


def _beyond(shipped: list[Shipped], retain: Retention, now_s: float, refused: dict[str, OSError]) -> list[Shipped]:
    """What is not among the newest that are to be kept, oldest first."""
    beyond = []
    kept_bytes = 0
    dated = []
    for each in shipped:
        with _noting(refused, each.path):
            dated.append((os.stat(each.path).st_mtime, each.path, each))
    for written_s, _, each in sorted(dated, reverse=True):
        kept_bytes += each.bytes
        if (retain.age_s is not None and now_s - written_s >= retain.age_s) or (
            retain.bytes is not None and kept_bytes > retain.bytes
        ):
            beyond.append(each)
    return beyond[::-1]


def _shipped(
    disk: Disk, layout: Layout, slot: int, positions: Sequence[Position | None], refused: dict[str, OSError]
) -> list[Shipped]:
    if not positions or any(position is None for position in positions):
        return []
    least = min((position for position in positions if position is not None), key=lambda position: position.place)
    directory = str(layout.slot(slot))
    file_names: list[str] = []
    with _noting(refused, directory):
        file_names = sorted(disk.listdir(directory))
    found = []
    for file_name in file_names:
        parsed = parse_name(file_name)
        if parsed is None or parsed[1] not in (State.SEALED, State.SUSPECT) or parsed[0] > least.name:
            continue
        path = f"{directory}/{file_name}"
        with _noting(refused, path):
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
