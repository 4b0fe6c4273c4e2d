"""Against librdkafka's mock brokers, which answer as real ones do on bad days. Real ones: `tests/integration/test_kafka.py`."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from edge.drain.backoff import CAP_S
from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.messages import TOPICS, Messages
from edge.drain.sink import CACHED_READ_BYTES, Batch, Paused, Refusal, Refused, Retryable, TooLarge, split_url
from edge.drain.sinks import kafka
from edge.drain.sinks.kafka import (
    DEFAULTS,
    PROMISES,
    READ_BYTES_MAX,
    STUCK_S,
    KafkaSink,
    make,
    next_read_bytes,
    open_producer,
)
from edge.segment.name import SegmentName
from edge.segment.record import RecordIds, decode_record, encode_record
from tests.kafka_mock import MockCluster, consume

MAIN = TOPICS["main"]
PATIENCE_S = 0.6
"""Of the tests that wait for its end."""

LEADER_NOT_AVAILABLE = 5
MSG_SIZE_TOO_LARGE = 10
TOPIC_AUTHORIZATION_FAILED = 29
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
INVALID_RECORD = 87
NOT_LEADER_FOR_PARTITION = 6
REQUEST_TIMED_OUT = 7
NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        cluster.topic(MAIN, partitions=1)
        yield cluster


@pytest.fixture
def sink(cluster: MockCluster) -> Iterator[KafkaSink]:
    sink = sink_to(cluster)
    yield sink
    sink.close()


@pytest.fixture
def impatient(cluster: MockCluster) -> Iterator[KafkaSink]:
    sink = sink_to(cluster, PATIENCE_S)
    ship_in_the_end(sink, events("before"))
    yield sink
    sink.close()


def sink_to(cluster: MockCluster, patience_s: float = 60.0, **properties: str) -> KafkaSink:
    return made(cluster, patience_s, STUCK_S, {key.replace("_", "."): value for key, value in properties.items()})


def made(cluster: MockCluster, patience_s: float, stuck_s: float, given: Mapping[str, str] | None = None) -> KafkaSink:
    properties = {**DEFAULTS, **(given or {}), **PROMISES, "bootstrap.servers": cluster.bootstrap}
    return KafkaSink(properties, Messages(TOPICS), patience_s, stuck_s)


def events(*names: str, size: int = 0) -> list[Event]:
    found = [{"event": name, "distinct_id": "u", "properties": {"filler": "x" * size}} for name in names]
    stored = encode_record(RecordIds(1), 1_763_690_000_000_000, "phc_x", "batch", "", json.dumps(found).encode())
    return expand(decode_record(stored)).events


def batch(events: list[Event]) -> Batch:
    return Batch(0, SegmentName(1, 0xABC), 0, 100, events)


def delivered(cluster: MockCluster, topic: str = MAIN) -> list[str]:
    return [json.loads(message.value() or b"")["event"] for message in consume(cluster.bootstrap, topic)]


def refusal(sink: KafkaSink, events: list[Event]) -> Refusal:
    with pytest.raises(Refusal) as raised:
        sink.ship(batch(events))
    return raised.value


def ship_in_the_end(sink: KafkaSink, events: list[Event], within_s: float = 60.0) -> list[Refusal]:
    """Offer the events until they are taken, as the drainer does; what was said before."""
    said: list[Refusal] = []
    deadline = time.monotonic() + within_s
    while True:
        try:
            sink.ship(batch(events))
        except Retryable as refusal:
            said.append(refusal)
            events = [event for index, event in enumerate(events) if index not in refusal.taken]
        else:
            return said
        assert time.monotonic() < deadline, f"expected the events to be taken within {within_s} s: {said[-1]}"


def test_events_are_there_in_their_order_when_ship_returns(cluster: MockCluster, sink: KafkaSink) -> None:
    names = [f"e{number}" for number in range(3000)]
    assert sink.ship(batch(events(*names))) == sum(
        len(message.value() or b"") + len(message.key() or b"") for message in consume(cluster.bootstrap, MAIN)
    )
    assert delivered(cluster) == names


def test_batches_grow_where_their_confirmation_takes_long() -> None:
    least, most = CACHED_READ_BYTES, READ_BYTES_MAX
    assert next_read_bytes(least, 1.0, 4.1) == 2 * least
    assert next_read_bytes(most, 1.0, 100.0) == most
    assert [next_read_bytes(2 * least, 1.0, waited_s) for waited_s in (1.1, 3.9)] == [2 * least] * 2
    assert next_read_bytes(2 * least, 1.0, 0.9) == least
    assert next_read_bytes(least, 1.0, 0.1) == least


def test_only_of_a_full_batch_is_learned_how_large_the_next_one_is(cluster: MockCluster, sink: KafkaSink) -> None:
    cluster.slow(200)
    sink.ship(Batch(0, SegmentName(1, 0xABC), 1000, 1000 + CACHED_READ_BYTES // 3, events("a")))
    assert sink.read_bytes == CACHED_READ_BYTES
    sink.ship(Batch(0, SegmentName(1, 0xABC), 1000, 1000 + CACHED_READ_BYTES - 100, events("b")))
    assert sink.read_bytes == 2 * CACHED_READ_BYTES


def test_what_holds_no_event_needs_no_broker() -> None:
    sink = KafkaSink({"bootstrap.servers": "127.0.0.1:1"}, Messages(TOPICS))
    assert sink.ship(batch([])) == 0


@pytest.mark.parametrize(
    "code", [NOT_LEADER_FOR_PARTITION, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND], ids=str
)
def test_what_passes_is_tried_again_inside_ship(cluster: MockCluster, sink: KafkaSink, code: int) -> None:
    cluster.fail(code, code, code)
    ship_in_the_end(sink, events("a", "b", "c"))
    assert delivered(cluster) == ["a", "b", "c"]


def test_an_absent_broker_is_said_and_what_was_handed_over_is_not_doubled(
    cluster: MockCluster, impatient: KafkaSink
) -> None:
    cluster.down()
    waiting = events("a", "b", "c")
    for _ in range(2):
        found = refusal(impatient, waiting)
        assert isinstance(found, Retryable)
        assert "no message was confirmed for 0.6 s" in str(found)
        assert not found.taken
    cluster.up()
    ship_in_the_end(impatient, waiting)
    assert delivered(cluster) == ["before", "a", "b", "c"]


def test_attempts_to_connect_do_not_fill_the_log(
    cluster: MockCluster, impatient: KafkaSink, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.down()
    waiting = events("a")
    assert "failed" in str(refusal(impatient, waiting)) + str(refusal(impatient, waiting))
    assert "Connect to" not in caplog.text


def test_a_slow_answer_is_waited_for_over_several_offers(cluster: MockCluster, impatient: KafkaSink) -> None:
    cluster.slow(1500)
    said = ship_in_the_end(impatient, events("a", "b"))
    assert said
    cluster.slow(0)
    assert delivered(cluster) == ["before", "a", "b"]


def test_no_room_in_the_producer_is_waited_for(cluster: MockCluster) -> None:
    sink = sink_to(cluster, queue_buffering_max_messages="10")
    names = [f"e{number}" for number in range(100)]
    ship_in_the_end(sink, events(*names))
    assert delivered(cluster) == names
    sink.close()


def test_no_room_while_the_broker_is_gone_is_said_and_nothing_is_doubled(cluster: MockCluster) -> None:
    sink = sink_to(cluster, PATIENCE_S, queue_buffering_max_messages="10")
    ship_in_the_end(sink, events("before"))
    cluster.down()
    names = [f"e{number}" for number in range(35)]
    waiting = events(*names)
    for _ in range(2):
        assert isinstance(refusal(sink, waiting), Retryable)
    cluster.up()
    ship_in_the_end(sink, waiting)
    assert delivered(cluster) == ["before", *names]
    sink.close()


def test_an_event_above_the_producers_limit_is_named_and_the_others_are_taken(
    cluster: MockCluster, sink: KafkaSink
) -> None:
    found = refusal(sink, [*events("a", "b"), *events("huge", size=1_000_000), *events("c")])
    assert isinstance(found, Refused)
    assert found.indexes == frozenset({2})
    assert found.taken == {0, 1, 3}
    assert "rdkafka.message.max.bytes" in str(found)
    assert delivered(cluster) == ["a", "b", "c"]


def test_the_producers_limit_counts_the_escaped_event(cluster: MockCluster, sink: KafkaSink) -> None:
    """Quotes double inside the value, which is what a broker measures."""
    [event] = events("quotes")
    fits = 480_000
    event.body = b'{"p":"%b"}' % (b'\\"' * fits)
    assert len(event.body) < 1_000_000
    assert isinstance(refusal(sink, [event]), Refused)


def test_a_set_of_messages_the_broker_finds_too_large_is_to_be_halved(cluster: MockCluster, sink: KafkaSink) -> None:
    cluster.fail(MSG_SIZE_TOO_LARGE)
    found = refusal(sink, events("a", "b"))
    assert isinstance(found, TooLarge)
    assert not found.taken
    assert delivered(cluster) == []


def test_what_the_broker_finds_invalid_is_refused_without_a_culprit(cluster: MockCluster, sink: KafkaSink) -> None:
    cluster.fail(INVALID_RECORD)
    found = refusal(sink, events("a", "b"))
    assert isinstance(found, Refused)
    assert found.indexes is None


def test_what_was_taken_is_told_when_another_topic_fails(cluster: MockCluster, sink: KafkaSink) -> None:
    cluster.topic(TOPICS["exceptions"])
    cluster.break_topic(TOPICS["exceptions"], TOPIC_AUTHORIZATION_FAILED)
    found = refusal(sink, events("a", "$exception", "b", "$exception"))
    assert isinstance(found, Paused)
    assert found.taken == {0, 2}
    assert delivered(cluster) == ["a", "b"]


@pytest.fixture
def two() -> Iterator[MockCluster]:
    """The first has the topic of ordinary events, the second that of exceptions."""
    with MockCluster(brokers=2) as cluster:
        for broker, topic in enumerate((MAIN, TOPICS["exceptions"]), 1):
            cluster.topic(topic)
            cluster.lead(topic, broker)
        yield cluster


def test_a_failure_is_not_forgotten_while_others_are_waited_for(two: MockCluster) -> None:
    """One broker refuses at once, the other answers when the patience for the first offer is long over."""
    sink = sink_to(two, PATIENCE_S)
    ship_in_the_end(sink, events("before", "$exception"))
    two.slow(3000, 1)
    two.fail_at(2, TOPIC_AUTHORIZATION_FAILED)
    waiting = events("a", "$exception")
    found = refusal(sink, waiting)
    assert isinstance(found, Retryable)
    while isinstance(found, Retryable):
        found = refusal(sink, waiting)
    assert isinstance(found, Paused)
    assert found.taken == {0}
    sink.close()


def test_a_certificate_that_is_gone_pauses(cluster: MockCluster) -> None:
    sink = sink_to(cluster, security_protocol="ssl", ssl_ca_location="/no/such/file")
    found = refusal(sink, events("a"))
    assert isinstance(found, Paused)
    assert "ssl.ca.location" in str(found)


def test_of_equal_events_as_many_failed_as_failed(cluster: MockCluster, sink: KafkaSink) -> None:
    [event] = events("$exception")
    cluster.topic(TOPICS["exceptions"])
    cluster.break_topic(TOPICS["exceptions"], TOPIC_AUTHORIZATION_FAILED)
    found = refusal(sink, [event, *events("a"), event])
    assert found.taken == {1}


def test_a_producer_that_gave_up_is_replaced(cluster: MockCluster, sink: KafkaSink) -> None:
    """A hole in the sequence of messages that the producer cannot explain: the broker lost some."""
    sink.ship(batch(events("before")))
    first = sink._producer
    cluster.fail(OUT_OF_ORDER_SEQUENCE_NUMBER)
    said = ship_in_the_end(sink, events("a", "b"))
    assert said
    assert sink._producer is not first
    assert delivered(cluster) == ["before", "a", "b"]


class Clinging(Producer):
    """Does not throw away what it holds."""

    def purge(self, *_: bool, **__: bool) -> None:
        pass


@pytest.fixture
def clinging(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_clinging(properties: Mapping[str, Any], on_failure: Any, on_error: Any) -> Producer:
        return Clinging({**properties, "on_delivery": on_failure, "error_cb": on_error})

    monkeypatch.setattr(kafka, "open_producer", open_clinging)


@pytest.mark.usefixtures("clinging")
def test_a_producer_that_gave_up_and_keeps_what_it_holds_is_replaced(cluster: MockCluster) -> None:
    sink = sink_to(cluster, PATIENCE_S)
    ship_in_the_end(sink, events("before"))
    cluster.slow(3000)
    sink._fatal = True
    assert isinstance(refusal(sink, events("a")), Retryable)
    assert sink._producer is None
    cluster.slow(0)
    ship_in_the_end(sink, events("b"))
    assert delivered(cluster) == ["before", "a", "b"]
    sink.close()


# --- a producer that has lost its way


@pytest.fixture
def lost(cluster: MockCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaSink]:
    """Its first two producers never find the brokers, as others do."""
    opened = 0

    def open_lost(properties: Mapping[str, Any], *callbacks: Any) -> Producer:
        nonlocal opened
        opened += 1
        nowhere = {"bootstrap.servers": "127.0.0.1:1"} if opened <= 2 else {}
        return open_producer({**properties, **nowhere}, *callbacks)

    monkeypatch.setattr(kafka, "open_producer", open_lost)
    sink = made(cluster, PATIENCE_S, 2.0)
    yield sink
    sink.close()


def test_a_producer_that_does_not_find_what_others_find_is_given_up(cluster: MockCluster, lost: KafkaSink) -> None:
    said = [str(each) for each in ship_in_the_end(lost, events("a", "b"))]
    assert delivered(cluster) == ["a", "b"]
    given_up = [index for index, why in enumerate(said) if "another producer takes over" in why]
    assert len(given_up) == 2
    assert all("all partitions have leaders" in why for why in said)
    # Twice the time for the second, and the first one's again once something was confirmed.
    waits = [int(said[index].partition(", for ")[2].split(" s")[0]) for index in given_up]
    assert waits[0] >= 2
    assert waits[1] >= 4
    assert lost._stuck_s == 2.0


def test_offers_come_soon_while_partitions_have_leaders(cluster: MockCluster, lost: KafkaSink) -> None:
    found = refusal(lost, events("a"))
    assert isinstance(found, Retryable)
    assert found.at_most_s == 5.0
    cluster.down()
    found = refusal(lost, events("a"))
    assert isinstance(found, Retryable)
    assert found.at_most_s == CAP_S
    # The time with leaders begins again.
    assert lost._led is None


def test_a_partition_without_a_leader_is_found(cluster: MockCluster) -> None:
    sink = sink_to(cluster)
    assert sink._have_leaders({MAIN})
    assert not sink._have_leaders({MAIN, "no such topic"})
    cluster.lead(MAIN, -1)
    assert not sink._have_leaders({MAIN})


def test_a_producer_is_kept_while_nobody_finds_the_brokers_or_a_leader(cluster: MockCluster) -> None:
    sink = made(cluster, PATIENCE_S, 0.1)
    ship_in_the_end(sink, events("before"))
    first = sink._producer
    waiting = events("a")
    cluster.down()
    for _ in range(3):
        assert isinstance(refusal(sink, waiting), Retryable)
    cluster.break_topic(MAIN, LEADER_NOT_AVAILABLE)
    cluster.up()
    for _ in range(3):
        assert isinstance(refusal(sink, waiting), Retryable)
    assert sink._producer is first
    sink.close()


def test_the_time_without_a_confirmation_begins_again_with_every_one(two: MockCluster) -> None:
    sink = sink_to(two, PATIENCE_S)
    ship_in_the_end(sink, events("before", "$exception"))
    for broker, delay_ms in ((1, 4000), (2, 9000)):
        two.fail_at(broker, 0, delay_ms=delay_ms)
    waiting = events("a", "$exception")
    waits: list[tuple[int, float]] = []
    while not waits or waits[-1][0] == 2:
        refusal(sink, waiting)
        assert sink._led is not None
        waits.append(sink._led)
    assert waits[0] == waits[-2]
    assert waits[-1][0] == 1
    assert waits[-1][1] > waits[0][1]
    sink.close()


def test_closing_does_not_wait_for_an_absent_broker(cluster: MockCluster) -> None:
    sink = sink_to(cluster, PATIENCE_S)
    ship_in_the_end(sink, events("before"))
    cluster.down()
    refusal(sink, events("a"))
    closing = threading.Thread(target=sink.close, daemon=True)
    closing.start()
    closing.join(60)
    # The producer would wait for ever.
    assert not closing.is_alive()


@pytest.mark.usefixtures("clinging")
def test_closing_does_not_wait_for_what_is_not_let_go(cluster: MockCluster) -> None:
    test_closing_does_not_wait_for_an_absent_broker(cluster)


def test_a_sink_that_is_made_holds_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _, sink = make(split_url("kafka://127.0.0.1:1"))
    assert isinstance(sink, KafkaSink)
    assert sink._producer is None
    assert not caplog.records


def test_one_destination_has_one_id_however_it_is_written() -> None:
    first, _ = make(split_url("kafka://a:9092,b:9092"))
    assert make(split_url("kafka://b:9092,a:9092?rdkafka.linger.ms=5"))[0] == first
    assert make(split_url("kafka://a:9092,b:9092?topic.main=other"))[0] != first


def test_one_topic_for_everything_but_replays() -> None:
    _, topics = kafka._messages(split_url("kafka://h:1?topics=main&topic.main=m&topic.exceptions=x"))
    assert topics.pop("replay") == TOPICS["replay"]
    assert topics.pop("exceptions") == "x"
    assert set(topics.values()) == {"m"}


def test_ai_events_follow_the_main_topic_unless_they_have_their_own() -> None:
    assert kafka._messages(split_url("kafka://h:1?topic.main=m"))[1]["ai"] == "m"
    assert kafka._messages(split_url("kafka://h:1?topic.main=m&topic.ai=a"))[1]["ai"] == "a"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("kafka://", "expected brokers as kafka://HOST:PORT,HOST:PORT, found ''"),
        ("kafka://h", "expected brokers as kafka://HOST:PORT,HOST:PORT, found 'h'"),
        ("kafka://h:1,", "found ''"),
        ("kafka://h:1?topic=x", "expected the options .*, found 'topic'"),
        ("kafka://h:1?topic.replays=x", "expected the options .*, found 'topic.replays'"),
        ("kafka://h:1?envelope=2024", "expected envelope to be one of 2025, 2023, found '2024'"),
        ("kafka://h:1?topics=all", "expected topics to be one of lanes, main, found 'all'"),
        ("kafka://h:1?topic.main=a%20b", "expected topic.main to be 1 to 249 letters, .*, found 'a b'"),
        ("kafka://h:1?rdkafka.acks=1", "expected rdkafka.acks to be left alone"),
        ("kafka://h:1?rdkafka.bogus=1", 'No such configuration property: "bogus"'),
        ("kafka://h:1?rdkafka.linger.ms=soon", "Invalid value"),
        ("kafka://h:1?rdkafka.sasl.password=env:NO_SUCH_NAME", "expected a variable NO_SUCH_NAME .* rdkafka.sasl.pass"),
        (
            "kafka://h:1?rdkafka.sasl.password=file:/no/such",
            "expected a file for rdkafka.sasl.password: .*No such file",
        ),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(split_url(url))


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_no_option_weakens_what_is_promised(name: str) -> None:
    with pytest.raises(ValueError, match="left alone"):
        make(split_url(f"kafka://h:1?rdkafka.{name}=1"))


def test_secrets_come_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    monkeypatch.setenv("KAFKA_USER", "alice")
    options = {
        "rdkafka.sasl.username": "env:KAFKA_USER",
        "rdkafka.sasl.password": f"file:{tmp_path}/password",
        "rdkafka.client.id": "edge:7",
    }
    assert kafka._properties(options) == {"sasl.username": "alice", "sasl.password": "s3cret", "client.id": "edge:7"}


def test_without_the_package_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from edge.drain.sinks.table import make_sink\n"
        "make_sink('null:')\n"
        "try: make_sink('kafka://h:1')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "capture-edge[kafka]"' in done.stdout, done.stderr


# --- asked whether it would take anything


@pytest.fixture
def complete(cluster: MockCluster) -> MockCluster:
    """It has all topics that messages may go to."""
    for topic in Messages(TOPICS).topics - {MAIN}:
        cluster.topic(topic)
    return cluster


def test_topics_are_looked_for_when_asked_and_nothing_is_sent(complete: MockCluster) -> None:
    sink = sink_to(complete)
    assert sink.probe() == "all 6 topics are there"
    assert sink._producer is None
    assert [delivered(complete, topic) for topic in Messages(TOPICS).topics] == [[]] * 6


def test_topics_that_are_not_there_are_named_and_not_made(cluster: MockCluster) -> None:
    """The mock makes every topic that is asked for by its name, and does not say so."""
    sink = sink_to(cluster)
    for _ in range(2):
        with pytest.raises(
            Paused, match="expected 6 topics, found none we may see called client_iwarnings_ingestion, "
        ) as raised:
            sink.probe()
    assert MAIN not in str(raised.value).split(", ")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(TOPIC_AUTHORIZATION_FAILED, Paused), (LEADER_NOT_AVAILABLE, Retryable)],
    ids=["rights", "moving"],
)
def test_what_is_wrong_with_a_topic_is_told_when_asked(complete: MockCluster, code: int, kind: type[Refusal]) -> None:
    complete.break_topic(MAIN, code)
    with pytest.raises(kind, match=f"topic {MAIN}: "):
        sink_to(complete).probe()


def test_brokers_that_are_gone_or_know_no_passwords_are_told_when_asked(complete: MockCluster) -> None:
    words = {
        "security_protocol": "sasl_plaintext",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "a",
        "sasl_password": "b",
    }
    with pytest.raises(Paused, match=r"no broker has told its topics: .*SASL"):
        sink_to(complete, PATIENCE_S, **words).probe()
    complete.down()
    with pytest.raises(Retryable, match=r"no broker has told its topics: .*(refused|Disconnected)"):
        sink_to(complete, PATIENCE_S).probe()
    with pytest.raises(Paused, match=r"ssl\.ca\.location"):
        sink_to(complete, security_protocol="ssl", ssl_ca_location="/no/such/file").probe()
