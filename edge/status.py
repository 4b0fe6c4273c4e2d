"""What is in the spool and how far each sink has come, computed from the files alone."""

import contextlib
import time
from collections import Counter
from pathlib import Path

import msgspec

from edge.checkpoints import Position, Trouble, load_all
from edge.disk import RealDisk
from edge.drain.quarantine import list_quarantined
from edge.layout import Layout
from edge.spool.inspect import Extent, SegmentFile, Summary, all_segments, summarise


class SlotStatus(msgspec.Struct):
    slot: int
    segments: dict[str, int]
    """Number by state."""
    bytes: int
    records: int
    events: int
    damaged_bytes: int
    unreadable: int
    """Segments that may not be opened; what they hold is in no other figure but `segments` and `bytes`."""


class SinkStatus(msgspec.Struct):
    """What became of every accepted event: accepted = shipped + dropped + merged + quarantined + waiting + unaccounted."""

    sink: str
    id: str
    accepted: int
    """Since the sink was first named, waiting ones included."""
    shipped: int
    limited: int
    """Shipped events that downstream said it would not keep, being over quota."""
    dropped: dict[str, int]
    merged: int
    """Session replay events that became a part of another one."""
    quarantined: int
    in_quarantine: int
    """Those of them that were not sent again or taken away yet."""
    unaccounted: int
    """0, or something is wrong."""
    trouble: Trouble | None
    waiting_records: int
    """Accepted and not yet confirmed by this sink."""
    waiting_events: int
    oldest_waiting_s: float
    """Age of the oldest record that waits, 0 when none does."""
    damaged_bytes: int


class Status(msgspec.Struct):
    data: str
    slots: list[SlotStatus]
    sinks: list[SinkStatus]


def read_status(layout: Layout) -> Status:
    """May be called while everything runs; the figures are of slightly different moments then."""
    checkpoints = load_all(RealDisk(), str(layout.checkpoints))
    files = all_segments(layout)
    whole = _readable(files)
    slots = [_slot_status(slot, [file for file in files if file.slot == slot], whole) for slot in layout.slots()]
    now_us = time.time_ns() // 1000
    sinks = []
    for sink_id, checkpoint in checkpoints.items():
        waiting = [_after(file, checkpoint.slots.get(file.slot), whole) for file in files]
        totals = checkpoint.totals
        waiting_events = sum(summary.events for summary in waiting)
        oldest_us = min((summary.oldest_us for summary in waiting if summary.records), default=now_us)
        sinks.append(
            SinkStatus(
                sink=checkpoint.sink,
                id=sink_id,
                accepted=totals.accepted + waiting_events,
                shipped=totals.shipped,
                limited=totals.limited,
                dropped=totals.dropped,
                merged=totals.merged,
                quarantined=totals.quarantined,
                in_quarantine=len(list_quarantined(RealDisk(), str(layout.quarantine / sink_id))),
                unaccounted=totals.imbalance,
                trouble=checkpoint.trouble,
                waiting_records=sum(summary.records for summary in waiting),
                waiting_events=waiting_events,
                oldest_waiting_s=max(0, now_us - oldest_us) / 1e6,
                damaged_bytes=totals.damaged_bytes,
            )
        )
    return Status(str(layout.data), slots, sinks)


def _readable(files: list[SegmentFile]) -> dict[Path, Summary]:
    """What is in those that may be opened."""
    found = {}
    for file in files:
        with contextlib.suppress(OSError):
            found[file.path] = summarise(file, around=True)
    return found


def _slot_status(slot: int, files: list[SegmentFile], whole: dict[Path, Summary]) -> SlotStatus:
    states = Counter(file.state.name.lower() for file in files)
    summaries = [whole[file.path] for file in files if file.path in whole]
    return SlotStatus(
        slot,
        dict(states),
        sum(file.size for file in files),
        sum(summary.records for summary in summaries),
        sum(summary.events for summary in summaries),
        sum(summary.damaged_bytes for summary in summaries),
        len(files) - len(summaries),
    )


def _after(file: SegmentFile, position: Position | None, whole: dict[Path, Summary]) -> Summary:
    """What of a segment lies behind a sink's position."""
    if file.path not in whole or (position is not None and file.name < position.name):
        return Summary()
    if position is not None and file.name == position.name:
        return summarise(file, position.offset, around=True) if position.offset else whole[file.path]
    return whole[file.path]


def spool_gauges(layout: Layout, spool: Extent) -> str:
    """The spool's size and age, as they were measured, and what is in quarantine, in the Prometheus text format."""
    lines = [
        "# HELP edge_spool_bytes Size of all segments.",
        "# TYPE edge_spool_bytes gauge",
        f"edge_spool_bytes {spool.bytes}",
        "# HELP edge_spool_segments Segments by state.",
        "# TYPE edge_spool_segments gauge",
        *(f'edge_spool_segments{{state="{state.name.lower()}"}} {count}' for state, count in spool.segments.items()),
        "# HELP edge_spool_oldest_age_seconds Time since the segment that was longest without a write was written.",
        "# TYPE edge_spool_oldest_age_seconds gauge",
        f"edge_spool_oldest_age_seconds {max(0.0, time.time() - spool.written_s):.3f}",
        "# HELP edge_quarantined_events Events in quarantine.",
        "# TYPE edge_quarantined_events gauge",
        *(
            f'edge_quarantined_events{{sink="{folder.name}"}} {len(list_quarantined(RealDisk(), str(folder)))}'
            for folder in layout.quarantines()
        ),
    ]
    return "\n".join(lines) + "\n"
