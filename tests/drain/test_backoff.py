import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.backoff import BASE_S, CAP_S, RAMP_S, delay_s, pause_s, ramp_s


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, BASE_S), (2, 2 * BASE_S), (3, 4 * BASE_S), (50, CAP_S), (10**9, CAP_S)]
)
def test_the_ceiling_doubles_up_to_the_cap(failures: int, ceiling: float) -> None:
    assert delay_s(failures, 1.0) == ceiling


@given(failures=st.integers(1, 10**6), draw=st.floats(0, 1), asked=st.floats(0, 300), at_most=st.floats(0, CAP_S))
def test_never_less_than_asked_and_never_more_than_the_cap_unless_asked(
    failures: int, draw: float, asked: float, at_most: float
) -> None:
    assert asked <= delay_s(failures, draw, asked) <= max(CAP_S, asked)
    assert asked <= delay_s(failures, draw, asked, at_most) <= max(at_most, asked)


@given(failures=st.integers(1, 10**6), draw=st.floats(0, 1))
def test_a_pause_is_short_at_first_and_about_a_minute_later(failures: int, draw: float) -> None:
    pause = pause_s(failures, draw)
    assert 0.8 <= pause <= 1.21 * CAP_S
    assert pause_s(7, draw) == pause_s(10**6, draw) >= 0.8 * CAP_S


def test_after_an_outage_the_receiver_is_busy_with_us_a_little_more_every_second() -> None:
    assert ramp_s(0.0, 0.1) == pytest.approx(0.9)
    assert ramp_s(RAMP_S / 2, 0.1) == pytest.approx(0.1 * (1 / 0.55 - 1))
    assert ramp_s(RAMP_S, 0.1) == ramp_s(10 * RAMP_S, 100.0) == 0.0
    assert ramp_s(0.0, 100.0) == 5.0


@given(st.lists(st.floats(0, 2 * RAMP_S), min_size=2, max_size=2), st.floats(0, 60))
def test_the_wait_never_grows_with_time(since_s: list[float], took_s: float) -> None:
    assert ramp_s(max(since_s), took_s) <= ramp_s(min(since_s), took_s)
