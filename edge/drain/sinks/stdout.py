"""`stdout:`: one line per event. At least once: what was written within the last second before a crash is written again."""

import os
from typing import Final

from edge.drain.event import Event
from edge.drain.shapes import SHAPES
from edge.drain.sink import CACHED_READ_BYTES, Batch, Sink, SinkGone, SinkUrl
from edge.segment.name import SegmentName

_STDOUT: Final = 1


class StdoutSink:
    linger_s = 0.0
    read_bytes = CACHED_READ_BYTES
    by_range = False

    def __init__(self, shape: str) -> None:
        self._line = SHAPES[shape]

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def ship(self, batch: Batch) -> int:
        data = b"".join([self._line(event) + b"\n" for event in batch.events])
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(_STDOUT, rest) :]
        except OSError as error:
            raise SinkGone(f"standard output: {error}") from error
        return len(data)

    def probe(self) -> str:
        # Of whoever asks it is another one than of whoever ships.
        return "the standard output of whoever ships takes the lines, or does not"

    def close(self) -> None:
        pass


def make(url: SinkUrl) -> tuple[str, Sink]:
    options = url.take(shape=tuple(SHAPES))
    if url.target:
        raise ValueError(f"stdout: expected nothing after the colon, found {url.target!r}")
    return "stdout", StdoutSink(options["shape"])
