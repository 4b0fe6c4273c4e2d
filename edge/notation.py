"""How the values of settings are written, and what they are then: sizes, durations, counts, addresses and their like.

A notation is a parser with the pattern it goes by, which others may use who do not run it.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from edge.segment.record import SKEW_KEPT
from edge.wire.client_ip import parse_networks
from edge.wire.forward import parse_upstream
from edge.wire.request import EVENTS_MAX_LEAST


class Notation(msgspec.Struct, frozen=True):
    """How a kind of value is written: what reads it, and what it looks like to who does not run that."""

    parse: Callable[[str], Any]
    """Raises `ValueError` with what was expected."""
    pattern: str = ""
    """Of the whole text, in what Python's and ECMAScript's regular expressions have in common. Empty: any text but none."""
    choices: tuple[str, ...] = ()
    """Every text there is, where they can be counted."""
    number: Literal["", "integer", "number"] = ""
    """What the file may have instead of text."""
    least: int = 1
    """Of integers."""

    def read(self, given: object) -> Any:
        """The value of a text, or of what a TOML file has in its place. Raises `ValueError`."""
        value = self.parse(_as_text(given))
        if not isinstance(given, str) and not self.number:
            raise ValueError("expected text")
        return value


class Address(msgspec.Struct, frozen=True):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Retention(msgspec.Struct, frozen=True):
    """Which shipped segments are kept: those that are within every limit there is; none without limits."""

    age_s: float | None = None
    bytes: int | None = None


class Share(msgspec.Struct, frozen=True):
    """One of `count` drainers, the first with `index` 0: the slots whose number divided by `count` leaves `index`."""

    index: int
    count: int


_DIGITS: Final = 15
"""As many as a double tells apart."""
NUMBER_BELOW: Final = 10**_DIGITS
DECIMAL_MIN: Final = float(f"1e-{_DIGITS}")
_WHOLE: Final = rf"0*([1-9][0-9]{{0,{_DIGITS - 1}}})"
_DECIMAL: Final = rf"0*([1-9][0-9]{{0,{_DIGITS - 1}}}(?:\.[0-9]+)?|0\.0{{0,{_DIGITS - 1}}}[1-9][0-9]*)"
_SIZE_UNIT: Final = r"(?:[KMGkmg][Ii]?)?[Bb]"
_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_TIME_UNIT: Final = "|".join(filter(None, _DURATION_UNITS))

# Of blanks there is one reading only, so that no text takes long to be refused.
_SIZE: Final = re.compile(rf"\s*{_WHOLE}\s*(?:({_SIZE_UNIT})\s*)?")
_DURATION: Final = re.compile(rf"\s*{_DECIMAL}\s*(?:({_TIME_UNIT})\s*)?")
_SKEW: Final = re.compile(rf"\s*(always|off)\s*|{_DURATION.pattern}")
_KEPT_SIZE: Final = rf"\s*{_WHOLE}\s*{_SIZE_UNIT}\s*"
_KEPT_TIME: Final = rf"\s*{_DECIMAL}\s*(?:{_TIME_UNIT})\s*"
_RETENTION: Final = re.compile(rf"\s*none\s*|{_KEPT_TIME}(?:,{_KEPT_SIZE})?|{_KEPT_SIZE}(?:,{_KEPT_TIME})?")
_COUNT: Final = re.compile(rf"\s*{_WHOLE}\s*")
_EVENTS: Final = re.compile(rf"\s*0*([5-9][0-9]{{2}}|[1-9][0-9]{{3,{_DIGITS - 1}}})\s*")
"""No less than `EVENTS_MAX_LEAST`."""
_SHARE: Final = re.compile(r"\s*0*([1-9][0-9]{0,3})/0*([1-9][0-9]{0,3})\s*")
_PORT: Final = r"[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_ADDRESS: Final = re.compile(rf"\s*(?:\[([^\[\]\s]+)\]|([^\[\]:\s]+)):({_PORT})\s*")


def parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("expected a size above zero such as 64MiB")
    return int(match[1]) * _SIZE_UNITS[(match[2] or "").lower()]


def parse_duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("expected a duration above zero such as 5s")
    return float(match[1]) * _DURATION_UNITS[match[2] or ""]


def parse_skew(text: str) -> int:
    """`always`, `off` or a time: the smallest difference of clocks that is corrected, microseconds, `SKEW_KEPT` for none."""
    match = _SKEW.fullmatch(text)
    if match is None:
        raise ValueError("expected always, off, or a time such as 30s")
    if match[1]:
        return 0 if match[1] == "always" else SKEW_KEPT
    return max(1, round(parse_duration(text) * 1_000_000))


def parse_retention(text: str) -> Retention:
    """`none`, a time, a size, or both with a comma between."""
    if _RETENTION.fullmatch(text) is None:
        raise ValueError("expected none, a time such as 1h, a size such as 10GiB, or both as 1h,10GiB")
    limits = [part for part in text.split(",") if part.strip() != "none"]
    sizes = [parse_size(part) for part in limits if part.strip().lower().endswith("b")]
    times = [parse_duration(part) for part in limits if not part.strip().lower().endswith("b")]
    return Retention(times[0] if times else None, sizes[0] if sizes else None)


def parse_share(text: str) -> Share:
    """`2/4`: the second of four."""
    match = _SHARE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError("expected which of how many, such as 1/2")
    return Share(int(match[1]) - 1, int(match[2]))


def parse_address(text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("expected HOST:PORT")
    return Address(match[1] or match[2], int(match[3]))


def parse_count(text: str) -> int:
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError("expected a whole number above zero")
    return int(match[1])


def parse_events(text: str) -> int:
    match = _EVENTS.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a whole number of at least {EVENTS_MAX_LEAST}, as clients send as many at a time")
    return int(match[1])


def choice(*allowed: str) -> Notation:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text

    return Notation(parse, choices=allowed)


def _text(text: str) -> str:
    if not text:
        raise ValueError("expected a value")
    return text


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def _upstream(text: str) -> str:
    parse_upstream(text)
    return text


TEXT: Final = Notation(_text)
SIZE: Final = Notation(parse_size, _SIZE.pattern, number="integer")
DURATION: Final = Notation(parse_duration, _DURATION.pattern, number="number")
SKEW: Final = Notation(parse_skew, _SKEW.pattern, number="number")
RETENTION: Final = Notation(parse_retention, _RETENTION.pattern)
SHARE: Final = Notation(parse_share, _SHARE.pattern)
ADDRESS: Final = Notation(parse_address, _ADDRESS.pattern)
COUNT: Final = Notation(parse_count, _COUNT.pattern, number="integer")
EVENTS: Final = Notation(parse_events, _EVENTS.pattern, number="integer", least=EVENTS_MAX_LEAST)
# These parsers have no pattern. The ones here let pass all that they take, and hardly anything else.
# Blanks stand in one place of it only: with two, a list of blanks and commas matches in more ways than can be tried.
_NETWORK: Final = r"\s*(?:[0-9A-Fa-f:.]+(?:%[^,/]*[^,/\s])?(?:/[0-9.]+)?\s*)?"
NETWORKS: Final = Notation(_networks, f"{_NETWORK}(?:,{_NETWORK})*")
UPSTREAM: Final = Notation(_upstream, r"\s*[Hh][Tt][Tt][Pp][Ss]?://[\x21\x22$-.0->A-~]+(?:/[\x21\x22$->@-~]*)?\s*")


def _as_text(given: object) -> str:
    """A value of the file as it would be written as text."""
    if not isinstance(given, float) or not math.isfinite(given):
        return str(given)
    # 5.0 is 5, as in JSON, and no number has an exponent.
    return str(int(given)) if given.is_integer() else format(Decimal(repr(given)), "f")
