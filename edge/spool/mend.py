"""Make a segment that nobody writes any more readable to its end and finished, on demand: what recovery does, for one file.

Every good frame is kept where it is. What follows the last one is saved to a file of its own, cut off, and the rest is synced
before the segment gets its final name. Damage between good frames stays: readers skip it.
"""

import fcntl
import os
from pathlib import Path

import msgspec

from edge.disk import Disk, write_durably
from edge.layout import LOCK_NAME
from edge.segment.frame import SEGMENT_HEADER_BYTES
from edge.segment.name import State
from edge.spool.inspect import SegmentFile, read, summarise


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
        skipped_bytes=found.damaged_bytes - (cut if file.state is not State.OPEN else 0),
        action=action if found.records else "unreadable",
    )


def is_locked(file: SegmentFile) -> bool:
    """A living process holds the segment's slot."""
    try:
        fd = os.open(file.path.with_name(LOCK_NAME), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


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
    fd = disk.open(str(file.path), write=True)
    try:
        if finding.cut_bytes:
            rest = disk.pread(fd, finding.cut_bytes, finding.kept_bytes)
            if rest.strip(b"\0"):
                disk.makedirs(str(torn))
                disk.sync_directory(os.path.dirname(str(torn)) or ".")
                name = f"slot-{max(file.slot, 0):02d}-{file.name}-{finding.kept_bytes}.bin"
                write_durably(disk, str(torn), name, rest)
            disk.truncate(fd, finding.kept_bytes)
        disk.sync(fd)
    finally:
        disk.close(fd)
    if file.state is not State.SEALED:
        disk.rename(str(file.path), str(file.path.with_name(file.name.file_name(State.SEALED))))
    disk.sync_directory(str(file.path.parent))
    return finding
