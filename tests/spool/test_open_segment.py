import random

import pytest
import zstandard

from edge.segment.frame import Compressor, Packed, encode_segment_header, is_room, parse_segment_header
from edge.segment.name import State
from edge.segment.scan import Frame, scan
from edge.spool.open_segment import LeftOpen, OpenSegment, delete_unbegun
from edge.spool.spare import make_spare
from tests.fakes import EIO, ENOSPC, Fault, FaultyDisk, MemoryDisk
from tests.segments import CREATED_US, NAME, damage, found, records, segment

DIRECTORY = "/slot"
OPEN = f"{DIRECTORY}/{NAME.file_name(State.OPEN)}"
SEALED = f"{DIRECTORY}/{NAME.file_name(State.SEALED)}"
SUSPECT = f"{DIRECTORY}/{NAME.file_name(State.SUSPECT)}"
GROUPS = [records(2), records(1, first=2), records(3, first=3)]


def disks() -> tuple[MemoryDisk, FaultyDisk]:
    memory = MemoryDisk()
    memory.makedirs(DIRECTORY)
    memory.settle()
    return memory, FaultyDisk(memory)


def opened(disk: FaultyDisk, room: int = 0) -> OpenSegment:
    spare = make_spare(disk, DIRECTORY, room, lambda _: False) if room else None
    disk.calls.clear()
    return OpenSegment(disk, DIRECTORY, NAME, 3, CREATED_US, spare)


def packed(lines: list[bytes]) -> Packed:
    return Compressor().pack(b"".join(lines), len(lines), len(lines), CREATED_US)


def test_segment_begins_with_its_header_and_holds_what_was_appended() -> None:
    memory, disk = disks()
    segment = opened(disk)
    header = parse_segment_header(memory.read(OPEN))
    assert header is not None
    assert (header.name, header.slot, header.created_us) == (NAME, 3, CREATED_US)
    written = segment.append([packed(GROUPS[0]), packed(GROUPS[1])])
    written += segment.append([packed(GROUPS[2])])
    data = memory.read(OPEN)
    assert found(data) == GROUPS
    assert len(data) == segment.size == 48 + written
    frames = [item for item in scan(data, NAME.incarnation) if isinstance(item, Frame)]
    assert [frame.header.sequence for frame in frames] == [0, 1, 2]
    assert [frame.header.previous_bytes for frame in frames] == [0, *(f.end - f.offset for f in frames[:-1])]


def test_frames_of_one_append_are_one_write() -> None:
    _, disk = disks()
    segment = opened(disk)
    before = len(disk.methods("pwrite"))
    segment.append([packed(group) for group in GROUPS])
    assert len(disk.methods("pwrite")) == before + 1


def in_pieces(size: int) -> Packed:
    """A frame of noise, more than `size` bytes, in the pieces it may come in."""
    line = random.Random(size).randbytes(size).hex().encode() + b"\n"
    frame = Compressor().compress(line)
    pieces = [frame[at : at + 100_000] for at in range(0, len(frame), 100_000)]
    return Packed(pieces, len(frame), 1, 1, len(line), CREATED_US)


def test_large_frame_in_pieces_is_never_put_together() -> None:
    memory, disk = disks()
    segment = opened(disk)
    large = in_pieces(4_000_000)
    disk.written.clear()
    written = segment.append([packed(GROUPS[0]), large, packed(GROUPS[1])])
    assert sum(disk.written) == written > 4_000_000
    assert len(disk.written) >= 4
    assert max(disk.written) < 1_200_000
    data = memory.read(OPEN)
    assert len(data) == segment.size == 48 + written
    [first, noise, last] = found(data)
    assert (first, last) == (GROUPS[0], GROUPS[1])
    assert len(noise[0]) == large.raw_bytes


