"""A frame of `edge top` as lines of text, for people."""

import textwrap
import time
from collections.abc import Iterable
from typing import Final

from edge.top import Forwarded, Frame, SinkFigures, Source, Storage, Traffic

COLUMNS: Final = 80
ROWS: Final = 24
CAUSES_SHOWN_MAX: Final = 5

_PRESSURES: Final = {"shed": "no replays", "full": "refuses all"}
_INDENT: Final = "  "
_CELL: Final = 24
_WORKER_CELL: Final = 37
_RULE: Final = 78
"""Where cells end."""
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_SINK_COLUMNS: Final = (20, 9, 9, 9, 7, 6, 7, 5)
"""Widths; spaces between come on top."""


def lines_of(frame: Frame) -> list[str]:
    """For people: at most `COLUMNS` wide; `ROWS` are enough for one worker and one sink, whatever is wrong with them."""
    sources = [frame.admin, *([frame.drain_admin] if frame.drain_admin is not None else [])]
    blocks = [
        [line for source in sources for line in _wrapped(_source_line(source), "")],
        _traffic_lines(frame.time_s, frame.traffic),
        _storage_lines(frame.disk),
        _sink_lines(frame.sinks),
        *([_forwarded_lines(frame.upstream)] if frame.upstream is not None else []),
    ]
    airy = sum(map(len, blocks)) + len(blocks) - 1 <= ROWS
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines and airy else []
        lines += block
    # What came over the network may hold anything, and a terminal does what it is told.
    return ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]


def cut_to(lines: list[str], columns: int, rows: int) -> list[str]:
    """What a terminal of that size has room for."""
    if len(lines) > rows:
        hidden = len(lines) - rows + 1
        lines = [*lines[: rows - 1], f"... {hidden} more lines: enlarge the window, or see --once"]
    return [line[:columns] for line in lines]


def _source_line(source: Source) -> str:
    if source.unanswered_since_s is not None:
        return f"{source.address} does not answer since {_moment(source.unanswered_since_s)}: {source.why}"
    told = "no rates yet" if source.interval_s is None else f"rates, p50 and p99 are of {source.interval_s:.1f} s"
    return f"edge {source.version or '-'} at {source.address}, {told}"


def _traffic_lines(time_s: float, traffic: Traffic) -> list[str]:
    title = "traffic"
    lines = [f"{title}{_moment(time_s):>{_RULE - len(title)}}"]
    lines += _cells(
        ("requests/s", _number(traffic.requests_per_s)),
        ("events/s", _number(traffic.events_per_s)),
        ("MB/s in", _megabytes(traffic.body_bytes_per_s)),
        ("answers p50", _duration(traffic.answer_p50_s)),
        ("answers p99", _duration(traffic.answer_p99_s)),
        ("loop lag p99", _duration(traffic.loop_lag_p99_s)),
        ("connections", _count(traffic.connections)),
        ("in flight", _bytes(traffic.inflight_bytes)),
        ("heavy waiting", _count(traffic.heavy_waiting)),
        ("refused/s", _number(traffic.refused_per_s)),
        ("dropped/s", _number(traffic.dropped_events_per_s)),
        ("restarts", _count(traffic.restarts_total) + (f" (+{_count(traffic.restarts)})" if traffic.restarts else "")),
    )
    lines += _causes("refused", traffic.refused_by_cause_per_s)
    lines += _causes("dropped", traffic.dropped_events_by_cause_per_s)
    workers = [
        (f"worker {worker.worker}", f"{_count(worker.connections)} open, {_bytes(worker.inflight_bytes)} in flight")
        for worker in traffic.workers
    ]
    return lines + _cells(*workers, width=_WORKER_CELL)


def _storage_lines(disk: Storage) -> list[str]:
    states = [f"{_count(count)} {state}" for state, count in disk.segments.items()]
    lines = _listed("disk  segments:", states or ["-"], "")
    return lines + _cells(
        ("commits/s", _number(disk.commits_per_s)),
        ("records/commit", _number(disk.records_per_commit)),
        ("fsync p99", _duration(disk.fsync_p99_s)),
        ("written MB/s", _megabytes(disk.written_bytes_per_s)),
        ("spool", _bytes(disk.spool_bytes)),
        ("of budget", "-" if disk.budget_share is None else f"{min(disk.budget_share, 9.99):.1%}"),
        ("hours left", _number(disk.hours_left)),
        ("oldest", _age(disk.oldest_age_s)),
        ("quarantined", _count(disk.quarantined_events)),
        ("storage failing", _count(disk.storage_failing)),
        ("unfinished", _count(disk.unfinished_segments)),
        ("pressure", "-" if disk.pressure is None else _PRESSURES.get(disk.pressure, disk.pressure)),
    )


