"""A real disk that is full again and again: everything is refused politely, nothing acknowledged is lost, and it heals alone.

The data folder is on a small file system of its own, which needs root. Others fill that file system, to the last byte or
nearly, under load; then they make room again.
"""

import asyncio
import base64
import contextlib
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.integration.edge_process import EdgeProcess
from tests.integration.scale import scaled

CYCLES: Final = scaled(10, 100)
DISK_BYTES: Final = 32 * 1024 * 1024
LEFT_BYTES: Final = (0, 0, 40_000, 400_000)
"""What others leave, of which the spool then takes the rest."""
CLIENTS: Final = 8
EVENTS: Final = 20
"""Of one request."""
HEALED_S: Final = 5.0
PATIENCE_S: Final = 30.0


def _mount(folder: Path) -> str:
    """A small file system at `folder`; which one."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    commands = {
        "ext4 on a loop device": [
            # -m 0: nothing is kept for root, whom these tests run as.
            ["mkfs.ext4", "-q", "-m", "0", str(image)],
            ["mount", "-o", "loop", str(image), str(folder)],
        ],
        "tmpfs": [["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]],
    }
    told = []
    for kind, steps in commands.items():
        try:
            for step in steps:
                subprocess.run(step, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            told.append(f"{kind}: {getattr(error, 'stderr', '') or error}")
        else:
            return kind
    raise AssertionError(
        "expected to mount a small file system, which root may do where the container allows it:\n" + "\n".join(told)
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    kind = _mount(folder)
    print(f"\na full disk of {shutil.disk_usage(folder).total / 2**20:.0f} MiB, {kind}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.with_suffix(".img").unlink()


class Neighbour:
    """Somebody else who writes to the same disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "neighbour"

    def fill(self, left: int) -> None:
        """Take everything but so many bytes."""
        with self._path.open("ab") as file:
            for size in (1 << 20, 1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while shutil.disk_usage(self._folder).free - left >= size:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)

    def leave(self) -> None:
        self._path.unlink()


