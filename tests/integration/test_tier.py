"""The ingestion tier as it is deployed: three edges, a balancer in front, Kafka behind, real libraries as clients.

An edge is killed and comes back, another is stopped and started in order, the broker is away for a while. What a client holds
a 200 for is in Kafka in the end, in the order of its connection.
"""

import json
import subprocess
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from tests.integration.balancer import FILES, Balancer
from tests.integration.edge_process import EdgeProcess, environment
from tests.integration.kafka_broker import KafkaBroker
from tests.integration.python_traffic import TOKEN
from tests.integration.scale import scaled
from tests.integration.shared import free_port
from tests.integration.streams import Streams
from tests.kafka_mock import consume, count

EDGES = 3
SHIPPED_S = 180.0
TOPIC = "tier"


class Tier:
    """Edges with ports and folders of their own, behind a balancer, in front of a broker."""

    def __init__(self, folder: Path, broker: KafkaBroker, stack: ExitStack) -> None:
        self._ports = [(free_port(), free_port()) for _ in range(EDGES)]
        self._options = ("--to", f"kafka://{broker.address}?topics=main&topic.main={TOPIC}", "--workers", "1")
        self.edges = []
        for number in range(1, EDGES + 1):
            (folder / f"edge{number}").mkdir()
            self.edges.append(stack.enter_context(EdgeProcess(folder / f"edge{number}")))

    @property
    def public(self) -> list[int]:
        return [port for port, _ in self._ports]

    def start(self, index: int) -> None:
        port, admin_port = self._ports[index]
        addresses = ("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin_port}")
        self.edges[index].start(*self._options, *addresses)

    def wait_until_shipped(self) -> list[dict[str, Any]]:
        """The sinks' status as soon as nothing waits anywhere."""
        deadline = time.monotonic() + SHIPPED_S
        while True:
            sinks = [edge.status()["sinks"] for edge in self.edges]
            if all(found and not found[0]["waiting_records"] for found in sinks):
                return [dict(found[0]) for found in sinks]
            logs = "\n".join(edge.log_tail() for edge in self.edges)
            assert time.monotonic() < deadline, f"not shipped within {SHIPPED_S:.0f} s: {sinks}\n{logs}"
            time.sleep(0.3)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.soak
@pytest.mark.parametrize("balancer_name", FILES)
def test_the_tier_delivers_what_it_acknowledged(
    balancer_name: str, tmp_path: Path, stack: ExitStack, program: Callable[[str], str]
) -> None:
    broker = stack.enter_context(KafkaBroker(tmp_path))
    broker.start()
    broker.create(TOPIC, partitions=6)
    tier = Tier(tmp_path, broker, stack)
    for index in range(EDGES):
        tier.start(index)
    balancer = stack.enter_context(Balancer(balancer_name, program(balancer_name), tmp_path, tier.public))
    streams = Streams(lambda: ("127.0.0.1", balancer.port), clients=6, pause_s=0.05)
    streams.start()
    libraries = [traffic(balancer.url, stack) for _ in range(2)]

    streams.wait_for(scaled(300, 5000))
    wait_for_messages(broker)
    # In the second between shipping and the checkpoint of what was shipped.
    tier.edges[1].kill_everything()
    time.sleep(scaled(2, 20))
    tier.start(1)
    streams.wait_for(len(streams.acknowledged) + scaled(200, 5000))
    tier.edges[2].stop()
    tier.start(2)
    streams.wait_for(len(streams.acknowledged) + scaled(200, 5000))
    broker.stop()
    time.sleep(scaled(6, 60))
    broker.start()
    streams.wait_for(len(streams.acknowledged) + scaled(200, 5000))
    # And the worst at once: the broker dies, and an edge whose events it has not got.
    broker.kill()
    streams.wait_for(len(streams.acknowledged) + scaled(200, 5000))
    tier.edges[0].kill_everything()
    broker.start()
    tier.start(0)
    streams.wait_for(len(streams.acknowledged) + scaled(200, 5000))

    streams.finish()
    reports = [report(library) for library in libraries]
    sinks = tier.wait_until_shipped()
    for edge in tier.edges:
        edge.stop()
    messages = consume(broker.address, TOPIC)
    own = [message for message in messages if f'"token":"{TOKEN}"'.encode() not in (message.value() or b"")]
    outcome = streams.outcome(own)
    captured = {uuid for found in reports for uuid in found["captured"]}
    failed = {uuid for found in reports for uuid in found["failed"]}
    delivered, duplicates, unmerged = merge(messages)
    lost = ((captured - failed) | streams.acknowledged) - delivered
    print(
        f"\n  {balancer_name}: acknowledged {len(captured - failed) + len(streams.acknowledged)} "
        f"(of that by the Python library {len(captured - failed)}), delivered {len(delivered)}, "
        f"duplicates before merging {duplicates}, after {unmerged}, lost {len(lost)}, "
        f"failed requests seen by clients {dict(streams.failures)}, events the library gave up {len(failed)}, "
        f"shipped by each edge {[sink['shipped'] for sink in sinks]}"
    )
    assert lost == set()
    assert unmerged == 0
    assert outcome.unmerged == 0
    assert outcome.invented == []
    assert outcome.disordered == []
    assert failed == set()
    # Every edge had its share, and what was sent by two of them has been counted by both.
    assert all(sink["shipped"] > 0 for sink in sinks)
    assert sum(sink["shipped"] for sink in sinks) <= len(messages)
    assert [sink["quarantined"] for sink in sinks] == [0] * EDGES


