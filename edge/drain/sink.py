"""What a sink is: the destination of events, behind one small interface, and what it may say instead of taking a batch.

A sink that returns from `ship` has handed the whole batch over. Otherwise it raises one of the refusals below, each of which
may carry `taken`: the places in `batch.events` that downstream confirmed all the same. Those are never offered again and count
as shipped. Of every other event nothing is known; it is offered again, so downstream may see it twice and must recognise it by
its uuid, event, timestamp and distinct_id, which never change.

| the sink raises | it means | the drainer |
| --- | --- | --- |
| `Retryable` | not now | offers the same again for ever, with backoff |
| `TooLarge` | fewer at a time | offers the halves; a single event is quarantined |
| `Refused` | never like this | offers the halves until the event at fault stands alone, which is quarantined |
| `Refused(indexes=...)` | exactly those, never | quarantines those, offers again what is neither among them nor taken |
| `Paused` | nothing is wrong with the events | keeps everything, asks again slowly, says so loudly |
| `SinkGone` | never again in this process | ends the process |

A pause for events of a single project, while the sink takes another project's at the same moment, is about that project's key:
its events are quarantined, so that they hold up nobody else's.

What is to be quarantined has to pass the breaker (`edge/drain/breaker.py`), so a destination that refuses everything, whatever
it calls that, costs next to nothing.
"""

import re
from collections.abc import Collection
from typing import Final, Protocol
from urllib.parse import parse_qsl

import msgspec

from edge.config import HIDDEN, without_user
from edge.drain.backoff import CAP_S
from edge.drain.event import Event
from edge.segment.name import SegmentName

READ_BYTES: Final = 4 * 1024 * 1024
"""Where a batch becomes a file or an object."""
CACHED_READ_BYTES: Final = 128 * 1024
"""Some thousand events, which the processor's caches hold from the reading to the shipping: a quarter less work for each."""


PROBE_S: Final = 8.0
"""What a probe gives a destination, where it has a say in that; `edge/drain/probing.py` waits a little longer."""


class Refusal(Exception):
    """A batch was not, or not wholly, taken. Raised as one of its kinds."""

    def __init__(self, why: str, *, taken: Collection[int] = ()) -> None:
        super().__init__(why)
        self.taken = frozenset(taken)
        """Places in `batch.events` that downstream has."""


class Retryable(Refusal):
    """The sink does not take it now; the same is offered again, for as long as it takes.

    Never earlier than `retry_after_s`, and no later than `at_most_s` where the sink knows how soon that is worth it.
    """

    def __init__(
        self, why: str, retry_after_s: float = 0.0, *, at_most_s: float = CAP_S, taken: Collection[int] = ()
    ) -> None:
        super().__init__(why, taken=taken)
        self.retry_after_s = retry_after_s
        self.at_most_s = at_most_s


class TooLarge(Refusal):
    """The sink may take less at a time. Of a single event: it is too large for ever."""


class Refused(Refusal):
    """The sink will never take this as it is.

    Without `indexes` some event, not known which, is at fault. With `indexes` it is each of these places in `batch.events`
    and none of the others; those that are not in `taken` either are offered again.
    """

    def __init__(self, why: str, indexes: Collection[int] | None = None, *, taken: Collection[int] = ()) -> None:
        super().__init__(why, taken=taken)
        self.indexes = None if indexes is None else frozenset(indexes)
        assert not self.taken & (self.indexes or frozenset()), "expected an event to be taken or refused, not both"


class Paused(Refusal):
    """Credentials, an address or a topic are wrong: somebody has to act, and no event is at fault."""


class SinkGone(Exception):
    """The sink will never take anything again in this process, as a closed pipe."""


class Batch(msgspec.Struct, gc=False):
    """Events of one slot in their order, with the range of the segment they come from.

    The range names the batch for ever if `events` is everything in it, which it is unless the sink cut it or refused a part.
    """

    slot: int
    name: SegmentName
    start: int
    end: int
    events: list[Event]
    limited: int = 0
    """The sink adds the events that downstream took and said it would not keep, over quota: counted, not sent again."""


class Sink(Protocol):
    """One destination. Called by one thread. Making one may prepare the destination but holds nothing open: some are made to
    check a URL and then forgotten."""

    linger_s: float
    """Shortest time between two batches of a slot, unless there is enough for a large one: gathers what a sink takes better in
    larger pieces. Nothing is gathered once the order to stop came."""

    read_bytes: int
    """About how much of a segment to read for the next batch: what is sent again after a crash, and what a batch costs in
    memory. Asked for before every batch."""

    by_range: bool
    """It names what it keeps by the batch's range, so a batch is never made larger after it was offered."""

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        """The end of the batch that begins there, if it was shipped before and the checkpoint does not know.

        Raises `Retryable` and `Paused` when that cannot be found out.
        """
        ...

    def cut(self, events: list[Event]) -> list[list[Event]]:
        """The events as the pieces `ship` is to be called with, one after the other: what fits a request of the sink's.

        Every event is in one piece, and the events of a token and distinct_id keep their order.
        """
        ...

    def ship(self, batch: Batch) -> int:
        """The number of bytes handed over; returning means that downstream has the batch. Raises `Refusal`, `SinkGone`."""
        ...

    def probe(self) -> str:
        """Ask the destination whether it would take events, and send none: a sentence of what was found.

        Raises `Retryable` when it would take none now, `Paused` when somebody has to act first, as `ship` would. For a sink
        that has shipped nothing yet.
        """
        ...

    def close(self) -> None:
        """Let go of what `ship` and `probe` opened. Nothing is called afterwards."""
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


_SECRET: Final = re.compile(
    r"([?&][^=&]*(?:password|passwd|secret|token|key|[.]pem|oauthbearer[.]config)[^=&]*=)(?!env:|file:)[^&]*",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A sink's URL as it may be logged and shown; where a secret is to be found stays in it."""
    return _SECRET.sub(rf"\1{HIDDEN}", without_user(text))
