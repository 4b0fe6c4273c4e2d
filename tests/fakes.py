"""Fakes at the seams: a disk in memory that can lose its power, one that fails as it is told, a clock, waiters."""

import asyncio
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

import msgspec

from edge.disk import Disk, RealDisk
from edge.spool.writer import Clock

EIO = errno.EIO
EMFILE = errno.EMFILE
ENOSPC = errno.ENOSPC
SECTOR_BYTES = 512
"""A device writes a sector whole or not at all."""


class Change(NamedTuple):
    """A write that no sync has covered yet; `data` is `None` for a change of size to `offset`."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        end = self.offset if self.data is None else self.offset + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        if self.data is None:
            del content[end:]
        else:
            content[self.offset : end] = self.data


class _File:
    def __init__(self, stable: bytes = b"", changes: list[Change] | None = None, seen: bytes = b"") -> None:
        self.stable = stable
        """What the device holds."""
        self.changes = changes or []
        """What the page cache holds and will still write."""
        self.seen = bytearray(seen)
        """What reads return."""

    def change(self, change: Change) -> None:
        self.changes.append(change)
        change.apply(self.seen)

    def sync(self) -> None:
        content = bytearray(self.stable)
        for change in self.changes:
            change.apply(content)
        self.stable = bytes(content)
        self.changes = []

    def copy(self) -> "_File":
        return _File(self.stable, list(self.changes), bytes(self.seen))

    def after_power_loss(self, cut: "PowerCut") -> "_File":
        content = cut.content(self.stable, self.changes)
        return _File(content, [], content)


class Step(NamedTuple):
    """A change of a directory that no sync has covered yet: a name that was given, taken away, or changed."""

    old: str | None
    new: str | None
    entry: _File | None
    """`None` stands for a directory."""

    def apply(self, entries: dict[str, _File | None]) -> None:
        if self.old is not None:
            entries.pop(self.old, None)
        if self.new is not None:
            entries[self.new] = self.entry

    @property
    def kind(self) -> str:
        return "rename" if self.old and self.new else "create" if self.new else "removal"


class _Directory:
    def __init__(self) -> None:
        self.entries: dict[str, _File | None] = {}
        """`None` stands for a directory."""
        self.stable: dict[str, _File | None] = {}
        self.steps: list[Step] = []
        """What leads from `stable` to `entries`."""
        self.changes = 0

    def step(self, step: Step) -> None:
        self.changes += 1
        self.steps.append(step)
        step.apply(self.entries)

    def sync(self) -> None:
        self.stable = dict(self.entries)
        self.steps = []


class PowerCut:
    """What a power cut makes of what was not synced: nothing of it arrived, or, with `random`, any part a device may leave.

    Of the changes of a file: none, all, a prefix that ends anywhere, or each sector by itself: the old one, the new one, zeroes
    or what the medium held before. A synced byte never changes unless it was written over. Of the changes of a directory:
    none, all, a prefix, or any of them. `seen` counts what was done.
    """

    def __init__(self, random: Random | None, seen: Counter[str] | None = None) -> None:
        self._random = random
        self.seen = Counter() if seen is None else seen

    def content(self, stable: bytes, changes: Sequence[Change]) -> bytes:
        content = bytearray(stable)
        random = self._random
        if random is None or not changes:
            return bytes(content)
        style = random.randrange(5)
        if style >= 2:
            return self._by_sectors(stable, changes, random)
        # In order up to some place, or up to the end.
        last = random.randrange(len(changes) + 1)
        for change in changes[:last]:
            change.apply(content)
        if last < len(changes) and (data := changes[last].data) is not None and style:
            cut = random.randrange(len(data) + 1)
            Change(changes[last].offset, data[:cut]).apply(content)
            self.seen["torn writes"] += 0 < cut < len(data)
        return bytes(content)

    def _by_sectors(self, stable: bytes, changes: Sequence[Change], random: Random) -> bytes:
        full = bytearray(stable)
        touched: list[tuple[int, int]] = []
        for change in changes:
            change.apply(full)
            if change.data:
                first = change.offset // SECTOR_BYTES * SECTOR_BYTES
                end = change.offset + len(change.data)
                touched += [
                    (max(at, change.offset), min(at + SECTOR_BYTES, end)) for at in range(first, end, SECTOR_BYTES)
                ]
        sizes = (len(full), len(full), len(stable), random.randint(min(len(full), len(stable)), len(full)))
        size = random.choice(sizes) if len(full) >= len(stable) else random.choice(sizes[1:3])
        content = bytearray(stable) + bytes(max(0, len(full) - len(stable)))
        for start, end in touched:
            fate = random.random()
            if fate < 0.5:
                content[start:end] = full[start:end]
            elif fate < 0.75:
                self.seen["missing sectors"] += 1
            elif fate < 0.87:
                content[start:end] = bytes(end - start)
                self.seen["zeroed sectors"] += 1
            else:
                content[start:end] = random.randbytes(end - start)
                self.seen["garbage sectors"] += 1
        return bytes(content[:size]) + bytes(max(0, size - len(content)))

    def entries(self, stable: dict[str, _File | None], steps: Sequence[Step]) -> dict[str, _File | None]:
        found = dict(stable)
        random = self._random
        if random is None:
            return found
        style = random.randrange(4)
        arrived = len(steps) if style == 0 else random.randint(0, len(steps)) if style == 1 else 0
        for number, step in enumerate(steps):
            if number < arrived or (style == 2 and random.random() < 0.5):
                step.apply(found)
            else:
                self.seen[f"lost {step.kind}s"] += 1
        return found


class MemoryDisk:
    """`Disk` in memory. Paths are absolute. What was written is stable once synced, a name once its directory was.

    A failed sync is the cruel one of Linux: what it should have written is never written, and reads still show it.
    """

    def __init__(self) -> None:
        self._directories = {"/": _Directory()}
        self._open: dict[int, tuple[str, _File]] = {}
        self._locks: dict[str, int] = {}
        self._next_fd = 1000
        self.capacity = 1 << 40
        """Bytes that `room` tells; writes above it do not fail."""
        self.others = 0
        """Bytes of it that somebody else has."""
        self._mutex = threading.RLock()

    # --- for tests

    def read(self, path: str) -> bytes:
        return bytes(self._file(path).seen)

    def write(self, path: str, data: bytes) -> None:
        """A file that has been there for long."""
        directory, name = os.path.split(path)
        self.makedirs(directory)
        self._directories[directory].step(Step(None, name, _File(data, [], data)))
        self.settle()

    def tree(self) -> dict[str, bytes]:
        """Every file and what it holds."""
        return {
            os.path.join(path, name): bytes(entry.seen)
            for path, directory in sorted(self._directories.items())
            for name, entry in sorted(directory.entries.items())
            if entry is not None
        }

    def settle(self) -> None:
        """Everything is on stable storage."""
        for directory in self._directories.values():
            directory.sync()
            for entry in directory.entries.values():
                if entry is not None:
                    entry.sync()

    @property
    def open_descriptors(self) -> list[str]:
        return [path for path, _ in self._open.values()]

    def after_kill(self) -> "MemoryDisk":
        """What a new process finds when this one was killed: everything written, locks released."""
        with self._mutex:
            other = MemoryDisk()
            copies: dict[int, _File] = {}
            for path, directory in self._directories.items():
                twin = other._directories[path] = _Directory()

                def twin_of(entry: _File | None) -> _File | None:
                    return (
                        None if entry is None else copies.get(id(entry)) or copies.setdefault(id(entry), entry.copy())
                    )

                twin.entries = {name: twin_of(entry) for name, entry in directory.entries.items()}
                twin.stable = {name: twin_of(entry) for name, entry in directory.stable.items()}
                twin.steps = [Step(old, new, twin_of(entry)) for old, new, entry in directory.steps]
            return other

    def after_power_loss(self, random: Random | None = None, seen: Counter[str] | None = None) -> "MemoryDisk":
        """What is found when the power failed: nothing that was not synced; with `random`, some of it, see `PowerCut`."""
        cut = PowerCut(random, seen)
        with self._mutex:
            other = MemoryDisk()
            copies: dict[int, _File] = {}
            reached = ["/"]
            for path in reached:
                twin = other._directories[path] = _Directory()
                directory = self._directories.get(path, _Directory())
                for name, entry in cut.entries(directory.stable, directory.steps).items():
                    if entry is None:
                        twin.entries[name] = None
                        reached.append(os.path.join(path, name))
                    else:
                        copy = copies.get(id(entry)) or copies.setdefault(id(entry), entry.after_power_loss(cut))
                        twin.entries[name] = copy
                twin.stable = dict(twin.entries)
            return other

    def forget(self, fd: int) -> None:
        """The effect of a failed sync."""
        with self._mutex:
            self._open[fd][1].changes.clear()

    # --- Disk

    def create(self, path: str) -> int:
        with self._mutex:
            directory, name = self._place(path)
            if name in directory.entries:
                raise FileExistsError(errno.EEXIST, "exists", path)
            directory.step(Step(None, name, _File()))
            return self.open(path, write=True)

    def open(self, path: str, *, write: bool = False) -> int:
        with self._mutex:
            self._next_fd += 1
            self._open[self._next_fd] = path, self._file(path)
            return self._next_fd

    def close(self, fd: int) -> None:
        with self._mutex:
            path, _ = self._open.pop(fd)
            if self._locks.get(path) == fd:
                del self._locks[path]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        with self._mutex:
            self._open[fd][1].change(Change(offset, bytes(data)))
            return len(data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self._mutex:
            return bytes(self._open[fd][1].seen[offset : offset + size])

    def size(self, fd: int) -> int:
        with self._mutex:
            return len(self._open[fd][1].seen)

    def truncate(self, fd: int, size: int) -> None:
        with self._mutex:
            self._open[fd][1].change(Change(size, None))

    def sync(self, fd: int) -> None:
        with self._mutex:
            self._open[fd][1].sync()

    def drop_cached(self, fd: int, offset: int, size: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        with self._mutex:
            self._directory(path).sync()

    def rename(self, old: str, new: str) -> None:
        with self._mutex:
            file = self._file(old)
            directory, old_name = self._place(old)
            other, new_name = self._place(new)
            assert directory is other, "expected a new name in the same directory"
            directory.step(Step(old_name, new_name, file))

    def unlink(self, path: str) -> None:
        with self._mutex:
            file = self._file(path)
            directory, name = self._place(path)
            directory.step(Step(name, None, file))

    def listdir(self, path: str) -> list[str]:
        with self._mutex:
            return list(self._directory(path).entries)

    def scan(self, path: str) -> Iterator[str]:
        yield from self.listdir(path)

    def exists(self, path: str) -> bool:
        with self._mutex:
            directory, name = self._place(path)
            return name in directory.entries

    def changed_ns(self, path: str) -> int:
        """Number of changes, which is long ago and never twice the same."""
        with self._mutex:
            return self._directory(path).changes

    def makedirs(self, path: str) -> None:
        with self._mutex:
            if path in self._directories:
                return
            head, name = os.path.split(path)
            self.makedirs(head)
            self._directories[head].step(Step(None, name, None))
            self._directories[path] = _Directory()

    def allocate(self, fd: int, size: int) -> None:
        with self._mutex:
            self._open[fd][1].change(Change(size, None))

    def room(self, path: str) -> tuple[int, int]:
        """Of `capacity`, what no file has."""
        with self._mutex:
            used = self.others + sum(map(len, self.tree().values()))
            return max(0, self.capacity - used), self.capacity

    def lock(self, path: str) -> int | None:
        with self._mutex:
            directory, name = self._place(path)
            if name not in directory.entries:
                directory.step(Step(None, name, _File()))
            if path in self._locks:
                return None
            self._locks[path] = self.open(path, write=True)
            return self._locks[path]

    def _directory(self, path: str) -> _Directory:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no directory", path)
        return self._directories[path]

    def _place(self, path: str) -> tuple[_Directory, str]:
        head, name = os.path.split(path)
        return self._directory(head), name

    def _file(self, path: str) -> _File:
        directory, name = self._place(path)
        entry = directory.entries.get(name)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no file", path)
        return entry


class Fault(msgspec.Struct, frozen=True):
    """How a call fails: with an error number, or, for writes, by taking only `short` bytes."""

    error: int = 0
    short: int | None = None

    def concerns(self, method: str) -> bool:
        return method == "pwrite" or self.short is None


class Call(NamedTuple):
    method: str
    name: str
    """The file's or directory's name at the time."""


class Gate:
    """A call that waits: `reached` is set when it has begun, and it goes on when `opened` is."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


