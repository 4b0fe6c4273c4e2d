"""What test processes side by side share: folders below `.cache` that one of them fills, and the machine's ports."""

import fcntl
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[2] / ".cache"
_PORTS: Final = range(12_000, 32_000)
"""Below those that Linux gives to connections, of which the tests make thousands."""


@contextmanager
def installing(name: str) -> Iterator[Path]:
    """The folder of that name; one process at a time, so the next one finds what this one put there."""
    folder = CACHE / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def free_port() -> int:
    """A port nobody has now, for programs that have to be told theirs."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
