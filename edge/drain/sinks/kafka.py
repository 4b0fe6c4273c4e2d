"""`kafka://HOST:PORT[,HOST:PORT]`: the messages PostHog's ingestion consumes, by librdkafka's idempotent producer.

A batch goes out in full before anything is waited for, and counts as shipped once the brokers in sync have every message of it
(acks=all). It is as large as the time that takes makes worth while. Messages never expire, and what broke on the way is sent
again by the producer, in order and without doubles, for as long as it lives. So an outage is lag: `ship` says `Retryable` from
time to time, and what was handed to the producer stays there and is not handed over again when the same events are offered
again.

A producer may lose its way for good when partitions are without a leader for a moment (librdkafka issues 4976, 5430, 5593). One
that gets nothing confirmed while others find the brokers and their leaders there is given up for another.

After that, as after a crash, the batch under way is sent again, which consumers recognise by uuid, event, timestamp and
distinct_id.

Options of the URL:

    envelope=2025|2023        the value for consumers of since 2025, or for those that work out times themselves
    topics=lanes|main         a topic per lane, or everything but replays in the topic of `main`
    topic.LANE=NAME           the topic of one lane, which wins over `topics`
    overflow=TOKEN[:ID],...   hot keys: to the topic of `overflow`, without a key, persons left alone
    rdkafka.NAME=VALUE        any property of librdkafka that does not touch the promises above; VALUE may be env:VARIABLE or
                              file:PATH, which keeps a secret out of process listings, logs and checkpoints
"""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import xxhash

from edge.drain.event import Event
from edge.drain.messages import ENVELOPES, TOPICS, Messages
from edge.drain.sink import CACHED_READ_BYTES, Batch, Paused, Refusal, Refused, Retryable, Sink, SinkUrl, TooLarge
from edge.segment.name import SegmentName

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._metadata import ClusterMetadata

LINGER_S: Final = 0.05
READ_BYTES_MAX: Final = 1024 * 1024
"""Compressed: some ten thousand events, a tenth of a second of work, and what is sent twice after a crash."""
_LONG: Final = 4.0
"""Times as long as it took to hand a batch over, and its confirmation is worth a larger batch."""
QUEUE_KBYTES: Final = 65_536
"""What the producer holds at most; above, `ship` waits for room."""
PATIENCE_S: Final = 5.0
"""Without a single message confirmed."""
STUCK_S: Final = 30.0
"""Without a single message confirmed, while others find leaders of all partitions: the producer is given up. Twice as long for
the next one, as there are leaders that confirm nothing, with too few replicas in sync."""
STUCK_MAX_S: Final = 3600.0
_LOOK_S: Final = 2.0
"""For the brokers' answer to another client. With `PATIENCE_S` below the time the drainer has to stop."""
_SOON_S: Final = 5.0
"""Until the same is offered again, where the topics have leaders."""
_LET_GO_S: Final = 1.0
"""For a producer that is closed to tell what it throws away."""
_POLL_S: Final = 0.1
_SETTING_S: Final = 1.0
"""For a setting of a broker that has just answered."""

DEFAULTS: Final[dict[str, str]] = {
    "client.id": "edge",
    "linger.ms": "20",
    "queue.buffering.max.kbytes": str(QUEUE_KBYTES),
    "queue.buffering.max.messages": "1000000",
    # A broker that comes back is noticed this soon.
    "reconnect.backoff.max.ms": "2000",
}
"""Properties that `rdkafka.NAME` may change."""

PROMISES: Final[dict[str, str | bool]] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": "0",
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
}
"""Properties that it may not: nothing is lost, the order of a key is kept, a key has the partition Java clients give it."""

_RESERVED: Final = PROMISES.keys() | {
    *("bootstrap.servers", "metadata.broker.list", "request.required.acks", "delivery.timeout.ms", "transactional.id"),
    *("enable.gapless.guarantee", "retries", "message.send.max.retries", "max.in.flight"),
    "max.in.flight.requests.per.connection",
}

_PROPERTY: Final = "rdkafka."
_BROKER: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")

