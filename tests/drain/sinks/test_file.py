import errno
import json
from pathlib import Path

import pytest
import zstandard

from edge.disk import RealDisk
from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.sink import Batch, Retryable, split_url
from edge.drain.sinks.file import FileSink, make
from edge.segment.name import SegmentName
from edge.segment.record import Record
from tests.fakes import EIO, Call, Fault, FaultyDisk, MemoryDisk

NAME = SegmentName(42, 0x9F31C0AA17BE5D02)


def events(*names: str) -> list[Event]:
    found: list[Event] = []
    for name in names:
        data = json.dumps({"event": name, "distinct_id": "u"}).encode()
        found += expand(Record("1-1", 1_763_690_000_000_000, "phc_x", "e", "203.0.113.7", data)).events
    return found


def sink(folder: Path, shape: str = "event", file_format: str = "ndjson") -> FileSink:
    return FileSink(RealDisk(), str(folder), shape, file_format)


def test_a_batch_is_one_file_named_by_its_origin(tmp_path: Path) -> None:
    size = sink(tmp_path / "out").ship(Batch(3, NAME, 48, 12345, events("a", "b")))
    [path] = (tmp_path / "out").iterdir()
    assert path.name == "slot-03-000000000042-9f31c0aa17be5d02-000000000048-000000012345.ndjson"
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert path.stat().st_size == size


def test_a_batch_without_events_makes_no_file(tmp_path: Path) -> None:
    assert sink(tmp_path).ship(Batch(0, NAME, 0, 100, [])) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_batch_published_before_a_crash_is_known_and_not_written_again(tmp_path: Path) -> None:
    sink(tmp_path).ship(Batch(0, NAME, 0, 100, events("a")))
    [path] = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    restarted = sink(tmp_path)
    assert restarted.already(0, NAME, 0) == 100
    assert restarted.already(0, NAME, 100) is None
    assert restarted.already(1, NAME, 0) is None
    assert restarted.ship(Batch(0, NAME, 0, 100, events("a"))) == 0
    assert path.stat().st_mtime_ns == before


def test_a_batch_published_before_a_power_cut_that_shortened_the_segment_is_not_written_again(tmp_path: Path) -> None:
    sink(tmp_path).ship(Batch(0, NAME, 0, 100, events("a", "b")))
    assert sink(tmp_path).ship(Batch(0, NAME, 0, 60, events("a"))) == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_crash_left_half_written_is_written_anew(tmp_path: Path) -> None:
    name = "slot-00-000000000042-9f31c0aa17be5d02-000000000000-000000000100.ndjson"
    (tmp_path / f".{name}.tmp").write_bytes(b'{"half')
    sink(tmp_path).ship(Batch(0, NAME, 0, 100, events("a")))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert json.loads((tmp_path / name).read_text())["event"] == "a"


def test_what_a_crash_left_of_another_batch_goes_when_its_slot_is_shipped(tmp_path: Path) -> None:
    """The same events may be cut otherwise the next time, so the name would never come again."""
    left = [
        tmp_path / f".slot-{slot:02d}-000000000042-9f31c0aa17be5d02-000000000000-000000000050.ndjson.tmp"
        for slot in (0, 1)
    ]
    for path in left:
        path.write_bytes(b'{"half')
    restarted = sink(tmp_path)
    assert [path.exists() for path in left] == [True, True]
    restarted.ship(Batch(0, NAME, 0, 100, events("a")))
    assert [path.exists() for path in left] == [False, True]


def test_what_another_drainer_published_until_it_gave_the_slot_away_is_known(tmp_path: Path) -> None:
    successor = sink(tmp_path)
    sink(tmp_path).ship(Batch(0, NAME, 0, 100, events("a")))
    assert successor.already(0, NAME, 0) == 100


def test_an_older_segment_may_be_asked_for_after_a_newer_one(tmp_path: Path) -> None:
    sink(tmp_path).ship(Batch(0, NAME, 0, 100, events("a")))
    restarted = sink(tmp_path)
    assert restarted.already(0, SegmentName(43, 0), 0) is None
    assert restarted.already(0, NAME, 0) == 100
    assert restarted.already(0, SegmentName(43, 0), 0) is None


@pytest.mark.parametrize("ends", [(60, 100), (100, 60)])
def test_of_two_files_that_begin_alike_the_longer_one_counts(ends: tuple[int, int]) -> None:
    disk = MemoryDisk()
    for end in ends:
        disk.write(f"/out/slot-00-{NAME}-000000000000-{end:012d}.ndjson", b"")
    assert FileSink(disk, "/out", "event", "ndjson").already(0, NAME, 0) == 100


def test_files_of_segments_that_are_over_are_not_remembered() -> None:
    disk = MemoryDisk()
    for counter in range(100):
        disk.write(f"/out/slot-00-{SegmentName(counter, 0)}-000000000000-000000000100.ndjson", b"")
    found = FileSink(disk, "/out", "event", "ndjson")
    assert found.already(0, SegmentName(98, 0), 0) == 100
    assert sorted(name.counter for _, name in found._published) == [98, 99]


