"""How far a sink has come: a durable position per slot, with the totals that belong to it.

    DATA/ckpt/<sink>.json        the newest
    DATA/ckpt/<sink>.prev.json   the one before it, used when the newest is not readable; in the same segments
    DATA/ckpt/<sink>.1.json      that of the second of several drainers, and so on

Two lines: a JSON object, and the XXH3-64 of that line as a JSON string. A position is written after the sink confirmed
everything before it and before anything before it is deleted; so a lost checkpoint means duplicates, never loss.

Several drainers have different slots. Where their number was changed, files know the same slot, and the position that is
furthest stands: positions only advance. Each file's totals are of what its own drainers confirmed, so their sum is everything.
"""

import logging
import re
from collections.abc import Sequence
from typing import Final

import msgspec
import xxhash

from edge.disk import MEDIUM_ERRORS, Disk, pread_all, write_durably
from edge.segment.name import SegmentName, parse_name

log = logging.getLogger(__name__)

_SUFFIX: Final = ".json"
_PREVIOUS: Final = ".prev.json"
_FILE_NAME: Final = re.compile(r"([^.]+)(?:\.([1-9][0-9]*))?(?:\.prev)?\.json")
_BYTES_MAX: Final = 16 * 1024 * 1024


class Position(msgspec.Struct, frozen=True):
    """Everything of the slot before `offset` of `segment`, and every earlier segment, was confirmed."""

    segment: str
    offset: int
    events: int = -1
    """Events accepted into the segment before `offset`; -1 where nobody counted them from its start."""

    @property
    def name(self) -> SegmentName:
        parsed = parse_name(self.segment)
        assert parsed is not None, f"expected a segment name, found {self.segment!r}"
        return parsed[0]

    @property
    def place(self) -> tuple[SegmentName, int]:
        """What positions of a slot are ordered by."""
        return self.name, self.offset


class Totals(msgspec.Struct):
    """What became of everything before the positions, counted since the checkpoint was first made."""

    records: int = 0
    accepted: int = 0
    """Events as they were counted when they were accepted."""
    shipped: int = 0
    """Events the sink confirmed."""
    dropped: dict[str, int] = {}
    """Events that are not delivered, by reason."""
    merged: int = 0
    """Session replay events that were shipped as a part of another one."""
    quarantined: int = 0
    """Events set aside because the sink refused them for good; replayed ones included."""
    limited: int = 0
    """Shipped events that downstream said it would not keep, being over quota."""
    bytes: int = 0
    """Bytes handed to the sink."""
    damaged_bytes: int = 0
    """Bytes of segments that could not be read."""
    uncounted: int = 0
    """Events found in finished segments beyond those that were read from them: not 0 only after a fault of the reader."""

    @property
    def imbalance(self) -> int:
        """Accepted events nobody can account for: 0, or something was lost (above) or made up (below)."""
        settled = self.shipped + sum(self.dropped.values()) + self.merged + self.quarantined
        return self.accepted + self.uncounted - settled

    def add(self, more: "Totals") -> None:
        for name in self.__struct_fields__:
            if name != "dropped":
                setattr(self, name, getattr(self, name) + getattr(more, name))
        for reason, count in more.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count


class Trouble(msgspec.Struct, frozen=True):
    """Why a sink takes nothing at the moment."""

    kind: str
    """`retryable`: it is busy or away. `paused`: somebody has to mend its settings. `breaker`: it refuses everything."""
    why: str
    since_us: int