@pytest.mark.parametrize("room", [0, 16_000_000], ids=["growing", "in a room"])
@pytest.mark.parametrize("whole", [0, 1, 3])
def test_large_frame_that_fails_between_its_writes_leaves_nothing(whole: int, room: int) -> None:
    memory, disk = disks()
    segment = opened(disk, room)
    segment.append([packed(GROUPS[0])])
    size = segment.size
    before = memory.read(OPEN)[:size]
    disk.fail_next("pwrite", *[None] * whole, Fault(ENOSPC))
    with pytest.raises(OSError, match="space"):
        segment.append([in_pieces(4_000_000)])
    assert segment.size == size
    assert memory.read(OPEN) == before
    segment.abandon()
    assert memory.after_power_loss().tree() == {SEALED: before}
    assert memory.open_descriptors == []


def test_sealing_syncs_then_renames_then_syncs_the_directory() -> None:
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    segment.seal()
    assert disk.methods("sync", "rename", "sync_directory", "close") == ["sync", "rename", "sync_directory", "close"]
    assert list(memory.after_power_loss().tree()) == [SEALED]
    assert found(memory.after_power_loss().read(SEALED)) == GROUPS[:1]
    assert memory.open_descriptors == []


def test_name_of_a_new_segment_is_stable_after_sync_creation() -> None:
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    segment.sync()
    assert memory.after_power_loss().tree() == {}
    segment.sync_creation()
    assert found(memory.after_power_loss().read(OPEN)) == GROUPS[:1]


@pytest.mark.parametrize("fault", [Fault(ENOSPC), Fault(EIO)], ids=str)
def test_segment_whose_header_cannot_be_written_leaves_nothing(fault: Fault) -> None:
    memory, disk = disks()
    disk.fail_next("pwrite", Fault(short=7), fault)
    with pytest.raises(OSError, match=r"space|Input"):
        opened(disk)
    assert memory.tree() == {}
    assert memory.open_descriptors == []


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param((Fault(ENOSPC),), id="full"),
        pytest.param((Fault(short=30), Fault(ENOSPC)), id="full in the middle"),
        pytest.param((Fault(short=200), Fault(EIO)), id="error in the second frame"),
        pytest.param((Fault(short=30), Fault(short=0), Fault(short=0)), id="no progress"),
    ],
)
def test_append_that_fails_is_cut_back_to_the_last_whole_commit(faults: tuple[Fault, ...]) -> None:
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    before = memory.read(OPEN)
    disk.fail_next("pwrite", *faults)
    with pytest.raises(OSError, match=r"."):
        segment.append([packed(GROUPS[1]), packed(GROUPS[2])])
    assert memory.read(OPEN) == before
    segment.abandon()
    assert memory.after_power_loss().tree() == {SEALED: before}
    assert memory.open_descriptors == []


def test_write_cut_short_at_every_byte_is_continued_or_leaves_nothing() -> None:
    size = len(segment(GROUPS[:1])[0])
    for short in range(size + 1):
        for then in (None, Fault(ENOSPC), Fault(short=0)):
            memory, disk = disks()
            written = opened(disk)
            disk.fail_next("pwrite", Fault(short=short), then, None)
            try:
                written.append([packed(GROUPS[0])])
            except OSError:
                assert then is not None or short == 0
                assert memory.read(OPEN) == encode_segment_header(NAME, 3, CREATED_US)
            else:
                assert found(memory.read(OPEN)) == GROUPS[:1]
            disk.heal()


def test_segment_that_could_not_be_cut_back_is_left_for_recovery_with_its_commits_synced() -> None:
    """A sealed segment never ends in half a frame."""
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    disk.fail_next("pwrite", Fault(short=30), Fault(EIO))
    disk.fail_next("truncate", Fault(EIO))
    with pytest.raises(OSError, match="Input"):
        segment.append([packed(GROUPS[1])])
    segment.abandon()
    assert list(memory.after_power_loss().tree()) == [SUSPECT]
    assert found(memory.after_power_loss().read(SUSPECT)) == GROUPS[:1]


