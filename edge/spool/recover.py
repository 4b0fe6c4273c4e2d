"""What is done before a slot is written or shipped by somebody new: lock it, then finish what a dead writer left open.

Of a segment left open, every committed frame is kept. What follows the last good frame was never acknowledged: it is copied
to `torn/`, cut off, and the file is synced before it is sealed. Damage between good frames stays where it is and readers skip
it. A file that cannot be read at all is renamed `.bad`; nothing blocks the start. May be interrupted anywhere and run again.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from edge.checkpoints import load_all
from edge.disk import Disk, write_durably
from edge.layout import LOCK_NAME, Layout
from edge.segment.frame import SEGMENT_HEADER_BYTES
from edge.segment.name import SegmentName, State, parse_name
from edge.segment.scan import Damage, scan

log = logging.getLogger(__name__)

_READ_BYTES: Final = 1 << 30


class Recovered(msgspec.Struct):
    """What was found in a slot."""

    segments: int = 0
    records: int = 0
    torn_bytes: int = 0
    damaged_bytes: int = 0
    bad: int = 0


def open_slot(disk: Disk, layout: Layout, slot: int) -> tuple[int, Recovered] | None:
    """The slot's lock and what recovery found; `None` when a living process holds the slot. Raises `OSError`."""
    directory = layout.slot(slot)
    if not directory.is_dir():
        _make_durable(disk, layout.data, directory)
    lock = disk.lock(str(directory / LOCK_NAME))
    if lock is None:
        return None
    return lock, recover_slot(disk, layout, slot)


def _make_durable(disk: Disk, data: Path, directory: Path) -> None:
    """Create `directory` with its names, up to the data folder's own, on stable storage."""
    disk.makedirs(str(directory))
    for parent in directory.parents:
        disk.sync_directory(str(parent))
        if parent == data.parent:
            break


def recover_slot(disk: Disk, layout: Layout, slot: int) -> Recovered:
    """Seal every segment that a dead writer left. The caller holds the slot's lock."""
    directory = str(layout.slot(slot))
    found = Recovered()
    for file_name in sorted(disk.listdir(directory)):
        parsed = parse_name(file_name)
        if parsed is None or parsed[1] not in (State.OPEN, State.SUSPECT):
            continue
        name, state = parsed
        try:
            _recover_segment(disk, layout, slot, name, state, found)
        except OSError as error:
            log.error("segment %s cannot be recovered, it is set aside: %s", file_name, error)
            found.bad += 1
            disk.rename(f"{directory}/{file_name}", f"{directory}/{name.file_name(State.BAD)}")
    return found


def _recover_segment(disk: Disk, layout: Layout, slot: int, name: SegmentName, state: State, found: Recovered) -> None:
    directory = str(layout.slot(slot))
    path = f"{directory}/{name.file_name(state)}"
    fd = disk.open(path, write=True)
    try:
        if state is State.SUSPECT:
            disk.drop_cache(fd)
        data = read_all(disk, fd)
        end = records = 0
        for item in scan(data, name.incarnation):
            if isinstance(item, Damage):
                found.damaged_bytes += item.end - item.offset
                log.warning("segment %s: bytes %d to %d are damaged", name, item.offset, item.end)
            else:
                end = item.end
                records += item.header.records
        tail = data[end:]
        if records and tail:
            found.torn_bytes += len(tail)
            _keep_torn(disk, layout, slot, name, end, tail)
            disk.truncate(fd, end)
        disk.sync(fd)
    finally:
        disk.close(fd)
    if records:
        disk.rename(path, f"{directory}/{name.file_name(State.SEALED)}")
        found.segments += 1
        found.records += records
        log.info("segment %s: recovered %d records, cut off %d bytes", name, records, len(tail))
    else:
        # Nothing was ever committed to it.
        _keep_torn(disk, layout, slot, name, 0, tail)
        found.torn_bytes += len(tail)
        disk.unlink(path)
    disk.sync_directory(directory)


def _keep_torn(disk: Disk, layout: Layout, slot: int, name: SegmentName, offset: int, tail: bytes) -> None:
    if tail.strip(b"\0") and (offset or len(tail) > SEGMENT_HEADER_BYTES):
        _make_durable(disk, layout.data, layout.torn)
        write_durably(disk, str(layout.torn), f"slot-{slot:02d}-{name}-{offset}.bin", tail)


def next_counter(disk: Disk, layout: Layout, slot: int) -> int:
    """One above every counter the slot ever had, as far as its files and all checkpoints tell."""
    names = [parsed[0] for parsed in map(parse_name, disk.listdir(str(layout.slot(slot)))) if parsed]
    for checkpoint in load_all(disk, str(layout.checkpoints)).values():
        position = checkpoint.slots.get(slot)
        if position is not None:
            names.append(position.name)
    return max((name.counter for name in names), default=0) + 1


def read_all(disk: Disk, fd: int) -> bytes:
    """The whole file. Reads until the end, since one call may return less than asked for."""
    pieces = []
    offset = 0
    while piece := disk.pread(fd, _READ_BYTES, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
