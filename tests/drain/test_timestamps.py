from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.drain.timestamps import _seconds, format_time, normalise, parse_number, parse_sent_at, parse_time

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_10000 = 253_402_300_800 * SECOND
NOW = 1_672_574_400 * SECOND  # 2023-01-01T12:00:00Z
JAN_2 = 1_672_617_600 * SECOND  # 2023-01-02T00:00:00Z


def micros(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "since_jan_2"),
    [
        pytest.param("2023-01-02T11:00:00Z", 11 * HOUR, id="rfc 3339"),
        pytest.param("2023-01-02T11:00:00.5Z", 11 * HOUR + 500_000, id="fraction of one digit"),
        pytest.param("2023-01-02T11:00:00.123Z", 11 * HOUR + 123_000, id="milliseconds"),
        pytest.param("2023-01-02T11:00:00.123456Z", 11 * HOUR + 123_456, id="microseconds"),
        pytest.param("2023-01-02T11:00:00.123456789Z", 11 * HOUR + 123_456, id="nanoseconds are cut"),
        pytest.param("2023-01-02T11:00:00,25Z", 11 * HOUR + 250_000, id="decimal comma"),
        pytest.param("2023-01-02t11:00:00z", 11 * HOUR, id="lower case"),
        pytest.param("2023-01-02T11:00:00+05:30", 5 * HOUR + HOUR // 2, id="zone east"),
        pytest.param("2023-01-02T11:00:00.123-05:00", 16 * HOUR + 123_000, id="zone west"),
        pytest.param("2023-01-02T11:00:00+03", 8 * HOUR, id="zone of two digits"),
        pytest.param("2023-01-02T11:00:00+0330", 7 * HOUR + HOUR // 2, id="zone without colon"),
        pytest.param("2023-01-02T11:00:00 UTC", 11 * HOUR, id="zone by name"),
        pytest.param("2023-01-02T11:00:00", 11 * HOUR, id="no zone"),
        pytest.param("2023-01-02T11:00", 11 * HOUR, id="no seconds"),
        pytest.param("2023-01-02T23:59:60Z", DAY, id="leap second"),
        pytest.param("2023-01-02", 0, id="date only"),
        pytest.param("2023-01-02 11:00", 11 * HOUR, id="space, minutes"),
        pytest.param("2023-01-02 11:00:00", 11 * HOUR, id="space"),
        pytest.param("2023-01-02 11:00:00.913767", 11 * HOUR + 913_767, id="space, fraction"),
        pytest.param("2023-01-02 11:00:00 +0200", 9 * HOUR, id="space, zone"),
        pytest.param("01/02/2023", 0, id="slashes, month first"),
        pytest.param("1/2/2023 11:00", 11 * HOUR, id="slashes, month first, time"),
        pytest.param("2023/01/02", 0, id="slashes, year first"),
        pytest.param("2023/01/02 11:00:00.5", 11 * HOUR + 500_000, id="slashes, year first, time"),
        pytest.param("Mon, 02 Jan 2023 11:00:00 GMT", 11 * HOUR, id="rfc 2822"),
        pytest.param("Mon, 2 Jan 2023 11:00:00 +0100", 10 * HOUR, id="rfc 2822, offset"),
        pytest.param("2 Jan 2023 11:00 EST", 16 * HOUR, id="rfc 2822, american zone, no weekday"),
        pytest.param("1672617600", 0, id="ten digits"),
        pytest.param("1672617600.25", 250_000, id="ten digits, fraction"),
        pytest.param("1672617600.", 0, id="ten digits, point"),
        pytest.param("1672617600123", 123_000, id="thirteen digits"),
        pytest.param("1672617600123.4567", 123_456, id="thirteen digits, fraction"),
        pytest.param("  2023-01-02T11:00:00Z\n", 11 * HOUR, id="surrounding space"),
    ],
)
def test_every_accepted_form_is_read_as_utc_microseconds(text: str, since_jan_2: int) -> None:
    assert parse_time(text) == JAN_2 + since_jan_2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a date",
        "now",
        "2023-W01-1",
        "2023-001",
        "20230102",
        "20230102T110000Z",
        "2023-02-30",
        "2023-02-30T11:00:00Z",
        "2023-13-01",
        "2023-00-00",
        "2023-01-02T24:00:00Z",
        "2023-01-02T11:60:00Z",
        "2023-01-02T11:00:61Z",
        "2023-01-02T11:00:00+24:00",
        "2023-01-02T11:00:00+05:60",
        "2023-01-02T11:00:00 XYZ",
        "2023-01-02x11:00:00Z",
        "31/12/2023",
        "Mon, 02 Foo 2023 11:00:00 GMT",
        "167261760",
        "16726176000",
        "-1672617600",
        "٢٠٢٣-01-02",
        "१६७२६१७६००",
    ],
)
def test_text_of_no_accepted_form_is_no_time(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0001-01-01T00:00:00+05:00", -62_135_596_800 * SECOND - 5 * HOUR, id="before the year 1 in utc"),
        pytest.param("0000-03-01T00:00:00Z", -62_135_596_800 * SECOND - 306 * DAY, id="year 0"),
        pytest.param("+010000-01-01T00:00:00.000Z", YEAR_10000, id="year 10000 as JavaScript prints it"),
        pytest.param("-000001-01-01T00:00:00.000Z", -62_135_596_800 * SECOND - 731 * DAY, id="year -1"),
    ],
)
def test_years_outside_the_calendar_are_still_numbers(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@given(
    st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - zones come below
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from(["auto", "milliseconds", "seconds"]),
)
def test_whatever_the_standard_library_prints_is_read(local: datetime, zone_minutes: int, precision: str) -> None:
    instant = local.replace(tzinfo=timezone(timedelta(minutes=zone_minutes)))
    unit = {"auto": 1, "milliseconds": 1000, "seconds": SECOND}[precision]
    assert parse_time(instant.isoformat(timespec=precision)) == micros(instant) // unit * unit
    assert parse_time(format_datetime(instant)) == micros(instant) // SECOND * SECOND


@given(st.one_of(st.text(), st.from_regex(r"[0-9+./:TZ -]{1,30}", fullmatch=True)))
@example("0000-00-00T00:00:00Z")
@example("9" * 5000)
@example("2023-01-02T11:00:00." + "1" * 5000)
def test_no_text_raises(text: str) -> None:
    for parsed in (parse_time(text), parse_sent_at(text)):
        assert parsed is None or format_time(normalise(NOW, parsed, None, None, False)).endswith("Z")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(1_672_617_600, JAN_2, id="seconds"),
        pytest.param(1_672_617_600.25, JAN_2 + 250_000, id="seconds, fraction"),
        pytest.param(1_672_617_600_123, JAN_2 + 123_000, id="milliseconds"),
        pytest.param(1_672_617_600_123.5, JAN_2 + 123_500, id="milliseconds, fraction"),
        pytest.param(99_999_999_999, 99_999_999_999 * SECOND, id="largest in seconds"),
        pytest.param(100_000_000_000, 100_000_000 * SECOND, id="smallest in milliseconds"),
        pytest.param(0, 0, id="epoch"),
        pytest.param(-1.5, -1_500_000, id="before the epoch"),
        pytest.param(float("inf"), None, id="infinity"),
        pytest.param(float("nan"), None, id="nan"),
    ],
)
def test_numbers_are_seconds_or_milliseconds_by_size(value: float, expected: int | None) -> None:
    assert parse_number(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("1694769302325", "2023-09-15T09:15:02.325Z", id="milliseconds"),
        pytest.param("1694769302", "2023-09-15T09:15:02Z", id="seconds"),
        pytest.param("1694769302.325", "2023-09-15T09:15:02.325Z", id="seconds, fraction"),
        pytest.param("1694769302325.25", "2023-09-15T09:15:02.325250Z", id="milliseconds, fraction"),
        pytest.param(" 1694769302 ", "2023-09-15T09:15:02Z", id="surrounding space"),
        pytest.param("99999999999", "5138-11-16T09:46:39Z", id="eleven digits are seconds"),
        pytest.param("100000000000", "1973-03-03T09:46:40Z", id="twelve digits are milliseconds"),
        pytest.param("2023-09-15T09:15:02.325Z", "2023-09-15T09:15:02.325Z", id="iso"),
        pytest.param("2023-09-15T11:15:02+02:00", "2023-09-15T09:15:02Z", id="iso, zone"),
    ],
)
def test_sent_at_is_digits_or_iso(text: str, expected: str) -> None:
    sent_at_us = parse_sent_at(text)
    assert sent_at_us is not None
    assert format_time(sent_at_us) == expected


