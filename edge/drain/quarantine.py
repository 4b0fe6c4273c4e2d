"""Events that a sink refused for good, kept with the reason beside each, to be looked at and sent again.

    DATA/quarantine/SINK/5c0d2e88b1f09a37-31-0.json     record id, place of the event in its record

One line of JSON per file: the reason, where the event comes from, what the drainer made of it, and last its own JSON, `body`.
The name follows from the event alone. So an event that is refused again after a crash replaces its own file, and one that is
taken after the crash has its file removed: neither doubled nor invented. All of it is on stable storage before the checkpoint
passes the event.
"""

import logging
import re
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Raw

from edge.disk import Disk, write_all
from edge.drain.event import Event
from edge.segment.name import SegmentName

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9]+-[0-9]+\.json")
_BYTES_MAX: Final = 256 * 1024 * 1024


class Quarantined(msgspec.Struct, kw_only=True):
    """One refused event. Times in microseconds since the Unix epoch."""

    reason: str
    """`refused`, `too_large`, or `paused`: the sink does not know the project."""
    why: str
    """What the sink said."""
    sink: str
    refused_us: int
    slot: int
    segment: str
    record: str
    index: int
    uuid: str
    event: str
    distinct_id: str
    timestamp_us: int
    received_us: int
    sent_at_us: int | None
    token: str
    ip: str
    lane: str
    historical: bool
    cookieless: bool
    session_id: str
    body: Raw

    def to_event(self) -> Event:
        """The event as it was offered: the same uuid, the same times."""
        return Event(
            self.uuid,
            self.event,
            self.distinct_id,
            self.timestamp_us,
            self.received_us,
            self.sent_at_us,
            self.token,
            self.ip,
            self.lane,
            self.historical,
            self.cookieless,
            self.session_id,
            bytes(self.body),
        )


class Suspect(msgspec.Struct, gc=False):
    """An event that was refused, before it is set aside."""

    event: Event
    reason: str
    why: str


_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode: Final = msgspec.json.Decoder(Quarantined).decode
_encode: Final = msgspec.json.Encoder().encode


def file_name(record_id: str, index: int) -> str:
    return f"{record_id}-{index}.json"


def describe(
    suspect: Suspect, sink_id: str, slot: int, segment: SegmentName, record_id: str, index: int
) -> Quarantined:
    event = suspect.event
    return Quarantined(
        reason=suspect.reason,
        why=suspect.why,
        sink=sink_id,
        refused_us=time.time_ns() // 1000,
        slot=slot,
        segment=str(segment),
        record=record_id,
        index=index,
        uuid=event.uuid,
        event=event.event,
        distinct_id=event.distinct_id,
        timestamp_us=event.timestamp_us,
        received_us=event.received_us,
        sent_at_us=event.sent_at_us,
        token=event.token,
        ip=event.ip,
        lane=event.lane,
        historical=event.historical,
        cookieless=event.cookieless,
        session_id=event.session_id,
        body=Raw(event.body),
    )


class Quarantine:
    """The folder of one sink. By one drainer at a time; whoever replays removes files beside it. Raises `OSError`."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self.unsettled = {name for name in _list(disk, directory) if _NAME.fullmatch(name)}
        """Files of an earlier process: some may be of events that come again because it died before its checkpoint."""

    def put(self, refused: Collection[Quarantined]) -> None:
        """On stable storage when this returns."""
        if not refused:
            return
        self._make_durable()
        for each in refused:
            name = file_name(each.record, each.index)
            temporary = f"{self._directory}/.{name}.tmp"
            _unlink(self._disk, temporary)
            fd = self._disk.create(temporary)
            try:
                write_all(self._disk, fd, _encode(each) + b"\n", 0)
                self._disk.sync(fd)
            finally:
                self._disk.close(fd)
            self._disk.rename(temporary, f"{self._directory}/{name}")
        self._disk.sync_directory(self._directory)

    def settle(self, taken: Iterable[str]) -> None:
        """These events were taken after all: what an earlier process set aside of them is removed."""
        for name in taken:
            if name in self.unsettled:
                self.unsettled.discard(name)
                _unlink(self._disk, f"{self._directory}/{name}")

    def _make_durable(self) -> None:
        self._disk.makedirs(self._directory)
        directory = Path(self._directory)
        self._disk.sync_directory(str(directory.parent))
        self._disk.sync_directory(str(directory.parent.parent))


def list_quarantined(disk: Disk, directory: str) -> list[str]:
    """Names of the files in a sink's folder, in an order that is the same every time."""
    return sorted(name for name in _list(disk, directory) if _NAME.fullmatch(name))


def load(disk: Disk, directory: str, name: str) -> Quarantined:
    """Raises `OSError`, and `ValueError` for a file that is not what `Quarantine.put` wrote."""
    fd = disk.open(f"{directory}/{name}")
    try:
        return _decode(disk.pread(fd, _BYTES_MAX, 0))
    except UnicodeDecodeError as error:
        raise ValueError(str(error)) from error
    finally:
        disk.close(fd)


def _list(disk: Disk, directory: str) -> list[str]:
    try:
        return disk.listdir(directory)
    except FileNotFoundError:
        return []


def _unlink(disk: Disk, path: str) -> None:
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return
