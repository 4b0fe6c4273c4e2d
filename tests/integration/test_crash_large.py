"""kill -9 of a worker in the middle of a frame of many MiB, which takes several writes: what was acknowledged is delivered
once, and what is there of the frame is cut off."""

import json
import random
import shutil
import threading
import time
import uuid
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from signal import SIGKILL
from typing import Final

import pytest
import xxhash

from edge.layout import Layout
from edge.segment.name import State
from edge.spool.inspect import all_segments
from tests.integration.edge_process import EdgeProcess, send_signal

TORN: Final = 2
"""Frames that are to be cut in the middle. A kill may come too late for one."""
CLIENTS: Final = 2
BYTES: Final = (10_000_000, 18_000_000)
GROWTH_BYTES: Final = 512 * 1024
"""So much at once is a part of such a frame."""
PATIENCE_S: Final = 180.0


class Client(threading.Thread):
    """Sends one large event after the other, and notes what was acknowledged: the digest of each by its uuid."""

    def __init__(self, edge: EdgeProcess, rng: random.Random, stop: threading.Event) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self._edge = edge
        self._rng = rng
        self._stopping = stop

    def run(self) -> None:
        while not self._stopping.is_set():
            noise = self._rng.randbytes(self._rng.randint(*BYTES) // 2).hex()
            name = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
            event = {"event": "large", "distinct_id": "u", "uuid": name, "properties": {"noise": noise}}
            self.sent[name] = xxhash.xxh3_64_hexdigest(noise.encode())
            if self._accepted(json.dumps({"api_key": "phc_large", **event}).encode()):
                self.acknowledged.add(name)

    def _accepted(self, body: bytes) -> bool:
        connection = HTTPConnection(self._edge.host, self._edge.port, timeout=PATIENCE_S)
        try:
            connection.request("POST", "/i/v0/e/", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
        assert answer.status == 200
        return True


@pytest.mark.parametrize("durability", ["fsync", "page"])
def test_a_kill_in_the_middle_of_a_large_frame_costs_only_what_nobody_was_promised(
    tmp_path: Path, durability: str
) -> None:
    rng = random.Random(time.time_ns())
    with EdgeProcess(tmp_path) as edge:
        edge.start("--workers", "1", "--durability", durability)
        stop = threading.Event()
        clients = [Client(edge, random.Random(rng.getrandbits(64)), stop) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            deadline = time.monotonic() + PATIENCE_S
            while _torn(edge) < TORN:
                assert time.monotonic() < deadline, f"expected {TORN} torn frames, found {_torn(edge)}"
                _kill_while_it_writes(edge, clients)
            _until_acknowledged(clients, 2 * CLIENTS)
        finally:
            stop.set()
            for client in clients:
                client.join()
        edge.stop()
        delivered = [(event["uuid"], event["properties"]["noise"]) for event in edge.each_event()]
        torn = _torn(edge)
        edge.verb("segments", "verify")
        assert '"level":"critical"' not in edge.log.read_text()
    sent = {name: digest for client in clients for name, digest in client.sent.items()}
    acknowledged = set().union(*(client.acknowledged for client in clients))
    names = [name for name, _ in delivered]
    print(
        f"\n{durability}: {len(sent)} sent, {len(acknowledged)} acknowledged, {len(names)} delivered, {torn} torn frames"
    )
    assert len(names) == len(set(names))
    assert acknowledged <= set(names)
    assert all(sent[name] == xxhash.xxh3_64_hexdigest(noise.encode()) for name, noise in delivered)
    # Some hundred megabytes, which only a failure needs.
    shutil.rmtree(edge.data)


def _torn(edge: EdgeProcess) -> int:
    """Torn frames that recovery has cut off."""
    return len(list((edge.data / "torn").glob("*.bin")))


def _kill_while_it_writes(edge: EdgeProcess, clients: list[Client]) -> None:
    """The worker, as soon as its segment grows by more than a small commit."""
    _until_acknowledged(clients, 1)
    [worker] = edge.workers()
    layout = Layout(edge.data)
    deadline = time.monotonic() + PATIENCE_S
    before: dict[Path, int] = {}
    while True:
        sizes = {file.path: _size(file.path) for file in all_segments(layout) if file.state is State.OPEN}
        if any(path in before and size - before[path] >= GROWTH_BYTES for path, size in sizes.items()):
            break
        before = sizes
        assert time.monotonic() < deadline, "expected a segment to grow"
        time.sleep(0.001)
    send_signal(worker, SIGKILL)
    while edge.workers() in ([], [worker]):
        assert time.monotonic() < deadline, "expected another worker"
        time.sleep(0.02)


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _until_acknowledged(clients: list[Client], more: int) -> None:
    def count() -> int:
        return sum(len(client.acknowledged) for client in clients)

    wanted = count() + more
    deadline = time.monotonic() + PATIENCE_S
    while count() < wanted:
        assert time.monotonic() < deadline, f"expected {more} more events to be acknowledged"
        assert all(client.is_alive() for client in clients), "a client met an answer that it did not expect"
        time.sleep(0.01)