# Names of librdkafka and of the protocol; looked up when the library is there.
_TOO_LARGE: Final = ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG_SIZE")
_UNACCEPTABLE: Final = ("INVALID_RECORD", "INVALID_TIMESTAMP")
_ALL_DOWN: Final = "_ALL_BROKERS_DOWN"
_AUTO_CREATE: Final = "auto.create.topics.enable"
_MISCONFIGURED: Final = (
    *("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE", "_SSL"),
    *("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "SECURITY_DISABLED", "POLICY_VIOLATION"),
    *("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "TOPIC_EXCEPTION", "_UNSUPPORTED_FEATURE"),
)


class _NotSaidElsewhere(logging.Filter):
    """Without the attempts to connect, several a second for as long as a broker is away: the sink says the last one's error."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(("FAIL ", "ERROR "))


library_log: Final = logging.getLogger(__name__ + ".librdkafka")
library_log.addFilter(_NotSaidElsewhere())


class KafkaSink:
    linger_s = LINGER_S
    read_bytes = CACHED_READ_BYTES
    by_range = False

    def __init__(
        self,
        properties: Mapping[str, Any],
        messages: Messages,
        patience_s: float = PATIENCE_S,
        stuck_s: float = STUCK_S,
    ) -> None:
        from confluent_kafka import KafkaError

        self._properties = dict(properties)
        self._message = messages.of
        self._topics = messages.topics
        self._patience_s = patience_s
        self._stuck_s = self._stuck_first_s = stuck_s
        self._led: tuple[int, float] | None = None
        """While the topics have leaders and nothing is confirmed: how many messages wait, and since when."""
        self._too_large = frozenset(getattr(KafkaError, name) for name in _TOO_LARGE)
        self._unacceptable = frozenset(getattr(KafkaError, name) for name in _UNACCEPTABLE)
        self._misconfigured = frozenset(getattr(KafkaError, name) for name in _MISCONFIGURED)
        self._all_down: int = getattr(KafkaError, _ALL_DOWN)
        self._producer: Producer | None = None
        # Of one producer.
        self._under_way: dict[int, Event] = {}
        """By identity: handed over by an earlier `ship` that did not see the end of it."""
        self._bytes = 0
        """Handed over and not yet told."""
        self._failures: list[tuple[KafkaError, bytes]] = []
        """Messages that will not be delivered, by their value; told when nothing is under way any more."""
        self._fatal = False
        """The producer will never send anything again."""
        self._trouble: KafkaError | None = None
        """The last thing that went wrong with a connection, of which librdkafka tells once and not at every attempt."""

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def ship(self, batch: Batch) -> int:
        if not batch.events:
            return 0
        if self._producer is None:
            self._producer = self._open()
        began_s = time.monotonic()
        oversized = self._hand_over(self._producer, batch.events)
        handed_s = time.monotonic()
        self._wait(self._producer, batch.events, oversized)
        if batch.end - batch.start >= self.read_bytes // 2:
            self.read_bytes = next_read_bytes(self.read_bytes, handed_s - began_s, time.monotonic() - handed_s)
        self._under_way.clear()
        self._trouble = self._led = None
        self._stuck_s = self._stuck_first_s
        if oversized or self._failures:
            raise self._refusal(batch.events, oversized)
        size, self._bytes = self._bytes, 0
        return size

    def probe(self) -> str:
        """By the brokers' list of topics. No topic is named, as one that is may be made by being asked for."""
        asking, cluster = self._cluster(self._patience_s)
        for name in sorted(self._topics & cluster.topics.keys()):
            if (wrong := cluster.topics[name].error) is not None:
                raise self._not_now(f"topic {name}", wrong)
        missing = sorted(self._topics - cluster.topics.keys())
        if not missing:
            return f"all {len(self._topics)} topics are there"
        if not _makes_topics(asking, cluster.controller_id):
            raise Paused(f"expected {len(self._topics)} topics, found none we may see called {', '.join(missing)}")
        return f"the brokers make the topics that are not there when something is sent to them: {', '.join(missing)}"

    def _cluster(self, within_s: float) -> "tuple[AdminClient, ClusterMetadata]":
        """A client of its own and what the brokers tell it of themselves. Raises `Refusal`."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        trouble: list[KafkaError] = []
        properties: dict[str, Any] = {**self._properties, "error_cb": trouble.append, "logger": library_log}
        try:
            asking = AdminClient(properties)
        except KafkaException as error:
            raise Paused(error.args[0].str()) from error
        deadline_s = time.monotonic() + within_s
        wait_s = _POLL_S
        last: KafkaError | None = None
        while (left_s := deadline_s - time.monotonic()) > 0 and not self._is_misconfigured(last):
            try:
                return asking, asking.list_topics(timeout=min(wait_s, left_s))
            except KafkaException:
                # What is wrong is told while it waits, to be heard afterwards.
                asking.poll(0)
            for told in trouble:
                last = self._more_telling(last, told)
            trouble.clear()
            wait_s *= 2
        raise self._not_now("no broker has told its topics", last)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # Or closing waits for what an absent broker may not take for hours.
            producer.purge(blocking=False)
            deadline_s = time.monotonic() + _LET_GO_S
            while (left := self._turn(producer, producer.flush)) and time.monotonic() < deadline_s:
                continue
            if not left:
                producer.close()
            # One that does not let go is destroyed with the last reference, and not waited for.
        # Only now: what is thrown away is told as failed.
        self._under_way.clear()
        self._failures, self._fatal, self._trouble, self._led = [], False, None, None

    def _open(self) -> "Producer":
        """Raises `Paused`."""
        from confluent_kafka import KafkaException

        try:
            return open_producer(self._properties, self._on_failure, self._on_error)
        except KafkaException as error:
            # It worked when the URL was checked, so a certificate's file is gone, or something like it.
            raise Paused(error.args[0].str()) from error

    def _hand_over(self, producer: "Producer", events: list[Event]) -> set[int]:
        """The places of events the producer finds too large. Raises `Refusal` when it has no room for too long."""
        from confluent_kafka import KafkaException

        oversized: set[int] = set()
        message_of, produce, under_way = self._message, producer.produce, self._under_way
        for index, event in enumerate(events):
            if under_way and id(event) in under_way:
                continue
            message = message_of(event)
            full_since_s: float | None = None
            while True:
                try:
                    produce(message.topic, message.value, message.key, headers=message.headers)
                except BufferError:
                    now_s = time.monotonic()
                    held = len(producer)
                    if self._turn(producer, producer.poll) < held or full_since_s is None:
                        full_since_s = now_s
                    elif now_s - full_since_s > self._patience_s:
                        self._remember(events[:index], oversized)
                        raise self._unconfirmed(producer, events) from None
                    continue
                except KafkaException as error:
                    found: KafkaError = error.args[0]
                    if found.code() in self._too_large:
                        oversized.add(index)
                        break
                    self._fatal = self._fatal or found.fatal()
                    self._failures.append((found, message.value))
                    break
                self._bytes += len(message.value) + len(message.key or b"")
                break
        return oversized

    def _wait(self, producer: "Producer", events: list[Event], oversized: set[int]) -> None:
        """Until the fate of every message is known. Raises `Refusal` when nothing moves for too long."""
        left, since_s = len(producer), time.monotonic()
        while now_left := self._turn(producer, producer.flush):
            now_s = time.monotonic()
            if self._fatal:
                producer.purge(blocking=False)
            if now_left < left:
                left, since_s = now_left, now_s
            elif now_s - since_s > self._patience_s:
                self._remember(events, oversized)
                raise self._unconfirmed(producer, events)

    def _turn(self, producer: "Producer", serve: "Callable[[float], int]") -> int:
        """Let it send and tell for a moment; the number of messages whose fate is not known."""
        from confluent_kafka import KafkaException

        try:
            serve(_POLL_S)
        except KafkaException as error:
            self._on_error(error.args[0])
        return len(producer)

    def _remember(self, events: list[Event], oversized: set[int]) -> None:
        self._under_way |= {id(event): event for index, event in enumerate(events) if index not in oversized}

    def _unconfirmed(self, producer: "Producer", events: list[Event]) -> Refusal:
        why = f"no message was confirmed for {self._patience_s:g} s"
        if self._fatal:
            # It does not even throw away what it holds.
            refusal = self._not_now(why, self._trouble)
            self.close()
            return refusal
        if not self._have_leaders({self._message(event).topic for event in events}):
            self._led = None
            return self._not_now(why, self._trouble)
        now_s, left = time.monotonic(), len(producer)
        if self._led is None or left < self._led[0]:
            self._led = left, now_s
        led_s = now_s - self._led[1]
        why += ", and yet all partitions have leaders"
        if led_s >= self._stuck_s:
            self._stuck_s = min(2.0 * self._stuck_s, STUCK_MAX_S)
            self.close()
            why += f", for {led_s:.0f} s now: another producer takes over"
        return Retryable(why, at_most_s=_SOON_S)

    def _have_leaders(self, topics: set[str]) -> bool:
        """Whether every partition of the topics has one, as another client than the producer finds them."""
        try:
            _, cluster = self._cluster(_LOOK_S)
        except Refusal:
            return False
        found = [cluster.topics[name] for name in topics & cluster.topics.keys()]
        leaders = {partition.leader for topic in found for partition in (topic.partitions or {}).values()}
        known = len(found) == len(topics) and all(topic.partitions and topic.error is None for topic in found)
        return known and leaders <= cluster.brokers.keys()

    def _not_now(self, why: str, trouble: "KafkaError | None") -> Refusal:
        if trouble is None:
            return Retryable(why)
        why += f": {trouble.str()}"
        return Paused(why) if self._is_misconfigured(trouble) else Retryable(why)

    def _is_misconfigured(self, trouble: "KafkaError | None") -> bool:
        return trouble is not None and trouble.code() in self._misconfigured

    def _refusal(self, events: list[Event], oversized: set[int]) -> Refusal:
        """What the failed messages mean for the batch. They are offered again, so one cause at a time will do."""
        failures, self._failures = self._failures, []
        failed = self._places(events, [value for _, value in failures])
        taken = [index for index in range(len(events)) if index not in failed and index not in oversized]
        errors = {error.code(): error.str() for error, _ in failures}
        if self._fatal:
            # What it did is known message by message; the next producer begins with what is left.
            self.close()
        if not errors:
            return Refused("larger than a message may be, see rdkafka.message.max.bytes", oversized, taken=taken)
        if found := errors.keys() & self._misconfigured:
            return Paused(errors[min(found)], taken=taken)
        if found := errors.keys() - self._too_large - self._unacceptable:
            return Retryable(errors[min(found)], taken=taken)
        # A broker refuses a whole set of messages because of one of them, so the event at fault is not known yet.
        if found := errors.keys() & self._too_large:
            return TooLarge(errors[min(found)], taken=taken)
        return Refused(errors[min(errors)], taken=taken)

    def _places(self, events: list[Event], values: list[bytes]) -> set[int]:
        """Where the events stand whose messages have these values; of equal ones as many as there are values."""
        if not values:
            return set()
        places: dict[bytes, list[int]] = {}
        for index, event in enumerate(events):
            places.setdefault(self._message(event).value, []).append(index)
        return {places[value].pop() for value in values if places.get(value)}

    def _on_failure(self, error: "KafkaError | None", message: "Message") -> None:
        if error is not None:
            self._fatal = self._fatal or error.fatal()
            self._failures.append((error, message.value() or b""))

    def _more_telling(self, before: "KafkaError | None", error: "KafkaError") -> "KafkaError":
        """Of two errors. That all brokers are down is told after what brought the last of them down, and says less."""
        return error if before is None or error.code() != self._all_down else before

    def _on_error(self, error: "KafkaError") -> None:
        self._trouble = self._more_telling(self._trouble, error)
        self._fatal = self._fatal or error.fatal()


def _makes_topics(asking: "AdminClient", broker: int) -> bool:
    """Whether brokers make topics that are not there, as far as they tell us."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

    resource = ConfigResource(ResourceType.BROKER, str(broker))
    try:
        [future] = asking.describe_configs([resource], request_timeout=_SETTING_S).values()
        setting = future.result(2 * _SETTING_S).get(_AUTO_CREATE)
    except (KafkaException, FutureTimeoutError):
        # Not everybody may ask.
        return False
    return setting is not None and setting.value == "true"


def next_read_bytes(now: int, handing_s: float, waiting_s: float) -> int:
    """How much to read for the next batch, after one of `now` bytes took so long to hand over, and then to be confirmed."""
    if waiting_s > _LONG * handing_s:
        return min(now * 2, READ_BYTES_MAX)
    return max(now // 2, CACHED_READ_BYTES) if waiting_s < _LONG / 4 * handing_s else now


def open_producer(
    properties: Mapping[str, Any],
    on_failure: "Callable[[KafkaError | None, Message], None]",
    on_error: "Callable[[KafkaError], None]",
) -> "Producer":
    """It connects by itself, now or when it can. Raises `KafkaException` for a property librdkafka does not take."""
    from confluent_kafka import Producer

    return Producer({**properties, "on_delivery": on_failure, "error_cb": on_error, "logger": library_log})


def make(url: SinkUrl) -> tuple[str, Sink]:
    try:
        from confluent_kafka import KafkaException
    except ImportError as error:
        raise ValueError(
            f'kafka: expected the package confluent-kafka: pip install "capture-edge[kafka]" ({error})'
        ) from error
    brokers = url.target.removeprefix("//").rstrip("/").split(",")
    for broker in brokers:
        if not _BROKER.fullmatch(broker):
            raise ValueError(f"kafka: expected brokers as kafka://HOST:PORT,HOST:PORT, found {broker!r}")
    messages, topics = _messages(url)
    properties: dict[str, Any] = {**DEFAULTS, **_properties(url.options), **PROMISES}
    try:
        # Without an address it connects to nobody, and says what is wrong with the other properties.
        open_producer({**properties, "log_level": "0"}, lambda error, message: None, lambda error: None).close()
    except KafkaException as error:
        raise ValueError(f"kafka: {error.args[0].str()}") from None
    destination = " ".join(sorted(brokers) + sorted(set(topics.values())))
    sink_id = f"kafka-{xxhash.xxh3_64_hexdigest(destination.encode())}"
    return sink_id, KafkaSink({**properties, "bootstrap.servers": ",".join(brokers)}, messages)


def _messages(url: SinkUrl) -> tuple[Messages, dict[str, str]]:
    """Raises `ValueError` for an option or value there is not."""
    named = {lane: "topic." + lane for lane in TOPICS}
    chosen = SinkUrl(
        url.scheme, url.target, {key: url.options[key] for key in ("envelope", "topics") if key in url.options}
    )
    options = chosen.take(envelope=tuple(ENVELOPES), topics=("lanes", "main"))
    for name in url.options:
        if name not in ("envelope", "topics", "overflow", *named.values()) and not name.startswith(_PROPERTY):
            known = f"envelope, topics, {', '.join(named.values())}, overflow, {_PROPERTY}NAME"
            raise ValueError(f"kafka: expected the options {known}, found {name!r}")
    topics = dict(TOPICS)
    main = url.options.get("topic.main", TOPICS["main"])
    if options["topics"] == "main":
        topics.update((lane, main) for lane in TOPICS if lane != "replay")
    elif topics["ai"] == topics["main"]:
        topics["ai"] = main
    topics.update((lane, url.options[name]) for lane, name in named.items() if name in url.options)
    for lane, topic in topics.items():
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise ValueError(
                f"kafka: expected topic.{lane} to be 1 to 249 letters, digits, dots, underscores and hyphens, found {topic!r}"
            )
    overflow = frozenset(filter(None, url.options.get("overflow", "").split(",")))
    return Messages(topics, options["envelope"], overflow), topics


def _properties(options: Mapping[str, str]) -> dict[str, str]:
    """What `rdkafka.NAME` says, secrets fetched. Raises `ValueError`, without the value: it may be one."""
    properties = {}
    for option, value in options.items():
        if not option.startswith(_PROPERTY):
            continue
        name = option.removeprefix(_PROPERTY)
        if name in _RESERVED:
            raise ValueError(
                f"kafka: expected {option} to be left alone: delivery in order and without loss depends on it"
            )
        properties[name] = _fetched(option, value)
    return properties


def _fetched(option: str, value: str) -> str:
    kind, _, where = value.partition(":")
    if kind == "env":
        if where not in os.environ:
            raise ValueError(f"kafka: expected a variable {where} in the environment for {option}")
        return os.environ[where]
    if kind == "file":
        try:
            return Path(where).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"kafka: expected a file for {option}: {error}") from error
    return value
