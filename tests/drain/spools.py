"""Spools made for the drainer's tests: real segments on a real disk, written without a worker."""

import json
from pathlib import Path

from edge.disk import RealDisk
from edge.layout import LOCK_NAME, Layout
from edge.segment.frame import Compressor
from edge.segment.name import SegmentName
from edge.segment.record import RecordIds, encode_record
from edge.spool.open_segment import OpenSegment
from edge.spool.recover import open_slot
from edge.spool.spare import make_spare
from edge.wire.payload import read_payload
from edge.wire.rejections import Rejected

AT_US = 1_763_690_000_000_000


def _events_in(body: bytes) -> int:
    """As the edge counts them; what it would never accept counts as one."""
    try:
        return read_payload(body).events
    except Rejected:
        return 1


class Slot:
    """One slot's writer, commit by commit. Events are numbered through the life of the slot. Segments have so much `room`."""

    def __init__(self, data: Path, slot: int = 0, *, locked: bool = False, room: int = 0) -> None:
        self.layout = Layout(data)
        self.slot = slot
        self.directory = self.layout.slot(slot)
        self._ids = RecordIds(slot + 1)
        self._counter = 0
        self._room = room
        self._segment: OpenSegment | None = None
        self._compressor = Compressor()
        self._lock: int | None = None
        if locked:
            opened = open_slot(RealDisk(), self.layout, slot)
            assert opened is not None
            self._lock = opened[0]
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / LOCK_NAME).touch()
        self.written: list[str] = []

    def commit(
        self, *names: str, body: bytes | None = None, path: str = "e", token: str = "phc_x", events: int = 0
    ) -> None:
        """One frame of a record per name, no frame without names; the name is the event's, and its distinct_id is the slot.

        `events` is what the frame says it holds, where that is not the truth.
        """
        if self._segment is None:
            self._counter += 1
            name = SegmentName(self._counter, 0xABC0 + self._counter)
            spare = make_spare(RealDisk(), str(self.directory), self._room, lambda _: False) if self._room else None
            self._segment = OpenSegment(RealDisk(), str(self.directory), name, self.slot, AT_US, spare)
        bodies = [
            body or json.dumps({"event": name, "distinct_id": f"slot-{self.slot}", "properties": {}}).encode()
            for name in names
        ]
        lines = [encode_record(self._ids, AT_US, token, path, "203.0.113.7", each) for each in bodies]
        if lines:
            events = events or sum(map(_events_in, bodies))
            self._segment.append([self._compressor.pack(b"".join(lines), len(lines), events, AT_US)])
        self.written += names

    def seal(self) -> None:
        assert self._segment is not None
        self._segment.seal()
        self._segment = None

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if path.suffix == ".zst")

    def release(self) -> None:
        """The worker is dead: nobody holds the slot."""
        if self._lock is not None:
            RealDisk().close(self._lock)
            self._lock = None
