"""The project registry of one worker: read at start and whenever the file changes; what it finds wrong is counted.

A file that cannot be read or used changes nothing: the last good one stays, which the log and `edge_projects_stale` say. A
worker that has none yet looks no key up. So no state of the file costs an event that was taken before.

To read one takes some thirty microseconds a project, so beside a loop that others wait for it is done by a process of its own,
`python -m edge.server.projects FILE`, which answers with what it found.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from edge.metrics import Row
from edge.wire.capture import Choose
from edge.wire.projects import ProjectsError, Registry, parse_projects
from edge.wire.request import MIB, Request
from edge.wire.routes import Route

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 16 * MIB
READ_S: Final = 120.0
"""Until a reader is taken to hang, and killed. The largest file takes it some seconds."""
RETRY_S: Final = 10.0
"""Behind a reader that failed, until the same file is read again."""
_NICER: Final = 10
"""A reader takes a core from the workers only where there is one to spare."""


class Reading(msgspec.Struct, frozen=True):
    """What became of reading a file: one of both."""

    registry: Registry | None = None
    error: str = ""
    again: bool = False
    """It may not be the file's fault."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Reading).decode


def load_projects(path: str) -> Registry:
    """Raises `ProjectsError`, which names the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ProjectsError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ProjectsError(f"{path}: expected at most {FILE_BYTES_MAX} bytes")
    try:
        return parse_projects(data)
    except ProjectsError as error:
        raise ProjectsError(f"{path}: {error}") from error


def read_here(path: str) -> Reading:
    try:
        return Reading(load_projects(path))
    except ProjectsError as error:
        return Reading(error=str(error))


def read_elsewhere(path: str) -> Reading:
    """The same in a process of its own, for which it waits."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "edge.server.projects", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=READ_S,
            check=True,
        )
        return _decode(done.stdout)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        return Reading(error=f"{path} could not be read: {error}", again=True)


class Projects:
    """Keeps up with one file. `tick` a few times a second. The first time it reads at once: nobody waits yet."""

    def __init__(self, path: str, row: Row, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._row = row
        self._clock = clock
        self._registry: Registry | None = None
        self._again_s: float | None = None
        """When the file is read again though it is the same."""
        self._reader: threading.Thread | None = None
        self._found: Reading | None = None
        """By the reader."""
        self._seen: tuple[int, ...] | str = self._state()
        self._take(read_here(path))

    def tick(self) -> tuple[Choose | None, frozenset[str] | None]:
        """Read the file if it is another than before.

        What is to choose keys from here on, `None` for nobody; and the keys that need no choice, `None` for all.
        """
        if self._found is not None:
            found, self._found, self._reader = self._found, None, None
            self._take(found)
        state = self._state()
        again = self._again_s is not None and self._clock() >= self._again_s
        if self._reader is None and (state != self._seen or again):
            self._seen = state
            self._again_s = None
            self._reader = threading.Thread(target=self._read, name="projects", daemon=True)
            self._reader.start()
        registry = self.registry
        if registry is None:
            return None, None
        return self._choose, None if registry.mode == "off" else registry.keys

    @property
    def registry(self) -> Registry | None:
        """What keys are looked up in; `None` while none are."""
        registry = self._registry
        return None if registry is None or registry.idle else registry

    def _state(self) -> tuple[int, ...] | str:
        """Differs when the file does; of a file that is not there, why."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            return str(error.strerror)
        # Written in place, replaced by rename, or behind a symbolic link that was.
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> None:
        self._found = read_elsewhere(self._path)

    def _take(self, found: Reading) -> None:
        registry = found.registry
        if registry is None:
            kept = "no key is looked up" if self._registry is None else "the last good file stays in force"
            log.error("%s; %s", found.error, kept)
            self._row.add("edge_projects_loads_total", 1, "failed")
            self._row.set("edge_projects_stale", 1)
            if found.again:
                self._again_s = self._clock() + RETRY_S
            return
        self._registry = registry
        self._row.add("edge_projects_loads_total", 1, "ok")
        self._row.set("edge_projects_stale", 0)
        log.info("%s: mode %s, %d projects", self._path, registry.mode, len(registry.projects))

    def _choose(
        self,
        in_payload: tuple[object, ...],
        form: Mapping[str, bytes],
        query: Mapping[str, bytes],
        request: Request,
        route: Route,
        text: bytes,
    ) -> str:
        assert self._registry is not None
        choice = self._registry.choose(in_payload, form, query, request, route, text)
        if choice.doubt is not None:
            self._row.add("edge_projects_dry_run_total", 1, choice.doubt.value)
        return choice.token


def main(arguments: list[str]) -> int:
    (path,) = arguments
    # Not even when whoever asked is gone.
    signal.alarm(int(READ_S))
    os.nice(_NICER)
    sys.stdout.buffer.write(_encode(read_here(path)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
