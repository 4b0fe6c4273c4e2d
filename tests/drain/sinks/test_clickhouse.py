import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

import pytest
import zstandard
from msgspec.structs import replace

from edge.drain.shapes import COLUMNS
from edge.drain.sink import Batch, Paused, Refusal, Refused, Retryable, Sink, TooLarge, split_url
from edge.drain.sinks import clickhouse
from edge.drain.sinks.clickhouse import DDL, TIME_US_MAX, TIME_US_MIN, interpret, make, row_of
from edge.segment.name import SegmentName
from tests.drain.sinks.test_parquet import event

NAME = SegmentName(42, 0x9F31C0AA17BE5D02)
OK = {"x-clickhouse-summary": "{}"}


class Scripted:
    """Answers every insert alike, and remembers them."""

    def __init__(self) -> None:
        self.status = 200
        self.headers = {"X-ClickHouse-Summary": "{}"}
        self.body = b""
        self.hang_up = False
        self.queries: list[dict[str, str]] = []
        self.rows: list[list[dict[str, object]]] = []
        self.received: list[dict[str, str]] = []
        """Headers, names in lower case."""
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                packed = self.headers["Content-Encoding"] == "zstd"
                text = zstandard.ZstdDecompressor().decompressobj().decompress(data) if packed else data
                scripted.queries.append({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})
                scripted.rows.append([json.loads(line) for line in text.splitlines()])
                scripted.received.append({name.lower(): value for name, value in self.headers.items()})
                if scripted.hang_up:
                    self.close_connection = True
                    return
                self.send_response(scripted.status)
                for name, value in {**scripted.headers, "Content-Length": str(len(scripted.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(scripted.body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


@pytest.fixture
def sink(server: Scripted) -> Iterator[Sink]:
    _, found = make(split_url(f"clickhouse+http://{server.host}/db.events"))
    yield found
    found.close()


def test_a_batch_is_one_insert_of_rows(sink: Sink, server: Scripted) -> None:
    events = [event("a", properties={"n": 1}, odd={"x": 1}), event("b", "phc_y")]
    size = sink.ship(Batch(3, NAME, 48, 100, events))
    assert server.queries[0]["query"] == "INSERT INTO db.events FORMAT JSONEachRow"
    assert server.queries[0]["wait_for_async_insert"] == "1"
    assert server.queries[0]["async_insert"] == "0"
    assert server.received[0]["content-encoding"] == "zstd"
    assert server.received[0]["content-length"] == str(size)
    [rows] = server.rows
    assert [row["event"] for row in rows] == ["a", "b"]
    assert set(rows[0]) == set(COLUMNS)
    assert rows[0]["properties"] == '{"n": 1}'
    assert rows[0]["members"] == '{"odd":{"x": 1}}'


def test_the_same_events_have_the_same_token_and_others_another(sink: Sink, server: Scripted) -> None:
    first, second = event("a"), event("b")
    for events in ([first, second], [first, second], [first], [second]):
        sink.ship(Batch(3, NAME, 48, 100, events))
    tokens = [query["insert_deduplication_token"] for query in server.queries]
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3


def test_the_server_may_gather_inserts_and_still_answers_when_they_are_stored(server: Scripted) -> None:
    _, sink = make(split_url(f"clickhouse+http://{server.host}/db.events?insert=async"))
    sink.ship(Batch(3, NAME, 48, 100, [event("a")]))
    sink.close()
    names = ("async_insert", "wait_for_async_insert", "async_insert_deduplicate")
    assert [server.queries[0][name] for name in names] == ["1", "1", "1"]


def test_what_fits_an_insert_is_cut_in_order(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event(name) for name in "abcde"]
    assert sink.cut(events) == [events]
    monkeypatch.setattr(clickhouse, "EVENTS_MAX", 2)
    assert sink.cut(events) == [events[:2], events[2:4], events[4:]]
    monkeypatch.setattr(clickhouse, "BODY_BYTES_MAX", 1)
    assert sink.cut(events) == [[each] for each in events]


def test_times_the_table_cannot_hold_are_moved_to_its_ends() -> None:
    rows = [json.loads(row_of(event("a", timestamp=f"{year}-06-01T00:00:00Z"))) for year in ("0001", "9999", "2025")]
    assert [row["timestamp"] for row in rows] == [
        "1900-01-01T00:00:00Z",
        "2025-11-21T01:53:20Z",
        "2025-06-01T00:00:00Z",
    ]


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (TIME_US_MIN - 1, "1900-01-01T00:00:00Z"),
        (TIME_US_MAX + 1, "2299-12-31T23:59:59.999999Z"),
        (1_763_690_000_000_000, "2025-11-21T01:53:20Z"),
    ],
    ids=["before", "after", "within"],
)
def test_every_time_of_a_row_is_one_the_table_holds(us: int, text: str) -> None:
    found = replace(event("a"), timestamp_us=us, received_us=us, sent_at_us=us)
    row = json.loads(row_of(found))
    assert [row[name] for name in ("timestamp", "now", "sent_at")] == [text] * 3
    row = json.loads(row_of(replace(found, sent_at_us=None)))
    assert [row[name] for name in ("timestamp", "now", "sent_at")] == [text, text, None]


def test_one_time_outside_moves_no_other() -> None:
    row = json.loads(row_of(replace(event("a"), sent_at_us=TIME_US_MAX + 1)))
    assert (row["now"], row["sent_at"]) == ("2025-11-21T01:53:20Z", "2299-12-31T23:59:59.999999Z")


def test_the_table_has_the_columns_of_a_row() -> None:
    body = DDL.partition("(\n")[2].partition("\n)\n")[0]
    assert tuple(line.split()[0] for line in body.splitlines()) == COLUMNS


ANSWERS: list[tuple[int, int, str, type[Refusal] | None]] = [
    (200, 0, "", None),
    (200, 241, "Code: 241", Retryable),
    (400, 27, "Cannot parse input", Refused),
    (400, 117, "Unknown field found while parsing JSONEachRow", Refused),
    (500, 469, "Constraint is violated", Refused),
    (404, 60, "Table db.events does not exist", Paused),
    (404, 81, "Database does not exist", Paused),
    (404, 16, "No such column", Paused),
    (404, 115, "Unknown setting", Paused),
    (403, 516, "Authentication failed", Paused),
    (403, 497, "Not enough privileges", Paused),
    (500, 252, "Too many parts (300)", Retryable),
    (500, 252, "Too many partitions for single INSERT block (more than 100)", TooLarge),
    (500, 241, "Memory limit exceeded", Retryable),
    (500, 242, "Table is in readonly mode", Retryable),
    (500, 202, "Too many simultaneous queries", Retryable),
    (500, 4242, "Something of a later version", Retryable),
    (401, 0, "a proxy", Paused),
    (404, 0, "a proxy", Paused),
    (413, 0, "a proxy", TooLarge),
    (408, 0, "a proxy", Retryable),
    (429, 0, "a proxy", Retryable),
    (502, 0, "a proxy", Retryable),
    (302, 0, "a proxy", Paused),
]


@pytest.mark.parametrize(
    ("status", "code", "text", "kind"), ANSWERS, ids=[f"{status} {code} {text}" for status, code, text, _ in ANSWERS]
)
def test_answers_mean_what_the_contract_says(status: int, code: int, text: str, kind: type[Refusal] | None) -> None:
    headers = OK | ({"x-clickhouse-exception-code": str(code)} if code else {})
    found = interpret(status, headers, text.encode())
    assert found is None if kind is None else type(found) is kind
    assert found is None or text in str(found)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(429, {}), (503, {}), (500, {**OK, "x-clickhouse-exception-code": "202"})],
    ids=["a proxy, busy", "a proxy, away", "too many queries"],
)
def test_it_is_asked_no_earlier_than_it_says(status: int, headers: dict[str, str]) -> None:
    found = interpret(status, {**headers, "retry-after": "7"}, b"")
    assert isinstance(found, Retryable)
    assert found.retry_after_s == 7.0


