import errno

import msgspec
import pytest

from edge.checkpoints import (
    Checkpoint,
    CheckpointFile,
    Position,
    Totals,
    Trouble,
    clear_trouble,
    decode_checkpoint,
    encode_checkpoint,
    list_files,
    load_all,
)
from edge.segment.name import SegmentName
from tests.fakes import EIO, ENOSPC, Fault, FaultyDisk, MemoryDisk

DIRECTORY = "/data/ckpt"
NEWEST = "/data/ckpt/file.json"
PREVIOUS = "/data/ckpt/file.prev.json"
STEM = "000000000042-9f31c0aa17be5d02"


def checkpoint(offset: int) -> Checkpoint:
    return Checkpoint(
        "file:events",
        {0: Position(STEM, offset), 12: Position(STEM, 0)},
        Totals(records=3, shipped=7, dropped={"no_event": 2}, quarantined=1, bytes=99, damaged_bytes=4),
    )


def memory(**files: bytes) -> MemoryDisk:
    disk = MemoryDisk()
    disk.makedirs(DIRECTORY)
    for name, data in files.items():
        disk.write({"newest": NEWEST, "previous": PREVIOUS}[name], data)
    disk.settle()
    return disk


def loaded_offset(disk: MemoryDisk) -> int | None:
    found = CheckpointFile(disk, DIRECTORY, "file").load()
    return found.slots[0].offset if found else None


def test_checkpoint_is_read_as_it_was_written() -> None:
    data = encode_checkpoint(checkpoint(48))
    assert decode_checkpoint(data) == checkpoint(48)
    assert [msgspec.json.decode(line) for line in data.splitlines()][1:] == [data[-18:-2].decode()]


def test_position_names_its_segment() -> None:
    assert Position(STEM, 0).name == SegmentName(42, 0x9F31C0AA17BE5D02)


def test_damage_of_any_byte_is_noticed() -> None:
    data = encode_checkpoint(checkpoint(48))
    for index in range(len(data)):
        for changed in (data[:index], data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]):
            with pytest.raises(ValueError, match=r"."):
                decode_checkpoint(changed)
    with pytest.raises(ValueError, match="checksum"):
        decode_checkpoint(data + b"\n")


@pytest.mark.parametrize(
    "position",
    [
        pytest.param(Position("not a segment", 0), id="segment"),
        pytest.param(Position(STEM, -1), id="offset"),
    ],
)
def test_position_that_cannot_be_is_refused_with_a_right_checksum(position: Position) -> None:
    with pytest.raises(ValueError, match="expected a segment and an offset"):
        decode_checkpoint(encode_checkpoint(Checkpoint("null:", {0: position})))


def test_there_is_no_checkpoint_at_first() -> None:
    assert CheckpointFile(memory(), DIRECTORY, "file").load() is None
    assert load_all(MemoryDisk(), DIRECTORY) == {}


def test_saved_checkpoint_survives_a_power_cut_with_the_one_before_it() -> None:
    disk = memory()
    file = CheckpointFile(disk, DIRECTORY, "file")
    for offset in (1, 2, 3):
        file.save(checkpoint(offset))
    found = disk.after_power_loss()
    assert found.tree() == {NEWEST: encode_checkpoint(checkpoint(3)), PREVIOUS: encode_checkpoint(checkpoint(2))}


def test_torn_at_every_byte_the_one_before_is_loaded() -> None:
    newest, previous = encode_checkpoint(checkpoint(2)), encode_checkpoint(checkpoint(1))
    for cut in range(len(newest)):
        assert loaded_offset(memory(newest=newest[:cut], previous=previous)) == 1, cut
        assert loaded_offset(memory(newest=newest[:cut] + bytes(len(newest) - cut), previous=previous)) == 1, cut


def test_both_damaged_is_none() -> None:
    assert loaded_offset(memory(newest=b"{}", previous=b"")) is None


@pytest.mark.parametrize("method", ["open", "pread"])
@pytest.mark.parametrize("error", [EIO, errno.EUCLEAN, errno.EACCES])
def test_newest_that_cannot_be_read_falls_back_to_the_one_before(method: str, error: int) -> None:
    disk = FaultyDisk(memory(newest=encode_checkpoint(checkpoint(2)), previous=encode_checkpoint(checkpoint(1))))
    for _ in range(2):
        disk.fail_next(method, Fault(error))
        assert load_all(disk, DIRECTORY) == {"file": checkpoint(1)}
    disk.fail_next(method, Fault(error))
    file = CheckpointFile(disk, DIRECTORY, "file")
    file.save(checkpoint(3))
    assert file.load() == checkpoint(3)


@pytest.mark.parametrize("error", [EIO, errno.EUCLEAN, errno.EBADMSG])
def test_both_lost_by_the_device_is_none_and_no_other_sinks_affair(error: int) -> None:
    disk = FaultyDisk(memory(newest=encode_checkpoint(checkpoint(2)), previous=encode_checkpoint(checkpoint(1))))
    CheckpointFile(disk, DIRECTORY, "null").save(checkpoint(5))
    disk.fail_next("open", Fault(EIO), Fault(error))
    assert load_all(disk, DIRECTORY) == {"null": checkpoint(5)}


@pytest.mark.parametrize("newest_refused", [Fault(errno.EACCES), Fault(errno.EMFILE), Fault(EIO)], ids=str)
def test_none_that_can_be_read_where_one_may_be_later_is_an_error(newest_refused: Fault) -> None:
    """A worker would begin again at the first counter, and what it wrote would lie before the position that comes back."""
    disk = FaultyDisk(memory(newest=encode_checkpoint(checkpoint(2)), previous=encode_checkpoint(checkpoint(1))))
    disk.fail_next("open", newest_refused, Fault(errno.EACCES))
    with pytest.raises(OSError, match=r"Permission denied|Too many"):
        load_all(disk, DIRECTORY)


