"""`file:DIR?format=parquet`: the events of a batch as Parquet files, one per project and day, in folders that engines prune by.

    token=phc_x/date=2026-11-21/slot-00-000000000042-9f31c0aa17be5d02-000000000048-000000012345.parquet

The day is that of acceptance, UTC: a client may claim any time, and would choose how many files there are. The token is in the
path only, as engines expect it, percent-encoded; every other column of a row (`edge/drain/shapes.py`) is in the file.

As with `file:DIR` the name says which bytes of which segment the events come from, and each file is published whole. A crash
may leave some files of a batch and not the others; the range in their names makes the next process cut the same batch again,
and it writes what is missing.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from edge.disk import Disk, make_directory, write_durably
from edge.drain.event import Event
from edge.drain.probing import probe_directory
from edge.drain.shapes import COLUMNS, row_line
from edge.drain.sink import READ_BYTES, Batch, Retryable, SinkUrl
from edge.drain.timestamps import format_time
from edge.notation import parse_duration
from edge.segment.name import SegmentName

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PARQUET_EVERY: Final = "10s"
"""A batch is a file per project: larger ones read faster, and there are fewer of them."""
ROW_BYTES_MAX: Final = 1 << 30
"""Above anything the edge accepts."""

_TYPES: Final = {
    "timestamp": "TIMESTAMPTZ",
    "now": "TIMESTAMPTZ",
    "sent_at": "TIMESTAMPTZ",
    "historical_migration": "BOOLEAN",
}
COLUMN_TYPES: Final = {column: _TYPES.get(column, "VARCHAR") for column in COLUMNS}
"""In DuckDB's words, in order. JSON is text: what clients send need not be what every engine takes for JSON."""

_PARTITION: Final = re.compile(r"token=[^/]+/date=[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NAME: Final = re.compile(r"slot-(\d+)-(\d+)-([0-9a-f]{16})-(\d+)-(\d+)\.parquet")


def linger_of(url: SinkUrl, default: str) -> float:
    """The option `every`, seconds: shortest time between two batches of a slot. Raises `ValueError`."""
    text = url.options.get("every", default)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{url.scheme}: every: {error}, found {text!r}") from None


def require_duckdb(who: str) -> None:
    """Raises `ValueError` where the library is missing."""
    try:
        import duckdb  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{who}: expected the package duckdb: pip install "capture-edge[sql]" ({error})') from error


def open_database() -> "DuckDBPyConnection":
    """In memory, on one core, in UTC; it fetches nothing from anywhere."""
    import duckdb

    database = duckdb.connect(
        ":memory:",
        config={"threads": 1, "autoinstall_known_extensions": "false", "autoload_known_extensions": "false"},
    )
    database.execute("SET TimeZone = 'UTC'")
    return database


def select_rows(path: str) -> str:
    """The query that reads a file of `row_line`s."""
    columns = ", ".join(f"{column}: '{kind}'" for column, kind in COLUMN_TYPES.items())
    return (
        f"SELECT * FROM read_json({literal(path)}, format = 'newline_delimited', "  # noqa: S608 - our own words
        f"maximum_object_size = {ROW_BYTES_MAX}, columns = {{{columns}}})"
    )


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class ParquetEncoder:
    """Opens its database when it is first used."""

    def __init__(self) -> None:
        self._database: DuckDBPyConnection | None = None

    def encode(self, rows: list[bytes], without: str = "") -> bytes:
        """A Parquet file of lines of `row_line`, but for one column. Raises `OSError`, and `Retryable` when out of memory."""
        import duckdb

        if self._database is None:
            self._database = open_database()
        left_out = f" EXCLUDE ({without})" if without else ""
        with tempfile.TemporaryDirectory(prefix="edge-parquet-") as folder:
            source, target = Path(folder, "rows.ndjson"), Path(folder, "rows.parquet")
            source.write_bytes(b"\n".join(rows) + b"\n")
            query = f"SELECT *{left_out} FROM ({select_rows(str(source))})"  # noqa: S608 - our own words
            try:
                self._database.execute(f"COPY ({query}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")
            except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
                raise Retryable(f"parquet: {error}") from error
            return target.read_bytes()

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class ParquetSink:
    read_bytes = READ_BYTES
    by_range = True

    def __init__(self, disk: Disk, directory: str, linger_s: float) -> None:
        self.linger_s = linger_s
        self._disk = disk
        self._directory = directory
        self._encoder = ParquetEncoder()
        make_directory(self._disk, self._directory)
        self._published: dict[tuple[int, SegmentName, int], dict[str, int]] = {}
        """Where the files of a batch end, by its beginning and their folder."""
        for partition, name in _files(disk, directory):
            match = _NAME.fullmatch(name)
            if match:
                begins = int(match[1]), SegmentName(int(match[2]), int(match[3], 16)), int(match[4])
                ends = self._published.setdefault(begins, {})
                ends[partition] = max(ends.get(partition, 0), int(match[5]))

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        ends = self._published.get((slot, name, start))
        return max(ends.values()) if ends else None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def ship(self, batch: Batch) -> int:
        partitions: dict[str, list[bytes]] = {}
        for event in batch.events:
            partitions.setdefault(partition_of(event), []).append(row_line(event))
        begins = batch.slot, batch.name, batch.start
        size = 0
        for partition, rows in partitions.items():
            # What was published may reach further: a power cut can take back frames that were shipped and never acknowledged.
            if self._published.get(begins, {}).get(partition, 0) >= batch.end:
                continue
            try:
                size += self._write(partition, batch, rows)
            except OSError as error:
                raise Retryable(f"{self._directory}: {error}") from error
            # Should the next one fail, the batch is offered again, and this file is there.
            self._published.setdefault(begins, {})[partition] = batch.end
        self._published.pop(begins, None)
        return size

    def probe(self) -> str:
        return probe_directory(self._disk, self._directory)

    def close(self) -> None:
        self._encoder.close()

    def _write(self, partition: str, batch: Batch, rows: list[bytes]) -> int:
        data = self._encoder.encode(rows, without="token")
        directory = f"{self._directory}/{partition}"
        if not os.path.isdir(directory):
            self._disk.makedirs(directory)
            # The outermost too: the folder may have been moved away with all that was in it.
            for parent in (os.path.dirname(directory), self._directory, os.path.dirname(self._directory)):
                self._disk.sync_directory(parent)
        name = f"slot-{batch.slot:02d}-{batch.name}-{batch.start:012d}-{batch.end:012d}.parquet"
        write_durably(self._disk, directory, name, data)
        return len(data)


def partition_of(event: Event) -> str:
    return f"token={quote(event.token, safe='')}/date={format_time(event.received_us)[:10]}"


def _files(disk: Disk, directory: str) -> list[tuple[str, str]]:
    """Every partition's files."""
    partitions = [
        f"{token}/{date}"
        for token in disk.listdir(directory)
        if token.startswith("token=")
        for date in disk.listdir(f"{directory}/{token}")
    ]
    return [
        (partition, name)
        for partition in partitions
        if _PARTITION.fullmatch(partition)
        for name in disk.listdir(f"{directory}/{partition}")
    ]
