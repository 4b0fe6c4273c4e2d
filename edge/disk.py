"""The only calls that touch the spool's file system: the seam at which tests inject a failing disk."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from typing import Final, Protocol

_BLOCK_BYTES: Final = 4096
"""What a device refuses, it refuses in no smaller pieces."""
MEDIUM_ERRORS: Final = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA)
"""What the device and the file system say of what they have lost, and not of the moment, of rights or of want."""


class Disk(Protocol):
    """What the spool and the drainer ask of a disk. Every method raises `OSError`."""

    def create(self, path: str) -> int:
        """A new file, open for reading and writing; it must not exist."""
        ...

    def open(self, path: str, *, write: bool = False) -> int: ...

    def close(self, fd: int) -> None: ...

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Bytes written, which may be fewer than given."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Fewer bytes than asked for at the end of the file, and before what cannot be read: only the next call fails."""
        ...

    def size(self, fd: int) -> int: ...

    def truncate(self, fd: int, size: int) -> None: ...

    def sync(self, fd: int) -> None:
        """Data and size are on stable storage when this returns. After an error what is on disk is unknown."""
        ...

    def drop_cached(self, fd: int, offset: int, size: int) -> None:
        """These bytes need not be kept in memory where they are on stable storage. A hint, which never fails."""
        ...

    def sync_directory(self, path: str) -> None:
        """Creations, renames and removals in `path` are on stable storage when this returns."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def listdir(self, path: str) -> list[str]: ...

    def scan(self, path: str) -> Iterator[str]:
        """The names `listdir` gives, one after the other: a list of a million takes 130 MiB. May raise at any of them."""
        ...

    def exists(self, path: str) -> bool: ...

    def changed_ns(self, path: str) -> int:
        """When a name in the directory was last created, changed or removed: nanoseconds of the file system's clock."""
        ...

    def makedirs(self, path: str) -> None: ...

    def allocate(self, fd: int, size: int) -> None:
        """The file has `size` bytes, and the disk has given them away."""
        ...

    def room(self, path: str) -> tuple[int, int]:
        """Bytes available to us, and all bytes, of the file system that holds `path`, which need not exist yet."""
        ...

    def lock(self, path: str) -> int | None:
        """The descriptor that holds an exclusive lock on `path` for its life, `None` when somebody else holds it."""
        ...


class RealDisk:
    """The operating system's file system. Files are private to the user: they hold personal data."""

    def create(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: str, *, write: bool = False) -> int:
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def drop_cached(self, fd: int, offset: int, size: int) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def scan(self, path: str) -> Iterator[str]:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name

    def exists(self, path: str) -> bool:
        # `os.path.exists` would call a disk that cannot be read empty.
        try:
            os.stat(path)
        except FileNotFoundError:
            return False
        return True

    def changed_ns(self, path: str) -> int:
        return os.stat(path).st_mtime_ns

    def makedirs(self, path: str) -> None:
        # One level at a time: `os.makedirs` gives its mode to the last one only.
        head = os.path.dirname(path)
        if head and not os.path.isdir(head):
            self.makedirs(head)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def room(self, path: str) -> tuple[int, int]:
        while True:
            try:
                found = os.statvfs(path)
            except FileNotFoundError:
                path = os.path.dirname(path)
            else:
                return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def lock(self, path: str) -> int | None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return fd


def pread_all(disk: Disk, fd: int, size: int, offset: int) -> bytes:
    """All `size` bytes at `offset`, fewer only at the end of the file. Raises `OSError` when any of them cannot be read."""
    data = disk.pread(fd, size, offset)
    while len(data) < size and (piece := disk.pread(fd, size - len(data), offset + len(data))):
        data += piece
    return data


def pread_around(disk: Disk, fd: int, size: int, offset: int) -> bytes:
    """The same of a file of which the disk refuses some: zeroes stand for the blocks that cannot be read, no others."""
    size = max(0, min(size, disk.size(fd) - offset))
    found = bytearray(size)
    done = 0
    while done < size:
        # To the end of the block: one that reaches into two would cost both.
        block = min(size - done, _BLOCK_BYTES - (offset + done) % _BLOCK_BYTES)
        with contextlib.suppress(OSError):
            found[done : done + block] = pread_all(disk, fd, block, offset + done).ljust(block, b"\0")
        done += block
    return bytes(found)


def write_all(disk: Disk, fd: int, data: bytes, offset: int) -> None:
    """All of `data` at `offset`; continues after short writes. Raises `OSError` when no progress is made."""
    done = disk.pwrite(fd, data, offset)
    while done < len(data):
        written = disk.pwrite(fd, data[done:], offset + done)
        if written == 0:
            raise OSError(28, "a write made no progress")
        done += written


def write_durably(disk: Disk, directory: str, file_name: str, data: bytes) -> None:
    """A file that is there whole or not at all, on stable storage when this returns: write, sync, rename, sync directory."""
    temporary = f"{directory}/.{file_name}.tmp"
    # By its name: a directory of a million files takes half a second to list.
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(temporary)
    fd = disk.create(temporary)
    try:
        write_all(disk, fd, data, 0)
        disk.sync(fd)
    except OSError:
        # On a full disk above all, where it would be in the way of everything else.
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise
    finally:
        disk.close(fd)
    disk.rename(temporary, f"{directory}/{file_name}")
    disk.sync_directory(directory)


def make_directory(disk: Disk, directory: str) -> None:
    """One that a power cut does not take away again; it may be there already. Raises `OSError`."""
    disk.makedirs(directory)
    disk.sync_directory(os.path.dirname(directory))


def try_to_write(disk: Disk, directory: str) -> None:
    """Write and sync a file that no reader takes for anything, and take it away again. Raises `OSError`."""
    path = f"{directory}/.probe-{secrets.token_hex(8)}"
    fd = disk.create(path)
    try:
        write_all(disk, fd, b"\n", 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
        disk.unlink(path)