class Checkpoint(msgspec.Struct):
    sink: str
    """The sink's URL, secrets removed."""
    slots: dict[int, Position] = {}
    totals: Totals = msgspec.field(default_factory=Totals)
    trouble: Trouble | None = None


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Checkpoint).decode


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    line = _encode(checkpoint)
    return b'%b\n"%016x"\n' % (line, xxhash.xxh3_64_intdigest(line))


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Raises `ValueError` for anything but what `encode_checkpoint` made."""
    line, _, rest = data.partition(b"\n")
    if rest != b'"%016x"\n' % xxhash.xxh3_64_intdigest(line):
        raise ValueError("the checksum of the checkpoint does not fit")
    checkpoint = _decode(line)
    for position in checkpoint.slots.values():
        if parse_name(position.segment) is None or position.offset < 0:
            raise ValueError(f"expected a segment and an offset, found {position}")
    return checkpoint


class CheckpointFile:
    """The checkpoint of one sink and one of its drainers, the first if there are several; written by one process at a time."""

    def __init__(self, disk: Disk, directory: str, sink_id: str, drainer: int = 0) -> None:
        stem = f"{sink_id}.{drainer}" if drainer else sink_id
        self._disk = disk
        self._directory = directory
        self._name = stem + _SUFFIX
        self._previous = stem + _PREVIOUS

    def load(self) -> Checkpoint | None:
        """The newest readable one, `None` when there is none: then shipping starts with the oldest segment.

        Raises `OSError` when there is one that may be readable another time: segments would get counters again that it knows,
        and be passed over when it is.
        """
        refusals: list[OSError] = []
        for name in (self._name, self._previous):
            found = self._read(name, refusals)
            if found is not None:
                return found
        for refusal in refusals:
            if refusal.errno not in MEDIUM_ERRORS:
                raise refusal
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """On stable storage when this returns. Raises `OSError`."""
        data = encode_checkpoint(checkpoint)
        newest = self._read(self._name, [])
        if newest is not None and _segments(newest) == _segments(checkpoint):
            self._disk.rename(f"{self._directory}/{self._name}", f"{self._directory}/{self._previous}")
        else:
            # A damaged one must not take the place of the good one before it; and where only that can be read, it must know of
            # every segment that may be deleted, whose counter is never given again.
            write_durably(self._disk, self._directory, self._previous, data)
        write_durably(self._disk, self._directory, self._name, data)

    def _read(self, name: str, refusals: list[OSError]) -> Checkpoint | None:
        try:
            return decode_checkpoint(_contents(self._disk, f"{self._directory}/{name}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            refusals.append(error)
            log.error("checkpoint %s cannot be read, the one before it is used: %s", name, error)
        except ValueError as error:
            log.error("checkpoint %s is damaged, the one before it is used: %s", name, error)
        return None


def load_all(disk: Disk, directory: str) -> dict[str, Checkpoint]:
    """What stands for every sink, those no longer configured included, by sink id. Raises `OSError`."""
    by_sink = {
        sink_id: [CheckpointFile(disk, directory, sink_id, drainer).load() for drainer in drainers]
        for sink_id, drainers in sorted(list_files(disk, directory).items())
    }
    return {
        sink_id: merge(readable)
        for sink_id, files in by_sink.items()
        if (readable := [checkpoint for checkpoint in files if checkpoint is not None])
    }


def clear_trouble(disk: Disk, directory: str, sink_id: str, drainer: int) -> None:
    """For a drainer that nobody takes the place of. Raises `OSError`."""
    file = CheckpointFile(disk, directory, sink_id, drainer)
    checkpoint = file.load()
    if checkpoint is not None and checkpoint.trouble is not None:
        checkpoint.trouble = None
        file.save(checkpoint)


def list_files(disk: Disk, directory: str) -> dict[str, list[int]]:
    """The drainers that have or had a checkpoint, by sink id."""
    try:
        names = disk.listdir(directory)
    except FileNotFoundError:
        return {}
    found: dict[str, set[int]] = {}
    for match in map(_FILE_NAME.fullmatch, names):
        if match:
            found.setdefault(match[1], set()).add(int(match[2] or 0))
    return {sink_id: sorted(drainers) for sink_id, drainers in found.items()}


def merge(files: Sequence[Checkpoint]) -> Checkpoint:
    """What a sink's files say together; at least one."""
    merged = Checkpoint(files[0].sink)
    for each in files:
        merged.totals.add(each.totals)
        merged.trouble = merged.trouble or each.trouble
        for slot, position in each.slots.items():
            if slot not in merged.slots or position.place > merged.slots[slot].place:
                merged.slots[slot] = position
    return merged


def _segments(checkpoint: Checkpoint) -> dict[int, str]:
    return {slot: position.segment for slot, position in checkpoint.slots.items()}


def _contents(disk: Disk, path: str) -> bytes:
    fd = disk.open(path)
    try:
        return pread_all(disk, fd, _BYTES_MAX, 0)
    finally:
        disk.close(fd)
