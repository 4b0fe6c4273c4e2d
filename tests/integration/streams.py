"""Clients whose events are numbered, each on a connection of its own, and what became of them downstream.

A stream is one connection's events: one distinct_id, so one key, and the order in which they were accepted is that of their
numbers. A client whose connection dies goes on with another stream.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import msgspec
from confluent_kafka import Message

ANSWER_S: Final = 60.0
TOKEN: Final = "phc_streams"
_BATCH_EVENTS_MAX: Final = 20


class Outcome(msgspec.Struct, frozen=True):
    acknowledged: int
    delivered: int
    """Events downstream, each counted once."""
    duplicates: int
    """Messages beyond the first of an event."""
    unmerged: int
    """Of these, those that do not merge with the first by uuid, event, timestamp and distinct_id."""
    lost: list[str]
    invented: list[str]
    disordered: list[str]
    """Streams in which an event first arrived after a later one."""


class Streams:
    def __init__(self, address: Callable[[], tuple[str, int]], clients: int, pause_s: float = 0.01) -> None:
        self.acknowledged: set[str] = set()
        self.failures: Counter[str] = Counter()
        """What clients saw instead of a 200: `cut`, or a status."""
        self._address = address
        self._pause_s = pause_s
        self._issued: dict[str, tuple[str, int]] = {}
        """Stream and number by uuid."""
        self._edges: dict[str, str] = {}
        """Which edge accepted it, where something in between says so, by uuid."""
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Wait for the answers that are due. Raises what ended a client, which nothing should."""
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_S + 10)
            assert not thread.is_alive(), "a client hangs"
        if self._faults:
            raise self._faults[0]

    def wait_for(self, acknowledged: int, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while len(self.acknowledged) < acknowledged:
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} events were accepted within {within_s:.0f} s"
            if self._faults:
                raise self._faults[0]
            time.sleep(0.02)

    def _run(self, client: int) -> None:
        rng = random.Random(client)
        mark = f"{random.getrandbits(32):08x}"
        generation = 0
        try:
            while not self._stop.is_set():
                generation += 1
                connection = HTTPConnection(*self._address(), timeout=ANSWER_S)
                try:
                    self._talk(connection, rng, client, generation, mark)
                except (OSError, HTTPException):
                    self.failures["cut"] += 1
                    time.sleep(0.05)
                finally:
                    connection.close()
        except BaseException as error:  # noqa: BLE001 - told by `finish`, a thread has nobody to tell
            self._faults.append(error)

    def _talk(self, connection: HTTPConnection, rng: random.Random, client: int, generation: int, mark: str) -> None:
        stream = f"{mark}-{client}-{generation}"
        number = 0
        while not self._stop.is_set():
            uuids = []
            events = []
            for _ in range(rng.randint(1, _BATCH_EVENTS_MAX)):
                uuid = f"{number:08x}-{client:04x}-4000-8000-{generation:04x}{mark}"
                uuids.append(uuid)
                self._issued[uuid] = (stream, number)
                properties = {"filler": "x" * rng.choice((10, 200, 600))}
                events.append({"uuid": uuid, "event": "numbered", "distinct_id": stream, "properties": properties})
                number += 1
            body = json.dumps({"api_key": TOKEN, "batch": events}).encode()
            connection.request("POST", "/batch/", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                edge = response.getheader("x-edge", "")
                self._edges.update(dict.fromkeys(uuids, edge or ""))
                self.acknowledged.update(uuids)
            else:
                self.failures[str(response.status)] += 1
            self._stop.wait(rng.random() * self._pause_s)

    def outcome(self, messages: Iterable[Message]) -> Outcome:
        """What the messages, partition by partition in their order, say about what was sent."""
        seen: dict[str, tuple[Any, ...]] = {}
        duplicates = unmerged = 0
        last: dict[tuple[str, str], int] = {}
        disordered = set()
        invented = []
        for message in messages:
            value = msgspec.json.decode(message.value() or b"")
            uuid = value["uuid"]
            identity = uuid, value["event"], value["timestamp"], value["distinct_id"]
            if uuid in seen:
                duplicates += 1
                unmerged += seen[uuid] != identity
                continue
            seen[uuid] = identity
            stream, number = self._issued.get(uuid, ("", 0))
            if not stream or value["distinct_id"] != stream or message.key() != f"{TOKEN}:{stream}".encode():
                invented.append(uuid)
                continue
            place = stream, self._edges.get(uuid, "")
            if number < last.get(place, -1):
                disordered.add(stream)
            last[place] = number
        return Outcome(
            acknowledged=len(self.acknowledged),
            delivered=len(seen),
            duplicates=duplicates,
            unmerged=unmerged,
            lost=sorted(self.acknowledged - seen.keys()),
            invented=invented,
            disordered=sorted(disordered),
        )
