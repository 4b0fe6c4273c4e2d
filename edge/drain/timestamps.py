"""When an event happened: client text to microseconds, clock skew out, RFC 3339 back.

Every instant is an `int` of microseconds since the Unix epoch, of any size: nothing here raises, whatever a client sent.

Text without a zone is UTC. Slashed dates are month first unless they begin with four digits. ISO week dates, ordinal dates
and forms without separators are refused, because their digits are also valid numbers.
"""

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from math import isfinite
from typing import Final

_SECOND_US: Final = 1_000_000
_DAY_US: Final = 86_400 * _SECOND_US
_FUTURE_US_MAX: Final = 23 * 3600 * _SECOND_US
"""A client clock ahead by more than this is not believed."""
_SECONDS_DIGITS_MAX: Final = 11
"""Unix times of up to eleven digits are seconds (until the year 5138), longer ones milliseconds (since 1973)."""
_SECONDS_END: Final = 10**_SECONDS_DIGITS_MAX

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_LOCAL: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - formatting needs no zone, and is twice as fast without
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_MIN_US: Final = (date.min.toordinal() - _EPOCH_DAY) * _DAY_US
_MAX_US: Final = (date.max.toordinal() + 1 - _EPOCH_DAY) * _DAY_US - 1

_MINUTES: Final = tuple(f"T{hour:02d}:{minute:02d}:" for hour in range(24) for minute in range(60))
_SECONDS: Final = tuple(f"{second:02d}" for second in range(60))
_THOUSANDTHS: Final = tuple(f"{number:03d}" for number in range(1000))
"""Two of them take half the time of six digits formatted."""

# What nearly every client sends, held to the part of ISO 8601 that `fromisoformat` reads alike in every Python version.
_COMMON: Final = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.(?:\d{3}|\d{6}))?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?",
    re.ASCII,
)

_MILLIS: Final = {f".{millis:03d}Z": millis * 1000 for millis in range(1000)} | {"Z": 0}
_UTC: Final = ("+00:00", "Z")
_SECONDS_MAX: Final = 4096
_seconds: Final[dict[str, int]] = {}
"""Seconds that were read lately, `2025-11-22T02:18:17` in UTC, and their instants."""

_CLOCK: Final = r"(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
_ZONE: Final = r" ?(?P<zone>[A-Z]{1,3}|[+-]\d\d(?::?\d\d)?)"
_FORMS: Final = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        # Years of six digits and a sign are what JavaScript prints outside 0..9999.
        rf"(?P<year>\d{{4}}|[+-]\d{{6}})-(?P<month>\d\d)-(?P<day>\d\d)(?:[T ]{_CLOCK}(?:{_ZONE})?)?",
        rf"(?P<year>\d{{4}})/(?P<month>\d\d?)/(?P<day>\d\d?)(?:[T ]{_CLOCK}(?:{_ZONE})?)?",
        rf"(?P<month>\d\d?)/(?P<day>\d\d?)/(?P<year>\d{{4}})(?:[T ]{_CLOCK}(?:{_ZONE})?)?",
        # RFC 2822
        rf"(?:[a-z]{{3}}, *)?(?P<day>\d\d?) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_CLOCK}(?:{_ZONE})?",
    )
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_ZONE_HOURS: Final = {
    "Z": 0, "UT": 0, "UTC": 0, "GMT": 0,
    "EDT": -4, "EST": -5, "CDT": -5, "CST": -6, "MDT": -6, "MST": -7, "PDT": -7, "PST": -8,
}  # fmt: skip
"""Zone names of RFC 2822 4.3, and UTC."""

_EPOCH_TEXT: Final = re.compile(r"(\d{10}|\d{13})(?:\.(\d*))?", re.ASCII)
_SENT_AT_TEXT: Final = re.compile(r"(\d{1,19})(?:\.(\d*))?", re.ASCII)


def parse_time(text: str) -> int | None:
    """The instant a client wrote as text, `None` when it is no form that is accepted.

    RFC 3339, also with a space for `T`, without zone, with a zone of two digits, or the date alone; dates with slashes;
    RFC 2822; Unix time of 10 digits (seconds) or 13 (milliseconds). Second 60 is the first of the next minute.
    Digits of a fraction beyond the sixth are cut.
    """
    # Clients write the time with a fraction of three or six digits, and many events of a second come together.
    second_us = _seconds.get(text[:19])
    if second_us is not None and (fraction_us := _fraction(text[19:])) is not None:
        return second_us + fraction_us
    instant_us = _parse_any(text)
    if instant_us is not None and (fraction_us := _fraction(text[19:])) is not None and _COMMON.fullmatch(text):
        if len(_seconds) >= _SECONDS_MAX:
            _seconds.clear()
        _seconds[text[:19]] = instant_us - fraction_us
    return instant_us


def _fraction(text: str) -> int | None:
    """Microseconds of `.123Z` and `.123456+00:00`; `None` for any other end of a time."""
    if text in _MILLIS:
        return _MILLIS[text]
    digits = text[1:7]
    if text[7:] in _UTC and text[:1] == "." and digits.isascii() and digits.isdigit():
        return int(digits)
    return None


def _parse_any(text: str) -> int | None:
    if _COMMON.fullmatch(text):
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            # February 30, or the year 0, which the slow way knows.
            return _parse_form(text)
        since = instant - (_EPOCH_LOCAL if instant.tzinfo is None else _EPOCH)
        return since.days * _DAY_US + since.seconds * _SECOND_US + since.microseconds
    text = text.strip()
    number = _EPOCH_TEXT.fullmatch(text)
    if number:
        return _from_digits(number[1], number[2])
    return _parse_form(text)


