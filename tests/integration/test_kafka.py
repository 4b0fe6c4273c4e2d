"""Kafka with a real broker: what is in a message, and that nothing is lost whatever becomes of the broker or the drainer."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from confluent_kafka import Message

from edge.drain.expand import expand
from edge.drain.messages import TOPICS, Messages
from edge.drain.sink import Batch, Paused, Retryable
from edge.drain.sinks.kafka import DEFAULTS, PROMISES, KafkaSink
from edge.drain.sinks.table import make_sink
from edge.segment.name import SegmentName
from edge.segment.record import RecordIds, decode_record, encode_record
from tests.bench.shipping import EVENTS, rows_of
from tests.integration.edge_process import EdgeProcess, command_line, send_signal, wait_until_gone
from tests.integration.kafka_broker import KafkaBroker
from tests.integration.scale import scaled
from tests.integration.sdk import instant
from tests.integration.shared import free_port
from tests.integration.streams import Outcome, Streams
from tests.integration.tcp_proxy import TcpProxy
from tests.kafka_mock import consume, count

SHIPPED_S = 120.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def broker(shared: KafkaBroker) -> KafkaBroker:
    """One for all tests, which use topics of their own; running, whatever the test before did to it."""
    shared.restore()
    return shared


@pytest.fixture
def topic(broker: KafkaBroker, request: pytest.FixtureRequest) -> str:
    """The test's own, made."""
    name = f"{request.node.name.replace('[', '-').replace(']', '')[:80]}-{random.getrandbits(32):08x}"
    broker.create(name, partitions=3)
    return name


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProcess]:
    """Not started yet."""
    with EdgeProcess(tmp_path) as process:
        yield process


def to(broker: str, topic: str, *more: str) -> tuple[str, str]:
    """The option that ships everything to one topic."""
    return "--to", "&".join([f"kafka://{broker}?topics=main&topic.main={topic}&topic.replay={topic}", *more])


def send(edge: EdgeProcess, data: Any, path: str = "/e/") -> None:
    answer = edge.request("POST", path, json.dumps(data).encode(), {"X-Forwarded-For": "203.0.113.7"})
    assert answer.status == 200, answer


def batch_of(*names: str) -> Batch:
    request = json.dumps([{"event": name, "distinct_id": "u"} for name in names]).encode()
    stored = encode_record(RecordIds(1), 0, "phc_x", "batch", "", request)
    return Batch(0, SegmentName(1, 1), 0, len(stored), expand(decode_record(stored)).events)


def ship_in_the_end(sink: KafkaSink, batch: Batch) -> list[str]:
    """Why it was not taken before."""
    said: list[str] = []
    while True:
        try:
            sink.ship(batch)
        except Retryable as refusal:
            said.append(str(refusal))
        else:
            return said
        assert len(said) < 30, said


def names(messages: list[Message]) -> list[str]:
    return [json.loads(message.value() or b"")["event"] for message in messages]


def wait_until_shipped(edge: EdgeProcess, within_s: float = SHIPPED_S) -> dict[str, Any]:
    """The sink's status as soon as nothing waits for it."""
    deadline = time.monotonic() + within_s
    while True:
        sinks = edge.status()["sinks"]
        if sinks and not sinks[0]["waiting_records"]:
            return dict(sinks[0])
        assert time.monotonic() < deadline, f"not shipped within {within_s:.0f} s: {sinks}\n{edge.log_tail()}"
        time.sleep(0.2)


def trouble_of(edge: EdgeProcess) -> dict[str, Any] | None:
    sinks = edge.status()["sinks"]
    return sinks[0]["trouble"] if sinks else None


def wait_until_paused(edge: EdgeProcess, within_s: float = 60.0) -> dict[str, Any]:
    """The sink's trouble. A broker that is still starting is away at first."""
    deadline = time.monotonic() + within_s
    while (trouble := trouble_of(edge)) is None or trouble["kind"] != "paused":
        assert time.monotonic() < deadline, f"expected the sink to pause, found {trouble}\n{edge.log_tail()}"
        time.sleep(0.2)
    return trouble