def test_failed_sync_is_never_tried_again_on_the_descriptor() -> None:
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    disk.fail_next("sync", Fault(EIO))
    for method in (segment.sync, segment.sync, segment.seal):
        with pytest.raises(OSError, match=r"Input|no second one"):
            method()
    with pytest.raises(OSError, match="no second one"):
        segment.abandon()
    assert disk.methods("sync") == ["sync"]
    assert list(memory.tree()) == [SUSPECT]
    assert memory.open_descriptors == []


def test_segment_whose_sync_failed_is_suspect_at_once() -> None:
    """A writer that is killed now leaves no name that a successor would take for that of a sound file."""
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    disk.fail_next("sync", Fault(EIO))
    with pytest.raises(OSError, match="Input/output"):
        segment.sync()
    assert list(memory.tree()) == [SUSPECT]


@pytest.mark.parametrize(
    ("faults", "left"),
    [
        pytest.param({}, SEALED, id="nothing fails"),
        pytest.param({"rename": [Fault(EIO)]}, SUSPECT, id="rename"),
        pytest.param({"rename": [Fault(EIO), Fault(EIO)]}, OPEN, id="both renames"),
        pytest.param({"sync_directory": [Fault(EIO)]}, SEALED, id="directory"),
        pytest.param({"sync": [Fault(EIO)]}, SUSPECT, id="sync"),
    ],
)
def test_abandoned_segment_is_sealed_or_set_aside_and_says_which(faults: dict[str, list[Fault]], left: str) -> None:
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    for method, planned in faults.items():
        disk.fail_next(method, *planned)
    if faults:
        with pytest.raises(OSError, match="Input"):
            segment.abandon()
    else:
        segment.abandon()
    assert list(memory.tree()) == [left]
    assert memory.open_descriptors == []
    segment.abandon()
    assert list(memory.tree()) == [left]
    assert damage(memory.read(left)) == []
    assert segment.left_open == (left == OPEN)


@pytest.mark.parametrize("made", [False, True], ids=["refused", "made all the same"])
def test_name_of_a_segment_that_was_left_open_is_tried_until_it_is_another(made: bool) -> None:
    memory, disk = disks()
    segment = opened(disk)
    segment.append([packed(GROUPS[0])])
    assert not segment.left_open
    disk.fail_next("rename", Fault(EIO), Fault(EIO), Fault(EIO))
    with pytest.raises(OSError, match="Input"):
        segment.abandon()
    with pytest.raises(OSError, match="Input"):
        segment.set_aside()
    assert segment.left_open
    if made:
        memory.rename(OPEN, SUSPECT)
    for _ in range(2):
        segment.set_aside()
        assert list(memory.tree()) == [SUSPECT]


@pytest.mark.parametrize("room", [0, 4000])
def test_segment_that_is_neither_begun_nor_deleted_says_so(room: int) -> None:
    memory, disk = disks()
    disk.fail_next("unlink", Fault(EIO), Fault(EIO))
    disk.fail_next("pwrite", *[None] * bool(room), Fault(ENOSPC))
    with pytest.raises(LeftOpen, match="space"):
        opened(disk, room)
    assert list(memory.tree()) == [OPEN]
    assert memory.open_descriptors == []
    with pytest.raises(OSError, match="Input"):
        delete_unbegun(disk, DIRECTORY, NAME)
    for _ in range(2):
        delete_unbegun(disk, DIRECTORY, NAME)
        assert memory.tree() == {}


def frames_bytes(*groups: list[bytes]) -> int:
    return len(segment(list(groups))[0]) - 48


