"""Workers are replaced under load, and stopped in the middle of requests: nobody is refused or left without an answer."""

import asyncio
import random
import resource
import signal
import time
from collections import Counter
from typing import Final

import msgspec
import pytest
import uvloop

from tests.integration.edge_process import EdgeProcess
from tests.integration.scale import scaled

RESTARTS: Final = scaled(10, 100)
KEPT: Final = 64
"""Clients that keep their connections."""
WAITING: Final = 16
"""Clients that connect, wait, and only then send, each request on a connection of its own."""
WAIT_S: Final = 1.0
RATE: Final = 2000
"""Requests a second of all kept connections together."""
REPLACED_S: Final = 60.0

IN_FLIGHT: Final = 1000
STOPS: Final = scaled(1, 10)
ANSWER_S: Final = 30.0


def event(number: int) -> bytes:
    body = f'{{"api_key":"phc_restart","event":"e","distinct_id":"d","uuid":"{uuid(number)}"}}'
    return f"POST /i/v0/e/ HTTP/1.1\r\nHost: edge\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def uuid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Its status, and whether it is the last one of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return int(head.split(b" ", 2)[1]), b"\r\nconnection: close\r\n" in head


class Clients:
    """Well-behaved clients: they connect again when they are told that a connection ends, and try nothing twice."""

    def __init__(self, edge: EdgeProcess) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.closed = 0
        """Answers that were the last of their connections."""
        self.accepted: list[int] = []
        self._edge = edge
        self._sent = 0
        self._done = False

    async def run(self, seconds_of_load: asyncio.Task[None]) -> None:
        """Send until the task is done."""
        tasks = [asyncio.create_task(self._keep()) for _ in range(KEPT)]
        tasks += [asyncio.create_task(self._wait_and_send()) for _ in range(WAITING)]
        try:
            await seconds_of_load
        finally:
            self._done = True
            await asyncio.gather(*tasks)

    async def _keep(self) -> None:
        while not self._done:
            try:
                reader, writer = await asyncio.open_connection(self._edge.host, self._edge.port)
            except OSError as error:
                self.failures.append(f"connecting: {error!r}")
                continue
            due_s = time.monotonic()
            while not self._done and not reader.at_eof() and not await self._ask(reader, writer):
                due_s += KEPT / RATE
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            writer.close()

    async def _wait_and_send(self) -> None:
        while not self._done:
            try:
                reader, writer = await asyncio.open_connection(self._edge.host, self._edge.port)
            except OSError as error:
                self.failures.append(f"connecting: {error!r}")
                continue
            await asyncio.sleep(random.random() * WAIT_S)
            await self._ask(reader, writer)
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection has come to its end."""
        number = self._sent
        self._sent += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(event(number))
                status, last = await read_answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.failures.append(f"request {number}: {error!r}")
            return True
        self.answers[status] += 1
        self.closed += last
        if status == 200:
            self.accepted.append(number)
        return last


async def restart_again_and_again(edge: EdgeProcess, waits: list[float]) -> None:
    await asyncio.sleep(1)
    workers = len(edge.workers())
    for restart in range(RESTARTS):
        started_s = time.monotonic()
        edge.send(signal.SIGHUP)
        while edge.log.read_text().count("is replaced") < workers * (restart + 1):
            assert time.monotonic() < started_s + REPLACED_S, f"expected new workers:\n{edge.log_tail()}"
            await asyncio.sleep(0.05)
        waits.append(time.monotonic() - started_s)


@pytest.mark.soak
def test_no_request_fails_while_workers_are_replaced(edge: EdgeProcess) -> None:
    clients = Clients(edge)
    waits: list[float] = []

    async def play() -> None:
        await clients.run(asyncio.create_task(restart_again_and_again(edge, waits)))

    started_s = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    seconds = time.monotonic() - started_s
    edge.stop()
    delivered = Counter(found["uuid"] for found in edge.each_event())
    lost = [number for number in clients.accepted if uuid(number) not in delivered]
    print(
        f"\n{RESTARTS} rolling restarts in {seconds:.0f} s, {max(waits):.1f} s the longest: {clients.answers.total()} requests,"
        f" {clients.answers.total() / seconds:.0f} a second, {len(clients.failures)} failed, answers {dict(clients.answers)}\n"
        f"{clients.closed} connections were asked to end, {len(clients.accepted)} events acknowledged,"
        f" {delivered.total()} delivered, {len(lost)} lost"
    )
    assert clients.failures == []
    assert clients.answers.keys() == {200}
    assert not lost
    assert delivered.total() == len(delivered), "an event was delivered twice"
    # Otherwise the connections were not on the workers that were replaced.
    assert clients.closed > RESTARTS


class Stopped(msgspec.Struct):
    """What became of the requests of one stop."""

    answers: Counter[str] = msgspec.field(default_factory=Counter)
    accepted: list[int] = []


async def stop_in_the_middle(edge: EdgeProcess) -> Stopped:
    """A quarter of the requests never end; a quarter end after the stop; half are whole when it comes."""
    connections = [await asyncio.open_connection(edge.host, edge.port) for _ in range(IN_FLIGHT)]
    requests = [event(number) for number in range(IN_FLIGHT)]
    half = range(IN_FLIGHT // 2)
    for number in half:
        connections[number][1].write(requests[number][:-20])
    deadline = time.monotonic() + REPLACED_S
    while f"edge_connections_total {IN_FLIGHT}" not in (metrics := edge.metrics()):
        assert time.monotonic() < deadline, metrics
        await asyncio.sleep(0.05)
    for number in range(IN_FLIGHT // 2, IN_FLIGHT):
        connections[number][1].write(requests[number])
    edge.send(signal.SIGTERM)
    await asyncio.sleep(0.3)
    for number in half[::2]:
        connections[number][1].write(requests[number][-20:])
    found = Stopped()

    async def answer(number: int) -> None:
        reader, writer = connections[number]
        try:
            async with asyncio.timeout(ANSWER_S):
                status, _ = await read_answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            found.answers[repr(error)] += 1
        else:
            found.answers[str(status)] += 1
            if status == 200:
                found.accepted.append(number)
        writer.close()

    await asyncio.gather(*map(answer, range(IN_FLIGHT)))
    return found


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(STOPS))
def test_every_request_in_flight_at_a_stop_gets_an_answer_that_is_kept(edge: EdgeProcess, turn: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    started_s = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(stop_in_the_middle(edge))
    edge.wait()
    delivered = {event["uuid"] for event in edge.each_event()}
    print(
        f"\nTERM with {IN_FLIGHT} requests in flight, ended after {time.monotonic() - started_s:.1f} s:"
        f" {dict(found.answers)}, {len(delivered)} delivered"
    )
    assert found.answers.keys() == {"200", "503"}
    assert delivered == set(map(uuid, found.accepted))
    assert found.answers["200"] == IN_FLIGHT * 3 // 4