def test_anybody_elses_200_is_not_believed(sink: Sink, server: Scripted) -> None:
    server.headers = {}
    server.body = b"<html>"
    with pytest.raises(Paused, match="expected the answer of a ClickHouse server, found status 200: <html>"):
        sink.ship(Batch(3, NAME, 48, 100, [event("a")]))


def test_a_server_that_hangs_up_or_is_not_there_is_worth_a_retry(sink: Sink, server: Scripted) -> None:
    batch = Batch(3, NAME, 48, 100, [event("a")])
    server.hang_up = True
    with pytest.raises(Retryable):
        sink.ship(batch)
    server.hang_up = False
    assert sink.ship(batch) > 0
    server.hang_up = True
    with pytest.raises(Retryable):
        sink.ship(batch)
    with pytest.raises(Retryable):
        make(split_url("clickhouse+http://127.0.0.1:1/db.events"))[1].ship(batch)


@pytest.mark.parametrize("where", ["url", "environment"])
def test_user_and_password_go_in_headers(where: str, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"clickhouse+http://{server.host}/db.events"
    if where == "url":
        url = url.replace("//", "//ada:s%40cret@")
    else:
        monkeypatch.setenv("CLICKHOUSE_USER", "ada")
        monkeypatch.setenv("CLICKHOUSE_PASSWORD", "s@cret")
    _, sink = make(split_url(url))
    sink.ship(Batch(3, NAME, 48, 100, [event("a")]))
    sink.close()
    assert server.received[0]["x-clickhouse-user"] == "ada"
    assert server.received[0]["x-clickhouse-key"] == "s@cret"
    assert "cret" not in json.dumps(server.queries)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("clickhouse+http:host/db.t", r"expected clickhouse\+http://HOST:PORT/DB.TABLE"),
        ("clickhouse+http://host:x/db.t", r"expected clickhouse\+http://HOST:PORT/DB.TABLE"),
        ("clickhouse+http://a..b/db.t", "expected the name of a host, found 'a..b'"),
        ("clickhouse+http://host", "expected DB.TABLE after the host, found ''"),
        ("clickhouse+http://host/table", "expected DB.TABLE after the host, found 'table'"),
        ("clickhouse+http://host/db.t;drop", "expected DB.TABLE after the host"),
        ("clickhouse+http://host/db.t?insert=maybe", "expected insert to be one of sync, async, found 'maybe'"),
        ("clickhouse+http://user:%0a@host/db.t", "expected user and password of printable ASCII characters"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_was_expected(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        make(split_url(url))
    assert "user:" not in str(refused.value)


def test_one_table_has_one_name() -> None:
    ids = [make(split_url(f"clickhouse+http://{host}/db.t"))[0] for host in ("host", "host:8123", "u:p@host")]
    assert len(set(ids)) == 1
    assert make(split_url("clickhouse+https://host/db.t"))[0] not in ids


# --- asked whether it would take anything


@pytest.mark.parametrize("insert", ["sync", "async"])
def test_it_is_asked_by_an_insert_of_every_column_and_no_row(server: Scripted, insert: str) -> None:
    _, sink = make(split_url(f"clickhouse+http://ada:secret@{server.host}/db.events?insert={insert}"))
    assert sink.probe() == "db.events takes an insert of no rows"
    sink.close()
    assert server.rows == [[]]
    [query] = server.queries
    assert query["query"] == f"INSERT INTO db.events ({', '.join(COLUMNS)}) FORMAT JSONEachRow"
    assert query["async_insert"] == "0"
    assert "insert_deduplication_token" not in query
    assert server.received[0]["content-length"] == "0"
    assert "content-encoding" not in server.received[0]
    assert server.received[0]["x-clickhouse-user"] == "ada"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        *((403, 516, Paused), (403, 497, Paused), (404, 60, Paused), (404, 81, Paused), (404, 16, Paused)),
        *((400, 117, Paused), (413, 0, Paused), (500, 252, Retryable), (503, 0, Retryable)),
    ],
    ids=["password", "grant", "table", "database", "column", "value", "size", "parts", "proxy"],
)
def test_an_answer_is_judged_as_that_to_events(
    sink: Sink, server: Scripted, status: int, code: int, kind: type[Refusal]
) -> None:
    """Without one there is no event at fault."""
    server.status = status
    server.headers = {"X-ClickHouse-Exception-Code": str(code)} if code else {}
    server.body = b"what is wrong"
    with pytest.raises(kind, match="what is wrong"):
        sink.probe()


def test_nobody_there_and_anybody_elses_200_are_told_when_asked(sink: Sink, server: Scripted) -> None:
    server.headers = {}
    with pytest.raises(Paused, match="expected the answer of a ClickHouse server"):
        sink.probe()
    with pytest.raises(Retryable, match="refused"):
        make(split_url("clickhouse+http://127.0.0.1:1/db.events"))[1].probe()
