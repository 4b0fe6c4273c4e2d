import json

import pytest

from edge.drain.expand import expand
from edge.drain.selection import Selection, in_sample, parse_moment, select
from edge.segment.record import Record

AT_US = 1_763_690_000_000_000
UUID = "0197a4c2-0000-7000-8000-00000000000a"
RECORD = Record(
    "5c0d2e88b1f09a37-1",
    AT_US,
    "phc_x",
    "batch",
    "203.0.113.7",
    json.dumps(
        {
            "batch": [
                {"event": "a", "distinct_id": "u", "uuid": UUID.upper()},
                {"event": "b", "distinct_id": "u"},
                {"odd": 1},
            ]
        }
    ).encode(),
)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(), ["a", "b"]),
        (select(["phc_x"], [], [], None, None, 0), ["a", "b"]),
        (select(["phc_y"], [], [], None, None, 0), []),
        (select(["phc_y", "phc_x"], ["b"], [], None, None, 0), ["b"]),
        (select([], ["a", "c"], [], None, None, 0), ["a"]),
        (select([], [], [UUID.upper()], None, None, 0), ["a"]),
        (select([], ["b"], [UUID], None, None, 0), []),
        (Selection(since_us=AT_US), ["a", "b"]),
        (Selection(since_us=AT_US + 1), []),
        (Selection(until_us=AT_US), []),
        (Selection(until_us=AT_US + 1), ["a", "b"]),
        (select([], [], [UUID], None, None, 0, 3), []),
        (select([], [], [UUID], None, None, 0, 4), ["a"]),
    ],
)
def test_events_are_selected_by_every_criterion_at_once(selection: Selection, names: list[str]) -> None:
    assert [event.event for event in selection.events(RECORD)] == names
    assert [event.event for event in expand(RECORD).events if selection.event(event)] == names
    assert selection.record(RECORD) == bool(names)


def test_a_record_without_events_is_selected_by_key_and_time_but_not_by_what_is_inside() -> None:
    empty = Record("1-1", AT_US, "phc_x", "e", "", b'{"odd":1}')
    assert select(["phc_x"], [], [], None, None, 0).record(empty)
    assert not select([], ["a"], [], None, None, 0).record(empty)


def test_what_is_dropped_is_told_unless_something_of_an_event_is_asked_for() -> None:
    def outcome(selection: Selection) -> tuple[list[str], dict[str, int]]:
        events, dropped = selection.outcome(RECORD)
        return [event.event for event in events], dropped

    assert outcome(Selection()) == (["a", "b"], {"no_event_name": 1})
    assert outcome(Selection(tokens=frozenset(["phc_x"]))) == (["a", "b"], {"no_event_name": 1})
    assert outcome(Selection(tokens=frozenset(["phc_y"]))) == ([], {})
    assert outcome(Selection(names=frozenset("a"))) == (["a"], {})
    assert outcome(Selection(uuids=frozenset([UUID]))) == (["a"], {})
    assert outcome(Selection(sample=4))[1] == {}


def test_a_sample_is_a_fixed_part_of_all_uuids() -> None:
    uuids = [f"0197a4c2-0000-7000-8000-{number:012x}" for number in range(1000)]
    assert all(in_sample(uuid, 1) for uuid in uuids)
    # As `xxhsum -H3` and every other XXH3-64 have it.
    assert [number for number in range(30) if in_sample(uuids[number], 10)] == [19, 22, 29]
    assert 50 < sum(in_sample(uuid, 10) for uuid in uuids) < 150
    assert {uuid for uuid in uuids if in_sample(uuid, 10)} <= {uuid for uuid in uuids if in_sample(uuid, 5)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-11-21T01:53:20Z", AT_US),
        ("2025-11-21T03:53:20+02:00", AT_US),
        ("90s", AT_US - 90_000_000),
        ("15m", AT_US - 900_000_000),
        ("2h", AT_US - 7_200_000_000),
        ("7d", AT_US - 604_800_000_000),
    ],
)
def test_a_moment_is_a_time_or_so_long_ago(text: str, expected: int) -> None:
    assert parse_moment(text, AT_US) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2x", "-2h", "h"])
def test_what_is_no_moment_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as"):
        select([], [], [], text, None, AT_US)
