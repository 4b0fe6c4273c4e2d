import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.disk import RealDisk
from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.sink import Batch, Retryable, split_url
from edge.drain.sinks.file import make
from edge.drain.sinks.parquet import COLUMN_TYPES, ParquetSink, open_database
from edge.segment.name import SegmentName
from edge.segment.record import Record
from tests.fakes import EIO, Fault, FaultyDisk

NAME = SegmentName(42, 0x9F31C0AA17BE5D02)
AT_US = 1_763_690_000_000_000
FILE = "slot-03-000000000042-9f31c0aa17be5d02-000000000048-000000012345.parquet"


def event(name: str, token: str = "phc_x", at_us: int = AT_US, **members: Any) -> Event:
    data = json.dumps({"event": name, "distinct_id": "u", **members}).encode()
    [found] = expand(Record("1-1", at_us, token, "e", "203.0.113.7", data)).events
    return found


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(path: Path) -> list[dict[str, Any]]:
    """As a query engine sees the folder or file."""
    where = f"'{path}'"
    if path.is_dir():
        where = f"'{path}/**/*.parquet', hive_types = {{'token': VARCHAR, 'date': DATE}}"
    with open_database() as database:
        query = f"SELECT to_json(r) FROM read_parquet({where}) r"
        return [json.loads(line) for (line,) in database.execute(query).fetchall()]


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[ParquetSink]:
    found = ParquetSink(RealDisk(), str(tmp_path / "out"), 0.0)
    yield found
    found.close()


def test_a_batch_is_a_file_per_project_and_day_named_by_its_origin(sink: ParquetSink, tmp_path: Path) -> None:
    later = AT_US + 86_400_000_000
    events = [event("a"), event("b", "phc_y"), event("c"), event("d", at_us=later), event("e", "a/b =%")]
    size = sink.ship(Batch(3, NAME, 48, 12345, events))
    assert files(tmp_path / "out") == [
        f"token=a%2Fb%20%3D%25/date=2025-11-21/{FILE}",
        f"token=phc_x/date=2025-11-21/{FILE}",
        f"token=phc_x/date=2025-11-22/{FILE}",
        f"token=phc_y/date=2025-11-21/{FILE}",
    ]
    assert size == sum((tmp_path / "out" / name).stat().st_size for name in files(tmp_path / "out"))
    found = rows(tmp_path / "out")
    assert {(row["event"], row["token"], row["date"]) for row in found} == {
        ("a", "phc_x", "2025-11-21"),
        ("b", "phc_y", "2025-11-21"),
        ("c", "phc_x", "2025-11-21"),
        ("d", "phc_x", "2025-11-22"),
        ("e", "a/b =%", "2025-11-21"),
    }
    in_order = rows(tmp_path / "out" / "token=phc_x" / "date=2025-11-21" / FILE)
    assert [row["event"] for row in in_order] == ["a", "c"]


def test_whatever_a_client_sends_is_in_its_columns(sink: ParquetSink, tmp_path: Path) -> None:
    text = (
        b'{"event":"nul \\u0000 \xf0\x9f\xa6\x84","distinct_id":"u","timestamp":"0001-01-01T00:00:00Z",'
        b'"properties":{"n":1e999,"big":123456789012345678901234567890,"n":0},"$set":{"a":1}}'
    )
    odd = expand(Record("1-1", AT_US, "phc_x", "e", "203.0.113.7", text)).events
    late = event("late", timestamp="9999-12-31T23:59:59.999999Z", properties={"x": "y" * 20_000_000})
    sink.ship(Batch(0, NAME, 0, 100, [*odd, late]))
    [path] = (tmp_path / "out").rglob("*.parquet")
    with open_database() as database:
        kinds = {row[0]: row[1] for row in database.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()}
    long = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
    in_file = {name: kind for name, kind in COLUMN_TYPES.items() if name != "token"}
    assert {name: kinds[name] for name in in_file} == {name: long.get(kind, kind) for name, kind in in_file.items()}
    first, second = rows(path)
    assert first["event"] == "nul \0 \N{UNICORN FACE}"
    assert first["timestamp"] == "0001-01-01 00:00:00+00"
    assert first["properties"] == '{"n":1e999,"big":123456789012345678901234567890,"n":0}'
    assert first["members"] == '{"$set":{"a":1}}'
    assert first["sent_at"] is None
    assert first["historical_migration"] is False
    assert len(second["properties"]) > 20_000_000


