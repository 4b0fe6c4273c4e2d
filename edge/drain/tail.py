"""The last of a spool, and then what is committed while somebody looks. From outside: nothing in the spool is changed.

Each slot is read from the back, segment by segment, until enough was found, and from the last frame found there on as the
drainer reads it. What is shipped and deleted before it was looked at is passed over.
"""

import heapq
import logging
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from edge.checkpoints import Position
from edge.disk import Disk
from edge.drain.reader import Chunk, SlotReader
from edge.layout import Layout
from edge.segment.record import Record, decode_record
from edge.segment.scan import Frame
from edge.spool.inspect import frames_back, newest_first

log = logging.getLogger(__name__)

LAST_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of lines that are looked up, however many are wanted."""
READ_BYTES: Final = 256 * 1024
"""About how much of a slot is read at a time while it is followed."""

Show = Callable[[Record], list[bytes]]
"""The lines a record becomes, none if nothing of it is wanted."""


class _Line(NamedTuple):
    received_us: int
    text: bytes


class Tail:
    """Damage and what cannot be read are logged, and read around. Raises `OSError` when the spool itself cannot be listed."""

    def __init__(self, disk: Disk, layout: Layout, show: Show) -> None:
        self._disk = disk
        self._layout = layout
        self._show = show
        self._readers: dict[int, SlotReader] = {}
        self.damaged = False
        """`last` met damage."""
        self.unreadable = False
        """`last` met what cannot be read."""
        self.behind = False
        """The last call of `more` may have left something."""

    @property
    def slots(self) -> list[int]:
        """Those that are followed."""
        return sorted(self._readers)

    def last(self, count: int) -> list[bytes]:
        """The last so many lines of all slots by time of receipt, in the order of each slot; `more` goes on behind them.

        Fewer when there are no more, or when they are larger than `LAST_BYTES_MAX` together.
        """
        kept: list[_Line] = []
        for slot in self._layout.slots():
            # What is older than all that is kept is not needed.
            least_us = kept[0].received_us if kept and len(kept) == count else 0
            position, found = self._last_of(slot, count, least_us)
            self._follow(slot, position)
            kept = _last(list(heapq.merge(kept, found, key=lambda line: line.received_us)), count)
        return [line.text for line in kept]

    def more(self) -> Iterator[bytes]:
        """The next lines of every slot, a part of what is there at the most; to be asked again at once while `behind`."""
        self.behind = False
        try:
            slots = self._layout.slots()
        except OSError as error:
            log.error("the spool cannot be read: %s", error)
            slots = self.slots
        for slot in self._readers.keys() - set(slots):
            # One that comes again later is a new one.
            self._readers.pop(slot).close()
        for slot in slots:
            if slot not in self._readers:
                self._follow(slot, None)
            chunk = self._next(self._readers[slot])
            if chunk is not None:
                self.behind = True
                for line in chunk.lines:
                    yield from self._shown(str(chunk.name), line)[1]

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def _follow(self, slot: int, position: Position | None) -> None:
        reader = SlotReader(self._disk, str(self._layout.slot(slot)), slot, position, observes=True)
        reader.read_bytes = READ_BYTES
        self._readers[slot] = reader

    def _next(self, reader: SlotReader) -> Chunk | None:
        try:
            return None if reader.peek() is None else reader.read()
        except FileNotFoundError:
            # The slot was deleted.
            return None
        except OSError as error:
            log.error("slot %02d cannot be read: %s", reader.slot, error)
            return None

    def _last_of(self, slot: int, count: int, least_us: int) -> tuple[Position | None, list[_Line]]:
        """Where what is there ends, and the slot's last lines in order; those received before may be left out."""
        position: Position | None = None
        found: list[_Line] = []
        size = 0
        for at, frame in self._back(slot):
            position = position or at
            if frame is not None:
                lines = self._lines_back(at, frame, count - len(found))
                found += lines
                size += sum(len(line.text) for line in lines)
            is_older = frame is not None and frame.header.oldest_us < least_us
            if len(found) >= count or size > LAST_BYTES_MAX or is_older:
                # Now, and not at the next frame, which may be far.
                break
        return position, found[::-1]

    def _back(self, slot: int) -> Iterator[tuple[Position, Frame | None]]:
        """The slot's frames, the last one first, each with where it ends; no frame for a segment that cannot be read."""
        try:
            for file in newest_first(self._disk, self._layout, slot):
                try:
                    for item in frames_back(file):
                        if isinstance(item, Frame):
                            yield Position(str(file.name), item.end), item
                        else:
                            self.damaged = True
                            log.error(
                                "segment %s: bytes %d to %d are damaged and skipped", file.name, item.offset, item.end
                            )
                except OSError as error:
                    self.unreadable = True
                    log.error("slot %02d cannot be read: %s", slot, error)
                    yield Position(str(file.name), 0), None
        except FileNotFoundError:
            # The slot was deleted.
            return
        except OSError as error:
            self.unreadable = True
            log.error("slot %02d cannot be read: %s", slot, error)

    def _lines_back(self, at: Position, frame: Frame, count: int) -> list[_Line]:
        """No more than so many, the last one first."""
        try:
            stored = frame.lines()
        except ValueError as error:
            self.damaged = True
            log.error("segment %s: the frame at %d is not what it says: %s", at.segment, frame.offset, error)
            return []
        found: list[_Line] = []
        for line in reversed(stored):
            received_us, texts = self._shown(at.segment, line)
            found += [_Line(received_us, text) for text in reversed(texts)]
            if len(found) >= count:
                break
        return found[:count]

    def _shown(self, segment: str, line: bytes) -> tuple[int, list[bytes]]:
        """When the record was received, and its lines."""
        try:
            record = decode_record(line)
        except ValueError as error:
            self.damaged = True
            log.error("segment %s: a record is not what it says: %s", segment, error)
            return 0, []
        return record.at, self._show(record)


def _last(lines: list[_Line], count: int) -> list[_Line]:
    """No more than so many, of `LAST_BYTES_MAX` together, one at least."""
    size = 0
    for kept, line in enumerate(reversed(lines)):
        size += len(line.text)
        if kept == count or (kept and size > LAST_BYTES_MAX):
            if kept < count:
                log.warning(
                    "only the last %d of the %d asked for are shown: more are over %d bytes",
                    kept,
                    count,
                    LAST_BYTES_MAX,
                )
            return lines[len(lines) - kept :]
    return lines