@pytest.mark.parametrize("text", ["", "soon", "9999999999999999", "9" * 40, "-1694769302", "0000-01-01T00:00:00Z"])
def test_unusable_sent_at_is_none(text: str) -> None:
    assert parse_sent_at(text) is None


AT_11 = NOW - HOUR


@pytest.mark.parametrize(
    ("timestamp", "offset_ms", "sent_at", "ignore", "expected"),
    [
        pytest.param(AT_11, None, NOW + 10 * SECOND, False, AT_11 - 10 * SECOND, id="client clock ahead"),
        pytest.param(AT_11, None, NOW - 10 * SECOND, False, AT_11 + 10 * SECOND, id="client clock behind"),
        pytest.param(AT_11, None, None, False, AT_11, id="no sent_at"),
        pytest.param(AT_11, None, NOW + 10 * SECOND, True, AT_11, id="sent_at ignored"),
        pytest.param(None, None, NOW - 10 * SECOND, False, NOW, id="sent_at alone has no effect"),
        pytest.param(None, None, None, False, NOW, id="nothing"),
        pytest.param(None, 5000, None, False, NOW - 5 * SECOND, id="offset"),
        pytest.param(AT_11, 5000, NOW + DAY, False, NOW - 5 * SECOND, id="offset wins over all"),
        pytest.param(None, 0.5, None, False, NOW - 500, id="offset with a fraction"),
        pytest.param(None, 0, None, False, NOW, id="offset zero"),
        pytest.param(AT_11, float("inf"), None, False, AT_11, id="offset infinite counts as absent"),
        pytest.param(None, -24 * 3_600_000, None, False, NOW, id="offset into the future"),
        pytest.param(NOW + 23 * HOUR, None, None, False, NOW + 23 * HOUR, id="exactly 23 hours ahead is kept"),
        pytest.param(NOW + 23 * HOUR + 1000, None, None, False, NOW, id="23 hours and a millisecond is clamped"),
        pytest.param(NOW + DAY, None, NOW + DAY, False, NOW, id="clock a day ahead is corrected, not clamped"),
        pytest.param(-(10**20), None, None, False, 0, id="year before 1"),
        pytest.param(None, 10**400, None, False, 0, id="offset of 400 digits"),
        pytest.param(None, 1e308, None, False, 0, id="offset nearly infinite"),
        pytest.param(0, None, 10**30, False, 0, id="absurd skew"),
        pytest.param(-62_135_596_800 * SECOND, None, None, False, -62_135_596_800 * SECOND, id="year 1 is kept"),
    ],
)
def test_event_time_by_our_clock(
    timestamp: int | None, offset_ms: float | None, sent_at: int | None, ignore: bool, expected: int
) -> None:
    assert normalise(NOW, timestamp, offset_ms, sent_at, ignore) == expected