def _sink_lines(sinks: list[SinkFigures]) -> list[str]:
    if not sinks:
        return ["sinks  - (no drainer is told of here; one with its own address: --drain-admin)"]
    lines = [_sink_row("sinks", "shipped/s", "dropped/s", "quarant/s", "retries", "paused", "last", "imbal")]
    for sink in sinks:
        lines.append(
            _sink_row(
                _INDENT + sink.sink,
                _number(sink.shipped_per_s),
                _number(sink.dropped_per_s),
                _number(sink.quarantined_per_s),
                _count(None if sink.retries is None else sum(sink.retries.values())),
                "-" if sink.paused is None else "PAUSED" if sink.paused else "no",
                _age(sink.last_shipped_age_s),
                _count(sink.imbalance_events),
            )
        )
        told = [f"{_count(times)} {kind}" for kind, times in (sink.retries or {}).items()]
        told += [f"over quota {_number(sink.limited_per_s)}/s"] if sink.limited_per_s else []
        lines += _listed("retries", told, _INDENT * 2) if told else []
    return lines


def _forwarded_lines(forwarded: Forwarded) -> list[str]:
    told = [f"{_count(forwarded.under_way)} under way"]
    told += [f"{status} {_number(rate)}/s" for status, rate in forwarded.answers_by_status_per_s.items()]
    told += [f"{cause} {_number(rate)}/s" for cause, rate in forwarded.failures_by_cause_per_s.items()]
    return _listed("forwarded", told, "")


def _cells(*cells: tuple[str, str], width: int = _CELL) -> list[str]:
    texts = [f"{name} {value:>{max(0, width - 1 - len(name))}}" for name, value in cells]
    a_line = (COLUMNS - len(_INDENT)) // (width + len(_INDENT))
    rows = [texts[at : at + a_line] for at in range(0, len(texts), a_line)]
    return [_INDENT + _INDENT.join(row) for row in rows]


def _causes(what: str, rates: dict[str, float]) -> list[str]:
    """The largest, and the rest together."""
    causes = list(rates)
    told = [f"{cause} {_number(rates[cause])}/s" for cause in causes[:CAUSES_SHOWN_MAX]]
    if others := causes[CAUSES_SHOWN_MAX:]:
        told.append(f"other {_number(sum(rates[cause] for cause in others))}/s")
    return _listed(what, told, _INDENT) if told else []


def _listed(what: str, items: Iterable[str], indent: str) -> list[str]:
    """No item is broken by the end of a line."""
    text = f"{what}  {', '.join(item.replace(' ', _NO_BREAK) for item in items)}"
    return [line.replace(_NO_BREAK, " ") for line in _wrapped(text, indent)]


def _sink_row(*cells: str) -> str:
    name, *figures = cells
    width, *widths = _SINK_COLUMNS
    shown = name if len(name) <= width else name[: width - 1] + "…"
    return " ".join([f"{shown:<{width}}", *(f"{cell:>{size}}" for cell, size in zip(figures, widths, strict=True))])


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=indent, subsequent_indent=indent + _INDENT)


def _moment(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_s))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}" if abs(value) < 1_000_000 else f"{value / 1e6:,.1f}M"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    for limit, digits in ((10, 2), (1_000, 1), (1_000_000, 0)):
        if value < limit:
            return f"{value:,.{digits}f}"
    return f"{value / 1e6:,.1f}M"


def _megabytes(value: float | None) -> str:
    return _number(None if value is None else value / 1e6)


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    if value < 1000:
        return f"{value} B"
    for power, unit in enumerate(("kB", "MB", "GB", "TB"), 1):
        if value < 1000 ** (power + 1) or unit == "TB":
            return f"{value / 1000**power:,.1f} {unit}"
    raise AssertionError("the last unit takes everything")


def _duration(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.{2 if value < 0.01 else 1}f} ms" if value < 1 else f"{value:.1f} s"


def _age(value: float | None) -> str:
    if value is None:
        return "-"
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if value < limit:
            return f"{value / size:.0f} {unit}"
    return f"{value / 86_400:,.0f} d"
