"""Clients that send at a steady rate whatever becomes of it, and how long each answer took."""

import asyncio
import time

from tests.integration.edge_process import EdgeProcess
from tests.integration.load import ANSWER_S, Ledger

CONNECTIONS = 4


class Steady:
    """Requests of a ledger, so many a second, over kept connections. An answer's time counts from when its request was due."""

    def __init__(self, edge: EdgeProcess, ledger: Ledger, requests_per_s: float) -> None:
        self._edge = edge
        self._ledger = ledger
        self._interval_s = 1.0 / requests_per_s

    def run(self, for_s: float) -> list[float]:
        """Seconds per answer, sorted."""
        return asyncio.run(self.send(for_s))

    async def send(self, for_s: float) -> list[float]:
        began_s = time.monotonic()
        taken: list[float] = []
        each_s = self._interval_s * CONNECTIONS
        starts = [began_s + self._interval_s * number for number in range(CONNECTIONS)]
        async with asyncio.TaskGroup() as group:
            for start_s in starts:
                group.create_task(self._connection(start_s, began_s + for_s, each_s, taken))
        return sorted(taken)

    async def _connection(self, due_s: float, end_s: float, each_s: float, taken: list[float]) -> None:
        reader, writer = await asyncio.open_connection(self._edge.host, self._edge.port)
        while due_s < end_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            number, request = self._ledger.next_request()
            async with asyncio.timeout(ANSWER_S):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, length = head.lower().partition(b"content-length: ")
                await reader.readexactly(int(length.partition(b"\r\n")[0]))
            self._ledger.answered(number, int(head.split(b" ", 2)[1]))
            taken.append(time.monotonic() - due_s)
            due_s += each_s
        writer.close()
        await writer.wait_closed()


def p99_ms(taken: list[float]) -> float:
    return taken[int(len(taken) * 0.99)] * 1000
