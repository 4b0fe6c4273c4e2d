"""Everything that was accepted as one view, `events`: shipped files and what is still in the spool, each event once.

What lies before the file sink's checkpoint is read from its files, what lies behind from the spool. The spool is read first and
the checkpoint that decides afterwards: what was shipped in between is in files then, and nothing can be deleted from the spool
that is in neither. A file of a segment that the spool does not have (any more) counts whatever the checkpoint says.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edge.checkpoints import Position, load_all
from edge.disk import RealDisk
from edge.drain.expand import expand
from edge.drain.shapes import COLUMNS, row_line
from edge.drain.sinks.parquet import COLUMN_TYPES, ROW_BYTES_MAX, literal
from edge.layout import Layout
from edge.segment.name import State
from edge.segment.record import decode_record
from edge.segment.scan import Damage, Frame
from edge.spool.inspect import SegmentFile, frames, segment_files

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_FILE: Final = re.compile(r"slot-(\d+)-(\d+-[0-9a-f]{16})-(\d+)-(\d+)\.(ndjson(?:\.zst)?|parquet)")
_ENVELOPE: Final = [column for column in COLUMNS if column != "members"]
_NOT_MEMBERS: Final = msgspec.json.encode(dict.fromkeys(_ENVELOPE)).decode()
_AT: Final = "frame_end"

# Where a frame ends, as text that sorts like (segment, offset).
_Place = str


def _place(segment: str, offset: int) -> _Place:
    return f"{segment}-{offset:012d}"


class SlotRows(msgspec.Struct):
    """What a slot held when it was looked at."""

    path: Path
    """A row a line, with the place where its frame ends."""
    segments: set[str]
    """All there were, those before the checkpoint included."""


def read_spool(layout: Layout, sink_id: str, scratch: Path) -> dict[int, SlotRows]:
    """What the sink's checkpoint leaves to the spool, as files in `scratch`. Raises `OSError`."""
    positions = _positions(layout, sink_id)
    return {slot: _write_rows(layout, slot, positions.get(slot), scratch) for slot in layout.slots()}


def create_events(
    database: "DuckDBPyConnection", layout: Layout, sink_id: str, directory: Path | None, spools: Mapping[int, SlotRows]
) -> None:
    """Create the view, of what `read_spool` found before and the files there are now in `directory`, the file sink's.

    Raises `OSError`, and the database's errors for files that are not what they seem.
    """
    after = _positions(layout, sink_id)
    lines: list[str] = []
    tables: list[str] = []
    for path in _files(directory):
        match = _FILE.fullmatch(path.name)
        assert match is not None
        slot, segment, end = int(match[1]), match[2], int(match[4])
        position = after.get(slot)
        confirmed = position is not None and _place(segment, end) <= _place(position.segment, position.offset)
        if confirmed or slot not in spools or segment not in spools[slot].segments:
            (tables if match[5] == "parquet" else lines).append(str(path))
    sources = [_nothing(), *_from_lines(lines), *_from_tables(tables)]
    for slot, rows in spools.items():
        position = after.get(slot)
        least = "" if position is None else _place(position.segment, position.offset)
        sources.append(_from_spool(rows.path, least))
    database.execute(f"CREATE VIEW events AS {' UNION ALL BY NAME '.join(sources)}")


def _positions(layout: Layout, sink_id: str) -> dict[int, Position]:
    found = load_all(RealDisk(), str(layout.checkpoints)).get(sink_id)
    return {} if found is None else dict(found.slots)


def _write_rows(layout: Layout, slot: int, position: Position | None, scratch: Path) -> SlotRows:
    target = scratch / f"slot-{slot}.ndjson"
    segments = set()
    with target.open("wb") as rows:
        for file in segment_files(layout, slot):
            name = str(file.name)
            segments.add(name)
            if position is not None and name < position.segment:
                continue
            offset = position.offset if position is not None and name == position.segment else 0
            for item in _frames(file, offset):
                if not isinstance(item, Damage):
                    prefix = b'{"%b":"%b",' % (_AT.encode(), _place(name, item.end).encode())
                    rows.writelines(prefix + row[1:] + b"\n" for line in _lines(item) for row in _rows(line))
    return SlotRows(target, segments)


def _frames(file: SegmentFile, offset: int) -> Iterator[Frame | Damage]:
    """Of one that was set aside what can be read, which is what the drainer ships."""
    set_aside = file.state is State.BAD
    try:
        yield from frames(file, offset, around=set_aside)
    except OSError:
        if not set_aside:
            raise


def _lines(frame: Frame) -> list[bytes]:
    try:
        return frame.lines()
    except ValueError:
        # It does not hold what it says; the drainer counts and tells it.
        return []


def _rows(line: bytes) -> list[bytes]:
    try:
        record = decode_record(line)
    except ValueError:
        return []
    return [row_line(event) for event in expand(record).events]


def _files(directory: Path | None) -> list[Path]:
    if directory is None or not directory.is_dir():
        return []
    found = [*directory.iterdir(), *directory.glob("token=*/date=*/*.parquet")]
    return sorted(path for path in found if _FILE.fullmatch(path.name))


def _nothing() -> str:
    columns = ", ".join(f"NULL::{_kind(column)} AS {column}" for column in COLUMNS)
    return f"SELECT {columns} WHERE false"


def _kind(column: str) -> str:
    return "JSON" if column in ("properties", "members") else COLUMN_TYPES[column]


def _typed() -> str:
    return ", ".join(f"{column}::{_kind(column)} AS {column}" for column in COLUMNS)


def _from_lines(paths: list[str]) -> list[str]:
    if not paths:
        return []
    values = {column: f"json->>'{column}'" for column in COLUMNS} | {
        "historical_migration": "coalesce(json->>'historical_migration', 'false')",
        "properties": "json->'properties'",
        "members": f"json_merge_patch(json, {literal(_NOT_MEMBERS)})",
    }
    columns = ", ".join(f"({value})::{_kind(column)} AS {column}" for column, value in values.items())
    files = ", ".join(map(literal, paths))
    return [f"SELECT {columns} FROM read_ndjson_objects([{files}], maximum_object_size = {ROW_BYTES_MAX})"]  # noqa: S608 - names of ours


def _from_tables(paths: list[str]) -> list[str]:
    if not paths:
        return []
    files = ", ".join(map(literal, paths))
    options = "hive_partitioning = true, hive_types = {'token': VARCHAR, 'date': DATE}"
    return [f"SELECT {_typed()} FROM read_parquet([{files}], {options})"]  # noqa: S608 - names of ours


def _from_spool(path: Path, least: _Place) -> str:
    columns = ", ".join(f"{column}: '{kind}'" for column, kind in {_AT: "VARCHAR", **COLUMN_TYPES}.items())
    options = f"format = 'newline_delimited', maximum_object_size = {ROW_BYTES_MAX}, columns = {{{columns}}}"
    return f"SELECT {_typed()} FROM read_json({literal(str(path))}, {options}) WHERE {_AT} > {literal(least)}"  # noqa: S608 - names of ours