def test_a_receive_time_after_the_year_9999_gives_the_epoch() -> None:
    assert normalise(YEAR_10000, None, None, None, False) == 0


@pytest.mark.parametrize(
    ("us", "expected"),
    [
        pytest.param(0, "1970-01-01T00:00:00Z", id="epoch"),
        pytest.param(NOW, "2023-01-01T12:00:00Z", id="seconds"),
        pytest.param(NOW + 120_000, "2023-01-01T12:00:00.120Z", id="milliseconds"),
        pytest.param(NOW + 123_456, "2023-01-01T12:00:00.123456Z", id="microseconds"),
        pytest.param(-1, "1969-12-31T23:59:59.999999Z", id="before the epoch"),
        pytest.param(-62_135_596_800 * SECOND, "0001-01-01T00:00:00Z", id="first"),
        pytest.param(-62_135_596_800 * SECOND - 1, "1970-01-01T00:00:00Z", id="before the first"),
        pytest.param(YEAR_10000 - 1, "9999-12-31T23:59:59.999999Z", id="last"),
        pytest.param(YEAR_10000, "1970-01-01T00:00:00Z", id="after the last"),
    ],
)
def test_times_are_written_as_rfc_3339_with_the_fraction_they_need(us: int, expected: str) -> None:
    assert format_time(us) == expected


@given(st.integers(-62_135_596_800 * SECOND, YEAR_10000 - 1))
def test_what_is_written_is_read_back(us: int) -> None:
    assert parse_time(format_time(us)) == us


@given(
    st.integers(0, 3),
    st.sampled_from(
        ["", ".000", ".1", ".12", ".123", ".123456", ".1234567", ".-12345", ".+12345", ".1_3456", ".١٢٣", "."]
    ),
    st.sampled_from(["", "Z", "z", "+00:00", "-00:00", "+00", "+02:00", " Z"]),
)
def test_a_time_of_a_second_that_was_read_before_is_read_like_the_first(second: int, fraction: str, zone: str) -> None:
    text = f"2025-07-01T10:59:0{second}{fraction}{zone}"
    _seconds.clear()
    first = parse_time(text)
    parse_time(f"2025-07-01T10:59:0{second}.5Z")
    parse_time(f"2025-07-01T10:59:0{second}.500Z")
    assert parse_time(text) == first
