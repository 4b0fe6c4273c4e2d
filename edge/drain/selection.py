"""Which records and events a tool is about: by project key, event name, uuid, time of receipt, and by lot. Pure functions."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
import xxhash

from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.timestamps import parse_time
from edge.segment.record import Record

_AGO: Final = re.compile(r"([0-9]+)([smhd])")
_UNIT_US: Final = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class Selection(msgspec.Struct, frozen=True):
    """Empty sets select everything. Times in microseconds since the Unix epoch, `until_us` itself not included."""

    tokens: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    uuids: frozenset[str] = frozenset()
    since_us: int = 0
    until_us: int | None = None
    sample: int = 1
    """One of so many parts of all events, see `in_sample`; 1 for all of them."""

    @property
    def looks_inside(self) -> bool:
        """Records have to be expanded to know."""
        return bool(self.names or self.uuids) or self.sample > 1

    def event(self, event: Event) -> bool:
        return (
            self._place(event.token, event.received_us)
            and (not self.names or event.event in self.names)
            and (not self.uuids or event.uuid in self.uuids)
            and in_sample(event.uuid, self.sample)
        )

    def events(self, record: Record) -> list[Event]:
        """The record's events that are selected."""
        return self.outcome(record)[0]

    def outcome(self, record: Record) -> tuple[list[Event], dict[str, int]]:
        """The same, and how many of the record's events are dropped, by reason.

        None are where names, uuids or a sample are asked for: of what is dropped neither is known.
        """
        if not self._place(record.token, record.at):
            return [], {}
        expansion = expand(record)
        if not self.looks_inside:
            return expansion.events, expansion.dropped
        return [event for event in expansion.events if self.event(event)], {}

    def record(self, record: Record) -> bool:
        """A record is selected when any of its events is; by key and time alone, those without events are too."""
        return self._place(record.token, record.at) and (not self.looks_inside or bool(self.events(record)))

    def _place(self, token: str, at_us: int) -> bool:
        return (
            (not self.tokens or token in self.tokens)
            and at_us >= self.since_us
            and (self.until_us is None or at_us < self.until_us)
        )


def in_sample(uuid: str, parts: int) -> bool:
    """Whether XXH3-64 of the uuid, lower case with hyphens, leaves 0 when divided by `parts`: always the same ones."""
    return parts == 1 or xxhash.xxh3_64_intdigest(uuid.encode()) % parts == 0


def select(
    tokens: Sequence[str],
    names: Sequence[str],
    uuids: Sequence[str],
    since: str | None,
    until: str | None,
    now_us: int,
    sample: int = 1,
) -> Selection:
    """Raises `ValueError` for a time that is none."""
    return Selection(
        frozenset(tokens),
        frozenset(names),
        frozenset(uuid.lower() for uuid in uuids),
        0 if since is None else parse_moment(since, now_us),
        None if until is None else parse_moment(until, now_us),
        sample,
    )


def parse_moment(text: str, now_us: int) -> int:
    """ISO 8601, or so long ago: `90s`, `15m`, `2h`, `7d`. Raises `ValueError`."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now_us - int(ago[1]) * _UNIT_US[ago[2]]
    found = parse_time(text)
    if found is None:
        raise ValueError(f"expected a time such as 2025-11-21T02:00:00Z, or 2h for two hours ago, found {text!r}")
    return found
