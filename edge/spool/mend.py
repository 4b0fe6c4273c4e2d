"""Make a segment that nobody writes any more readable to its end and finished, on demand: what recovery does, for one file.

Every good frame is kept where it is. What follows the last one is saved to a file of its own, cut off, and the rest is synced
before the segment gets its final name. Damage between good frames stays: readers skip it. What was set aside is copied, for the
page cache may show more of it than the disk holds; and of what could not be read readers have passed the place, so it becomes
the newest of its slot.
"""

import os
from pathlib import Path

import msgspec

from edge.disk import Disk, write_durably
from edge.layout import LOCK_NAME, Layout
from edge.process import is_held
from edge.segment.frame import SEGMENT_HEADER_BYTES, is_room
from edge.segment.name import SegmentName, State, parse_name
from edge.spool.inspect import SegmentFile, read, summarise
from edge.spool.recover import cut_and_sync, next_counter, written_tail


class Finding(msgspec.Struct):
    """What there is to do about a segment. Lengths in bytes."""

    segment: str
    slot: int
    state: str
    records: int
    events: int
    kept_bytes: int
    cut_bytes: int
    """After the last good frame."""
    skipped_bytes: int
    """Damaged, between good frames."""
    action: str
    """`none`, `seal`, `cut`, `cut and seal`, or `unreadable`: no frame of it is good."""


class Busy(Exception):
    """A living process writes the segment's slot."""


def examine(file: SegmentFile) -> Finding:
    """Raises `OSError` when the file cannot be read."""
    data = read(file)
    found = summarise(file)
    end = max(found.end, SEGMENT_HEADER_BYTES)
    cut = max(0, len(data) - end)
    damaged_end = cut if file.state is not State.OPEN and not is_room(data[end:]) else 0
    steps = (["cut"] if cut else []) + (["seal"] if file.state is not State.SEALED else [])
    action = " and ".join(steps) or "none"
    return Finding(
        segment=str(file.name),
        slot=file.slot,
        state=file.state.name.lower(),
        records=found.records,
        events=found.events,
        kept_bytes=end,
        cut_bytes=cut,
        skipped_bytes=found.damaged_bytes - damaged_end,
        action=action if found.records else "unreadable",
    )


def is_locked(file: SegmentFile) -> bool:
    """A living process holds the segment's slot."""
    return is_held(file.path.with_name(LOCK_NAME))


def mend(disk: Disk, file: SegmentFile, torn: Path | None = None) -> Finding:
    """Do what `examine` says; what is cut off goes into `torn`, or beside the file. Raises `Busy`, `OSError`."""
    directory = file.path.parent
    lock = None
    if (directory / LOCK_NAME).exists():
        lock = disk.lock(str(directory / LOCK_NAME))
        if lock is None:
            raise Busy(f"{directory} is in use by a worker")
    try:
        return _mend(disk, file, torn or directory)
    finally:
        if lock is not None:
            disk.close(lock)


def _mend(disk: Disk, file: SegmentFile, torn: Path) -> Finding:
    finding = examine(file)
    if finding.action in ("none", "unreadable"):
        return finding
    directory = str(file.path.parent)
    final = _final_name(disk, file).file_name(State.SEALED)
    data = read(file)
    rest = data[finding.kept_bytes :]
    tail = written_tail(rest)
    if tail.strip(b"\0"):
        disk.makedirs(str(torn))
        disk.sync_directory(os.path.dirname(str(torn)) or ".")
        name = f"slot-{max(file.slot, 0):02d}-{file.name}-{finding.kept_bytes}.bin"
        write_durably(disk, str(torn), name, tail)
    if file.state in (State.SUSPECT, State.BAD):
        # One that is there is the copy of a recovery that was interrupted, and what is here may be less by now.
        if final not in disk.listdir(directory):
            write_durably(disk, directory, final, data[: finding.kept_bytes])
        disk.unlink(str(file.path))
    else:
        cut_and_sync(disk, str(file.path), finding.kept_bytes if rest else None)
        if file.state is not State.SEALED:
            disk.rename(str(file.path), f"{directory}/{final}")
    disk.sync_directory(directory)
    return finding


def _final_name(disk: Disk, file: SegmentFile) -> SegmentName:
    """Its own; but of what readers have passed over in a slot the next free one, or it would be taken for shipped."""
    directory = file.path.parent.resolve()
    layout = Layout(directory.parent.parent)
    slot = next((slot for slot in layout.slots() if layout.slot(slot) == directory), None)
    if file.state is not State.BAD or slot is None:
        return file.name
    for name, state in filter(None, map(parse_name, disk.listdir(str(directory)))):
        if name.incarnation == file.name.incarnation and state is State.SEALED:
            return name
    return SegmentName(next_counter(disk, layout, slot), file.name.incarnation)
