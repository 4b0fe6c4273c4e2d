"""The balancers of `deploy/`, with the configurations users get: only the addresses in them are the test's."""

import subprocess
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, Self

from tests.integration.shared import free_port

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
START_S: Final = 30.0
STOP_S: Final = 30.0


class Balancer:
    """`haproxy` or `nginx` in front of edges at 127.0.0.1, while the context lasts."""

    def __init__(self, name: str, program: str, folder: Path, edges: Sequence[int]) -> None:
        self.port = free_port()
        self._name = name
        self._folder = folder / name
        self._folder.mkdir()
        self._command = COMMANDS[name](program, self._folder, self._configuration(edges))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        try:
            while not self._serves():
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _serves(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/_readiness")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _configuration(self, edges: Sequence[int]) -> Path:
        text = (DEPLOY / FILES[self._name]).read_text()
        places = {f"edge{number}:8000": f"127.0.0.1:{port}" for number, port in enumerate(edges, 1)}
        listening = {"haproxy": ("bind :8080", "bind 127.0.0.1:"), "nginx": ("listen 8080;", "listen 127.0.0.1:")}
        old, new = listening[self._name]
        places[old] = f"{new}{self.port}" + (";" if old.endswith(";") else "")
        if self._name == "nginx":
            # Compiled into it are folders that belong to the system's own.
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            temporary = "".join(f"    {kind}_temp_path {self._folder}/{kind};\n" for kind in kinds)
            places["http {\n"] = "http {\n" + temporary
        for old, new in places.items():
            assert text.count(old) == 1, f"expected {old!r} once in {FILES[self._name]}"
            text = text.replace(old, new)
        path = self._folder / FILES[self._name]
        path.write_text(text)
        return path


FILES: Final = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}


def _haproxy(program: str, folder: Path, configuration: Path) -> list[str]:
    return [program, "-db", "-f", str(configuration)]


def _nginx(program: str, folder: Path, configuration: Path) -> list[str]:
    directives = f"daemon off; pid {folder}/pid; error_log stderr;"
    return [program, "-p", str(folder), "-e", "stderr", "-c", str(configuration), "-g", directives]


COMMANDS: Final[dict[str, Callable[[str, Path, Path], list[str]]]] = {"haproxy": _haproxy, "nginx": _nginx}
