"""PostHog's own capture and this edge get the same requests: does the same reach Kafka?

    python -m tests.beside_capture CAPTURE [--dumps requests_dump.jsonl]

CAPTURE is the program of `PostHog/hog-rs`, built as `docs/performance.md` says; its repository has the dumps. A Kafka broker
and a Redis server are started here. Sent are the corpus and the dumps, each to both. What the other one put into Kafka and
the edge refuses or has otherwise is told, unless `DELIBERATE` says why it may; the exit status is 1 then.

Compared are keys and values, those for consumers of before 2025 as the other one writes them. `data` is compared as JSON; there
the edge has the client's own text, so what the other one renames, spells, fills in or leaves out may differ.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from bench.servers import accepts
from tests.corpus.cases import load_cases
from tests.integration.edge_process import EdgeProcess
from tests.integration.kafka_broker import KafkaBroker
from tests.integration.shared import free_port
from tests.kafka_mock import consume
from tests.server.running import Client, Closed, wait_until

ANSWER_S: Final = 30.0
MESSAGE_BYTES_MAX: Final = 500_000
"""Larger events are not sent: the edge's text of them, blanks included, makes no Kafka message."""

DELIBERATE: Final = {
    "a NUL b": ({"refused"}, "a key with a NUL is refused, as later revisions do"),
    "a key with a NUL": ({"refused"}, "the same"),
    "a blank key": ({"refused"}, "a key of blanks is none"),
    "metrics are on the other port": ({"refused"}, "the public port has none"),
    "a key in blanks": ({"key", "token"}, "keys are trimmed, as later revisions do"),
    "blanks around a key": ({"key", "token"}, "the same"),
    "NUL and a": ({"key", "distinct_id"}, "consumers cannot store a NUL: it is replaced in the id"),
    "NUL in a distinct_id": ({"key", "distinct_id"}, "the same"),
    "blank distinct_id": ({"messages"}, "an id of blanks is none, as in later revisions"),
    "data before the body": ({"event in data"}, "the query's `data` counts before the body"),
    "$performance_event": ({"messages"}, "PostHog stopped taking these"),
    "capture_internal": ({"ip"}, "where the client's address is not its own it is not kept"),
    "$process_person_profile": (
        {"properties in data"},
        "is honoured where the documentation has it, outside the properties, too",
    ),
    "$ignore_sent_at": ({"sent_at"}, "is sent on, for consumers to honour"),
    "address with a port": ({"ip"}, "the port is cut off"),
    "IPv6 with a port": ({"ip"}, "the same"),
    "mapped": ({"ip"}, "an IPv4 address is written as one"),
    "sent_at": ({"sent_at"}, "is taken from a single event, a form, `sentAt`, and without a zone"),
    "sentAt": ({"sent_at"}, "the same"),
    "_=1694769302": ({"sent_at"}, "seconds are taken as well as milliseconds"),
    "_ in seconds": ({"sent_at"}, "the same"),
    "batch that names its key last": ({"sent_at"}, "its `sent_at` has no zone"),
}
"""By the beginning of a case's name: what may differ, and why."""

_TOPICS: Final = ("capture", "edge")
_RENAMED: Final = {"api_key": "token", "$token": "token", "$distinct_id": "distinct_id"}


