import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.backoff import BASE_S, CAP_S, delay_s


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, BASE_S), (2, 2 * BASE_S), (3, 4 * BASE_S), (50, CAP_S), (10**9, CAP_S)]
)
def test_the_ceiling_doubles_up_to_the_cap(failures: int, ceiling: float) -> None:
    assert delay_s(failures, 1.0) == ceiling


@given(failures=st.integers(1, 10**6), draw=st.floats(0, 1), asked=st.floats(0, 300))
def test_never_less_than_asked_and_never_more_than_the_cap_unless_asked(
    failures: int, draw: float, asked: float
) -> None:
    assert asked <= delay_s(failures, draw, asked) <= max(CAP_S, asked)