class TestRoom:
    def test_commits_are_written_into_it_and_change_no_size(self) -> None:
        memory, disk = disks()
        segment = opened(disk, 4000)
        assert disk.methods("create") == []
        for group in GROUPS:
            segment.append([packed(group)])
            assert len(memory.read(OPEN)) == 4000
            assert is_room(memory.read(OPEN)[segment.size :])
        assert found(memory.read(OPEN)) == GROUPS
        assert not segment.outgrown
        segment.sync()
        segment.sync_creation()
        assert memory.after_power_loss().tree() == {OPEN: memory.read(OPEN)}

    def test_zstd_reads_the_file_at_any_time(self) -> None:
        memory, disk = disks()
        segment = opened(disk, 4000)
        written: list[bytes] = []
        for group in GROUPS:
            segment.append([packed(group)])
            written += group
            with zstandard.ZstdDecompressor().stream_reader(memory.read(OPEN), read_across_frames=True) as reader:
                assert reader.read().splitlines(keepends=True) == written

    def test_what_is_left_of_it_is_cut_off_before_the_name_says_sealed(self) -> None:
        memory, disk = disks()
        segment = opened(disk, 4000)
        segment.append([packed(GROUPS[0])])
        segment.seal()
        assert disk.methods("truncate", "sync", "rename") == ["rename", "truncate", "sync", "rename"]
        assert list(memory.after_power_loss().tree()) == [SEALED]
        data = memory.after_power_loss().read(SEALED)
        assert len(data) == segment.size
        assert found(data) == GROUPS[:1]

    @pytest.mark.parametrize("left", range(-9, 10))
    def test_the_file_grows_where_it_ends(self, left: int) -> None:
        memory, disk = disks()
        segment = opened(disk, 48 + frames_bytes(GROUPS[0]) + left)
        segment.append([packed(GROUPS[0])])
        data = memory.read(OPEN)
        assert len(data) == (segment.size + left if left >= 8 else segment.size)
        assert segment.outgrown == (left <= 0)
        segment.append([packed(GROUPS[1])])
        assert found(memory.read(OPEN)) == GROUPS[:2]
        assert len(memory.read(OPEN)) == segment.size
        assert segment.outgrown
        segment.seal()
        assert found(memory.after_power_loss().read(SEALED)) == GROUPS[:2]

    def test_a_segment_without_it_cannot_outgrow_it(self) -> None:
        _, disk = disks()
        segment = opened(disk)
        segment.append([packed(GROUPS[0])])
        assert not segment.outgrown

    def test_a_write_that_fails_is_cut_back_with_the_room_behind_it(self) -> None:
        memory, disk = disks()
        segment = opened(disk, 4000)
        segment.append([packed(GROUPS[0])])
        size = segment.size
        disk.fail_next("pwrite", Fault(short=30), Fault(ENOSPC))
        with pytest.raises(OSError, match="space"):
            segment.append([packed(GROUPS[1])])
        assert len(memory.read(OPEN)) == size
        segment.abandon()
        data = memory.after_power_loss().read(SEALED)
        assert (len(data), found(data)) == (size, GROUPS[:1])

    def test_room_that_cannot_be_cut_off_is_left_for_recovery(self) -> None:
        memory, disk = disks()
        segment = opened(disk, 4000)
        segment.append([packed(GROUPS[0])])
        segment.sync()
        segment.sync_creation()
        disk.fail_next("truncate", Fault(EIO), Fault(EIO))
        with pytest.raises(OSError, match="Input"):
            segment.seal()
        with pytest.raises(OSError, match="Input"):
            segment.abandon()
        assert list(memory.tree()) == [SUSPECT]
        assert found(memory.after_power_loss().tree().popitem()[1]) == GROUPS[:1]
        assert memory.open_descriptors == []

    @pytest.mark.parametrize("method", ["rename", "pwrite"])
    def test_a_segment_that_cannot_be_begun_leaves_nothing(self, method: str) -> None:
        memory, disk = disks()
        spare = make_spare(disk, DIRECTORY, 4000, lambda _: False)
        disk.fail_next(method, Fault(EIO))
        with pytest.raises(OSError, match="Input"):
            OpenSegment(disk, DIRECTORY, NAME, 3, CREATED_US, spare)
        assert memory.tree() == {}
        assert memory.open_descriptors == []
