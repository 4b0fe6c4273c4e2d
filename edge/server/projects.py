"""The project registry of one worker: read at start and whenever the file changes; what it finds wrong is counted.

A file that cannot be read or used changes nothing: the last good one stays, which the log and `edge_projects_stale` say. A
worker that has none yet looks no key up. So no state of the file costs an event that was taken before.
"""

import logging
import os
from collections.abc import Mapping
from typing import Final

from edge.metrics import Row
from edge.wire.capture import Choose
from edge.wire.projects import ProjectsError, Registry, parse_projects
from edge.wire.request import MIB, Request
from edge.wire.routes import Route

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 16 * MIB


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


class Projects:
    """Keeps up with one file. `tick` a few times a second."""

    def __init__(self, path: str, row: Row) -> None:
        self._path = path
        self._row = row
        self._seen: tuple[int, ...] | str = ()
        self._registry: Registry | None = None
        self.tick()

    def tick(self) -> tuple[Choose | None, frozenset[str] | None]:
        """Read the file if it is another than before.

        What is to choose keys from here on, `None` for nobody; and the keys that need no choice, `None` for all.
        """
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._load()
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

    def _load(self) -> None:
        try:
            registry = load_projects(self._path)
        except ProjectsError as error:
            kept = "no key is looked up" if self._registry is None else "the last good file stays in force"
            log.error("%s; %s", error, kept)
            self._row.add("edge_projects_loads_total", 1, "failed")
            self._row.set("edge_projects_stale", 1)
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