def test_the_directory_is_read_once_however_many_batches_there_are() -> None:
    disk = FaultyDisk(MemoryDisk())
    found = FileSink(disk, "/out", "event", "ndjson")
    for start in range(0, 500, 100):
        assert found.already(0, NAME, start) is None
        found.ship(Batch(0, NAME, start, start + 100, events("a")))
    assert disk.methods("scan", "listdir") == ["scan"]


def test_a_folder_that_was_moved_away_is_made_again_and_survives_a_power_cut(tmp_path: Path) -> None:
    disk = FaultyDisk(RealDisk())
    found = FileSink(disk, str(tmp_path / "out"), "event", "ndjson")
    found.ship(Batch(0, NAME, 0, 100, events("a")))
    (tmp_path / "out").rename(tmp_path / "old")
    assert found.already(0, NAME, 100) is None
    disk.calls.clear()
    found.ship(Batch(0, NAME, 100, 200, events("b")))
    assert found.already(0, NAME, 200) is None
    [path] = (tmp_path / "out").iterdir()
    assert json.loads(path.read_text())["event"] == "b"
    assert disk.calls.count(Call("sync_directory", tmp_path.name)) == 1
    assert len(list((tmp_path / "old").iterdir())) == 1


def test_a_folder_that_is_away_when_it_is_looked_at_holds_nothing(tmp_path: Path) -> None:
    found = sink(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "old")
    assert found.already(0, NAME, 0) is None
    assert found.ship(Batch(0, NAME, 0, 100, events("a"))) > 0


def test_a_folder_that_cannot_be_read_is_worth_a_retry_and_no_reason_to_publish_again() -> None:
    disk = FaultyDisk(MemoryDisk())
    FileSink(disk, "/out", "event", "ndjson").ship(Batch(0, NAME, 0, 100, events("a")))
    found = FileSink(disk, "/out", "event", "ndjson")
    disk.fail_next("scan", Fault(EIO))
    with pytest.raises(Retryable, match="/out"):
        found.already(0, NAME, 0)
    assert found.already(0, NAME, 0) == 100


def test_compressed_files_hold_the_same_lines(tmp_path: Path) -> None:
    sink(tmp_path / "plain").ship(Batch(0, NAME, 0, 100, events("a", "b")))
    sink(tmp_path / "zst", file_format="ndjson.zst").ship(Batch(0, NAME, 0, 100, events("a", "b")))
    [plain] = (tmp_path / "plain").iterdir()
    [packed] = (tmp_path / "zst").iterdir()
    assert packed.name.endswith(".ndjson.zst")
    assert zstandard.ZstdDecompressor().decompress(packed.read_bytes()) == plain.read_bytes()


def test_the_captured_shape_carries_the_event_as_text(tmp_path: Path) -> None:
    sink(tmp_path, shape="captured").ship(Batch(0, NAME, 0, 100, events("a")))
    [path] = tmp_path.iterdir()
    line = json.loads(path.read_text())
    assert json.loads(line["data"]) == {"event": "a", "distinct_id": "u"}


class FullDisk(RealDisk):
    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_worth_a_retry_and_leaves_no_file_a_reader_would_see(tmp_path: Path) -> None:
    full = FileSink(FullDisk(), str(tmp_path), "event", "ndjson")
    with pytest.raises(Retryable, match="No space left"):
        full.ship(Batch(0, NAME, 0, 100, events("a")))
    assert [path for path in tmp_path.iterdir() if path.suffix == ".ndjson"] == []
    sink(tmp_path).ship(Batch(0, NAME, 0, 100, events("a")))
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".ndjson"]) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:", "expected a folder"),
        ("file:x?format=csv", "expected format to be one of ndjson, ndjson.zst, parquet, found 'csv'"),
        ("file:x?shape=flat", "expected shape to be one of event, captured, found 'flat'"),
        ("file:x?formt=ndjson", "expected the options shape, format, found 'formt'"),
        ("file:x?every=1s", "expected the options shape, format, found 'every'"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_was_expected(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(split_url(url))


def test_one_folder_has_one_name_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spellings = ["file:out", "file:./out", f"file:{tmp_path}/out", f"file://{tmp_path}/out", "file:out?shape=captured"]
    assert len({make(split_url(url))[0] for url in spellings}) == 1
    assert make(split_url("file:other"))[0] != make(split_url("file:out"))[0]


def test_a_folder_is_written_to_when_asked_and_nothing_is_left(tmp_path: Path) -> None:
    found = sink(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "old")
    assert found.probe() == f"{tmp_path}/out can be written"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_says_so_when_asked(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="No space left"):
        FileSink(FullDisk(), str(tmp_path), "event", "ndjson").probe()
    assert list(tmp_path.iterdir()) == []