@pytest.mark.parametrize("balancer_name", FILES)
def test_a_balancer_passes_on_heads_as_large_as_an_edge_takes(
    balancer_name: str, tmp_path: Path, edge: EdgeProcess, program: Callable[[str], str]
) -> None:
    """Old libraries send events in the target, and browsers every cookie of the site."""
    cookies = dict.fromkeys(("Cookie", "X-Cookie"), "c=" + "x" * 15 * 1024)
    heads = [(target(size), headers) for size in (200, 20_000, 64 * 1024) for headers in ({}, cookies)]
    with Balancer(balancer_name, program(balancer_name), tmp_path, [edge.port] * EDGES) as balancer:
        found = [status(balancer.port, path, headers) for path, headers in heads]
    assert found == [200] * len(heads)


def target(size: int) -> str:
    """An event in a target of `size` bytes, or up to three less."""
    path = "/e/?data="
    text = '{"token":"phc_tier","event":"e","distinct_id":"d","properties":{"p":"%s"}}'
    room = (size - len(path)) // 4 * 3 - len(text) + 2
    return path + b64encode((text % ("x" * room)).encode()).decode()


def status(port: int, path: str, headers: dict[str, str]) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except ConnectionError:
        # Refused before all of it was read.
        return 0
    finally:
        connection.close()


def wait_for_messages(broker: KafkaBroker) -> None:
    deadline = time.monotonic() + SHIPPED_S
    while not count(broker.address, TOPIC):
        assert time.monotonic() < deadline, "nothing was shipped"
        time.sleep(0.05)


def traffic(url: str, stack: ExitStack) -> "subprocess.Popen[bytes]":
    """The Python library at work until its standard input ends."""
    program = Path(__file__).with_name("python_traffic.py")
    # As a script beside the package it must not find the tests' own modules first.
    command = [sys.executable, "-P", str(program), url, "60"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def report(process: "subprocess.Popen[bytes]") -> dict[str, list[str]]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: dict[str, list[str]] = json.loads(output)
    return found


def merge(messages: list[Message]) -> tuple[set[str], int, int]:
    """Uuids, messages beyond one for each, and those left when what consumers take for one event is merged.

    A library that sends again says another time of sending, which moves the corrected time of the event by milliseconds;
    consumers compare the day.
    """
    values = [json.loads(message.value() or b"") for message in messages]
    uuids = {value["uuid"] for value in values}
    merged = Counter((value["uuid"], value["event"], value["timestamp"][:10], value["distinct_id"]) for value in values)
    return uuids, len(values) - len(uuids), len(merged) - len(uuids)
