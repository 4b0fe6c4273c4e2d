"""How many events each client sent and how many of them arrived: counted by the tests, printed at the end of the run."""

from collections import Counter
from collections.abc import Iterable

import msgspec


class Line(msgspec.Struct, frozen=True):
    """One client against one server. Counts are events."""

    client: str
    sent: int
    delivered: int
    """How many of the sent ones arrived, once or more often."""
    twice: int
    """Deliveries of an event after its first."""
    remark: str = ""


class Tally:
    def __init__(self) -> None:
        self.lines: list[Line] = []

    def count(self, client: str, sent: Iterable[str], arrived: Iterable[str], remark: str = "") -> Line:
        """Compare the names (uuid, number, ...) of the events a client sent with those that arrived, and keep the figures."""
        names, found = set(sent), Counter(arrived)
        invented = found.keys() - names
        assert not invented, f"{client}: arrived without being sent: {sorted(invented)[:10]}"
        line = Line(client, len(names), len(found), found.total() - len(found), remark)
        self.lines.append(line)
        return line

    def table(self) -> list[str]:
        """Lines of text; none when nothing was counted."""
        if not self.lines:
            return []
        width = max(len(line.client) for line in self.lines)
        rows = [f"{'client':<{width}}  sent  delivered  lost  twice"]
        for line in self.lines:
            lost = line.sent - line.delivered
            row = f"{line.client:<{width}}  {line.sent:4}  {line.delivered:9}  {lost:4}  {line.twice:5}  {line.remark}"
            rows.append(row.rstrip())
        return rows
