import pytest

from edge.drain.expand import expand
from edge.drain.shapes import event_line
from edge.drain.sink import Batch, split_url
from edge.drain.sinks.null import make
from edge.segment.name import SegmentName
from edge.segment.record import Record


def test_events_are_counted_as_the_bytes_they_would_be() -> None:
    record = Record("1-1", 1_763_690_000_000_000, "phc_x", "e", "", b'{"event":"a","distinct_id":"u"}')
    events = expand(record).events
    name, sink = make(split_url("null:"))
    assert name == "null"
    assert sink.ship(Batch(0, SegmentName(1, 1), 0, 100, events)) == len(event_line(events[0])) + 1


def test_nothing_stands_after_the_colon() -> None:
    with pytest.raises(ValueError, match="expected nothing after the colon, found 'x'"):
        make(split_url("null:x"))


def test_it_takes_everything() -> None:
    assert make(split_url("null:"))[1].probe() == "it takes everything and keeps nothing"
