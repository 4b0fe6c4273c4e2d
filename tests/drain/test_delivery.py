import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.drain.breaker import UNPROVEN_MAX, Breaker
from edge.drain.delivery import IN_A_ROW_MAX, Delivery, Tripped
from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.reader import Chunk
from edge.drain.sink import READ_BYTES, Batch, Paused, Refused, Retryable, TooLarge
from edge.segment.name import SegmentName
from edge.segment.record import Record

NAME = SegmentName(1, 2)


class ScriptedSink:
    """Takes what its rule does not object to, `piece_max` events at a time."""

    linger_s = 0.0
    read_bytes = READ_BYTES
    by_range = False

    def __init__(self, rule: Callable[[list[Event]], None] = lambda events: None, piece_max: int = 10**6) -> None:
        self.taken: list[Event] = []
        self.requests = 0
        self._rule = rule
        self._piece_max = piece_max

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events[at : at + self._piece_max] for at in range(0, len(events), self._piece_max)]

    def ship(self, batch: Batch) -> int:
        self.requests += 1
        self._rule(batch.events)
        self.taken += batch.events
        return len(batch.events)

    def probe(self) -> str:
        raise AssertionError("not asked by whoever ships")

    def close(self) -> None:
        pass


def event(name: str, person: str = "u", token: str = "phc_x") -> Event:
    data = json.dumps({"event": name, "distinct_id": person}).encode()
    [found] = expand(Record("1-1", 1_763_690_000_000_000, token, "e", "203.0.113.7", data)).events
    return found


def delivery(sink: ScriptedSink, events: list[Event], breaker: Breaker | None = None) -> Delivery:
    return Delivery(sink, breaker or Breaker(), Chunk(0, NAME, 0, 100, [], 0, 0), [("1-1", events)])


def finish(under_way: Delivery) -> None:
    while not under_way.offered_all:
        under_way.offer(0.0)


def poisoned(events: list[Event]) -> None:
    if any(event.event == "poison" for event in events):
        raise Refused("bad")


def one_at_a_time(events: list[Event]) -> None:
    if len(events) > 1 or events[0].event == "poison":
        raise TooLarge("big")


def refuse_everything(events: list[Event]) -> None:
    raise Refused("bad")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_one_bad_event_is_found_by_halving_and_costs_nobody_else_anything(size: int) -> None:
    events = [event(str(n), f"p{n}") for n in range(size)]
    place = random.randrange(size)
    events[place] = event("poison")
    sink = ScriptedSink(poisoned)
    under_way = delivery(sink, events)
    finish(under_way)
    assert [suspect.event for suspect in under_way.suspects] == [events[place]]
    assert sink.taken == events[:place] + events[place + 1 :]
    assert under_way.shipped == size - 1
    assert sink.requests <= 1 + 2 * (size - 1).bit_length()


def test_what_is_too_large_together_is_shipped_in_parts_in_order() -> None:
    events = [event(str(n)) for n in range(9)]
    sink = ScriptedSink(one_at_a_time)
    under_way = delivery(sink, events)
    finish(under_way)
    assert sink.taken == events
    assert under_way.suspects == []
    assert under_way.splits == {"too_large": 8, "refused": 0}


def test_a_single_event_that_is_too_large_is_suspect_for_that() -> None:
    under_way = delivery(ScriptedSink(one_at_a_time), [event("a"), event("poison")])
    finish(under_way)
    assert [(suspect.event.event, suspect.reason, suspect.why) for suspect in under_way.suspects] == [
        ("poison", "too_large", "big")
    ]


