"""The data folder: which directory holds what.

DATA/.lock                 held by the supervisor of `edge serve` or `edge up` while it lives
DATA/spool/slot-00/        one directory per worker slot, one writer each; `.lock` is held while it lives,
                           `spare` is room for the next segment
DATA/ckpt/                 the drainer's position per sink
DATA/quarantine/SINK/      events a sink refused for good, with the reason beside each
DATA/damaged/              bytes of segments and records that could not be read, copied before their segment is deleted
DATA/torn/                 bytes recovery cut off
DATA/events/               output of the default sink
DATA/reserve               room that is given back when the disk is full
"""

import re
from pathlib import Path
from typing import Final

from edge.config import ConfigError

_SLOT: Final = re.compile(r"slot-([0-9]{2}|[1-9][0-9]{2,})")

LOCK_NAME: Final = ".lock"
SPARE_NAME: Final = "spare"


class Layout:
    """Paths under one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.lock = data / LOCK_NAME
        self.spool = data / "spool"
        self.checkpoints = data / "ckpt"
        self.quarantine = data / "quarantine"
        self.damaged = data / "damaged"
        self.torn = data / "torn"
        self.events = data / "events"
        self.reserve = data / "reserve"

    def slot(self, slot: int) -> Path:
        return self.spool / f"slot-{slot:02d}"

    def slots(self) -> list[int]:
        """The slots there are, lowest first; those of dead workers and of earlier, larger set-ups included."""
        if not self.spool.is_dir():
            return []
        matches = (_SLOT.fullmatch(path.name) for path in self.spool.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in matches if match)

    def quarantines(self) -> list[Path]:
        """The folders of the sinks that refused events for good, in the order of their ids."""
        if not self.quarantine.is_dir():
            return []
        return sorted(path for path in self.quarantine.iterdir() if path.is_dir())


def existing_layout(data: Path) -> Layout:
    """Of a folder that is there. Raises `ConfigError`."""
    if not data.is_dir():
        raise ConfigError(f"--data: there is no folder {data}")
    return Layout(data)