def parse_number(value: float) -> int | None:
    """The instant of a JSON number: Unix time in seconds below 10^11, in milliseconds from there; `None` if infinite."""
    return _scale(value, _SECOND_US if abs(value) < _SECONDS_END else 1000)


def parse_sent_at(value: str | float) -> int | None:
    """The instant a client says it sent the request, `None` when unusable.

    Numbers, and digits with or without a fraction as text, are seconds when the whole part has up to eleven digits, else
    milliseconds; other text is read as `parse_time` does. Instants outside the years 1 to 9999 are unusable.
    """
    if isinstance(value, str):
        value = value.strip()
        digits = _SENT_AT_TEXT.fullmatch(value)
        sent_at_us = _from_digits(digits[1], digits[2]) if digits else parse_time(value)
    else:
        sent_at_us = parse_number(value)
    return sent_at_us if sent_at_us is not None and _MIN_US <= sent_at_us <= _MAX_US else None


def normalise(
    received_us: int, timestamp_us: int | None, offset_ms: float | None, sent_at_us: int | None, ignore_sent_at: bool
) -> int:
    """When the event happened by our clock.

    The client's clock is corrected by what `sent_at` says of it. `offset_ms`, the age of the event when it was sent, wins
    over `timestamp_us`. More than 23 hours ahead becomes the time of receipt, a year outside 1 to 9999 the epoch.
    """
    age_us = None if offset_ms is None else _scale(offset_ms, 1000)
    event_us = received_us
    if age_us is not None:
        event_us -= age_us
    elif timestamp_us is not None:
        event_us = timestamp_us
        if sent_at_us is not None and not ignore_sent_at:
            event_us += received_us - sent_at_us
    if event_us - received_us > _FUTURE_US_MAX:
        event_us = received_us
    return event_us if _MIN_US <= event_us <= _MAX_US else 0


def format_time(us: int) -> str:
    """RFC 3339 in UTC with `Z` and a fraction of 0, 3 or 6 digits; the epoch for a year outside 1 to 9999."""
    if not _MIN_US <= us <= _MAX_US:
        us = 0
    seconds, micros = divmod(us, _SECOND_US)
    if not micros:
        return _format_second(seconds) + "Z"
    millis, micros = divmod(micros, 1000)
    if micros:
        return f"{_format_second(seconds)}.{_THOUSANDTHS[millis]}{_THOUSANDTHS[micros]}Z"
    return f"{_format_second(seconds)}.{_THOUSANDTHS[millis]}Z"


@lru_cache(maxsize=64)
def format_request_time(us: int) -> str:
    """`format_time` for an instant the events of a request share: 0.05 µs for all but the first, instead of 0.4."""
    return format_time(us)


# Many events of a second come together.
@lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    days, second = divmod(seconds, 86_400)
    return _format_day(days) + _MINUTES[second // 60] + _SECONDS[second % 60]


# Days and tables cost 0.6 µs for any time; the calendar each time would be 1.5.
@lru_cache(maxsize=1024)
def _format_day(days: int) -> str:
    return date.fromordinal(_EPOCH_DAY + days).isoformat()


def _scale(value: float, unit_us: int) -> int | None:
    """`value` units in microseconds; `None` for infinity and NaN."""
    if not isinstance(value, int) and not isfinite(value):
        return None
    # Whole part first: a product of large floats loses the microseconds, or overflows.
    whole = int(value)
    return whole * unit_us + round((value - whole) * unit_us)


def _from_digits(whole: str, fraction: str | None) -> int:
    unit_digits = 6 if len(whole) <= _SECONDS_DIGITS_MAX else 3
    return int(whole + ((fraction or "") + "000000")[:unit_digits])


def _parse_form(text: str) -> int | None:
    for form in _FORMS:
        fields = form.fullmatch(text)
        if fields:
            return _from_fields(fields)
    return None


def _from_fields(fields: re.Match[str]) -> int | None:
    year, month_text = int(fields["year"]), fields["month"].lower()
    month = _MONTHS.get(month_text, 0) if month_text.isalpha() else int(month_text)
    hour, minute, second = int(fields["hour"] or 0), int(fields["minute"] or 0), int(fields["second"] or 0)
    zone_seconds = _zone_seconds((fields["zone"] or "Z").upper())
    if hour > 23 or minute > 59 or second > 60 or zone_seconds is None:
        return None
    try:
        # The calendar repeats every 400 years of 146,097 days, which brings any year into the range `date` has.
        days = date(year % 400 + 400, month, int(fields["day"])).toordinal() + (year // 400 - 1) * 146_097
    except ValueError:
        return None
    seconds = hour * 3600 + minute * 60 + second - zone_seconds
    return (days - _EPOCH_DAY) * _DAY_US + seconds * _SECOND_US + int(((fields["fraction"] or "") + "000000")[:6])


def _zone_seconds(zone: str) -> int | None:
    """East of Greenwich; `None` for a zone nobody knows."""
    if zone.isalpha():
        hours = _ZONE_HOURS.get(zone)
        return None if hours is None else hours * 3600
    hours, minutes = int(zone[1:3]), int(zone[3:].removeprefix(":") or 0)
    if hours > 23 or minutes > 59:
        return None
    seconds = hours * 3600 + minutes * 60
    return -seconds if zone[0] == "-" else seconds
