"""`file:DIR`: one immutable file per batch, published whole by rename.

    slot-00-000000000042-9f31c0aa17be5d02-000000000048-000000012345.ndjson

The name says which bytes of which segment the events come from. The batch is written under a temporary name, synced, renamed,
and the directory synced; so a reader never sees half a line, and after a crash the directory itself tells what was shipped:
no line is there twice and none is missing. Names sort in the order of acceptance within a slot.
"""

import re
from pathlib import Path
from typing import Final

import xxhash
import zstandard

from edge.disk import Disk, RealDisk, make_directory, write_durably
from edge.drain.event import Event
from edge.drain.probing import probe_directory
from edge.drain.shapes import SHAPES
from edge.drain.sink import READ_BYTES, Batch, Retryable, Sink, SinkUrl
from edge.drain.sinks.parquet import PARQUET_EVERY, ParquetSink, linger_of, require_duckdb
from edge.segment.name import SegmentName

LINGER_S: Final = 0.4
"""A batch is a file: at most two or three a second and slot, and still within a second of the acknowledgement."""

_SUFFIXES: Final = {"ndjson": ".ndjson", "ndjson.zst": ".ndjson.zst"}
_PARQUET: Final = "parquet"
_EVERY: Final = "every"
_NAME: Final = re.compile(r"slot-(\d+)-(\d+)-([0-9a-f]{16})-(\d+)-(\d+)\.ndjson(?:\.zst)?")


class FileSink:
    linger_s = LINGER_S
    read_bytes = READ_BYTES
    by_range = True

    def __init__(self, disk: Disk, directory: str, shape: str, file_format: str) -> None:
        self._disk = disk
        self._directory = directory
        self._line = SHAPES[shape]
        self._suffix = _SUFFIXES[file_format]
        self._known_from: dict[int, SegmentName] = {}
        """The segment of each slot from which on the files there were are known."""
        self._published: dict[tuple[int, SegmentName], dict[int, int]] = {}
        """Where the files that an earlier process published begin and end, of those segments."""
        make_directory(self._disk, self._directory)

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        if slot not in self._known_from or name < self._known_from[slot]:
            try:
                self._look_up(slot, name)
            except OSError as error:
                raise Retryable(f"{self._directory}: {error}") from error
        return self._published.get((slot, name), {}).get(start)

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def ship(self, batch: Batch) -> int:
        if not batch.events:
            return 0
        # What was published may reach further: a power cut can take back frames that were shipped and never acknowledged.
        if (self.already(batch.slot, batch.name, batch.start) or 0) >= batch.end:
            return 0
        data = b"".join([self._line(event) + b"\n" for event in batch.events])
        if self._suffix.endswith(".zst"):
            data = zstandard.ZstdCompressor(write_checksum=True).compress(data)
        file_name = f"slot-{batch.slot:02d}-{batch.name}-{batch.start:012d}-{batch.end:012d}{self._suffix}"
        try:
            self._publish(file_name, data)
        except OSError as error:
            raise Retryable(f"{self._directory}: {error}") from error
        return len(data)

    def probe(self) -> str:
        return probe_directory(self._disk, self._directory)

    def close(self) -> None:
        pass

    def _look_up(self, slot: int, since: SegmentName) -> None:
        """What there is of a slot, from the segment on that is asked for first: after a checkpoint that is next to nothing.

        Not before the slot is asked for: until then another drainer may ship it. Removes what was left half written. Raises
        `OSError`.
        """
        visible, temporary = f"slot-{slot:02d}-", f".slot-{slot:02d}-"
        leftovers = []
        published: dict[tuple[int, SegmentName], dict[int, int]] = {}
        try:
            for file_name in self._disk.scan(self._directory):
                if file_name.startswith(temporary):
                    leftovers.append(file_name)
                elif file_name.startswith(visible) and (match := _NAME.fullmatch(file_name)):
                    segment = SegmentName(int(match[2]), int(match[3], 16))
                    if segment >= since:
                        ends = published.setdefault((slot, segment), {})
                        ends[int(match[4])] = max(ends.get(int(match[4]), 0), int(match[5]))
            for file_name in leftovers:
                self._disk.unlink(f"{self._directory}/{file_name}")
        except FileNotFoundError:
            # Moved away, as may happen at any time.
            pass
        self._published |= published
        self._known_from[slot] = since

    def _publish(self, file_name: str, data: bytes) -> None:
        try:
            write_durably(self._disk, self._directory, file_name, data)
        except FileNotFoundError:
            # The folder was moved away with all that was in it; or whoever resends by hand found the file half written.
            make_directory(self._disk, self._directory)
            write_durably(self._disk, self._directory, file_name, data)


def make(url: SinkUrl) -> tuple[str, Sink]:
    chosen = {name: value for name, value in url.options.items() if name != _EVERY}
    parquet = chosen.get("format") == _PARQUET
    if parquet:
        SinkUrl(url.scheme, url.target, chosen).take(format=(_PARQUET,))
        require_duckdb("file")
    options = SinkUrl(url.scheme, url.target, url.options if not parquet else {}).take(
        shape=tuple(SHAPES), format=(*_SUFFIXES, _PARQUET)
    )
    target = url.target.removeprefix("//")
    if not target:
        raise ValueError("file: expected a folder, as in file:./edge-data/events")
    directory = str(Path(target).absolute())
    sink_id = f"file-{xxhash.xxh3_64_hexdigest(directory.encode())}"
    if parquet:
        return sink_id, ParquetSink(RealDisk(), directory, linger_of(url, PARQUET_EVERY))
    return sink_id, FileSink(RealDisk(), directory, options["shape"], options["format"])