def test_named_events_are_suspect_and_the_others_offered_again_unless_taken() -> None:
    events = [event(str(n)) for n in range(5)]
    calls = 0

    def rule(offered: list[Event]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Refused("those two", [1, 3], taken=[0])

    sink = ScriptedSink(rule)
    under_way = delivery(sink, events)
    finish(under_way)
    assert [suspect.event.event for suspect in under_way.suspects] == ["1", "3"]
    assert [taken.event for taken in sink.taken] == ["2", "4"]
    assert under_way.shipped == 3


def test_a_refusal_that_names_no_event_is_halved() -> None:
    def rule(offered: list[Event]) -> None:
        if len(offered) > 1:
            raise Refused("none in particular", [])

    sink = ScriptedSink(rule)
    finish(delivery(sink, [event("a"), event("b")]))
    assert [taken.event for taken in sink.taken] == ["a", "b"]


@pytest.mark.parametrize("refusal", [Retryable("later", taken=[0, 2]), Paused("401", taken=[0, 2])])
def test_what_was_taken_of_a_refused_piece_is_not_offered_again(refusal: Retryable | Paused) -> None:
    events = [event(str(n)) for n in range(4)]
    refusals = [refusal]

    def rule(offered: list[Event]) -> None:
        if refusals:
            raise refusals.pop()

    sink = ScriptedSink(rule)
    under_way = delivery(sink, events)
    with pytest.raises(type(refusal)):
        under_way.offer(0.0)
    assert (under_way.shipped, under_way.waiting) == (2, 2)
    finish(under_way)
    assert [taken.event for taken in sink.taken] == ["1", "3"]
    assert under_way.shipped == 4


def test_no_event_is_forgotten_whatever_the_sink_raises() -> None:
    faults: list[Exception] = [OSError("a fault of the sink"), MemoryError()]

    def rule(offered: list[Event]) -> None:
        if faults:
            raise faults.pop()

    sink = ScriptedSink(rule, 2)
    under_way = delivery(sink, [event(str(n)) for n in range(5)])
    for expected in (MemoryError, OSError):
        with pytest.raises(expected):
            under_way.offer(0.0)
    finish(under_way)
    assert [taken.event for taken in sink.taken] == list("01234")


def test_no_control_is_forgotten_whatever_the_sink_raises() -> None:
    def rule(offered: list[Event]) -> None:
        if any(each.event.startswith("!") for each in offered):
            raise Refused("bad")
        if not broken:
            raise OSError("a fault of the sink")

    broken: list[bool] = []
    sink = ScriptedSink(rule, 4)
    under_way = delivery(sink, [event(f"!{n}") for n in range(4)] + [event("good", "p")])
    with pytest.raises(OSError, match="a fault"):
        finish(under_way)
    broken.append(True)
    finish(under_way)
    assert [taken.event for taken in sink.taken] == ["good"]
    assert len(under_way.suspects) == 4


def by_token(events: list[Event]) -> list[list[Event]]:
    tokens = dict.fromkeys(each.token for each in events)
    return [[each for each in events if each.token == token] for token in tokens]


def unknown_key(events: list[Event]) -> None:
    if any(each.token == "unknown" for each in events):
        raise Paused("status 401")


def test_a_project_that_the_sink_does_not_know_holds_up_nobody_else() -> None:
    events = [event(str(n), f"p{n % 3}", ("unknown", "phc_a", "phc_b")[n % 3]) for n in range(30)]
    sink = ScriptedSink(unknown_key)
    sink.cut = by_token  # type: ignore[method-assign]
    under_way = delivery(sink, events)
    finish(under_way)
    assert {suspect.event.token for suspect in under_way.suspects} == {"unknown"}
    assert {suspect.reason for suspect in under_way.suspects} == {"paused"}
    assert len(under_way.suspects) == 10
    assert len(sink.taken) == under_way.shipped == 20
    assert_order(sink.taken)


def test_a_project_is_not_forgotten_when_the_sink_fails_at_the_proof() -> None:
    def rule(offered: list[Event]) -> None:
        unknown_key(offered)
        raise OSError("a fault of the sink")

    sink = ScriptedSink(rule)
    sink.cut = by_token  # type: ignore[method-assign]
    under_way = delivery(sink, [event("0", token="unknown"), event("1", token="phc_a")])
    with pytest.raises(OSError, match="a fault"):
        under_way.offer(0.0)
    assert (under_way.waiting, under_way.suspects) == (2, [])


@pytest.mark.parametrize("tokens", [("phc_a",), ("phc_a", "phc_b")])
def test_a_pause_for_everybody_makes_nobody_suspect(tokens: tuple[str, ...]) -> None:
    def rule(offered: list[Event]) -> None:
        raise Paused("status 401")

    sink = ScriptedSink(rule)
    sink.cut = by_token  # type: ignore[method-assign]
    under_way = delivery(sink, [event(str(n), "p", tokens[n % len(tokens)]) for n in range(10)])
    with pytest.raises(Paused):
        finish(under_way)
    assert (under_way.waiting, under_way.suspects) == (10, [])


def test_a_pause_of_a_piece_of_several_projects_says_nothing_about_any() -> None:
    events = [event("0", token="unknown"), event("1", token="phc_a"), event("2", token="phc_b")]
    sink = ScriptedSink(unknown_key, 2)
    under_way = delivery(sink, events)
    with pytest.raises(Paused):
        finish(under_way)
    assert (under_way.waiting, under_way.suspects) == (3, [])


def test_a_destination_that_refuses_everything_trips_after_a_few_and_unrelated_ones() -> None:
    sink = ScriptedSink(refuse_everything, 100)
    under_way = delivery(sink, [event(str(n), f"p{n}") for n in range(1000)])
    with pytest.raises(Tripped, match="events in a row were refused"):
        finish(under_way)
    assert sink.requests < 30
    assert under_way.waiting + len(under_way.suspects) == 1000


def test_a_destination_that_refuses_everything_of_one_person_trips_as_well() -> None:
    sink = ScriptedSink(refuse_everything)
    under_way = delivery(sink, [event(str(n)) for n in range(1000)])
    with pytest.raises(Tripped):
        finish(under_way)
    assert len(under_way.suspects) == IN_A_ROW_MAX


def test_a_row_of_bad_events_is_believed_when_an_unrelated_one_is_taken() -> None:
    bad = [event("poison", f"p{n}") for n in range(50)]
    good = [event(str(n), f"g{n}") for n in range(50)]
    sink = ScriptedSink(poisoned)
    under_way = delivery(sink, bad + good)
    finish(under_way)
    assert [suspect.event for suspect in under_way.suspects] == bad
    assert sorted(taken.event for taken in sink.taken) == sorted(each.event for each in good)


def test_a_row_of_bad_events_of_one_person_is_believed_when_a_later_one_is_taken() -> None:
    events = [event("poison") for _ in range(20)] + [event("good")]
    sink = ScriptedSink(poisoned)
    breaker = Breaker()
    under_way = delivery(sink, events, breaker)
    finish(under_way)
    assert len(under_way.suspects) == 20
    assert breaker.believes


def test_acquitted_events_are_offered_again_in_their_order() -> None:
    healed = False

    def rule(offered: list[Event]) -> None:
        if not healed:
            raise Refused("everything")

    events = [event(str(n), f"p{n % 7}") for n in range(40)]
    sink = ScriptedSink(rule)
    under_way = delivery(sink, events)
    with pytest.raises(Tripped):
        finish(under_way)
    healed = True
    under_way.acquit()
    finish(under_way)
    assert under_way.suspects == []
    assert sorted(int(each.event) for each in sink.taken) == list(range(40))
    assert_order(sink.taken)


def test_a_delivery_that_is_extended_compares_with_what_came_later() -> None:
    breaker = Breaker()
    for _ in range(UNPROVEN_MAX + 1):
        breaker.refused()
    sink = ScriptedSink(poisoned)
    under_way = delivery(sink, [event("poison")], breaker)
    with pytest.raises(Tripped):
        under_way.offer(0.0)
    under_way.acquit()
    under_way.extend(Chunk(0, NAME, 100, 200, [], 0, 0), [("1-2", [event("good", "p")])])
    finish(under_way)
    assert breaker.believes
    assert [suspect.event.event for suspect in under_way.suspects] == ["poison"]
    assert (under_way.start, under_way.end) == (0, 200)


def assert_order(taken: list[Event]) -> None:
    last: dict[tuple[str, str], int] = {}
    for each in taken:
        key = each.token, each.distinct_id
        assert int(each.event.lstrip("!")) > last.get(key, -1), f"{each.event} of {key} was overtaken"
        last[key] = int(each.event.lstrip("!"))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(["", "", "", "!"])), min_size=1, max_size=60
    ),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_whatever_is_refused_every_event_is_taken_once_or_suspect_and_none_is_overtaken(
    drawn: list[tuple[int, int, str]], piece_max: int, seed: int
) -> None:
    """`!` marks what is never taken; the sink is busy, short of space and vague at random."""
    rng = random.Random(seed)

    def rule(offered: list[Event]) -> None:
        draw = rng.random()
        if draw < 0.2:
            raise Retryable("busy")
        if draw < 0.3 and len(offered) > 1:
            raise TooLarge("large")
        bad = [index for index, each in enumerate(offered) if each.event.startswith("!")]
        if bad and draw < 0.6:
            raise Refused("named", bad)
        if bad:
            raise Refused("vague")

    events = [event(f"{mark}{n}", f"p{person}", f"t{token}") for n, (person, token, mark) in enumerate(drawn)]
    sink = ScriptedSink(rule, piece_max)
    under_way = delivery(sink, events)
    for _ in range(10_000):
        if under_way.offered_all:
            break
        try:
            under_way.offer(0.0)
        except Retryable:
            continue
        except Tripped:
            # Nothing was good enough to compare with.
            break
    names = [each.event for each in sink.taken]
    suspects = [suspect.event.event for suspect in under_way.suspects]
    assert len(set(names + suspects)) == len(names + suspects) == len(events) - under_way.waiting
    assert all(name.startswith("!") for name in suspects)
    assert under_way.shipped == len(names)
    assert_order(sink.taken)
