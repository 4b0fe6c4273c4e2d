"""One batch on its way into a sink: cut into pieces, halved around what is refused, until every event is taken or suspect.

A piece that is too large or refused is replaced by its halves, so one bad event among n costs about 2·log2(n) requests and
nobody else anything. Pieces are offered from the front only, and halves take the place of their whole: the events of a token
and distinct_id never overtake each other. The one exception proves a rule: a control, an event of another token or person,
offered out of turn to learn whether the sink takes anything at all.

A pause is everybody's, unless the sink takes another project's events at the same moment: then it does not know the project of
this piece, whose events are suspect so that they hold up nobody else's.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from edge.drain.breaker import Breaker
from edge.drain.event import Event
from edge.drain.quarantine import Suspect
from edge.drain.reader import Chunk
from edge.drain.sink import Batch, Paused, Refusal, Refused, Sink, TooLarge

CONTROLS: Final = 3
"""Unrelated events that have to be refused as well before it is the destination."""
IN_A_ROW_MAX: Final = 100
"""The same where there are no unrelated events: that many of one person's, in their order."""


class Tripped(Exception):
    """The sink refuses what it is offered, one by one, and nothing shows that it takes anything."""


class Delivery:
    """`records` are the chunk's records with their events."""

    def __init__(self, sink: Sink, breaker: Breaker, chunk: Chunk, records: list[tuple[str, list[Event]]]) -> None:
        self.slot = chunk.slot
        self.name = chunk.name
        self.start = chunk.start
        self.end = chunk.end
        self.records = records
        self.suspects: list[Suspect] = []
        self.shipped = 0
        """Events the sink took."""
        self.bytes = 0
        self.limited = 0
        self.splits = {"too_large": 0, "refused": 0}
        """Pieces that had to be offered in parts, by cause."""
        self._sink = sink
        self._breaker = breaker
        events = [event for _, found in records for event in found]
        # A batch without events is offered too: the sink may keep account of the ranges it was given.
        self._pieces = deque(sink.cut(events) if events else [[]])

    @property
    def offered_all(self) -> bool:
        return not self._pieces

    @property
    def waiting(self) -> int:
        """Events that are neither taken nor suspect."""
        return sum(map(len, self._pieces))

    def offer(self, now_s: float) -> None:
        """Offer the next piece.

        Raises `Retryable`, `Paused`, `Tripped`, `SinkGone`, and whatever else the sink does; no event is forgotten by it.
        """
        piece = self._pieces[0]
        try:
            self._ship(piece, now_s)
        except Refusal as refusal:
            self._pieces.popleft()
            named = (refusal.indexes or frozenset()) if isinstance(refusal, Refused) else frozenset()
            rest = [event for index, event in enumerate(piece) if index not in refusal.taken and index not in named]
            self._suspect([piece[index] for index in sorted(named)], "refused", str(refusal))
            # Last: what was taken beside them proves that the named ones are at fault.
            self.shipped += len(refusal.taken)
            self._breaker.taken(len(refusal.taken), now_s)
            if named:
                self._put_back([rest])
            elif isinstance(refusal, TooLarge | Refused):
                reason = "too_large" if isinstance(refusal, TooLarge) else "refused"
                if len(piece) <= 1:
                    self._suspect(piece, reason, str(refusal))
                else:
                    self.splits[reason] += 1
                    # What is left of a piece that was taken in part is another piece, and offered whole first.
                    self._put_back([rest] if len(rest) < len(piece) else _halves(rest))
            else:
                self._put_back([rest])
                if not (isinstance(refusal, Paused) and rest and self._others_are_taken(rest, now_s)):
                    raise
                self._pieces.popleft()
                self._suspect(rest, "paused", str(refusal))
                # In the account of the breaker the proof comes after what it is about.
                self._breaker.taken(1, now_s)
        else:
            self._pieces.popleft()
        if self.suspects and not self._breaker.believes:
            self._prove(now_s)

    def extend(self, chunk: Chunk, records: list[tuple[str, list[Event]]]) -> None:
        """More of the same slot, so that what is refused here has something to be compared with."""
        assert chunk.slot == self.slot
        self.name = chunk.name
        self.end = chunk.end
        self.records += records
        events = [event for _, found in records for event in found]
        if events:
            self._pieces.extend(self._sink.cut(events))

    def acquit(self) -> None:
        """Offer what is suspect once more."""
        events = [suspect.event for suspect in self.suspects] + [event for piece in self._pieces for event in piece]
        self.suspects = []
        self._pieces = deque(self._sink.cut(events))

    def _ship(self, piece: list[Event], now_s: float) -> None:
        batch = Batch(self.slot, self.name, self.start, self.end, piece)
        try:
            self.bytes += self._sink.ship(batch)
        finally:
            self.limited += batch.limited
        self.shipped += len(piece)
        self._breaker.taken(len(piece), now_s)

    def _suspect(self, events: Iterable[Event], reason: str, why: str) -> None:
        for event in events:
            self.suspects.append(Suspect(event, reason, why))
            self._breaker.refused()

    def _put_back(self, pieces: Sequence[list[Event]]) -> None:
        self._pieces.extendleft(piece for piece in reversed(pieces) if piece)

    def _prove(self, now_s: float) -> None:
        """Find an event that the sink takes. Raises `Tripped` when it takes none, and what `offer` does."""
        offered = False
        for _ in range(CONTROLS):
            found = self._find_control()
            if found is None:
                break
            offered = True
            place, index = found
            control = self._pieces[place][index]
            try:
                self._ship([control], now_s)
            except (TooLarge, Refused) as refusal:
                self._drop(place, index)
                self._suspect([control], "too_large" if isinstance(refusal, TooLarge) else "refused", str(refusal))
            else:
                self._drop(place, index)
                return
        if not offered and self._pieces and self._breaker.in_a_row < IN_A_ROW_MAX:
            # All of one person: what comes next in order may be taken, and must not be offered before its time.
            return
        raise Tripped(
            f"{self._breaker.in_a_row} events in a row were refused, the last one with: {self.suspects[-1].why}"
        )

    def _others_are_taken(self, refused: list[Event], now_s: float) -> bool:
        """The sink takes another project's events at this moment: it is the project of `refused` that it does not know."""
        tokens = {event.token for event in refused}
        place = next((at for at, piece in enumerate(self._pieces) if piece and piece[0].token not in tokens), None)
        if len(tokens) > 1 or place is None:
            return False
        control = self._pieces[place][0]
        key = control.token, control.distinct_id
        if any((event.token, event.distinct_id) == key for piece in list(self._pieces)[:place] for event in piece):
            return False
        try:
            self._ship([control], now_s)
        except Refusal:
            return False
        self._drop(place, 0)
        return True

    def _drop(self, place: int, index: int) -> None:
        """The event there waits no longer."""
        del self._pieces[place][index]
        if not self._pieces[place]:
            del self._pieces[place]

    def _find_control(self) -> tuple[int, int] | None:
        """Where the first waiting event of a token and distinct_id is that no suspect has, another token's if there is one."""
        suspected = {(suspect.event.token, suspect.event.distinct_id) for suspect in self.suspects}
        tokens = {token for token, _ in suspected}
        seen = set(suspected)
        found: tuple[int, int] | None = None
        for place, piece in enumerate(self._pieces):
            for index, event in enumerate(piece):
                key = event.token, event.distinct_id
                if key in seen:
                    continue
                seen.add(key)
                # Far from the suspects rather than next to them: what is wrong often comes in a row.
                if found is None or event.token not in tokens or place > 0:
                    found = place, index
                if event.token not in tokens:
                    break
            else:
                continue
            break
        return found


def _halves(events: list[Event]) -> list[list[Event]]:
    middle = len(events) // 2
    return [events[:middle], events[middle:]]
