"""What is done before a slot is written or shipped by somebody new: lock it, then finish what a dead writer left open.

Of a segment left open, every committed frame is kept. What follows the last good frame was never acknowledged: it is copied
to `torn/`, cut off, and the file is synced before it is sealed. Of a suspect segment the page cache may hold more than the
device, and no sync writes that any more: what is read is copied to a new file, which takes the sealed name once it is stable.
Damage between good frames stays where it is and readers skip it.

Nothing blocks the start: what cannot be read, cut, copied, synced or renamed, the disk being full or memory short perhaps,
becomes `.suspect`, which readers read as far as they can, and is recovered at the next start. Only readers have the time to
tell a place the disk cannot read from a moment in which it would not: they call it `.bad`. May be interrupted anywhere and
run again.
"""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from edge.checkpoints import load_all
from edge.disk import Disk, pread_all, write_durably
from edge.layout import LOCK_NAME, SPARE_NAME, Layout
from edge.segment.frame import SEGMENT_HEADER_BYTES, is_room
from edge.segment.name import SegmentName, State, parse_name
from edge.segment.scan import Damage, scan

log = logging.getLogger(__name__)

_ZEROES_KEPT: Final = 4096
"""Of those at the end of a torn tail, behind which there may be megabytes of them."""


class Recovered(msgspec.Struct):
    """What was found in a slot."""

    segments: int = 0
    records: int = 0
    torn_bytes: int = 0
    damaged_bytes: int = 0
    unread: int = 0
    """Segments that were set aside, as they could not be read."""
    left_open: list[SegmentName] = []
    """Those whose names the disk would not let be changed: readers wait there for ever."""


def open_slot(disk: Disk, layout: Layout, slot: int) -> tuple[int, Recovered] | None:
    """The slot's lock and what recovery found; `None` when a living process holds the slot. Raises `OSError`."""
    directory = layout.slot(slot)
    # Also when it is there: an earlier start may have ended between creating it and making that durable.
    _make_durable(disk, layout.data, directory)
    lock = disk.lock(str(directory / LOCK_NAME))
    if lock is None:
        return None
    with ExitStack() as unless_recovered:
        unless_recovered.callback(disk.close, lock)
        found = recover_slot(disk, layout, slot)
        unless_recovered.pop_all()
    return lock, found


def _make_durable(disk: Disk, data: Path, directory: Path) -> None:
    """Create `directory` with its names, up to the data folder's own, on stable storage."""
    disk.makedirs(str(directory))
    for parent in directory.parents:
        try:
            disk.sync_directory(str(parent))
        except PermissionError:
            # Somebody else made the data folder in a folder that is closed to us.
            if parent != data.parent:
                raise
        if parent == data.parent:
            break


def recover_slot(disk: Disk, layout: Layout, slot: int) -> Recovered:
    """Seal every segment that a dead writer left. The caller holds the slot's lock."""
    directory = str(layout.slot(slot))
    found = Recovered()
    names = disk.listdir(directory)
    if SPARE_NAME in names:
        _discard(disk, f"{directory}/{SPARE_NAME}")
    # Nothing else is made of the sealed ones, of which there may be a million.
    for file_name in sorted(filter(is_unsealed, names)):
        parsed = parse_name(file_name)
        if parsed is None:
            continue
        name, state = parsed
        path = f"{directory}/{file_name}"
        try:
            data = _read(disk, path)
        except OSError as error:
            log.error("segment %s cannot be read, it is set aside: %s", file_name, error)
            found.unread += 1
            _set_aside(disk, path, directory, name, found)
            continue
        try:
            _recover_segment(disk, layout, slot, path, name, state, data, found)
        except OSError as error:
            log.error("segment %s cannot be sealed, the next start tries again: %s", file_name, error)
            _set_aside(disk, path, directory, name, found)
    return found


def is_unsealed(file_name: str) -> bool:
    """Whether a segment of that name is one for recovery."""
    return file_name.endswith((State.OPEN.value, State.SUSPECT.value))


def _read(disk: Disk, path: str) -> bytes:
    fd = disk.open(path)
    try:
        return pread_all(disk, fd, disk.size(fd), 0)
    finally:
        disk.close(fd)


def _discard(disk: Disk, path: str) -> None:
    try:
        disk.unlink(path)
    except OSError as error:
        log.error("%s cannot be deleted: %s", path, error)


def _set_aside(disk: Disk, path: str, directory: str, name: SegmentName, found: Recovered) -> None:
    try:
        disk.rename(path, f"{directory}/{name.file_name(State.SUSPECT)}")
    except FileNotFoundError:
        # It has its final name already.
        return
    except OSError as error:
        log.error("%s cannot be renamed: %s", path, error)
        if path.endswith(State.OPEN.value):
            found.left_open.append(name)


def _recover_segment(
    disk: Disk,
    layout: Layout,
    slot: int,
    path: str,
    name: SegmentName,
    state: State,
    data: bytes,
    found: Recovered,
) -> None:
    directory = str(layout.slot(slot))
    sealed = name.file_name(State.SEALED)
    if state is State.SUSPECT and sealed in disk.listdir(directory):
        # A recovery was interrupted after its copy was stable, and what is here may be less by now.
        disk.unlink(path)
        disk.sync_directory(directory)
        return
    end = SEGMENT_HEADER_BYTES
    records = damaged_bytes = 0
    for item in scan(data, name.incarnation):
        if isinstance(item, Damage):
            damaged_bytes += item.end - item.offset
            log.warning("segment %s: bytes %d to %d are damaged", name, item.offset, item.end)
        else:
            end = item.end
            records += item.header.records
    tail = written_tail(data[end:])
    if tail.strip(b"\0"):
        # Without a good frame the whole file is kept: its header may say whose bytes these are.
        start = end if records else 0
        _make_durable(disk, layout.data, layout.torn)
        write_durably(disk, str(layout.torn), f"slot-{slot:02d}-{name}-{start}.bin", data[start : end + len(tail)])
    if records:
        if state is State.SUSPECT:
            write_durably(disk, directory, sealed, data[:end])
            disk.unlink(path)
        else:
            cut_and_sync(disk, path, end if end < len(data) else None)
            disk.rename(path, f"{directory}/{sealed}")
        log.info("segment %s: recovered %d records, cut off %d bytes", name, records, len(tail))
    else:
        # Nothing was ever committed to it.
        disk.unlink(path)
    found.segments += bool(records)
    found.records += records
    found.damaged_bytes += damaged_bytes
    found.torn_bytes += len(tail)
    disk.sync_directory(directory)


def written_tail(tail: bytes) -> bytes:
    """What of the bytes behind the last good frame is not unused room. Zeroes may be its end, but not many."""
    return b"" if is_room(tail) else tail[: len(tail.rstrip(b"\0")) + _ZEROES_KEPT]


def cut_and_sync(disk: Disk, path: str, end: int | None) -> None:
    fd = disk.open(path, write=True)
    try:
        if end is not None:
            disk.truncate(fd, end)
        disk.sync(fd)
    finally:
        disk.close(fd)


def next_counter(disk: Disk, layout: Layout, slot: int) -> int:
    """One above every counter the slot ever had, as far as its files and all checkpoints tell."""
    names = [parsed[0] for parsed in map(parse_name, disk.listdir(str(layout.slot(slot)))) if parsed]
    for checkpoint in load_all(disk, str(layout.checkpoints)).values():
        position = checkpoint.slots.get(slot)
        if position is not None:
            names.append(position.name)
    return max((name.counter for name in names), default=0) + 1
