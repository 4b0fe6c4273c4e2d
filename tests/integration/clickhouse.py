"""ClickHouse to test with: the engine of the package chdb, in an environment of its own under `.cache`, behind HTTP.

No package index has a server of this decade, and the engine is half a gigabyte: it is installed when a test first asks for it,
and not with the project.
"""

import json
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, Self

from tests.integration.shared import installing

PACKAGES: Final = ("chdb==4.4.0", "chdb-core==26.9.0", "zstandard>=0.25")
_FRONT: Final = Path(__file__).parent / "clickhouse_front.py"


def python() -> Path:
    """The Python that has the engine."""
    with installing("clickhouse") as environment:
        stamp = environment / f"{sys.version_info[0]}.{sys.version_info[1]}.stamp"
        found = environment / "bin" / "python"
        if not stamp.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
            # What else it names is for data frames.
            subprocess.run([found, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
            stamp.touch()
        return found


class ClickHouse:
    """One folder, and the engine on it while it runs; killed and started again it has what it confirmed, on the same port."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self.kill()

    def start(self) -> None:
        command: list[str | Path] = [python(), _FRONT, self._folder / "clickhouse", str(self.port)]
        with (self._folder / "clickhouse.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said.startswith("ready "), (self._folder / "clickhouse.log").read_text()
        self.port = int(said.split()[1])

    def kill(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        process.kill()
        process.wait()
        process.stdout.close()

    def restore(self) -> None:
        if self._process is None:
            self.start()

    def query(self, text: str) -> list[dict[str, Any]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/", text.encode())
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status == 200, answer.decode()
        return [json.loads(line) for line in answer.splitlines()]
