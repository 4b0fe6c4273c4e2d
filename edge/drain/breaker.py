"""When a refusal is believed: what keeps a destination that refuses everything from filling the quarantine.

That an event was refused alone says that the event or the destination is at fault. After a few refusals in a row without
anything taken in between, an event that has nothing to do with them is offered; if that is refused too, or there is none, it is
the destination. And however well proved, no more than a small part of the events is set aside in a minute, beyond what came
together in one delivery after a minute without any: to wait would make that no smaller, and it would wait for ever.
"""

from collections import deque
from typing import Final

UNPROVEN_MAX: Final = 3
"""Events refused in a row that are believed without a proof that the destination takes others."""
WINDOW_S: Final = 60.0
EVENTS_MAX: Final = 100
"""Events quarantined within the window whatever their share; more only where they come together."""
SHARE_MAX: Final = 0.01
"""Of the events taken within the window."""


class Breaker:
    """Of one sink. Times are of a monotonic clock, seconds."""

    def __init__(self) -> None:
        self.in_a_row = 0
        """Events refused alone since anything was taken."""
        self._window: deque[tuple[float, int, int]] = deque()
        """When, events taken, events quarantined; of one second each."""

    def taken(self, events: int, now_s: float) -> None:
        if events:
            self.in_a_row = 0
            self._add(now_s, events, 0)

    def refused(self) -> None:
        """One event, offered alone or named by the sink."""
        self.in_a_row += 1

    @property
    def believes(self) -> bool:
        """The events refused last may be at fault themselves."""
        return self.in_a_row <= UNPROVEN_MAX

    def allows(self, events: int, now_s: float) -> bool:
        """So many, which go together or not at all, may be quarantined now. Any number may after a quiet minute."""
        while self._window and self._window[0][0] <= now_s - WINDOW_S:
            self._window.popleft()
        taken = sum(entry[1] for entry in self._window)
        quarantined = sum(entry[2] for entry in self._window)
        return quarantined == 0 or quarantined + events <= max(EVENTS_MAX, SHARE_MAX * taken)

    def quarantined(self, events: int, now_s: float) -> None:
        self._add(now_s, 0, events)

    def _add(self, now_s: float, taken: int, quarantined: int) -> None:
        if self._window and now_s - self._window[-1][0] < 1.0:
            at_s, taken_before, quarantined_before = self._window.pop()
            self._window.append((at_s, taken_before + taken, quarantined_before + quarantined))
        else:
            self._window.append((now_s, taken, quarantined))
        while self._window[0][0] <= now_s - WINDOW_S:
            self._window.popleft()
