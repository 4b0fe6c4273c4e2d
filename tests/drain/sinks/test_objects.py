import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from edge.drain.event import Event
from edge.drain.sink import Batch, Paused, Refusal, Retryable, Sink, split_url
from edge.drain.sinks.objects import make
from edge.segment.name import SegmentName
from tests.drain.sinks.test_parquet import event, rows
from tests.object_store import ObjectStore

NAME = SegmentName(42, 0x9F31C0AA17BE5D02)
KEY = "pre/fix/slot-03/000000000042-9f31c0aa17be5d02/000000000048-000000012345"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with ObjectStore() as running:
        yield running


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    server.reset()
    server.create("bucket")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def opened(url: str) -> Sink:
    return make(split_url(url))[1]


def batch(*events: Event, start: int = 48, end: int = 12345) -> Batch:
    return Batch(3, NAME, start, end, list(events))


def test_a_batch_is_one_object_named_by_its_origin(store: ObjectStore) -> None:
    size = opened("s3://bucket/pre/fix").ship(batch(event("a"), event("b")))
    assert list(store.keys("bucket")) == [f"{KEY}.ndjson.zst"]
    data = store.get("bucket", f"{KEY}.ndjson.zst")
    assert len(data) == size
    lines = zstandard.ZstdDecompressor().decompress(data).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["a", "b"]


def test_parquet_has_a_column_per_key(store: ObjectStore, tmp_path: Path) -> None:
    sink = opened("s3://bucket/pre/fix/?format=parquet")
    sink.ship(batch(event("a"), event("b", "phc_y")))
    sink.close()
    (tmp_path / "found.parquet").write_bytes(store.get("bucket", f"{KEY}.parquet"))
    assert [(row["event"], row["token"]) for row in rows(tmp_path / "found.parquet")] == [
        ("a", "phc_x"),
        ("b", "phc_y"),
    ]


