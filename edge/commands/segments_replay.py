"""What `edge segments replay` does: events out of segments, or out of quarantine, sent again."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge.checkpoints import load_all
from edge.config import HIDDEN, ConfigError
from edge.disk import RealDisk
from edge.drain.event import Event
from edge.drain.quarantine import list_quarantined, load
from edge.drain.resend import Unavailable, resend
from edge.drain.selection import Selection
from edge.drain.sink import Sink, without_secrets
from edge.drain.sinks.table import make_sink
from edge.layout import Layout
from edge.process import EXIT_BAD_DATA, EXIT_UNAVAILABLE, EXIT_UNUSABLE
from edge.segment.record import decode_record
from edge.segment.scan import Frame
from edge.spool.inspect import SegmentFile, frames

EVENTS_MAX: Final = 1000
"""Sent, and taken out of quarantine, together."""


class Replayed(msgspec.Struct):
    """What became of the selected events."""

    sink: str
    sent: int = 0
    refused: int = 0
    left: int = 0
    """Not sent."""
    why: str = ""
    """What the sink said, where something was refused or left."""
    status: int = 0
    """The exit status that goes with it."""


def replay_segments(
    files: Iterable[SegmentFile | tuple[Path, str]], url: str, selection: Selection, yes: bool
) -> Replayed:
    """Raises `ConfigError` for a bad URL. Without `yes` nothing is sent, and everything is left."""
    replayed = Replayed(without_secrets(url))
    sink = _make(url)
    waiting: list[Event] = []
    for file in files:
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            replayed.status = replayed.status or EXIT_UNUSABLE
            continue
        for item in frames(file, around=True):
            try:
                if isinstance(item, Frame):
                    waiting += [event for line in item.lines() for event in selection.events(decode_record(line))]
                    fault = ""
                else:
                    fault = f"bytes {item.offset} to {item.end} are damaged"
            except ValueError as error:
                fault = f"the frame at {item.offset}: {error}"
            if fault:
                print(f"{file.name}: {fault}", file=sys.stderr)
                replayed.status = replayed.status or EXIT_BAD_DATA
            if len(waiting) >= EVENTS_MAX:
                _send(sink, waiting, replayed, yes)
                waiting = []
    _send(sink, waiting, replayed, yes)
    sink.close()
    return replayed


def quarantines(layout: Layout, sink_ids: Sequence[str], url: str | None) -> list[tuple[Path, str]]:
    """The folders of the sinks named, of all of them where none is, each with where to send. Raises `ConfigError`."""
    checkpoints = load_all(RealDisk(), str(layout.checkpoints))
    folders = layout.quarantines()
    known = {folder.name for folder in folders}
    for sink_id in sink_ids:
        if sink_id not in known:
            raise ConfigError(f"--sink: expected one of {', '.join(sorted(known)) or 'none'}, found {sink_id}")
    found = []
    for folder in folders:
        if sink_ids and folder.name not in sink_ids:
            continue
        to = url or (checkpoints[folder.name].sink if folder.name in checkpoints else "")
        if not to or HIDDEN in to:
            raise ConfigError(f"--to: expected the URL of {folder.name}: it is not written down whole")
        found.append((folder, to))
    return found


def replay_quarantine(folder: Path, url: str, selection: Selection, yes: bool) -> Replayed:
    """What is taken is removed from the folder. Raises `ConfigError` for a bad URL."""
    disk = RealDisk()
    replayed = Replayed(without_secrets(url))
    sink = _make(url)
    waiting: list[tuple[str, Event]] = []

    def send() -> None:
        taken = {id(event) for event in _send(sink, [event for _, event in waiting], replayed, yes)}
        for name, event in waiting:
            if id(event) in taken:
                # The drainer may have settled it meanwhile.
                (folder / name).unlink(missing_ok=True)
        if taken:
            disk.sync_directory(str(folder))
        waiting.clear()

    for name in list_quarantined(disk, str(folder)):
        try:
            event = load(disk, str(folder), name).to_event()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            print(f"{folder / name}: {error}", file=sys.stderr)
            replayed.status = replayed.status or EXIT_BAD_DATA
            continue
        if selection.event(event):
            waiting.append((name, event))
        if len(waiting) >= EVENTS_MAX:
            send()
    send()
    sink.close()
    return replayed


def _make(url: str) -> Sink:
    try:
        return make_sink(url)[1]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--to: {error}") from error


def _send(sink: Sink, events: list[Event], replayed: Replayed, yes: bool) -> list[Event]:
    """Those that were taken."""
    if not events or not yes or replayed.status == EXIT_UNAVAILABLE:
        replayed.left += len(events)
        return []
    try:
        resent = resend(sink, events)
    except Unavailable as error:
        replayed.left += len(events)
        replayed.why = str(error)
        replayed.status = EXIT_UNAVAILABLE
        return []
    replayed.sent += len(resent.taken)
    replayed.refused += len(resent.refused)
    if resent.refused:
        replayed.why = resent.refused[-1].why
        replayed.status = replayed.status or EXIT_BAD_DATA
    return resent.taken
