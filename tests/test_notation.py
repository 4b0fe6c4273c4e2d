import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.notation import (
    Address,
    Retention,
    Share,
    choice,
    parse_address,
    parse_count,
    parse_duration,
    parse_events,
    parse_retention,
    parse_share,
    parse_size,
    parse_skew,
)
from edge.segment.record import SKEW_KEPT

SIZES = {
    "1": 1,
    "64MiB": 64 << 20,
    "64 mib": 64 << 20,
    " 007 ": 7,
    "999999999999999": 10**15 - 1,
    "1000000000000000": None,
    "\u0663": None,
    "1\u212aB": None,
    "0GB": None,
    "2kb": 2000,
    "1G": None,
    "1GB": 10**9,
    "1.5MiB": None,
    "-1": None,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items(), ids=SIZES)
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="expected a size"):
            parse_size(text)
    else:
        assert parse_size(text) == size


DURATIONS = {
    "5": 5.0,
    "5s": 5.0,
    "250ms": 0.25,
    "1.5m": 90.0,
    "2h": 7200.0,
    " 00.5 ": 0.5,
    "0.000000000000001": 1e-15,
    "0.0000000000000001": None,
    "1000000000000000": None,
    "0.0h": None,
    "1d": None,
    "-1s": None,
    "0s": None,
    "": None,
}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items(), ids=DURATIONS)
def test_durations(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="expected a duration"):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(seconds)


ADDRESSES = {
    "127.0.0.1:8000": Address("127.0.0.1", 8000),
    "localhost:0": Address("localhost", 0),
    "[::1]:8000": Address("::1", 8000),
    "h:65535": Address("h", 65535),
    "h:65536": None,
    "h:99999": None,
    "a b:1": None,
    ":8000": None,
    "::1": None,
    "localhost": None,
    "[::1:1": None,
    "a[::1]:1": None,
    "localhost:http": None,
    "localhost:-1": None,
}


@pytest.mark.parametrize(("text", "address"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses(text: str, address: Address | None) -> None:
    if address is None:
        with pytest.raises(ValueError, match="expected HOST:PORT"):
            parse_address(text)
    else:
        assert parse_address(text) == address
        assert str(address) == text


@given(st.text())
def test_nonsense_is_a_value_error_and_nothing_else(text: str) -> None:
    for parse in (
        parse_size,
        parse_duration,
        parse_address,
        parse_count,
        parse_events,
        parse_retention,
        parse_skew,
        choice("fsync", "page").parse,
    ):
        try:
            parse(text)
        except ValueError:
            continue


@pytest.mark.parametrize("text", ["499", "0", "-1", "many", "1e6", ""])
def test_a_maximum_of_events_is_no_smaller_than_what_clients_send(text: str) -> None:
    assert parse_events("500") == 500
    with pytest.raises(ValueError, match="expected a whole number of at least 500"):
        parse_events(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1/1", Share(0, 1)), ("2/4", Share(1, 4)), (" 4/4 ", Share(3, 4)), ("1/9999", Share(0, 9999))],
)
def test_shares(text: str, expected: Share) -> None:
    assert parse_share(text) == expected


@pytest.mark.parametrize("text", ["", "1", "0/1", "2/1", "1/0", "-1/2", "1/2/3", "a/b", "\u0661/\u0662", "1/10000"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected which of how many, such as 1/2"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Retention()),
        ("90m", Retention(age_s=5400.0)),
        ("10GiB", Retention(bytes=10 << 30)),
        ("1h, 500 MB", Retention(3600.0, 500_000_000)),
        ("500MB,1h", Retention(3600.0, 500_000_000)),
    ],
)
def test_what_to_keep_is_a_time_a_size_or_both(text: str, expected: Retention) -> None:
    assert parse_retention(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("always", 0), ("off", SKEW_KEPT), ("30s", 30_000_000), (" 2m ", 120_000_000), ("0.0000001s", 1)],
)
def test_clocks_are_corrected_always_never_or_from_a_difference_on(text: str, expected: int) -> None:
    assert parse_skew(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "never", "-1s"])
def test_any_other_correction_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected always, off, or a time such as 30s"):
        parse_skew(text)


@pytest.mark.parametrize("text", ["", "10", "1h,2h", "1GB,2GB", "1h,", "forever", "0s", "1h,none"])
def test_anything_else_to_keep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_retention(text)