class Sender:
    """Clients that send without end, and what they were answered."""

    def __init__(self, edge: EdgeProcess) -> None:
        self.answers: Counter[int] = Counter()
        self.unasked: list[str] = []
        """Answers that are neither a 200 nor a proper 503."""
        self.acknowledged: list[int] = []
        self.stopped = False
        self._edge = edge
        self._sent = 0

    async def send_one(self) -> None:
        reader, writer = await asyncio.open_connection(self._edge.host, self._edge.port)
        assert await self._send(reader, writer) == 200
        writer.close()

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(self._edge.host, self._edge.port)
        while not self.stopped:
            if await self._send(reader, writer) != 200:
                await asyncio.sleep(0.02)
        writer.close()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        number = self._sent
        self._sent += 1
        filler = base64.b64encode(random.randbytes(500)).decode()
        events = ",".join(
            f'{{"event":"e","distinct_id":"d","properties":{{"n":{number},"i":{index},"filler":"{filler}"}}}}'
            for index in range(EVENTS)
        )
        body = f'{{"api_key":"phc_full","batch":[{events}]}}'
        head = (
            f"POST /batch/ HTTP/1.1\r\nHost: edge\r\nOrigin: https://app.example\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with asyncio.timeout(PATIENCE_S):
            writer.write((head + body).encode())
            found = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            text = await reader.readexactly(int(found.split("content-length: ")[1].split("\r\n")[0]))
        status = int(found.split(" ", 2)[1])
        self.answers[status] += 1
        if status == 200:
            self.acknowledged.append(number)
        elif (
            status != 503 or "\r\nretry-after: " not in found or "access-control-allow-origin: https://app" not in found
        ):
            self.unasked.append(found + text.decode())
        return status

    async def until(self, status: int) -> float:
        """Seconds until the next answer with this status."""
        started_s = time.monotonic()
        before = self.answers[status]
        while self.answers[status] == before:
            assert time.monotonic() < started_s + PATIENCE_S, f"expected a {status}:\n{self._edge.log_tail()}"
            await asyncio.sleep(0.005)
        return time.monotonic() - started_s


async def fill_and_free(edge: EdgeProcess, sender: Sender, neighbour: Neighbour) -> list[float]:
    """How long it took after each time until something was accepted again."""
    tasks = [asyncio.create_task(sender.run()) for _ in range(CLIENTS)]
    healed: list[float] = []
    await sender.until(200)
    for cycle in range(CYCLES):
        refused = asyncio.create_task(sender.until(503))
        while not refused.done():
            # Again and again: the reserve is given back, and what is shipped is deleted.
            await asyncio.to_thread(neighbour.fill, LEFT_BYTES[cycle % len(LEFT_BYTES)])
            await asyncio.wait([refused], timeout=0.5)
        await refused
        # Long enough for checkpoints to be due and segments to be old.
        await asyncio.sleep(random.choice((0.2, 1.0, 2.0)))
        assert not any(task.done() for task in tasks), "a client met something else than an answer"
        neighbour.leave()
        healed.append(await sender.until(200))
        await asyncio.sleep(random.choice((0.1, 0.5)))
    sender.stopped = True
    await asyncio.gather(*tasks)
    return healed


@pytest.mark.soak
def test_a_full_disk_refuses_politely_loses_nothing_and_heals_alone(tmp_path: Path, small_disk: Path) -> None:
    out = tmp_path / "out"
    with EdgeProcess(tmp_path) as edge:
        edge.data = small_disk / "data"
        limits = ("--disk-free-min", "1B", "--reserve-bytes", "1MiB", "--segment-age-max", "1s")
        edge.start("--workers", "2", "--to", f"file:{out}", *limits)
        # One that starts on a full disk ends and is started again until there is room for its folder.
        sender = Sender(edge)
        started_s = time.monotonic()
        asyncio.run(sender.send_one())
        while not list(out.glob("*.ndjson")):
            assert time.monotonic() < started_s + PATIENCE_S, f"expected the drainer to ship:\n{edge.log_tail()}"
            time.sleep(0.05)
        processes = (edge.workers(), edge.drainers())
        healed = asyncio.run(fill_and_free(edge, sender, Neighbour(small_disk)))
        seconds = time.monotonic() - started_s
        metrics = edge.metrics()
        again = (edge.workers(), edge.drainers())
        assert again == processes, f"a process was started again:\n{edge.told_of_faults()}"
        edge.stop()
        edge.verb("drain", "--once", "--to", f"file:{out}")
        log = edge.log.read_text()
    delivered: Counter[tuple[int, int]] = Counter()
    for path in out.glob("*.ndjson"):
        for line in path.read_bytes().splitlines():
            found = msgspec.json.decode(line)["properties"]
            delivered[found["n"], found["i"]] += 1
    acknowledged = [(number, index) for number in sender.acknowledged for index in range(EVENTS)]
    lost = [place for place in acknowledged if place not in delivered]
    errors = _value(metrics, "edge_segment_write_errors_total")
    given_back = log.count("is given back")
    print(
        f"{CYCLES} cycles in {seconds:.0f} s: {len(acknowledged)} events acknowledged, {delivered.total()} delivered,"
        f" {len(lost)} lost, {sum(count > 1 for count in delivered.values())} twice\n"
        f"answers {dict(sender.answers)}, accepting again after {max(healed):.2f} s at the longest,"
        f" {sorted(healed)[len(healed) // 2]:.2f} s the median\n"
        f"{errors} writes failed, the reserve was given back {given_back} times,"
        f" {log.count('checkpoint cannot be')} checkpoints had to wait"
    )
    assert sender.unasked == []
    assert not lost, f"{len(lost)} acknowledged events are lost, the first {lost[:3]}"
    assert max(healed) <= HEALED_S
    # Otherwise the disk was never really full.
    assert sender.answers[503] > CYCLES
    assert errors > 0
    assert given_back > 0
    shutil.rmtree(out)


def _value(metrics: str, name: str) -> int:
    return int(float(next(line.split()[-1] for line in metrics.splitlines() if line.startswith(name + " "))))
