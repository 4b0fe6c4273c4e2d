"""Send events again by hand, out of segments or out of quarantine, with the uuids and times they always had."""

import random
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from edge.drain.backoff import delay_s
from edge.drain.breaker import Breaker
from edge.drain.delivery import Delivery, Tripped
from edge.drain.event import Event
from edge.drain.quarantine import Suspect
from edge.drain.reader import Chunk
from edge.drain.sink import Paused, Retryable, Sink, SinkGone
from edge.segment.name import SegmentName

ATTEMPTS: Final = 5
"""In a row before the destination counts as unavailable."""


class Unavailable(Exception):
    """The destination does not take events now."""


class Resent(msgspec.Struct):
    taken: list[Event]
    refused: list[Suspect]


def resend(sink: Sink, events: list[Event], sleep: Callable[[float], None] = time.sleep) -> Resent:
    """Raises `Unavailable`; what was taken until then is not known, and may be sent again: downstream merges it."""
    # A range that no segment has: it must never be taken for one that was shipped already.
    chunk = Chunk(0, SegmentName(0, secrets.randbits(64)), 0, max(1, len(events)), [], 0, 0)
    delivery = Delivery(sink, Breaker(), chunk, [("", events)])
    failures = 0
    while not delivery.offered_all:
        shipped = delivery.shipped
        try:
            delivery.offer(time.monotonic())
        except Retryable as refusal:
            failures = 1 if delivery.shipped > shipped else failures + 1
            if failures >= ATTEMPTS:
                raise Unavailable(str(refusal)) from refusal
            sleep(delay_s(failures, random.random(), refusal.retry_after_s, refusal.at_most_s))
        except (Paused, Tripped, SinkGone) as refusal:
            raise Unavailable(str(refusal)) from refusal
        else:
            failures = 0
    suspects = {id(suspect.event) for suspect in delivery.suspects}
    return Resent([event for event in events if id(event) not in suspects], delivery.suspects)
