import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.disk import RealDisk
from edge.layout import SPARE_NAME
from edge.spool.spare import ROOM_BYTES_MIN, Spare, SpareMaker, make_spare, next_room
from tests.fakes import EIO, ENOSPC, Fault, FaultyDisk, MemoryDisk
from tests.server.running import wait_until

DIRECTORY = "/slot"
PATH = f"{DIRECTORY}/{SPARE_NAME}"
MIB = 1024 * 1024


def disks() -> tuple[MemoryDisk, FaultyDisk]:
    memory = MemoryDisk()
    memory.makedirs(DIRECTORY)
    memory.settle()
    return memory, FaultyDisk(memory)


@pytest.mark.parametrize(
    ("used", "age_s", "room", "expected"),
    [
        pytest.param(5000, 60, MIB, MIB, id="hardly used"),
        pytest.param(3 * MIB, 60, 16 * MIB, 6 * MIB, id="used in part"),
        pytest.param(4 * MIB, 20, 4 * MIB, 16 * MIB, id="filled"),
        pytest.param(4 * MIB + 1, 20, 4 * MIB, 16 * MIB, id="outgrown"),
        pytest.param(30 * MIB, 20, 30 * MIB, 64 * MIB, id="filled, large"),
        pytest.param(3 * MIB, 60, 0, 6 * MIB, id="without room"),
        pytest.param(64 * MIB, 4, 64 * MIB, 64 * MIB, id="filled fast"),
        pytest.param(64 * MIB, 3.9, 64 * MIB, 0, id="filled too fast"),
        pytest.param(16 * MIB, 0.01, 16 * MIB, 64 * MIB, id="filled at once, and no more is known"),
        pytest.param(64 * MIB, 60, 0, 64 * MIB, id="slower again"),
    ],
)
def test_the_next_segment_has_room_for_what_came_last(used: int, age_s: float, room: int, expected: int) -> None:
    assert next_room(used, age_s, room, 64 * MIB) == expected


def test_a_spare_is_zeroes_on_stable_storage() -> None:
    memory, disk = disks()
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    spare = make_spare(disk, DIRECTORY, 1_000_000, pause)
    assert spare is not None
    assert (spare.path, spare.size) == (PATH, 1_000_000)
    memory.sync_directory(DIRECTORY)
    assert memory.after_power_loss().read(PATH) == bytes(1_000_000)
    assert len(pauses) == disk.methods("sync").count("sync") - 1 == 3
    assert min(pauses) > 0


@pytest.mark.parametrize("method", ["pwrite", "sync"])
def test_a_disk_that_refuses_leaves_nothing(method: str) -> None:
    memory, disk = disks()
    disk.fail_next(method, None, Fault(ENOSPC if method == "pwrite" else EIO))
    with pytest.raises(OSError, match=r"space|Input"):
        make_spare(disk, DIRECTORY, 1_000_000, lambda _: False)
    assert memory.tree() == {}
    assert memory.open_descriptors == []


def test_whoever_stops_is_not_waited_for() -> None:
    memory, disk = disks()
    assert make_spare(disk, DIRECTORY, 1_000_000, lambda _: True) is None
    assert len(disk.methods("pwrite")) == 1
    assert memory.tree() == {}
    assert memory.open_descriptors == []


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[SpareMaker]:
    made = SpareMaker(RealDisk(), str(tmp_path))
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


def taken(maker: SpareMaker) -> Spare:
    wait_until(lambda: maker.ready, "a spare")
    spare = maker.take()
    assert spare is not None
    return spare


def test_one_is_made_when_it_is_wanted_and_another_when_it_was_taken(maker: SpareMaker, tmp_path: Path) -> None:
    assert not maker.ready
    assert maker.take() is None
    maker.want(ROOM_BYTES_MIN)
    # Not two at a time.
    maker.want(2 * ROOM_BYTES_MIN)
    spare = taken(maker)
    assert spare.size == ROOM_BYTES_MIN
    assert (tmp_path / SPARE_NAME).read_bytes() == bytes(ROOM_BYTES_MIN)
    assert not maker.ready
    (tmp_path / SPARE_NAME).rename(tmp_path / "used")
    RealDisk().close(spare.fd)
    maker.want(2 * ROOM_BYTES_MIN)
    wait_until(lambda: maker.ready, "a spare")
    assert (tmp_path / SPARE_NAME).stat().st_size == 2 * ROOM_BYTES_MIN
    (tmp_path / "used").unlink()


def test_a_disk_that_refused_is_asked_again(
    maker: SpareMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SPARE_NAME).mkdir()
    with caplog.at_level(logging.WARNING):
        maker.want(ROOM_BYTES_MIN)
        wait_until(lambda: bool(caplog.messages), "a word of it")
    assert "no room of 1048576 bytes could be made for the next segment: [Errno 17]" in caplog.messages[0]
    (tmp_path / SPARE_NAME).rmdir()

    def wanted_again() -> bool:
        maker.want(ROOM_BYTES_MIN)
        return maker.ready

    wait_until(wanted_again, "a spare")


def test_a_full_disk_has_no_room_made(caplog: pytest.LogCaptureFixture) -> None:
    memory, _ = disks()
    maker = SpareMaker(memory, DIRECTORY)
    memory.capacity = 64 * ROOM_BYTES_MIN - 1
    maker.want(4 * ROOM_BYTES_MIN)
    time.sleep(0.2)
    assert not maker.ready
    assert memory.tree() == {}
    memory.capacity = 65 * ROOM_BYTES_MIN
    maker.want(4 * ROOM_BYTES_MIN)
    # A part of what is left, whatever is wanted.
    assert taken(maker).size == 65 * ROOM_BYTES_MIN // 64
    maker.close()
    assert caplog.messages == []
