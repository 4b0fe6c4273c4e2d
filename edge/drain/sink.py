"""What a sink is: the destination of events, behind one small interface."""

from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from edge.drain.expand import Event
from edge.segment.name import SegmentName


class Retryable(Exception):
    """The sink does not take it now; the same batch is offered again, for as long as it takes."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class SinkGone(Exception):
    """The sink will never take anything again in this process, as a closed pipe."""


class Batch(msgspec.Struct, gc=False):
    """Events of one slot in their order, with the range of the segment they come from, which names the batch for ever."""

    slot: int
    name: SegmentName
    start: int
    end: int
    events: list[Event]


class Sink(Protocol):
    """One destination. Called by one thread."""

    linger_s: float
    """Shortest time between two batches of a slot: gathers what a sink takes better in larger pieces."""

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        """The end of the batch that begins there, if it was shipped before and the checkpoint does not know."""
        ...

    def ship(self, batch: Batch) -> int:
        """The number of bytes handed over; returning means that downstream has the batch. Raises `Retryable`, `SinkGone`."""
        ...


class SinkUrl(msgspec.Struct, frozen=True):
    """A sink's URL taken apart."""

    scheme: str
    target: str
    """Everything between the scheme's colon and the question mark."""
    options: dict[str, str]

    def take(self, **allowed: tuple[str, ...]) -> dict[str, str]:
        """The options, the first allowed value where one is missing. Raises `ValueError` for any other name or value."""
        for name, value in self.options.items():
            if name not in allowed:
                known = f"expected the options {', '.join(allowed)}" if allowed else "expected no options"
                raise ValueError(f"{self.scheme}: {known}, found {name!r}")
            if value not in allowed[name]:
                raise ValueError(
                    f"{self.scheme}: expected {name} to be one of {', '.join(allowed[name])}, found {value!r}"
                )
        return {name: self.options.get(name, values[0]) for name, values in allowed.items()}


def split_url(text: str) -> SinkUrl:
    scheme, _, rest = text.partition(":")
    target, _, query = rest.partition("?")
    return SinkUrl(scheme, target, dict(parse_qsl(query, keep_blank_values=True)))
