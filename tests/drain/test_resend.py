import pytest

from edge.drain.event import Event
from edge.drain.resend import ATTEMPTS, Unavailable, resend
from edge.drain.sink import Batch, Paused, Refused, Retryable, SinkGone
from tests.drain.test_delivery import ScriptedSink, event, poisoned


def test_what_is_taken_and_what_is_refused_again_are_told_apart() -> None:
    events = [event("a", "p"), event("poison"), event("b", "p")]
    resent = resend(ScriptedSink(poisoned), events)
    assert [each.event for each in resent.taken] == ["a", "b"]
    assert [suspect.event.event for suspect in resent.refused] == ["poison"]


def test_a_busy_sink_is_asked_again_a_few_times() -> None:
    refusals = [Retryable("busy", 7.0)] * (ATTEMPTS - 1)
    waits: list[float] = []

    def rule(offered: list[Event]) -> None:
        if refusals:
            raise refusals.pop()

    sink = ScriptedSink(rule)
    assert len(resend(sink, [event("a")], waits.append).taken) == 1
    assert len(waits) == ATTEMPTS - 1
    assert min(waits) >= 7.0


def test_a_sink_that_knows_how_soon_it_is_worth_it_is_asked_by_then() -> None:
    waits: list[float] = []

    def rule(offered: list[Event]) -> None:
        raise Retryable("soon", at_most_s=0.001)

    with pytest.raises(Unavailable):
        resend(ScriptedSink(rule), [event("a")], waits.append)
    assert len(waits) == ATTEMPTS - 1
    assert max(waits) <= 0.001


@pytest.mark.parametrize(
    "refusal",
    [Retryable("busy"), Paused("no key"), SinkGone("closed"), Refused("all of them")],
    ids=lambda r: type(r).__name__,
)
def test_a_sink_that_takes_nothing_ends_it(refusal: Exception) -> None:
    def rule(offered: list[Event]) -> None:
        raise refusal

    with pytest.raises(Unavailable, match=str(refusal)):
        resend(ScriptedSink(rule), [event(str(n), f"p{n}") for n in range(20)], lambda _: None)


def test_a_sink_that_remembers_ranges_never_takes_one_for_another() -> None:
    ranges: set[tuple[str, int]] = set()

    class Remembering(ScriptedSink):
        def ship(self, batch: Batch) -> int:
            assert (str(batch.name), batch.start) not in ranges
            ranges.add((str(batch.name), batch.start))
            return super().ship(batch)

    for _ in range(20):
        resend(Remembering(), [event("a")])
    assert len(ranges) == 20
