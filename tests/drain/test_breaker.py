import pytest

from edge.drain.breaker import EVENTS_MAX, UNPROVEN_MAX, WINDOW_S, Breaker


def test_the_first_refusals_are_believed_and_a_row_of_them_is_not() -> None:
    breaker = Breaker()
    for _ in range(UNPROVEN_MAX):
        breaker.refused()
        assert breaker.believes
    breaker.refused()
    assert not breaker.believes


def test_anything_taken_ends_the_row() -> None:
    breaker = Breaker()
    for _ in range(UNPROVEN_MAX + 1):
        breaker.refused()
    breaker.taken(0, 1.0)
    assert not breaker.believes
    breaker.taken(1, 1.0)
    assert breaker.believes


@pytest.mark.parametrize(("taken", "allowed"), [(0, EVENTS_MAX), (1_000_000, 10_000)], ids=["few taken", "many taken"])
def test_only_a_part_of_a_minutes_events_is_quarantined(taken: int, allowed: int) -> None:
    breaker = Breaker()
    breaker.taken(taken, 1000.0)
    breaker.quarantined(1, 1000.0)
    assert breaker.allows(allowed - 1, 1001.0)
    assert not breaker.allows(allowed, 1001.0)


def test_what_came_together_may_go_together_after_a_quiet_minute() -> None:
    breaker = Breaker()
    assert breaker.allows(10 * EVENTS_MAX, 1000.0)
    breaker.quarantined(10 * EVENTS_MAX, 1000.0)
    assert not breaker.allows(1, 1000.0 + WINDOW_S - 1)
    assert breaker.allows(1, 1000.0 + WINDOW_S)


@pytest.mark.parametrize("events", [1, EVENTS_MAX + 1, 100_000])
def test_what_comes_together_waits_no_longer_than_for_the_minute_to_be_over(events: int) -> None:
    """It cannot be made smaller, and nothing else of the sink's is shipped before it."""
    breaker = Breaker()
    breaker.quarantined(EVENTS_MAX, 1000.0)
    waits = [now_s for now_s in range(1000, 1200) if not breaker.allows(events, float(now_s))]
    assert waits == list(range(1000, 1000 + int(WINDOW_S)))


def test_the_window_is_kept_by_the_second_however_many_calls_there_are() -> None:
    breaker = Breaker()
    for call in range(100_000):
        breaker.taken(1, 1000.0 + call / 1000)
    assert len(breaker._window) <= WINDOW_S + 1