def test_the_endpoint_may_be_named_in_the_url(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    opened(f"s3://bucket?endpoint={store.url}&region=us-east-1").ship(batch(event("a")))
    assert [key.partition("/")[0] for key in store.keys("bucket")] == ["slot-03"]


def test_a_second_attempt_finds_the_first_ones_object(store: ObjectStore) -> None:
    sink = opened("s3://bucket/pre/fix")
    assert sink.ship(batch(event("a"))) == sink.ship(batch(event("a")))
    assert len(store.keys("bucket")) == 1


def test_an_object_of_another_size_is_not_taken_for_ours(store: ObjectStore) -> None:
    store.put("bucket", f"{KEY}.ndjson.zst", b"half")
    with pytest.raises(Paused, match="found 4: another program"):
        opened("s3://bucket/pre/fix").ship(batch(event("a")))
    assert store.get("bucket", f"{KEY}.ndjson.zst") == b"half"


def test_what_was_shipped_before_a_crash_is_known(store: ObjectStore) -> None:
    opened("s3://bucket/pre/fix").ship(batch(event("a")))
    restarted = opened("s3://bucket/pre/fix")
    assert restarted.already(3, NAME, 48) == 12345
    assert restarted.already(3, NAME, 12345) is None
    assert restarted.already(3, SegmentName(43, NAME.incarnation), 48) is None
    assert restarted.already(2, NAME, 48) is None
    assert opened("s3://bucket/other").already(3, NAME, 48) is None
    before = store.requests
    restarted = opened("s3://bucket/pre/fix")
    restarted.already(3, NAME, 48)
    assert restarted.ship(batch(event("a"), end=100)) == 0
    assert restarted.ship(batch(event("a"))) == 0
    restarted.already(3, NAME, 12345)
    assert store.requests == before + 1


def test_a_batch_without_events_makes_no_object(store: ObjectStore) -> None:
    assert opened("s3://bucket/pre/fix").ship(batch()) == 0
    assert list(store.keys("bucket")) == []


def test_a_bucket_that_is_not_there_pauses_listing_and_putting(store: ObjectStore) -> None:
    with pytest.raises(Paused, match="404"):
        opened("s3://missing").ship(batch(event("a")))
    with pytest.raises(Paused, match="404"):
        opened("s3://missing").already(3, NAME, 48)


def test_nobody_there_is_worth_a_retry(store: ObjectStore) -> None:
    sink = opened("s3://bucket?endpoint=http://127.0.0.1:1")
    with pytest.raises(Retryable):
        sink.ship(batch(event("a")))
    with pytest.raises(Retryable):
        sink.already(3, NAME, 48)


ANSWERS: list[tuple[int, str, type[Refusal]]] = [
    (301, "PermanentRedirect", Paused),
    (400, "InvalidRequest", Paused),
    (400, "RequestTimeout", Retryable),
    (401, "", Paused),
    (403, "AccessDenied", Paused),
    (404, "NoSuchBucket", Paused),
    (405, "MethodNotAllowed", Paused),
    (408, "", Retryable),
    (413, "EntityTooLarge", Paused),
    (429, "TooManyRequests", Retryable),
    (500, "InternalError", Retryable),
    (501, "NotImplemented", Retryable),
    (503, "SlowDown", Retryable),
]


@pytest.mark.parametrize(("status", "code", "kind"), ANSWERS, ids=[f"{status} {code}" for status, code, _ in ANSWERS])
def test_answers_mean_what_the_contract_says(status: int, code: str, kind: type[Refusal], store: ObjectStore) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as scripted:
        thread = threading.Thread(target=scripted.serve_forever, args=(0.02,))
        thread.start()
        try:
            sink = opened(f"s3://bucket?endpoint=http://127.0.0.1:{scripted.server_address[1]}")
            with pytest.raises(kind) as putting:
                sink.ship(batch(event("a")))
            with pytest.raises(kind):
                sink.already(3, NAME, 48)
            with pytest.raises(kind):
                sink.probe()
        finally:
            scripted.shutdown()
            thread.join()
    assert "Debug source" not in str(putting.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3:bucket", "expected a bucket, as in s3://BUCKET/PREFIX, found 'bucket'"),
        ("gs://", "expected a bucket, as in gs://"),
        ("s3://bucket?format=ndjson", "expected format to be one of ndjson.zst, parquet, found 'ndjson'"),
        ("s3://bucket?format=parquet&shape=event", "expected no shape with format=parquet"),
        ("s3://bucket?formt=x", "expected the options format, shape, every, endpoint, region, found 'formt'"),
        ("gs://bucket?endpoint=x", "expected the options format, shape, every, found 'endpoint'"),
        ("s3://bucket?endpoint=x", "expected endpoint to be a URL, found 'x'"),
        ("s3://bucket?every=x", "every: expected a duration"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_was_expected(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(split_url(url))


def test_every_kind_of_store_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    ids = {make(split_url(f"{scheme}://bucket/prefix?every=2s"))[0] for scheme in ("s3", "gs", "az")}
    assert {each.partition("-")[0] for each in ids} == {"s3", "gs", "az"}
    assert make(split_url("s3://bucket/a"))[0] != make(split_url("s3://bucket/b"))[0]
    assert make(split_url("s3://bucket/a"))[1].linger_s == 10.0
    assert make(split_url("s3://bucket/a?every=2s"))[1].linger_s == 2.0


def test_a_bucket_is_listed_when_asked_and_nothing_is_put(store: ObjectStore) -> None:
    opened("s3://bucket/pre/fix").ship(batch(event("a")))
    assert opened("s3://bucket/pre/fix").probe().startswith("objects can be listed")
    assert len(store.keys("bucket")) == 1


def test_a_bucket_that_is_not_there_and_a_store_that_is_not_are_told_when_asked(store: ObjectStore) -> None:
    with pytest.raises(Paused, match="404"):
        opened("s3://missing").probe()
    with pytest.raises(Retryable):
        opened("s3://bucket?endpoint=http://127.0.0.1:1").probe()
