"""Several destinations asked at once whether they would take anything, each within a bounded time whatever it does.

A sink bounds what it can. What it cannot, as the resolver of names, is left behind in a thread that nobody waits for.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from edge.disk import Disk, make_directory, try_to_write
from edge.drain.sink import PROBE_S, Paused, Retryable

log = logging.getLogger(__name__)

WITHIN_S: Final = PROBE_S + 2.0
"""For all of them together, as they are asked at once."""


def probe_directory(disk: Disk, directory: str) -> str:
    """The probe of a sink that is a folder. Raises `Retryable`."""
    try:
        # It may have been moved away.
        make_directory(disk, directory)
        try_to_write(disk, directory)
    except OSError as error:
        raise Retryable(f"{directory}: {error}") from error
    return f"{directory} can be written"


class Probed(msgspec.Struct, frozen=True):
    """What one of them said."""

    takes: bool
    why: str


def probe_all(probes: Sequence[Callable[[], str]], within_s: float = WITHIN_S) -> list[Probed]:
    """What came of each, in their order. A probe returns what it found, or raises `Retryable` or `Paused`."""
    found: list[Probed | None] = [None] * len(probes)

    def ask(place: int) -> None:
        found[place] = _ask(probes[place])

    threads = [threading.Thread(target=ask, args=(place,), name="probe", daemon=True) for place in range(len(probes))]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return [each or Probed(False, f"nothing is known of it after {within_s:g} s") for each in found]


def _ask(probe: Callable[[], str]) -> Probed:
    try:
        return Probed(True, probe())
    except Retryable as refusal:
        return Probed(False, f"takes nothing now: {refusal}")
    except Paused as refusal:
        return Probed(False, f"takes nothing until somebody acts: {refusal}")
    except Exception as error:
        # Of one of them: the others are asked all the same.
        log.exception("a fault of ours")
        return Probed(False, f"a fault of ours: {type(error).__name__}: {error}")