def test_each_of_the_two_knows_the_newest_segment_whatever_fails_meanwhile() -> None:
    """A segment before the position may be deleted, and its counter must be known for ever."""
    n = 0
    while True:
        inner = memory()
        disk = FaultyDisk(inner)
        file = CheckpointFile(disk, DIRECTORY, "file")
        durable = 0
        disk.fail_nth(n, Fault(EIO))
        for counter in (1, 2, 2, 3):
            try:
                file.save(Checkpoint("file:", {0: Position(str(SegmentName(counter, 7)), 48)}))
                durable = counter
            except OSError:
                pass
            for name, data in inner.after_power_loss().tree().items():
                if name in (NEWEST, PREVIOUS):
                    assert decode_checkpoint(data).slots[0].name.counter >= durable, (n, name)
        assert durable == 3 or disk.failed
        if n >= len(disk.calls):
            break
        n += 1
    assert n >= 30


@pytest.mark.parametrize("newest", [b"", b"garbage", encode_checkpoint(checkpoint(2))], ids=["empty", "bad", "good"])
@pytest.mark.parametrize("fault", [Fault(EIO), Fault(ENOSPC), Fault(short=3), Fault(short=0)], ids=str)
def test_save_interrupted_at_every_call_leaves_a_loadable_one_and_the_next_save_works(
    newest: bytes, fault: Fault
) -> None:
    """Also when the newest is damaged: the good one before it is not overwritten with that."""
    before = 1 if newest != encode_checkpoint(checkpoint(2)) else 2
    n = 0
    while True:
        inner = memory(newest=newest, previous=encode_checkpoint(checkpoint(1)))
        seen: list[int | None] = []

        def look(inner: MemoryDisk = inner, seen: list[int | None] = seen) -> None:
            seen.append(loaded_offset(inner.after_kill()))
            seen.append(loaded_offset(inner.after_power_loss()))

        disk = FaultyDisk(inner, look)
        disk.fail_nth(n, fault)
        file = CheckpointFile(disk, DIRECTORY, "file")
        try:
            file.save(checkpoint(3))
        except OSError:
            assert loaded_offset(inner.after_power_loss()) in (before, 3)
        else:
            assert loaded_offset(inner.after_power_loss()) == 3
        if n >= len(disk.calls):
            break
        assert set(seen) <= {before, 3}
        file.save(checkpoint(4))
        assert loaded_offset(inner.after_power_loss()) == 4
        assert inner.open_descriptors == []
        n += 1
    assert n >= 8


def test_all_sinks_checkpoints_are_found_those_with_only_an_earlier_one_included() -> None:
    disk = memory(previous=encode_checkpoint(checkpoint(1)))
    CheckpointFile(disk, DIRECTORY, "null").save(checkpoint(5))
    disk.write(f"{DIRECTORY}/broken.json", b"?")
    disk.write(f"{DIRECTORY}/.null.json.tmp", b"?")
    disk.write(f"{DIRECTORY}/.lock", b"")
    assert load_all(disk, DIRECTORY) == {"file": checkpoint(1), "null": checkpoint(5)}


def test_dropped_counts_are_not_shared_between_checkpoints() -> None:
    one, other = Checkpoint("a"), Checkpoint("b")
    one.totals.dropped["reason"] = 1
    one.slots[0] = Position(STEM, 1)
    assert (other.totals.dropped, other.slots) == ({}, {})


def test_files_of_several_drainers_are_one_checkpoint() -> None:
    """The furthest position of a slot stands, whichever file has it; what was confirmed is the sum."""
    disk = memory()
    later = "000000000043-9f31c0aa17be5d02"
    slots: list[dict[int, Position]] = [
        {0: Position(STEM, 900), 1: Position(STEM, 50), 2: Position(later, 48)},
        {1: Position(STEM, 60), 3: Position(STEM, 48)},
        {0: Position(later, 48), 2: Position(STEM, 900)},
    ]
    trouble = Trouble("paused", "no such topic", 5)
    for drainer, each in enumerate(slots):
        totals = Totals(records=1, accepted=6, shipped=3, dropped={"no_event": 1, f"only_{drainer}": 2})
        file = CheckpointFile(disk, DIRECTORY, "file", drainer)
        file.save(Checkpoint("file:events", each, totals, trouble if drainer == 1 else None))
    assert list_files(disk, DIRECTORY) == {"file": [0, 1, 2]}
    assert load_all(disk, DIRECTORY)["file"] == Checkpoint(
        "file:events",
        {0: Position(later, 48), 1: Position(STEM, 60), 2: Position(later, 48), 3: Position(STEM, 48)},
        Totals(
            records=3,
            accepted=18,
            shipped=9,
            dropped={"no_event": 3, "only_0": 2, "only_1": 2, "only_2": 2},
        ),
        trouble,
    )
    clear_trouble(disk, DIRECTORY, "file", 1)
    assert load_all(disk, DIRECTORY)["file"].trouble is None
    assert CheckpointFile(disk, DIRECTORY, "file", 1).load() == Checkpoint(
        "file:events", slots[1], Totals(records=1, accepted=6, shipped=3, dropped={"no_event": 1, "only_1": 2})
    )


def test_sums_have_every_total() -> None:
    ones = Totals(**{name: {"why": 1} if name == "dropped" else 1 for name in Totals.__struct_fields__})  # type: ignore[arg-type]
    twos = Totals(**{name: {"why": 2} if name == "dropped" else 2 for name in Totals.__struct_fields__})  # type: ignore[arg-type]
    ones.add(ones)
    assert ones == twos