class FaultyDisk:
    """Passes calls on to another disk, writes them down, and fails the ones it is told to."""

    def __init__(self, inner: Disk, before: Callable[[], None] = lambda: None) -> None:
        self.inner = inner
        self.calls: list[Call] = []
        self.failed: list[Call] = []
        self.written: list[int] = []
        """Bytes of each write."""
        self.dropped: list[tuple[int, int]] = []
        """Offset and size of what need not be kept in memory."""
        self._before = before
        """Called before every call: a test looks here at what a crash at this moment would leave."""
        self._nth: dict[int, Fault] = {}
        self._by_method: dict[str, list[Fault | None]] = {}
        self._always: dict[str, Fault] = {}
        self._gates: dict[str, Gate] = {}
        self._paths: dict[int, str] = {}

    def fail_nth(self, n: int, fault: Fault) -> None:
        """The `n`-th call of all, from 0."""
        self._nth[n] = fault

    def fail_next(self, method: str, *faults: Fault | None) -> None:
        """The next calls of a method, `None` letting one pass."""
        self._by_method.setdefault(method, []).extend(faults)

    def fail_always(self, method: str, fault: Fault) -> None:
        self._always[method] = fault

    def heal(self) -> None:
        self._by_method.clear()
        self._always.clear()

    def hold(self, method: str) -> Gate:
        """The next call of a method waits for the gate."""
        return self._gates.setdefault(method, Gate())

    def methods(self, *of: str) -> list[str]:
        """The calls so far, in order, reduced to the methods named."""
        return [call.method for call in self.calls if call.method in of]

    def _call(self, method: str, path: str) -> Fault | None:
        """The short write to make, if any. Raises `OSError`."""
        self._before()
        call = Call(method, os.path.basename(path))
        fault = self._nth.get(len(self.calls))
        self.calls.append(call)
        planned = self._by_method.get(method)
        if planned:
            fault = planned.pop(0)
        fault = fault or self._always.get(method)
        if gate := self._gates.pop(method, None):
            gate.reached.set()
            assert gate.opened.wait(10), f"the gate before {call} was never opened"
        if fault is None or not fault.concerns(method):
            return None
        self.failed.append(call)
        if fault.error:
            raise OSError(fault.error, os.strerror(fault.error), path)
        return fault

    def create(self, path: str) -> int:
        self._call("create", path)
        fd = self.inner.create(path)
        self._paths[fd] = path
        return fd

    def open(self, path: str, *, write: bool = False) -> int:
        self._call("open", path)
        fd = self.inner.open(path, write=write)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        # An error of close(2) says nothing that a sync has not said, and the descriptor is gone.
        self.calls.append(Call("close", os.path.basename(self._paths.pop(fd))))
        self.inner.close(fd)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        fault = self._call("pwrite", self._paths[fd])
        if fault is not None and fault.short is not None:
            data = data[: fault.short]
        self.written.append(len(data))
        return self.inner.pwrite(fd, data, offset) if data else 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._call("pread", self._paths[fd])
        return self.inner.pread(fd, size, offset)

    def size(self, fd: int) -> int:
        self._call("size", self._paths[fd])
        return self.inner.size(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._call("truncate", self._paths[fd])
        self.inner.truncate(fd, size)

    def sync(self, fd: int) -> None:
        try:
            self._call("sync", self._paths[fd])
        except OSError:
            if isinstance(self.inner, MemoryDisk):
                self.inner.forget(fd)
            raise
        self.inner.sync(fd)

    def drop_cached(self, fd: int, offset: int, size: int) -> None:
        self.dropped.append((offset, size))
        self.inner.drop_cached(fd, offset, size)

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory", path)
        self.inner.sync_directory(path)

    def rename(self, old: str, new: str) -> None:
        self._call("rename", old)
        self.inner.rename(old, new)
        self._paths = {fd: new if path == old else path for fd, path in self._paths.items()}

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        self.inner.unlink(path)

    def listdir(self, path: str) -> list[str]:
        self._call("listdir", path)
        return self.inner.listdir(path)

    def scan(self, path: str) -> Iterator[str]:
        self._call("scan", path)
        yield from self.inner.scan(path)

    def exists(self, path: str) -> bool:
        self._call("exists", path)
        return self.inner.exists(path)

    def changed_ns(self, path: str) -> int:
        self._call("changed_ns", path)
        return self.inner.changed_ns(path)

    def makedirs(self, path: str) -> None:
        self._call("makedirs", path)
        self.inner.makedirs(path)

    def allocate(self, fd: int, size: int) -> None:
        self._call("allocate", self._paths[fd])
        self.inner.allocate(fd, size)

    def room(self, path: str) -> tuple[int, int]:
        self._call("room", path)
        return self.inner.room(path)

    def lock(self, path: str) -> int | None:
        self._call("lock", path)
        fd = self.inner.lock(path)
        if fd is not None:
            self._paths[fd] = path
        return fd


class UnreadableDisk(RealDisk):
    """The operating system's, of which some bytes cannot be read: a read ends before them, and one that begins there fails."""

    def __init__(self) -> None:
        self.unreadable = range(0)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        bad = self.unreadable
        if offset in bad and size:
            raise OSError(EIO, os.strerror(EIO))
        return super().pread(fd, min(size, bad.start - offset) if bad and offset < bad.start else size, offset)


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.wall_us = 1_751_367_600_000_000

    def advance(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_us += int(seconds * 1e6)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.monotonic_s, lambda: self.wall_us)


class RecordingWaiter:
    """Remembers what it was told, every time."""

    def __init__(self, on_told: Callable[[str], None] = lambda _: None) -> None:
        self.told: list[str] = []
        self._on_told = on_told

    def stored(self) -> None:
        self.told.append("stored")
        self._on_told("stored")

    def not_stored(self) -> None:
        self.told.append("not stored")
        self._on_told("not stored")


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until something that another thread or callback brings about is so."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0)