class Sent(msgspec.Struct):
    """One request, and what became of it on either side."""

    name: str
    data: bytes
    delivered: int
    """Events of it that the edge is to deliver, if it accepts it."""
    statuses: tuple[int, int] = (0, 0)
    acknowledged: int = 0
    """Messages that the other one had in Kafka when it answered."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.beside_capture", description=__doc__.partition("\n")[0])
    parser.add_argument("capture", type=Path, metavar="CAPTURE")
    parser.add_argument("--dumps", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    requests = [*_corpus(), *(_dumps(args.dumps) if args.dumps else ())]
    with (
        tempfile.TemporaryDirectory() as folder,
        KafkaBroker(Path(folder), partitions=1) as broker,
        EdgeProcess(Path(folder)) as edge,
    ):
        broker.start()
        for topic in _TOPICS:
            broker.create(topic)
        sink = f"kafka://{broker.address}?envelope=2023&topics=main&topic.main=edge&topic.replay=edge"
        edge.start("--workers", "1", "--to", sink)
        with _capture(args.capture, broker.address) as port:
            _send(requests, port, edge.port, broker.address)
        edge.stop()
        theirs, ours = (consume(broker.address, topic) for topic in _TOPICS)
    told, counted = compare(requests, theirs, ours)
    print("\n".join(told))
    print(", ".join(f"{number} {what}" for what, number in counted.items()))
    return 1 if told else 0


def _corpus() -> Iterator[Sent]:
    for case in load_cases():
        # Those that are too large are so where limits are lower than they usually are.
        if case.status != 413 and max(case.pad, len(case.sent)) < MESSAGE_BYTES_MAX:
            yield Sent(case.id, case.sent, len(case.events))


def _dumps(path: Path) -> Iterator[Sent]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            case = json.loads(line)
            body = base64.b64decode(case["body"])
            headers = {
                "Host": "edge.example",
                "Content-Length": str(len(body)),
                "Content-Type": case["content_type"],
                "Content-Encoding": case["content_encoding"],
                "X-Forwarded-For": case["ip"],
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
            head = f"{case['method']} {case['path']} HTTP/1.1\r\n{lines}\r\n"
            yield Sent(f"{path.name}, line {number}", head.encode() + body, len(case["output"]))


@contextmanager
def _capture(program: Path, brokers: str) -> Iterator[int]:
    """Its port."""
    port, redis_port = free_port(), free_port()
    environment = os.environ | {
        "ADDRESS": f"127.0.0.1:{port}",
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/",
        "KAFKA_HOSTS": brokers,
        "KAFKA_TOPIC": "capture",
        "KAFKA_HISTORICAL_TOPIC": "capture",
        "KAFKA_PRODUCER_LINGER_MS": "0",
        "RUST_LOG": "off",
    }
    with (
        subprocess.Popen(["redis-server", "--port", str(redis_port), "--save", ""], stdout=subprocess.DEVNULL) as redis,
        subprocess.Popen([program.resolve()], env=environment) as process,
    ):
        try:
            wait_until(lambda: accepts(port) or process.poll() is not None, "capture listens")
            yield port
        finally:
            process.kill()
            redis.kill()


def _send(requests: Sequence[Sent], capture_port: int, edge_port: int, brokers: str) -> None:
    """Each to both, one after the other, so that messages are in the order of the requests."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "beside-capture"})
    topic = TopicPartition("capture", 0)
    before = 0
    for sent in requests:
        sent.statuses = _status(capture_port, sent.data), _status(edge_port, sent.data)
        after = consumer.get_watermark_offsets(topic, timeout=ANSWER_S)[1]
        before, sent.acknowledged = after, after - before
    consumer.close()


def _status(port: int, data: bytes) -> int:
    """What the request is answered, 0 where it is not."""
    with Client(("127.0.0.1", port)) as client:
        try:
            return client.ask(data, head=data.startswith(b"HEAD ")).status
        except Closed:
            return 0


def compare(
    requests: Sequence[Sent], theirs: Sequence[Message], ours: Sequence[Message]
) -> tuple[list[str], Counter[str]]:
    """What is to be told, a line each, and how many requests and messages came out how."""
    told: list[str] = []
    counted: Counter[str] = Counter()
    accepted = sum(sent.delivered for sent in requests if sent.statuses[1] // 100 == 2)
    if len(ours) != accepted:
        return [f"expected {accepted} messages of the edge, found {len(ours)}"], counted
    if not theirs:
        return ["expected messages of the other one, found none"], counted
    their, our = iter(theirs), iter(ours)
    for sent in requests:
        taken, taken_here = (status // 100 == 2 for status in sent.statuses)
        counted[
            f"requests {'accepted' if taken else 'refused'} there, {'accepted' if taken_here else 'refused'} here"
        ] += 1
        there = [next(their) for _ in range(sent.acknowledged)]
        here = [next(our) for _ in range(sent.delivered if taken_here else 0)]
        if not taken:
            continue
        if not taken_here:
            differences = [("refused", f"with {sent.statuses[1]}")]
        elif len(there) != len(here):
            differences = [("messages", f"{len(there)} there, {len(here)} here")]
        else:
            differences = [each for pair in zip(there, here, strict=True) for each in _differences(*pair)]
        may_differ = next((what for name, (what, _) in DELIBERATE.items() if sent.name.startswith(name)), set[str]())
        counted["messages alike" if not differences else "messages otherwise"] += len(there)
        told += [f"{sent.name}: {what} {how}" for what, how in differences if what not in may_differ]
    return told, counted


def _differences(there: Message, here: Message) -> Iterator[tuple[str, str]]:
    """What differs, and how."""
    if there.key() != here.key():
        yield "key", f"{there.key()!r} there, {here.key()!r} here"
    wanted, found = _comparable(there), _comparable(here)
    if wanted["data"]["uuid"] is None:
        # Each made one of its own.
        for value in (wanted, found):
            value["uuid"] = value["data"]["uuid"] = None
    for name in sorted(wanted.keys() | found.keys()):
        if name != "data" and wanted.get(name) != found.get(name):
            yield name, f"{wanted.get(name)!r} there, {found.get(name)!r} here"
    for name, value in wanted["data"].items():
        if found["data"].get(name) != value:
            yield f"{name} in data", f"{value!r} there, {found['data'].get(name)!r} here"


def _comparable(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(message.value() or b"")
    del value["now"]
    if "sent_at" in value:
        value["sent_at"] = datetime.fromisoformat(value["sent_at"])
    data: dict[str, Any] = {"properties": {}, "uuid": None}
    data |= {_RENAMED.get(name, name): member for name, member in json.loads(value["data"]).items()}
    if data["uuid"] is not None:
        data["uuid"] = UUID(str(data["uuid"]))
    return value | {"data": data}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
