import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.disk import RealDisk, pread_all, pread_around, try_to_write, write_all, write_durably
from tests.fakes import EIO, ENOSPC, Call, Fault, FaultyDisk, MemoryDisk, UnreadableDisk

DISK = RealDisk()


@contextmanager
def closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        DISK.close(fd)


class TestRealDisk:
    def test_file_is_written_read_cut_and_synced_by_descriptor(self, tmp_path: Path) -> None:
        path = str(tmp_path / "file")
        with closing(DISK.create(path)) as fd:
            assert DISK.pwrite(fd, b"hello", 3) == 5
            assert DISK.size(fd) == 8
            assert DISK.pread(fd, 100, 3) == b"hello"
            assert DISK.pread(fd, 2, 4) == b"el"
            DISK.truncate(fd, 5)
            DISK.sync(fd)
        with closing(DISK.open(path)) as fd:
            assert DISK.pread(fd, 100, 0) == b"\0\0\0he"
            with pytest.raises(OSError, match="Bad file descriptor"):
                DISK.pwrite(fd, b"x", 0)
        with closing(DISK.open(path, write=True)) as fd:
            DISK.pwrite(fd, b"x", 0)

    def test_what_need_not_be_cached_is_what_the_file_system_lets_go_of_when_asked(self, tmp_path: Path) -> None:
        def cached(fd: int) -> bool:
            try:
                return os.preadv(fd, [bytearray(4096)], 4096, os.RWF_NOWAIT) == 4096
            except BlockingIOError:
                return False

        def stays(fd: int, drop: Callable[[], None]) -> bool:
            # More than once, as the journal may have its hands on what was synced just now.
            for _ in range(100):
                drop()
                if not cached(fd):
                    return False
                time.sleep(0.01)
            return True

        with (
            closing(DISK.create(str(tmp_path / "ours"))) as ours,
            closing(DISK.create(str(tmp_path / "asked"))) as asked,
        ):
            for fd in (ours, asked):
                DISK.pwrite(fd, bytes(16384), 0)
                DISK.sync(fd)
                assert cached(fd)
            assert stays(ours, lambda: DISK.drop_cached(ours, 0, 16384)) == stays(
                asked, lambda: os.posix_fadvise(asked, 0, 16384, os.POSIX_FADV_DONTNEED)
            )
            assert DISK.pread(ours, 16384, 0) == bytes(16384)
        DISK.drop_cached(ours, 0, 1)

    def test_room_is_that_of_the_file_system_whether_the_path_is_there_or_not(self, tmp_path: Path) -> None:
        available, total = DISK.room(str(tmp_path))
        assert 0 < available <= total
        assert DISK.room(str(tmp_path / "none" / "of" / "these"))[1] == total

    def test_allocated_bytes_are_the_files(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with closing(DISK.create(str(path))) as fd:
            DISK.allocate(fd, 1 << 20)
        assert path.stat().st_size == 1 << 20
        assert path.stat().st_blocks * 512 >= 1 << 20

    def test_create_refuses_what_is_there_and_open_what_is_not(self, tmp_path: Path) -> None:
        path = str(tmp_path / "file")
        with pytest.raises(FileNotFoundError):
            DISK.open(path)
        DISK.close(DISK.create(path))
        with pytest.raises(FileExistsError):
            DISK.create(path)

    def test_names_are_renamed_removed_and_listed(self, tmp_path: Path) -> None:
        DISK.close(DISK.create(str(tmp_path / "a")))
        DISK.close(DISK.create(str(tmp_path / "b")))
        DISK.rename(str(tmp_path / "a"), str(tmp_path / "c"))
        DISK.unlink(str(tmp_path / "b"))
        DISK.sync_directory(str(tmp_path))
        assert DISK.listdir(str(tmp_path)) == list(DISK.scan(str(tmp_path))) == ["c"]

    def test_everything_made_is_private(self, tmp_path: Path) -> None:
        """It holds personal data; the folders in between are made by us too."""
        DISK.makedirs(str(tmp_path / "data" / "spool" / "slot-00"))
        file = tmp_path / "data" / "spool" / "slot-00" / "file"
        DISK.close(DISK.create(str(file)))
        lock = DISK.lock(str(file.with_name(".lock")))
        assert lock is not None
        DISK.close(lock)
        for path in (file, file.with_name(".lock")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for path in (tmp_path / "data", tmp_path / "data" / "spool", file.parent):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700

    def test_makedirs_accepts_a_folder_and_nothing_else(self, tmp_path: Path) -> None:
        DISK.makedirs(str(tmp_path))
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError):
            DISK.makedirs(str(tmp_path / "file"))
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            DISK.makedirs(str(tmp_path / "file" / "below"))

    def test_makedirs_takes_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        DISK.makedirs("edge-data/spool")
        DISK.makedirs(".")
        assert (tmp_path / "edge-data" / "spool").is_dir()

    def test_second_lock_is_refused_until_the_first_is_closed(self, tmp_path: Path) -> None:
        path = str(tmp_path / ".lock")
        first = DISK.lock(path)
        assert first is not None
        before = len(os.listdir("/proc/self/fd"))
        assert DISK.lock(path) is None
        assert len(os.listdir("/proc/self/fd")) == before
        DISK.close(first)
        again = DISK.lock(path)
        assert again is not None
        DISK.close(again)

    def test_descriptors_are_not_inherited(self, tmp_path: Path) -> None:
        lock = DISK.lock(str(tmp_path / ".lock"))
        assert lock is not None
        with closing(lock), closing(DISK.create(str(tmp_path / "file"))) as fd:
            assert not os.get_inheritable(lock)
            assert not os.get_inheritable(fd)


class StutteringDisk(RealDisk):
    """Reads three bytes at a time."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return super().pread(fd, min(size, 3), offset)


class TestReadingAll:
    def test_short_reads_are_continued_up_to_the_end_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        with closing(DISK.open(str(tmp_path / "file"))) as fd:
            for size, offset in ((10, 0), (7, 1), (1, 9), (0, 3), (100, 2), (4, 10)):
                assert pread_all(StutteringDisk(), fd, size, offset) == b"0123456789"[offset : offset + size]

    def test_what_a_short_read_ended_before_is_an_error_and_not_the_end_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(bytes(10_000))
        disk = UnreadableDisk()
        disk.unreadable = range(4096, 8192)
        with closing(disk.open(str(tmp_path / "file"))) as fd:
            assert pread_all(disk, fd, 4096, 0) == bytes(4096)
            with pytest.raises(OSError, match="Input/output"):
                pread_all(disk, fd, 4097, 0)

    @pytest.mark.parametrize(("size", "offset"), [(20_000, 0), (20_000, 5000), (100, 4090), (9000, 8000), (5, 30_000)])
    def test_zeroes_stand_for_the_blocks_that_cannot_be_read_and_for_no_others(
        self, tmp_path: Path, size: int, offset: int
    ) -> None:
        data = b"x" * 17_000
        (tmp_path / "file").write_bytes(data)
        disk = UnreadableDisk()
        disk.unreadable = range(4096, 12_288)
        seen = data[:4096] + bytes(8192) + data[12_288:]
        with closing(disk.open(str(tmp_path / "file"))) as fd:
            assert pread_around(disk, fd, size, offset) == seen[offset : offset + size]


class TestWriteAll:
    @pytest.mark.parametrize("shorts", [(), (1,), (0, 3), (2, 2, 2), (9,)], ids=str)
    def test_short_writes_are_continued(self, shorts: tuple[int, ...]) -> None:
        memory = MemoryDisk()
        disk = FaultyDisk(memory)
        disk.fail_next("pwrite", *(Fault(short=short) for short in shorts))
        fd = disk.create("/file")
        write_all(disk, fd, b"0123456789", 2)
        assert memory.read("/file") == b"\0\x000123456789"

    def test_write_without_progress_is_an_error(self) -> None:
        disk = FaultyDisk(MemoryDisk())
        disk.fail_always("pwrite", Fault(short=0))
        with pytest.raises(OSError, match="no progress") as caught:
            write_all(disk, disk.create("/file"), b"0123456789", 0)
        assert caught.value.errno == errno.ENOSPC

    def test_error_after_a_short_write_is_raised(self) -> None:
        disk = FaultyDisk(MemoryDisk())
        disk.fail_next("pwrite", Fault(short=4), Fault(ENOSPC))
        with pytest.raises(OSError, match="No space"):
            write_all(disk, disk.create("/file"), b"0123456789", 0)

    def test_nothing_is_written_at_once(self) -> None:
        disk = FaultyDisk(MemoryDisk())
        write_all(disk, disk.create("/file"), b"", 0)
        assert disk.methods("pwrite") == ["pwrite"]


class TestWriteDurably:
    def test_file_is_synced_before_it_gets_its_name_and_the_directory_after(self) -> None:
        disk = FaultyDisk(MemoryDisk())
        disk.makedirs("/d")
        write_durably(disk, "/d", "file", b"data")
        assert disk.calls == [
            Call("makedirs", "d"),
            Call("unlink", ".file.tmp"),
            Call("create", ".file.tmp"),
            Call("pwrite", ".file.tmp"),
            Call("sync", ".file.tmp"),
            Call("close", ".file.tmp"),
            Call("rename", ".file.tmp"),
            Call("sync_directory", "d"),
        ]

    def test_what_a_crash_left_of_the_same_name_is_in_nobodys_way(self) -> None:
        memory = MemoryDisk()
        memory.write("/d/.file.tmp", b"half")
        write_durably(memory, "/d", "file", b"data")
        assert memory.after_power_loss().tree() == {"/d/file": b"data"}

    def test_file_is_whole_or_not_there_whatever_fails_and_the_next_attempt_works(self) -> None:
        n = 0
        while True:
            memory = MemoryDisk()
            memory.write("/d/file", b"old")
            disk = FaultyDisk(memory)
            disk.fail_nth(n, Fault(EIO))
            try:
                write_durably(disk, "/d", "file", b"new data")
            except OSError:
                assert memory.read("/d/file") in (b"old", b"new data")
                assert memory.after_power_loss().read("/d/file") in (b"old", b"new data")
            else:
                if n >= len(disk.calls):
                    break
            write_durably(disk, "/d", "file", b"newer")
            assert memory.after_power_loss().tree() == {"/d/file": b"newer"}
            assert memory.open_descriptors == []
            n += 1
        assert n >= 7


class TestTryToWrite:
    def test_a_file_is_really_written_and_synced_and_nothing_is_left_of_it(self) -> None:
        memory = MemoryDisk()
        memory.makedirs("/d")
        disk = FaultyDisk(memory)
        try_to_write(disk, "/d")
        assert disk.methods("create", "pwrite", "sync", "unlink") == ["create", "pwrite", "sync", "unlink"]
        assert memory.listdir("/d") == []
        assert memory.open_descriptors == []

    @pytest.mark.parametrize("method", ["create", "pwrite", "sync"])
    def test_whatever_the_disk_refuses_is_told_and_leaves_nothing(self, method: str) -> None:
        memory = MemoryDisk()
        memory.makedirs("/d")
        disk = FaultyDisk(memory)
        disk.fail_next(method, Fault(ENOSPC))
        with pytest.raises(OSError, match="No space left"):
            try_to_write(disk, "/d")
        assert memory.listdir("/d") == []
        assert memory.open_descriptors == []