def test_what_a_crash_left_out_is_written_and_nothing_else(sink: ParquetSink, tmp_path: Path) -> None:
    events = [event("a"), event("b", "phc_y")]
    sink.ship(Batch(3, NAME, 48, 12345, events))
    kept = tmp_path / "out" / "token=phc_x" / "date=2025-11-21" / FILE
    before = kept.stat().st_mtime_ns
    (tmp_path / "out" / "token=phc_y" / "date=2025-11-21" / FILE).unlink()

    restarted = ParquetSink(RealDisk(), str(tmp_path / "out"), 0.0)
    assert restarted.already(3, NAME, 48) == 12345
    assert restarted.already(3, NAME, 49) is None
    assert restarted.already(2, NAME, 48) is None
    assert restarted.ship(Batch(3, NAME, 48, 12345, events)) > 0
    restarted.close()
    assert [row["event"] for row in rows(tmp_path / "out")] == ["a", "b"]
    assert kept.stat().st_mtime_ns == before


class FullDisk(RealDisk):
    """Has room for one file."""

    def __init__(self) -> None:
        self.writes = 0

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self.writes += 1
        if self.writes == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().pwrite(fd, data, offset)


def test_a_disk_that_fills_up_in_the_middle_of_a_batch_costs_nothing(tmp_path: Path) -> None:
    sink = ParquetSink(FullDisk(), str(tmp_path / "out"), 0.0)
    batch = Batch(3, NAME, 48, 12345, [event("a"), event("b", "phc_y")])
    with pytest.raises(Retryable, match="No space left"):
        sink.ship(batch)
    assert [row["event"] for row in rows(tmp_path / "out")] == ["a"]
    sink.ship(batch)
    sink.close()
    assert [row["event"] for row in rows(tmp_path / "out")] == ["a", "b"]


def test_a_folder_that_was_moved_away_is_made_again_and_survives_a_power_cut(tmp_path: Path) -> None:
    disk = FaultyDisk(RealDisk())
    sink = ParquetSink(disk, str(tmp_path / "out"), 0.0)
    sink.ship(Batch(3, NAME, 48, 100, [event("a")]))
    (tmp_path / "out").rename(tmp_path / "old")
    disk.calls.clear()
    sink.ship(Batch(3, NAME, 100, 200, [event("b")]))
    sink.close()
    assert [row["event"] for row in rows(tmp_path / "out")] == ["b"]
    synced = [call.name for call in disk.calls if call.method == "sync_directory"]
    assert synced == ["token=phc_x", "out", tmp_path.name, "date=2025-11-21"]


def test_a_batch_without_events_makes_no_file(sink: ParquetSink, tmp_path: Path) -> None:
    assert sink.ship(Batch(0, NAME, 0, 100, [])) == 0
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("&shape=event", "expected the options format, found 'shape'"),
        ("&every=often", "every: expected a duration above zero such as 5s, found 'often'"),
    ],
)
def test_options_that_cannot_be_used_say_what_was_expected(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(split_url(f"file:x?format=parquet{options}"))


def test_how_often_files_are_written_is_an_option(tmp_path: Path) -> None:
    sink_id, sink = make(split_url(f"file:{tmp_path}/out?format=parquet&every=3s"))
    assert isinstance(sink, ParquetSink)
    assert sink.linger_s == 3.0
    assert sink_id == make(split_url(f"file:{tmp_path}/out"))[0]


def test_a_folder_is_written_to_when_asked_and_nothing_is_left(sink: ParquetSink, tmp_path: Path) -> None:
    (tmp_path / "out").rename(tmp_path / "old")
    assert sink.probe() == f"{tmp_path}/out can be written"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_says_so_when_asked(tmp_path: Path) -> None:
    disk = FaultyDisk(RealDisk())
    found = ParquetSink(disk, str(tmp_path), 0.0)
    disk.fail_next("sync", Fault(EIO))
    with pytest.raises(Retryable, match="Input/output error"):
        found.probe()
    assert list(tmp_path.iterdir()) == []
