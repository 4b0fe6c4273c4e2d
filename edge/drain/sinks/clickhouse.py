"""`clickhouse+http://HOST:PORT/DB.TABLE`, `clickhouse+https://…`: rows into a ClickHouse table, `INSERT … FORMAT JSONEachRow`.

`edge schema clickhouse` prints the table. Every insert is at most one block, and carries a token made of its events
(`insert_deduplication_token`): the server recognises the second attempt of an insert whose answer was lost. After a crash of
the drainer the same events may be cut into other inserts; those are merged by the table's key, which ends in the uuid.

The answer is waited for until the rows are in the table, with `?insert=async` too, where the server gathers inserts first.

User and password: in the URL (`//USER:PASSWORD@HOST`), or `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD` in the environment.
"""

import os
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlencode, urlsplit

import xxhash
import zstandard
from msgspec.structs import replace

from edge import __version__
from edge.drain.event import Event
from edge.drain.posting import Poster, require_address, retry_after_s
from edge.drain.shapes import COLUMNS, row_line
from edge.drain.sink import PROBE_S, Batch, Paused, Refusal, Refused, Retryable, Sink, SinkUrl, TooLarge
from edge.segment.name import SegmentName

LINGER_S: Final = 1.0
"""An insert is a part on the server's disk, which merges them in the background."""
READ_BYTES: Final = 2 * 1024 * 1024
EVENTS_MAX: Final = 100_000
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of rows, unless a single event is larger. Far below what the server takes for one block."""
PORTS: Final = {"http": 8123, "https": 8443}

# DateTime64(6) holds the years 1900 to 2299, and wraps around outside.
TIME_US_MIN: Final = -2_208_988_800_000_000
TIME_US_MAX: Final = 10_413_791_999_999_999

DDL: Final = """\
CREATE TABLE IF NOT EXISTS {table}
(
    uuid UUID,
    event LowCardinality(String),
    distinct_id String,
    timestamp DateTime64(6, 'UTC'),
    token LowCardinality(String),
    ip String,
    now DateTime64(6, 'UTC'),
    sent_at Nullable(DateTime64(6, 'UTC')),
    lane LowCardinality(String),
    historical_migration Bool,
    properties String,
    members String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (token, toDate(timestamp), event, cityHash64(distinct_id), uuid)
SETTINGS non_replicated_deduplication_window = 1000;
"""
"""Columns as in `edge/drain/shapes.py`. For a replicated table, whose window is there by default, leave the last line out."""

_BUSY: Final = frozenset({408, 425, 429})
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")

# The server's own codes, ErrorCodes.cpp. What is in none of these is judged by the status.
_VALUES: Final = frozenset({6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 376, 441, 467, 469})
"""A value cannot be read or is not allowed: TYPE_MISMATCH, INCORRECT_DATA, CANNOT_PARSE_…, VIOLATED_CONSTRAINT."""
_SET_UP: Final = frozenset(
    {*(8, 16, 20, 36, 43, 44, 46, 47, 48, 50, 60, 62, 73, 81, 115), *(164, 192, 193, 194, 195, 291, 497, 516, 731)}
)
"""A table, column, database, setting, user or grant is missing, or not as expected."""
_TOO_MANY_PARTS: Final = 252
_SPREAD: Final = "partitions for single INSERT block"
"""Said with the same code as a table that is behind with merging, but of the rows in one insert."""


class ClickHouseSink:
    linger_s = LINGER_S
    read_bytes = READ_BYTES
    by_range = False

    def __init__(self, secure: bool, host: str, port: int, table: str, user: str, password: str, insert: str) -> None:
        self._poster = Poster(host, port, secure=secure)
        self._table = table
        self._settings = {
            "query": f"INSERT INTO {table} FORMAT JSONEachRow",
            "date_time_input_format": "best_effort",
            "input_format_skip_unknown_fields": "0",
            "insert_deduplicate": "1",
            "async_insert": "1" if insert == "async" else "0",
            "wait_for_async_insert": "1",
            **({"async_insert_deduplicate": "1"} if insert == "async" else {}),
            "wait_end_of_query": "1",
        }
        self._headers = {
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "zstd",
            "User-Agent": f"edge/{__version__}",
            **({"X-ClickHouse-User": user, "X-ClickHouse-Key": password} if user else {}),
        }

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        pieces: list[list[Event]] = []
        size = 0
        for event in events:
            if not pieces or len(pieces[-1]) >= EVENTS_MAX or size + len(event.body) > BODY_BYTES_MAX:
                pieces.append([])
                size = 0
            pieces[-1].append(event)
            size += len(event.body)
        return pieces

    def ship(self, batch: Batch) -> int:
        if not batch.events:
            return 0
        rows = b"".join([row_of(event) + b"\n" for event in batch.events])
        data = zstandard.ZstdCompressor(level=1).compress(rows)
        origin = f"slot-{batch.slot:02d}-{batch.name}"
        settings = {**self._settings, "insert_deduplication_token": f"{origin}-{xxhash.xxh3_128_hexdigest(rows)}"}
        status, headers, answer = self._poster.post(f"/?{urlencode(settings)}", data, self._headers)
        refusal = interpret(status, headers, answer)
        if refusal is not None:
            raise refusal
        return len(data)

    def probe(self) -> str:
        """By an insert of no rows: the server looks at the user, the right to insert, the table and its columns, and writes
        nothing."""
        columns = ", ".join(COLUMNS)
        query = f"INSERT INTO {self._table} ({columns}) FORMAT JSONEachRow"
        settings = {**self._settings, "query": query, "async_insert": "0"}
        # Of nothing there is nothing to decompress.
        headers = {name: value for name, value in self._headers.items() if name != "Content-Encoding"}
        refusal = interpret(*self._poster.ask("POST", f"/?{urlencode(settings)}", headers, PROBE_S))
        if isinstance(refusal, Retryable):
            raise refusal
        if refusal is not None:
            raise Paused(str(refusal))
        return f"{self._table} takes an insert of no rows"

    def close(self) -> None:
        self._poster.close()


def row_of(event: Event) -> bytes:
    """The row, its times moved to the ends of what the table holds where they are outside."""
    sent_at_us = event.sent_at_us
    if not (_fits(event.timestamp_us) and _fits(event.received_us) and (sent_at_us is None or _fits(sent_at_us))):
        event = replace(
            event,
            timestamp_us=_moved(event.timestamp_us),
            received_us=_moved(event.received_us),
            sent_at_us=None if sent_at_us is None else _moved(sent_at_us),
        )
    return row_line(event)


def _fits(us: int) -> bool:
    return TIME_US_MIN <= us <= TIME_US_MAX


def _moved(us: int) -> int:
    return max(TIME_US_MIN, min(us, TIME_US_MAX))


def interpret(status: int, headers: Mapping[str, str], answer: bytes) -> Refusal | None:
    """What an answer means for the rows: `None` when they are in the table. Header names in lower case."""
    why = f"status {status}: {answer[:300].decode('utf-8', 'replace').strip()}"
    text = headers.get("x-clickhouse-exception-code", "")
    code = int(text[:9]) if text.isascii() and text.isdecimal() else 0
    if 200 <= status < 300 and not code:
        if any(name.startswith("x-clickhouse-") for name in headers):
            return None
        # The front page of a web server says 200 to anything.
        return Paused(f"expected the answer of a ClickHouse server, found {why}")
    if status == 413 or (code == _TOO_MANY_PARTS and _SPREAD in why):
        return TooLarge(why)
    if code in _VALUES:
        return Refused(why)
    if code in _SET_UP:
        return Paused(why)
    if code or status in _BUSY or status >= 500:
        return Retryable(why, retry_after_s(headers))
    return Paused(why)


def make(url: SinkUrl) -> tuple[str, Sink]:
    options = url.take(insert=("sync", "async"))
    parts = urlsplit(f"{url.scheme.removeprefix('clickhouse+')}:{url.target}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    table = parts.path.removeprefix("/")
    if not url.target.startswith("//") or not parts.hostname or port == -1 or parts.fragment:
        raise ValueError(f"{url.scheme}: expected {url.scheme}://HOST:PORT/DB.TABLE, found another form")
    if not _TABLE.fullmatch(table):
        raise ValueError(f"{url.scheme}: expected DB.TABLE after the host, found {table!r}")
    require_address(url.scheme, parts.hostname)
    secure = parts.scheme == "https"
    port = port or PORTS[parts.scheme]
    user = unquote(parts.username or "") or os.environ.get("CLICKHOUSE_USER", "")
    password = unquote(parts.password or "") or os.environ.get("CLICKHOUSE_PASSWORD", "")
    for each in (user, password):
        if not each.isascii() or not each.isprintable():
            raise ValueError(f"{url.scheme}: expected user and password of printable ASCII characters")
    address = f"{parts.scheme}://{parts.hostname}:{port}/{table}"
    sink = ClickHouseSink(secure, parts.hostname, port, table, user, password, options["insert"])
    return f"clickhouse-{xxhash.xxh3_64_hexdigest(address.encode())}", sink
