"""librdkafka's own mock brokers, as a cluster that a test may break: answers with errors, brokers that are gone or slow.

They listen on real ports of this machine, keep what they are sent in memory, and know topics as soon as somebody asks for them.
The library the Python package brings exports them; the package has no functions for them.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import confluent_kafka
from confluent_kafka import Consumer, Message, TopicPartition

PRODUCE: Final = 0
"""The number of the Produce request in the protocol."""

_READ_S: Final = 30.0


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    [path] = folder.glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    for name, arguments in {
        "rd_kafka_conf_new": [],
        "rd_kafka_new": [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t],
        "rd_kafka_mock_cluster_new": [ctypes.c_void_p, ctypes.c_int],
        "rd_kafka_mock_cluster_destroy": [ctypes.c_void_p],
        "rd_kafka_destroy": [ctypes.c_void_p],
        "rd_kafka_mock_cluster_bootstraps": [ctypes.c_void_p],
        "rd_kafka_mock_topic_create": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
        "rd_kafka_mock_topic_set_error": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int],
        "rd_kafka_mock_push_request_errors_array": [
            ctypes.c_void_p,
            ctypes.c_int16,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_int),
        ],
        "rd_kafka_mock_broker_push_request_error_rtts": [
            *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_int16, ctypes.c_size_t, ctypes.c_int, ctypes.c_int),
        ],
        "rd_kafka_mock_broker_set_down": [ctypes.c_void_p, ctypes.c_int32],
        "rd_kafka_mock_broker_set_up": [ctypes.c_void_p, ctypes.c_int32],
        "rd_kafka_mock_partition_set_leader": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32],
        "rd_kafka_mock_broker_set_rtt": [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int],
    }.items():
        getattr(library, name).argtypes = arguments
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class MockCluster:
    def __init__(self, brokers: int = 1) -> None:
        self._library = _library()
        text = ctypes.create_string_buffer(512)
        producer = 0
        self._client = self._library.rd_kafka_new(producer, self._library.rd_kafka_conf_new(), text, 512)
        assert self._client, text.value.decode()
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self._brokers = range(1, brokers + 1)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def topic(self, name: str, partitions: int = 1) -> None:
        error = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        assert error == 0, f"topic {name}: error {error}"

    def break_topic(self, name: str, code: int) -> None:
        """Whatever is asked about the topic is answered with this error; 0 mends it."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), code)

    def fail(self, *codes: int, request: int = PRODUCE) -> None:
        """The next requests of the kind get these answers, one each."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(codes), array)

    def fail_at(self, broker: int, code: int, request: int = PRODUCE, delay_ms: int = 0) -> None:
        """The next request of the kind that this broker gets has this answer, so much later."""
        push = self._library.rd_kafka_mock_broker_push_request_error_rtts
        answer = ctypes.c_size_t(1), ctypes.c_int(code), ctypes.c_int(delay_ms)
        error = push(self._cluster, ctypes.c_int32(broker), ctypes.c_int16(request), *answer)
        assert error == 0

    def down(self) -> None:
        for broker in self._brokers:
            assert self._library.rd_kafka_mock_broker_set_down(self._cluster, broker) == 0

    def up(self) -> None:
        for broker in self._brokers:
            assert self._library.rd_kafka_mock_broker_set_up(self._cluster, broker) == 0

    def lead(self, topic: str, broker: int) -> None:
        """The broker has the first partition of the topic."""
        assert self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), 0, broker) == 0

    def slow(self, milliseconds: int, *brokers: int) -> None:
        """Every answer of these brokers, or of all, leaves so much later; what was asked is done at once."""
        for broker in brokers or self._brokers:
            assert self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds) == 0


def consume(bootstrap: str, *topics: str) -> list[Message]:
    """All messages of the topics, partition by partition in the order of their offsets."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "tests", "enable.auto.commit": False})
    try:
        return [message for topic in topics for message in _partitions(consumer, topic)]
    finally:
        consumer.close()


def count(bootstrap: str, topic: str) -> int:
    """How many messages the topic has."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "tests"})
    try:
        partitions = consumer.list_topics(topic, timeout=_READ_S).topics[topic].partitions or {}
        marks = [consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=_READ_S) for each in partitions]
        return sum(high - low for low, high in marks)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str) -> Iterator[Message]:
    for partition in sorted(consumer.list_topics(topic, timeout=_READ_S).topics[topic].partitions or {}):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_READ_S)
        consumer.assign([TopicPartition(topic, partition, low)])
        at = low
        while at < high:
            message = consumer.poll(_READ_S)
            assert message is not None, f"{topic}/{partition}: nothing at {at}, expected messages up to {high}"
            assert message.error() is None, message.error()
            at = (message.offset() or 0) + 1
            yield message
