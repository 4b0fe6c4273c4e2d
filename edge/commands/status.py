"""`edge status`: the spool and the sinks, from the files alone."""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from edge.checkpoints import Trouble
from edge.config import ALL, DATA, add_options, load
from edge.drain.timestamps import format_time
from edge.layout import existing_layout
from edge.process import EXIT_UNUSABLE
from edge.status import Status, read_status

_TROUBLES: Final = {
    "retryable": "takes nothing",
    "paused": "PAUSED, its settings have to be mended,",
    "breaker": "PAUSED, it refuses everything,",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, (DATA,))
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    settings = load((DATA,), arguments, os.environ, ALL)
    layout = existing_layout(Path(settings["data"]))
    status = read_status(layout)
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(status)).decode() + "\n")
    else:
        sys.stdout.write(render(status))
    return EXIT_UNUSABLE if any(slot.unreadable for slot in status.slots) else 0


def render(status: Status) -> str:
    lines = [f"data {status.data}", "", "spool"]
    for slot in status.slots:
        states = ", ".join(f"{count} {state}" for state, count in slot.segments.items()) or "no segments"
        lines.append(
            f"  slot {slot.slot:02d}  {states}; {slot.bytes:,} bytes, {slot.records:,} records, {slot.events:,} events"
        )
        if slot.damaged_bytes:
            lines.append(f"           {slot.damaged_bytes:,} bytes are damaged")
        if slot.unreadable:
            lines.append(f"           {slot.unreadable:,} segments cannot be read")
    if not status.slots:
        lines.append("  nothing was ever accepted here")
    lines += ["", "sinks"]
    for sink in status.sinks:
        lines.append(f"  {sink.sink}")
        if sink.trouble is not None:
            lines.append(f"    {_TROUBLES[sink.trouble.kind]} {_since(sink.trouble)}: {sink.trouble.why}")
        lines.append(f"    accepted     {sink.accepted:,} events")
        lines.append(
            f"    shipped      {sink.shipped:,} events"
            + (f", {sink.limited:,} of them over quota" if sink.limited else "")
        )
        lines.append(f"    dropped      {sum(sink.dropped.values()):,} events")
        lines += [f"      {reason:<20} {count:,}" for reason, count in sorted(sink.dropped.items())]
        if sink.quarantined:
            lines.append(f"    quarantined  {sink.quarantined:,} events, {sink.in_quarantine:,} of them still there")
        if sink.merged:
            lines.append(f"    merged       {sink.merged:,} session replay events into others")
        lines.append(
            f"    waiting      {sink.waiting_events:,} events in {sink.waiting_records:,} records"
            + (f", the oldest for {sink.oldest_waiting_s:.0f} s" if sink.waiting_records else "")
        )
        if sink.damaged_bytes:
            lines.append(f"    unreadable   {sink.damaged_bytes:,} bytes of segments")
        if sink.unaccounted:
            lines.append(f"    UNACCOUNTED  {sink.unaccounted:,} events: keep the data folder and report this")
    if not status.sinks:
        lines.append("  nothing was shipped yet")
    return "\n".join(lines) + "\n"


def _since(trouble: Trouble) -> str:
    return f"since {format_time(trouble.since_us)}"
