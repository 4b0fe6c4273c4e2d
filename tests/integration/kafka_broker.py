"""A real Kafka broker on free ports and a folder of its own, stopped as an operator stops it, killed and paused as days go bad.

`deploy/kafka/run` starts it and then is it, so a signal to the process is one to the broker.
"""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.integration.shared import free_port

RUN: Final = Path(__file__).parents[2] / "deploy" / "kafka" / "run"
START_S: Final = 120.0
STOP_S: Final = 60.0
_STARTED: Final = b"Kafka Server started"


class KafkaBroker:
    """One data folder and its ports, and the broker on them while it runs."""

    def __init__(
        self, folder: Path, partitions: int = 4, settings: Sequence[str] = (), port: int | None = None
    ) -> None:
        """`settings` are lines of the broker's configuration; `{controller}` in them is the controller's port."""
        self.port = port or free_port()
        self._controller_port = free_port()
        self._data = folder / "kafka"
        self._log = folder / "kafka.log"
        self._partitions = partitions
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self.kill()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """It takes messages when this returns."""
        assert self._process is None, "expected one broker at a time on a folder"
        ports = ("--port", str(self.port), "--controller-port", str(self._controller_port))
        settings = [
            word
            for setting in self._settings
            for word in ("--set", setting.replace("{controller}", str(self._controller_port)))
        ]
        command: list[str | Path] = [
            RUN,
            *ports,
            "--data",
            self._data,
            "--partitions",
            str(self._partitions),
            *settings,
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while _STARTED not in self._log.read_bytes():
            assert self._process.poll() is None, f"the broker did not start:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"the broker did not start within {START_S:.0f} s:\n{self.log_tail()}"
            time.sleep(0.05)

    def restore(self) -> None:
        """It runs when this returns, whatever was done to it."""
        if self._process is None:
            self.start()
        else:
            self.resume()

    def stop(self) -> None:
        process, self._process = self._running(), None
        process.terminate()
        process.wait(STOP_S)

    def kill(self) -> None:
        process, self._process = self._running(), None
        process.kill()
        process.wait(STOP_S)

    def pause(self) -> None:
        """It keeps its connections and answers nobody."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def create(self, topic: str, partitions: int = 1, **configuration: str) -> None:
        named = {key.replace("_", "."): value for key, value in configuration.items()}
        admin = AdminClient({"bootstrap.servers": self.address})
        for future in admin.create_topics([NewTopic(topic, partitions, config=named)]).values():
            future.result(timeout=START_S)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "expected the broker to run"
        return self._process

    def log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