def settle(edge: EdgeProcess, streams: Streams, broker: KafkaBroker, topic: str) -> Outcome:
    """Everything is shipped, the edge is stopped, nothing is lost or out of order, and the counters agree."""
    streams.finish()
    wait_until_shipped(edge)
    edge.stop()
    outcome = streams.outcome(consume(broker.address, topic))
    shipped = edge.status()["sinks"][0]
    print(
        f"\n  acknowledged {outcome.acknowledged}, delivered {outcome.delivered}, duplicates {outcome.duplicates}, "
        f"after merging {outcome.unmerged}, lost {len(outcome.lost)}, failed requests {dict(streams.failures)}"
    )
    assert outcome.lost == []
    assert outcome.invented == []
    assert outcome.disordered == []
    assert outcome.unmerged == 0
    assert outcome.delivered >= outcome.acknowledged
    assert shipped["shipped"] == outcome.delivered
    assert shipped["quarantined"] == 0
    assert shipped["dropped"] == {}
    return outcome


# --- what is in a message

UUID = "018a981f-4b35-7c66-825e-8b0eeae657%02x"


class Case(msgspec.Struct):
    """A request of one event and what is to be in its message beside what all of them have."""

    path: str
    request: Any
    data: Any
    own: dict[str, Any]
    lane: str
    key: str = "phc_golden:ada"
    session: str | None = None


def single(lane: str, number: int, name: str, key: str = "phc_golden:ada", **members: Any) -> Case:
    properties = {"$cookieless_mode": True} if members else {"plan": "größe \U0001f994"}
    data = {
        "event": name,
        "distinct_id": "ada",
        "uuid": UUID % number,
        "properties": properties,
        "api_key": "phc_golden",
    }
    return Case("/e/", data, data, {"event": name, "uuid": UUID % number, **members}, lane, key)


def history() -> Case:
    data = {"event": "old", "distinct_id": "ada", "uuid": UUID % 6, "properties": {}}
    wrapper = {"api_key": "phc_golden", "historical_migration": True, "batch": [data]}
    own = {"event": "old", "uuid": UUID % 6, "historical_migration": True}
    return Case("/batch/", wrapper, data, own, "historical")


def replay() -> Case:
    given = {"distinct_id": "ada", "$session_id": "s-1", "$window_id": "w-1"}
    snapshot = {"token": "phc_golden", "$snapshot_data": [{"type": 3}], "$lib": "web", **given}
    request = [{"event": "$snapshot", "uuid": UUID % 8, "properties": snapshot}]
    items = {"$snapshot_source": "web", "$snapshot_items": [{"type": 3}], "$lib": "web", **given}
    data = {"event": "$snapshot_items", "properties": items}
    return Case("/s/", request, data, {"event": "$snapshot_items", "uuid": UUID % 8}, "replay", "s-1", "s-1")


CASES = (
    single("main", 1, "$pageview"),
    single("ai", 2, "$ai_generation"),
    single("exceptions", 3, "$exception"),
    single("heatmaps", 4, "$$heatmap"),
    single("warnings", 5, "$$client_ingestion_warning"),
    single("main", 7, "$pageview", "phc_golden:203.0.113.7", is_cookieless_mode=True),
    history(),
    replay(),
)
LANES = ("main", "overflow", "historical", "ai", "exceptions", "heatmaps", "warnings", "replay")


