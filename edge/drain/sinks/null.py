"""`null:`: events are shaped, counted and thrown away. For benchmarks."""

from edge.drain.event import Event
from edge.drain.shapes import SHAPES
from edge.drain.sink import CACHED_READ_BYTES, Batch, Sink, SinkUrl
from edge.segment.name import SegmentName


class NullSink:
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
        return sum(len(self._line(event)) + 1 for event in batch.events)

    def probe(self) -> str:
        return "it takes everything and keeps nothing"

    def close(self) -> None:
        pass


def make(url: SinkUrl) -> tuple[str, Sink]:
    options = url.take(shape=tuple(SHAPES))
    if url.target:
        raise ValueError(f"null: expected nothing after the colon, found {url.target!r}")
    return "null", NullSink(options["shape"])
