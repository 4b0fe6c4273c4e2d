"""Every kind of sink beside the real thing it ships to, with the same handles: break, heal, lose answers, read back."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, Self

import msgspec
import pytest
import zstandard

from edge.disk import RealDisk
from edge.drain.sink import Sink
from edge.drain.sinks.clickhouse import DDL
from edge.drain.sinks.file import FileSink
from edge.drain.sinks.parquet import ParquetSink, open_database
from edge.drain.sinks.table import make_sink
from tests.downstream import Call, Downstream, Reply
from tests.integration.clickhouse import ClickHouse
from tests.integration.kafka_broker import KafkaBroker
from tests.integration.tcp_proxy import TcpProxy
from tests.kafka_mock import MockCluster, consume
from tests.object_store import ObjectStore

POISON: Final = "poison"
LARGE_CHARS: Final = 300_000
MOVING: Final = (5, 6, 7, 19)
"""LEADER_NOT_AVAILABLE, NOT_LEADER_FOR_PARTITION, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS."""


class Delivered(msgspec.Struct, frozen=True):
    uuid: str
    event: str
    distinct_id: str


class UnderTest(Protocol):
    once: bool
    """Nothing is there twice, whatever happens, crashes included."""
    recognises: bool
    """Nothing is there twice as long as the process lives that offers it again."""
    ordered: bool
    """What is read back has the order of its arrival."""
    refuses: bool
    """It never takes an event that is called `POISON`."""
    limited: bool
    """It does not take an event of `LARGE_CHARS`."""

    def sink(self) -> tuple[str, Sink]:
        """Another one for the same destination, as the next process would make it."""
        ...

    def fail(self) -> None: ...

    def heal(self) -> None: ...

    def losing(self) -> AbstractContextManager[None]:
        """The destination takes what comes, and nobody hears of it."""
        ...

    def delivered(self) -> list[Delivered]: ...


def _delivered(rows: list[dict[str, str]]) -> list[Delivered]:
    return [Delivered(row["uuid"], row["event"], row["distinct_id"]) for row in rows]


class LossyDisk(RealDisk):
    """May say that a folder was not synced after all was written."""

    def __init__(self) -> None:
        self.losing = False

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        if self.losing:
            raise OSError(5, "Input/output error")


class Folder:
    once = True
    recognises = True
    ordered = True
    refuses = False
    limited = False

    def __init__(self, folder: Path, parquet: bool) -> None:
        self._folder = folder / "out"
        self._parquet = parquet
        self._disk = LossyDisk()

    def sink(self) -> tuple[str, Sink]:
        folder = str(self._folder)
        found = (
            ParquetSink(self._disk, folder, 0.0) if self._parquet else FileSink(self._disk, folder, "event", "ndjson")
        )
        return "folder", found

    def fail(self) -> None:
        self._folder.rename(self._folder.with_name("away"))
        self._folder.touch()

    def heal(self) -> None:
        self._folder.unlink()
        self._folder.with_name("away").rename(self._folder)

    @contextmanager
    def losing(self) -> Iterator[None]:
        self._disk.losing = True
        yield
        self._disk.losing = False

    def delivered(self) -> list[Delivered]:
        if not self._parquet:
            files = sorted(self._folder.glob("*.ndjson"))
            return _delivered([json.loads(line) for path in files for line in path.read_text().splitlines()])
        files = sorted(self._folder.glob("*/*/*.parquet"))
        with open_database() as database:
            query = "SELECT to_json(r) FROM read_parquet('{}') r"
            return _delivered(
                [json.loads(line) for path in files for (line,) in database.execute(query.format(path)).fetchall()]
            )


class PostHog:
    once = False
    recognises = False
    ordered = True
    refuses = True
    limited = True

    def __init__(self) -> None:
        self._server = Downstream(self._rule, keep_calls=False)
        self._taken: list[dict[str, str]] = []
        self._failing = False
        self._losing = False

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.__exit__(*exception)

    def sink(self) -> tuple[str, Sink]:
        return make_sink(self._server.url)

    def fail(self) -> None:
        self._failing = True

    def heal(self) -> None:
        self._failing = False

    @contextmanager
    def losing(self) -> Iterator[None]:
        self._losing = True
        yield
        self._losing = False

    def delivered(self) -> list[Delivered]:
        return _delivered(self._taken)

    def _rule(self, call: Call) -> Reply:
        reply = self._judge(call)
        if reply.status == 200:
            self._taken += call.events
        return reply

    def _judge(self, call: Call) -> Reply:
        if self._failing:
            return Reply(503)
        if any(len(json.dumps(event)) > LARGE_CHARS for event in call.events):
            return Reply(413)
        if any(event["event"] == POISON for event in call.events):
            return Reply(400)
        return Reply(hang_up=self._losing)


class Kafka:
    once = False
    recognises = True
    ordered = True
    refuses = False
    limited = True

    def __init__(self, broker: KafkaBroker, proxy: TcpProxy, topic: str) -> None:
        self._broker = broker
        self._proxy = proxy
        self._topic = topic
        broker.create(topic, partitions=3, max_message_bytes=str(LARGE_CHARS))

    def sink(self) -> tuple[str, Sink]:
        return _kafka_sink(f"127.0.0.1:{self._proxy.port}", self._topic)

    def fail(self) -> None:
        self._broker.pause()

    def heal(self) -> None:
        self._broker.resume()

    @contextmanager
    def losing(self) -> Iterator[None]:
        self._proxy.lose_answers()
        yield
        self._proxy.mend()

    def delivered(self) -> list[Delivered]:
        return _consumed(f"127.0.0.1:{self._proxy.port}", self._topic)


class MockKafka:
    """librdkafka's own brokers, whose first answers are errors of every kind that a cluster gives while it changes hands."""

    once = False
    recognises = False
    ordered = True
    refuses = False
    limited = True

    def __init__(self, topic: str) -> None:
        self._cluster = MockCluster(brokers=2)
        self._topic = topic
        self._cluster.topic(topic, partitions=3)
        self._cluster.fail(*MOVING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cluster.__exit__(*exception)

    def sink(self) -> tuple[str, Sink]:
        return _kafka_sink(self._cluster.bootstrap, self._topic)

    def fail(self) -> None:
        self._cluster.down()

    def heal(self) -> None:
        self._cluster.up()

    @contextmanager
    def losing(self) -> Iterator[None]:
        self._cluster.slow(60_000)
        yield
        self._cluster.slow(0)

    def delivered(self) -> list[Delivered]:
        return _consumed(self._cluster.bootstrap, self._topic)


def _kafka_sink(bootstrap: str, topic: str) -> tuple[str, Sink]:
    options = (
        f"topics=main&topic.main={topic}&topic.replay={topic}"
        f"&rdkafka.message.max.bytes={LARGE_CHARS}&rdkafka.socket.timeout.ms=2000&rdkafka.request.timeout.ms=1000"
    )
    return make_sink(f"kafka://{bootstrap}?{options}")


def _consumed(bootstrap: str, topic: str) -> list[Delivered]:
    return _delivered([json.loads(message.value() or b"") for message in consume(bootstrap, topic)])


class Objects:
    once = True
    recognises = True
    ordered = True
    refuses = False
    limited = False

    def __init__(self, store: ObjectStore, proxy: TcpProxy, prefix: str) -> None:
        self._store = store
        self._proxy = proxy
        self._prefix = prefix

    def sink(self) -> tuple[str, Sink]:
        return make_sink(f"s3://bucket/{self._prefix}?endpoint=http://127.0.0.1:{self._proxy.port}")

    def fail(self) -> None:
        self._proxy.refuse()

    def heal(self) -> None:
        self._proxy.mend()

    @contextmanager
    def losing(self) -> Iterator[None]:
        self._proxy.lose_answers(hang_up=True)
        yield
        self._proxy.mend()

    def delivered(self) -> list[Delivered]:
        objects = [self._store.get("bucket", key) for key in self._store.keys("bucket", f"{self._prefix}/")]
        texts = [zstandard.ZstdDecompressor().decompress(each) for each in objects]
        return _delivered([json.loads(line) for text in texts for line in text.splitlines()])


class Table:
    once = False
    recognises = True
    ordered = False
    refuses = True
    limited = False

    def __init__(self, server: ClickHouse, proxy: TcpProxy, table: str) -> None:
        self._server = server
        self._proxy = proxy
        self._table = f"tests.{table}"
        server.query("CREATE DATABASE IF NOT EXISTS tests")
        server.query(DDL.format(table=self._table))
        server.query(f"ALTER TABLE {self._table} ADD CONSTRAINT no_poison CHECK event != '{POISON}'")

    def sink(self) -> tuple[str, Sink]:
        return make_sink(f"clickhouse+http://127.0.0.1:{self._proxy.port}/{self._table}")

    def fail(self) -> None:
        self._server.kill()

    def heal(self) -> None:
        self._server.start()

    @contextmanager
    def losing(self) -> Iterator[None]:
        self._proxy.lose_answers(hang_up=True)
        yield
        self._proxy.mend()

    def delivered(self) -> list[Delivered]:
        return _delivered(self._server.query(f"SELECT toString(uuid) AS uuid, event, distinct_id FROM {self._table}"))


KINDS: Final = ("file", "parquet", "posthog", "kafka", "kafka-mock", "objects", "clickhouse")


@contextmanager
def under_test(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[UnderTest]:
    """Names are those of the test: one server serves them all."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[-60:]
    shared: Callable[[str], Any] = request.getfixturevalue
    if kind in ("file", "parquet"):
        yield Folder(folder, kind == "parquet")
    elif kind == "posthog":
        with PostHog() as posthog:
            yield posthog
    elif kind == "kafka":
        broker, proxy = shared("kafka_broker")
        broker.restore()
        yield Kafka(broker, proxy, name)
    elif kind == "kafka-mock":
        with MockKafka(name) as cluster:
            yield cluster
    elif kind == "objects":
        store: ObjectStore = shared("object_store")
        with TcpProxy(("127.0.0.1", store.port)) as proxy:
            yield Objects(store, proxy, name)
    else:
        server: ClickHouse = shared("clickhouse_server")
        server.restore()
        with TcpProxy(("127.0.0.1", server.port)) as proxy:
            yield Table(server, proxy, name)