def test_messages_are_those_of_the_specification_in_every_lane(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    for lane in LANES:
        broker.create(f"{topic}.{lane}")
    chosen = "&".join(f"topic.{lane}={topic}.{lane}" for lane in LANES)
    edge.start("--to", f"kafka://{broker.address}?{chosen}&overflow=phc_hot")
    for case in CASES:
        send(edge, case.request, case.path)
    send(edge, {"api_key": "phc_hot", "event": "hot", "distinct_id": "bob", "uuid": UUID % 99})
    edge.stop()

    messages = consume(broker.address, *(f"{topic}.{lane}" for lane in LANES))
    found = {json.loads(message.value() or b"")["uuid"]: message for message in messages}
    assert len(messages) == len(found) == len(CASES) + 1
    for case in CASES:
        message = found[case.own["uuid"]]
        value = json.loads(message.value() or b"")
        now = value["now"]
        assert json.loads(value.pop("data")) == case.data
        # Without a time of its own an event happened when it was received.
        common = {"distinct_id": "ada", "ip": "203.0.113.7", "token": "phc_golden", "now": now, "timestamp": now}
        assert value == common | case.own
        assert message.topic() == f"{topic}.{case.lane}"
        assert message.key() == case.key.encode()
        headers = [
            ("token", b"phc_golden"),
            ("distinct_id", b"ada"),
            ("session_id", None if case.session is None else case.session.encode()),
            ("timestamp", str(int(instant(now).timestamp() * 1000)).encode()),
            ("event", case.own["event"].encode()),
            ("uuid", case.own["uuid"].encode()),
            ("now", now.encode()),
        ]
        if "historical_migration" in case.own:
            headers.append(("historical_migration", b"true"))
        assert message.headers() == headers
    spread = found[UUID % 99]
    assert spread.topic() == f"{topic}.overflow"
    assert spread.key() is None
    assert ("force_disable_person_processing", b"true") in (spread.headers() or [])


def test_old_consumers_get_one_topic_and_work_out_times_themselves(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    edge.start(*to(broker.address, topic, "envelope=2023"))
    event = {"event": "$exception", "distinct_id": "ada", "timestamp": "2025-07-01T11:00:00Z"}
    send(edge, {"api_key": "phc_x", "batch": [event], "sent_at": "2025-07-01T11:00:01Z"}, "/batch/")
    edge.stop()
    [message] = consume(broker.address, topic)
    value = json.loads(message.value() or b"")
    assert value.keys() == {"uuid", "distinct_id", "ip", "data", "now", "sent_at", "token"}
    assert json.loads(value["data"]) == event
    assert value["sent_at"] == "2025-07-01T11:00:01Z"


def test_a_key_has_the_partition_java_clients_give_it(edge: EdgeProcess, broker: KafkaBroker, topic: str) -> None:
    edge.start(*to(broker.address, topic))
    batch = [{"event": "e", "distinct_id": f"user-{number}"} for number in range(50)]
    send(edge, {"api_key": "phc_x", "batch": batch}, "/batch/")
    edge.stop()
    messages = consume(broker.address, topic)
    assert len(messages) == 50
    for message in messages:
        key = message.key()
        assert isinstance(key, bytes)
        assert message.partition() == (murmur2(key) & 0x7FFFFFFF) % 3
    # The value Java's own tests hold for it.
    assert murmur2(b"foobar") == -790332482 & 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2 with the seed Kafka's Java client has, unsigned."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        value = (value * factor & mask) ^ word
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15


# --- what becomes of it on bad days


def test_a_broker_killed_in_the_middle_of_batches_costs_nothing(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    edge.start(*to(broker.address, topic))
    streams = Streams(lambda: (edge.host, edge.port), clients=4)
    streams.start()
    streams.wait_for(500)
    for _ in range(scaled(2, 20)):
        broker.kill()
        streams.wait_for(len(streams.acknowledged) + 500)
        broker.start()
        streams.wait_for(len(streams.acknowledged) + 500)
    outcome = settle(edge, streams, broker, topic)
    assert not streams.failures
    assert outcome.delivered == outcome.acknowledged


def test_a_broker_that_hangs_is_waited_for_and_sent_nothing_twice(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    """The producer gives up on the connections, and what the broker finds in them later has come again by then."""
    impatient = ("rdkafka.socket.timeout.ms=1500", "rdkafka.request.timeout.ms=1000")
    edge.start(*to(broker.address, topic, *impatient))
    streams = Streams(lambda: (edge.host, edge.port), clients=4)
    streams.start()
    for _ in range(scaled(2, 20)):
        streams.wait_for(len(streams.acknowledged) + 300)
        broker.pause()
        time.sleep(4)
        broker.resume()
    outcome = settle(edge, streams, broker, topic)
    assert not streams.failures
    assert outcome.duplicates == 0


def test_answers_that_are_lost_after_the_commit_double_nothing(edge: EdgeProcess, tmp_path: Path) -> None:
    port = free_port()
    with TcpProxy(("127.0.0.1", port)) as proxy:
        advertised = f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"
        with KafkaBroker(tmp_path, port=port, settings=[advertised]) as broker:
            broker.start()
            through = f"127.0.0.1:{proxy.port}"
            edge.start(*to(through, "answers", "rdkafka.socket.timeout.ms=2000", "rdkafka.request.timeout.ms=1000"))
            streams = Streams(lambda: (edge.host, edge.port), clients=4)
            streams.start()
            for _ in range(scaled(3, 30)):
                streams.wait_for(len(streams.acknowledged) + 200)
                lost = proxy.lost_bytes
                proxy.lose_answers()
                deadline = time.monotonic() + 60
                while proxy.lost_bytes == lost:
                    assert time.monotonic() < deadline, "expected the broker to answer something"
                    time.sleep(0.01)
                time.sleep(0.3)
                proxy.mend()
            outcome = settle(edge, streams, broker, "answers")
            assert proxy.lost_bytes > 0
            assert outcome.duplicates == 0


def test_a_drainer_killed_while_it_ships_sends_again_what_merges(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    edge.start(*to(broker.address, topic))
    streams = Streams(lambda: (edge.host, edge.port), clients=4)
    streams.start()
    shipped = 0
    for _ in range(scaled(6, 100)):
        deadline = time.monotonic() + SHIPPED_S
        while (now := count(broker.address, topic)) <= shipped:
            assert time.monotonic() < deadline, edge.log_tail()
            time.sleep(random.random() * 0.1)
        # As soon as the drainer of this round has shipped something: hardly ever is there a checkpoint behind it already.
        [pid] = edge.drainers()
        assert send_signal(pid, signal.SIGKILL)
        wait_until_gone([pid])
        shipped = count(broker.address, topic)
        assert shipped >= now
    outcome = settle(edge, streams, broker, topic)
    assert outcome.duplicates > 0


def test_the_drainer_may_be_anywhere_when_the_broker_goes_and_the_power_fails(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    """Broker and edge die together and come back in either order."""
    edge.start(*to(broker.address, topic))
    streams = Streams(lambda: (edge.host, edge.port), clients=4)
    streams.start()
    for number in range(scaled(2, 20)):
        streams.wait_for(len(streams.acknowledged) + 300)
        broker.kill()
        streams.wait_for(len(streams.acknowledged) + 300)
        # Time enough for a checkpoint that says more than the broker has confirmed to be on the disk.
        time.sleep(2)
        edge.kill_everything()
        if number % 2:
            broker.start()
            edge.start(*to(broker.address, topic))
        else:
            edge.start(*to(broker.address, topic))
            broker.start()
    settle(edge, streams, broker, topic)


def test_a_producer_whose_connections_are_dead_is_given_up_where_others_get_through(tmp_path: Path) -> None:
    """As behind a firewall that has forgotten them: what is sent on them arrives perhaps, and no answer ever."""
    port = free_port()
    with TcpProxy(("127.0.0.1", port)) as proxy:
        advertised = f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"
        with KafkaBroker(tmp_path, port=port, settings=[advertised]) as broker:
            broker.start()
            broker.create("dead")
            properties = {**DEFAULTS, **PROMISES, "bootstrap.servers": f"127.0.0.1:{proxy.port}"}
            sink = KafkaSink(properties, Messages(dict.fromkeys(TOPICS, "dead")), patience_s=1.0, stuck_s=2.0)
            ship_in_the_end(sink, batch_of("a", "b", "c"))
            proxy.forget_connections()
            said = ship_in_the_end(sink, batch_of("d", "e", "f"))
            sink.close()
            assert any(why.endswith("another producer takes over") for why in said)
            messages = consume(broker.address, "dead")
            assert proxy.lost_bytes > 0
            # The broker may have taken what it could not say.
            assert list(dict.fromkeys(names(messages))) == list("abcdef")


def test_the_order_to_stop_does_not_wait_for_an_absent_broker(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    edge.start(*to(broker.address, topic))
    send(edge, {"api_key": "phc_x", "event": "before", "distinct_id": "u"})
    wait_until_shipped(edge)
    broker.kill()
    send(edge, {"api_key": "phc_x", "event": "during", "distinct_id": "u"})
    time.sleep(1)
    edge.stop()
    assert edge.status()["sinks"][0]["waiting_events"] == 1
    broker.start()
    edge.verb("drain", "--once", *to(broker.address, topic))
    assert names(consume(broker.address, topic)) == ["before", "during"]


def test_what_is_too_large_is_set_aside_alone_and_delivered_when_it_may_be(
    edge: EdgeProcess, broker: KafkaBroker, topic: str
) -> None:
    """By the producer's limit, and by that of the topic, which refuses a whole set of messages for one of them."""
    broker.create(f"{topic}-narrow", max_message_bytes="20000")
    url = f"kafka://{broker.address}?topics=main&topic.main={topic}-narrow"
    edge.start("--to", url, "--workers", "1")
    sizes = [100, 300_000, 100, 1_500_000, 100, 100]
    batch = [
        {"event": f"e{number}", "distinct_id": "u", "properties": {"filler": "x" * size}}
        for number, size in enumerate(sizes)
    ]
    send(edge, {"api_key": "phc_x", "batch": batch}, "/batch/")
    found = wait_until_shipped(edge)
    assert (found["shipped"], found["quarantined"]) == (4, 2)
    edge.stop()
    messages = consume(broker.address, f"{topic}-narrow")
    assert sorted(set(names(messages))) == ["e0", "e2", "e4", "e5"]
    why = " ".join(path.read_text() for path in (edge.data / "quarantine").rglob("*") if path.is_file())
    assert "larger than a message may be" in why
    assert "Message size too large" in why

    broker.create(f"{topic}-wide", max_message_bytes="3000000")
    wide = f"kafka://{broker.address}?topics=main&topic.main={topic}-wide&rdkafka.message.max.bytes=3000000"
    edge.verb("segments", "replay", "--quarantine", "--yes", "--to", wide)
    assert sorted(names(consume(broker.address, f"{topic}-wide"))) == ["e1", "e3"]
    assert not list((edge.data / "quarantine").rglob("*.json"))


def test_a_topic_nobody_made_pauses_the_sink_and_costs_nothing(edge: EdgeProcess, tmp_path: Path) -> None:
    with KafkaBroker(tmp_path, settings=["auto.create.topics.enable=false"]) as broker:
        broker.start()
        edge.start(*to(broker.address, "later", "rdkafka.topic.metadata.propagation.max.ms=1000"))
        send(edge, {"api_key": "phc_x", "event": "e", "distinct_id": "u"})
        trouble = wait_until_paused(edge)
        assert "nknown topic" in trouble["why"]
        broker.create("later")
        assert wait_until_shipped(edge)["quarantined"] == 0
        edge.stop()
        assert names(consume(broker.address, "later")) == ["e"]


@pytest.mark.parametrize("made", [True, False], ids=["brokers make them", "nobody makes them"])
def test_topics_nobody_made_are_told_by_a_probe_unless_brokers_make_them(made: bool, tmp_path: Path) -> None:
    with KafkaBroker(tmp_path, settings=[f"auto.create.topics.enable={str(made).lower()}"]) as broker:
        broker.start()
        broker.create("there")
        options = "topics=main&topic.main={}&topic.replay=there"
        assert make_sink(f"kafka://{broker.address}?{options.format('there')}")[1].probe() == "all 1 topics are there"
        _, sink = make_sink(f"kafka://{broker.address}?{options.format('later')}")
        for _ in range(2):
            if made:
                assert sink.probe().endswith("something is sent to them: later")
            else:
                with pytest.raises(Paused, match="found none we may see called later"):
                    sink.probe()


def test_the_benchmark_measures_the_sink_beside_the_producer_alone(
    broker: KafkaBroker, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"kafka://{broker.address}?topic.main={topic}"
    alone, whole = [row.split("|") for row in rows_of(capsys, tmp_path, url)]
    assert "librdkafka alone" in alone[2]
    assert float(alone[3]) > 0
    assert f"kafka://{broker.address}" in whole[2]
    # And the one it connects with.
    assert len(consume(broker.address, topic)) == EVENTS + EVENTS + 1


# --- passwords and certificates


def test_tls_and_a_password_that_is_shown_nowhere(
    edge: EdgeProcess, tmp_path: Path, program: Callable[[str], str]
) -> None:
    secret = "s3cret-wörd&"
    certificate, key = self_signed(program("openssl"), tmp_path)
    pem = tmp_path / "broker.pem"
    pem.write_text(key.read_text() + certificate.read_text())
    port = free_port()
    jaas = (
        f"org.apache.kafka.common.security.plain.PlainLoginModule required username=edge "
        f"password={json.dumps(secret)} user_edge={json.dumps(secret)};"
    )
    settings = [
        f"listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{{controller}}",
        f"advertised.listeners=SASL_SSL://127.0.0.1:{port}",
        "listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name=SASL_SSL",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        "sasl.enabled.mechanisms=PLAIN",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={pem}",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={certificate}",
        "ssl.endpoint.identification.algorithm=",
        f"listener.name.sasl_ssl.plain.sasl.jaas.config={jaas}",
    ]
    with KafkaBroker(tmp_path, port=port, settings=settings) as broker:
        broker.start()
        common = (
            f"kafka://{broker.address}?rdkafka.security.protocol=SASL_SSL&rdkafka.sasl.mechanism=PLAIN"
            f"&rdkafka.sasl.username=edge&rdkafka.ssl.ca.location={certificate}&rdkafka.sasl.password="
        )
        wrong, right = tmp_path / "wrong.toml", tmp_path / "right.toml"
        with pytest.raises(Paused, match="uthentication"):
            make_sink(common + "wr0ng-word")[1].probe()
        assert "brokers make the topics" in make_sink(common + quote(secret))[1].probe()
        wrong.write_text(f"to = {json.dumps(common + 'wr0ng-word')}\n")
        right.write_text(f"to = {json.dumps(common + quote(secret))}\n")
        edge.start("--config", str(wrong))
        send(edge, {"api_key": "phc_x", "event": "e", "distinct_id": "u"})
        trouble = wait_until_paused(edge)
        assert "uthentication" in trouble["why"]
        # Nor is it forgotten at the next attempt: librdkafka tells of it once.
        attempts = edge.log.read_text().count(" is paused")
        deadline = time.monotonic() + 60
        while edge.log.read_text().count(" is paused") < attempts + 2:
            assert time.monotonic() < deadline, edge.log_tail()
            time.sleep(0.2)
        assert trouble_of(edge) == trouble
        edge.stop()
        edge.start("--config", str(right))
        wait_until_shipped(edge)
        shown = edge.metrics() + edge.verb("status", "--json") + edge.log.read_text()
        shown += "".join(command_line(pid) for pid in edge.pids())
        shown += "".join(path.read_text() for path in (edge.data / "ckpt").iterdir())
        for word in (secret, quote(secret), "s3cret", "wr0ng"):
            assert word not in shown
        edge.stop()


def self_signed(openssl: str, folder: Path) -> tuple[Path, Path]:
    """Certificate and key for 127.0.0.1."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = (openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names)
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    return certificate, key
