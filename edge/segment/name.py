"""Names of segment files: counter, incarnation, state; and the order they give.

    000000000042-9f31c0aa17be5d02.open.zst    being written
    000000000041-5c0d2e88b1f09a37.zst         sealed
    000000000040-77aa0c1d2e3f4a5b.suspect.zst a write or sync failed; recovery reads what it can
    000000000039-0f1e2d3c4b5a6978.bad         could not be read wholly; kept, shipped as far as it reads

The counter orders the segments of a slot and is never reused; no clock is in the name, so a clock jump cannot reorder.
The incarnation is 64 random bits: it seeds the frame checksums, so bytes of another file can never pass as frames of this one.
"""

import re
from enum import Enum
from typing import Final

import msgspec


class State(Enum):
    """Where in its life a segment is; the value is the file name's suffix."""

    OPEN = ".open.zst"
    SEALED = ".zst"
    SUSPECT = ".suspect.zst"
    BAD = ".bad"


LIFE: Final = (State.OPEN, State.SEALED, State.SUSPECT, State.SEALED, State.BAD)
"""The names that a segment has one after the other; a suspect one becomes sealed. Who asks for them in this order finds it,
also when it is renamed meanwhile."""


class SegmentName(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identity of a segment within its slot. Ordered by counter."""

    counter: int
    incarnation: int
    """64 random bits, also the checksum seed."""

    def __str__(self) -> str:
        return f"{self.counter:012d}-{self.incarnation:016x}"

    def file_name(self, state: State) -> str:
        return f"{self}{state.value}"


# One spelling per name: what is parsed is printed the same again, so a listed file is found under its parsed name.
_PATTERN: Final = re.compile(r"([0-9]{12}|[1-9][0-9]{12,18})-([0-9a-f]{16})(\.open\.zst|\.suspect\.zst|\.zst|\.bad)?")
_STATES: Final[dict[str | None, State]] = {None: State.SEALED, **{state.value: state for state in State}}


def parse_state(file_name: str) -> State | None:
    """The state of a file alone, in half the time."""
    match = _PATTERN.fullmatch(file_name)
    return None if match is None else _STATES[match[3]]


def parse_name(file_name: str) -> tuple[SegmentName, State] | None:
    """Name and state of a file, `None` when it is no segment. A bare stem counts as sealed."""
    match = _PATTERN.fullmatch(file_name)
    if match is None:
        return None
    counter, incarnation, suffix = match.groups()
    return SegmentName(int(counter), int(incarnation, 16)), _STATES[suffix]
