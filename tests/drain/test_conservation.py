"""What the edge counts when it accepts a request is what the drainer finds in it, whatever the request holds.

The accounts of `edge status` rest on this: a difference would look like a loss.
"""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from edge.drain.expand import expand
from edge.segment.record import Record
from edge.wire.payload import read_payload
from edge.wire.rejections import Rejected

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.sampled_from(["", "a", "$snapshot", "s-1", "NaN"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "batch", "event"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = (
    *("event", "distinct_id", "$distinct_id", "uuid", "timestamp", "offset", "properties", "$set", "batch", "token"),
    *("api_key", "sent_at", "historical_migration", "$process_person_profile"),
)
PROPERTIES = st.dictionaries(
    st.sampled_from(["distinct_id", "$session_id", "$snapshot_data", "$lib", "token", "$ip"]), VALUES, max_size=4
)
EVENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5) | st.builds(
    lambda more, properties: {"event": "e", "distinct_id": "u", **more, "properties": properties},
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2),
    PROPERTIES,
)
PAYLOADS = (
    EVENTS
    | st.lists(EVENTS | VALUES, max_size=4)
    | st.builds(lambda batch, top: {**top, "batch": batch}, st.lists(EVENTS | VALUES), EVENTS)
)


@given(PAYLOADS, st.sampled_from(["e", "batch", "engage", "s"]))
@example([{"event": "a"}, 1, None, []], "s")
@example({"batch": {"batch": []}, "event": "x", "distinct_id": "u"}, "batch")
def test_every_event_that_is_counted_is_accounted_for(payload: Any, path: str) -> None:
    text = json.dumps(payload).encode()
    if not text.startswith((b"{", b"[")):
        return
    check(text, path)


@given(
    st.lists(
        st.sampled_from(['"batch":[]', '"batch":[{}]', '"batch":[1,2]', '"batch":null', '"batch":"x"', '"a":1']),
        max_size=4,
    )
)
def test_repeated_members_are_counted_alike(members: list[str]) -> None:
    check(("{" + ",".join(members) + "}").encode(), "batch")


def check(text: bytes, path: str) -> None:
    try:
        payload = read_payload(text)
    except Rejected:
        return
    expansion = expand(Record("1-1", 1_763_690_000_000_000, "phc_x", path, "", payload.text))
    assert payload.events == len(expansion.events) + sum(expansion.dropped.values()) + expansion.merged
