"""`edge segments`: look inside a spool, live or not, or inside single files; mend it; send out of it again."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from edge.commands.segments_replay import (
    quarantines,
    replay_quarantine,
    replay_segments,
)
from edge.config import ALL, DATA, ConfigError, add_options, load
from edge.disk import RealDisk
from edge.drain.selection import Selection, select
from edge.drain.shapes import event_line
from edge.layout import Layout, existing_layout
from edge.process import EXIT_BAD_DATA, EXIT_TRY_AGAIN, EXIT_UNUSABLE
from edge.segment.frame import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, is_room, parse_segment_header
from edge.segment.name import State
from edge.segment.record import decode_record
from edge.segment.scan import Damage, Frame, scan
from edge.spool.inspect import SegmentFile, Summary, all_segments, frames, named_segment, read, summarise
from edge.spool.mend import Busy, examine, is_locked, mend
from edge.status import read_status

VERBS: Final = {
    "ls": "the segments there are and what they hold",
    "stat": "the spool as a whole: sizes, ages, how far each sink has come, how long the disk lasts",
    "cat": "the stored records, one JSON object a line; damage is skipped and told on standard error",
    "verify": "check every checksum and every record; exit status 0 clean, 65 damaged, 74 unreadable",
    "repair": "finish segments that a dead worker or a failed disk left; tells what it would do, and does it with --yes",
    "replay": "send events again, out of segments or quarantine; tells what it would send, and sends it with --yes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="VERB", required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        add_options(verb, (DATA,))
        if name != "stat":
            verb.add_argument(
                "files", nargs="*", type=Path, metavar="FILE", help="segments to look at instead of the spool"
            )
        shape = "what it prints in any case" if name == "cat" else "machine-readable, one object a line"
        verb.add_argument("--json", action="store_true", help=shape)
        if name in ("cat", "replay"):
            add_filters(verb)
            verb.add_argument(
                "--since", metavar="TIME", help="received at or after it: ISO 8601, or 2h for two hours ago"
            )
            verb.add_argument("--until", metavar="TIME", help="received before it")
        if name == "cat":
            verb.add_argument("--events", action="store_true", help="events as they are shipped instead of records")
        if name in ("repair", "replay"):
            verb.add_argument("--yes", action="store_true", help="do it")
        if name == "replay":
            verb.add_argument("--to", metavar="URL", help="where to send; with --quarantine the sink that refused them")
            verb.add_argument(
                "--quarantine", action="store_true", help="send what is in quarantine, and remove it there"
            )
            verb.add_argument("--sink", action="append", default=[], metavar="ID", help="quarantine of this sink only")


def add_filters(verb: argparse.ArgumentParser) -> None:
    """Which events a verb is about."""
    for flag, metavar, text in (
        ("--token", "KEY", "of this project"),
        ("--event", "NAME", "with this name"),
        ("--uuid", "UUID", "this event"),
    ):
        verb.add_argument(flag, metavar=metavar, help=f"{text}; may be repeated", action="append", default=[])


def run(arguments: argparse.Namespace) -> int:
    verbs = {"ls": _ls, "stat": _stat, "cat": _cat, "verify": _verify, "repair": _repair, "replay": _replay}
    return verbs[arguments.what](arguments)


def _layout(arguments: argparse.Namespace) -> Layout:
    settings = load((DATA,), arguments, os.environ, ALL)
    return existing_layout(Path(settings["data"]))


def _selection(arguments: argparse.Namespace) -> Selection:
    now_us = time.time_ns() // 1000
    try:
        return select(arguments.token, arguments.event, arguments.uuid, arguments.since, arguments.until, now_us)
    except ValueError as error:
        raise ConfigError(f"--since, --until: {error}") from error


def _files(arguments: argparse.Namespace) -> Iterator[SegmentFile | tuple[Path, str]]:
    """The segments asked for; a path and a sentence for each that cannot be read."""
    if arguments.files:
        for path in arguments.files:
            try:
                yield named_segment(path)
            except (OSError, ValueError) as error:
                yield path, str(error)
        return
    yield from all_segments(_layout(arguments))


def _readable_files(arguments: argparse.Namespace) -> Iterator[SegmentFile | tuple[Path, str]]:
    """The same, where those that may not be opened are among those that cannot be read."""
    for file in _files(arguments):
        if isinstance(file, SegmentFile):
            try:
                os.close(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                # It has another name by now, or was shipped.
                yield file
            except OSError as error:
                yield file.path, str(error)
            else:
                yield file
        else:
            yield file


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _ls(arguments: argparse.Namespace) -> int:
    status = 0
    files = list(_files(arguments))
    if not arguments.json:
        sys.stdout.write(
            f"{'segment':<36} {'slot':>4} {'state':<8} {'bytes':>12} {'records':>9} {'events':>9}  damage\n"
        )
    for file in files:
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            status = EXIT_UNUSABLE
            continue
        try:
            found = summarise(file, around=True)
        except OSError as error:
            print(error, file=sys.stderr)
            status = EXIT_UNUSABLE
            found = None
        if arguments.json:
            _print(_row(file, found))
        else:
            sys.stdout.write(
                f"{file.name!s:<36} {file.slot:>4} {file.state.name.lower():<8} {file.size:>12,}"
                + (
                    f" {found.records:>9,} {found.events:>9,}  {found.damaged_bytes or '-'}\n"
                    if found
                    else f" {'-':>9} {'-':>9}  unreadable\n"
                )
            )
    return status


def _row(file: SegmentFile, found: Summary | None) -> dict[str, Any]:
    return {
        "segment": str(file.name),
        "slot": file.slot,
        "state": file.state.name.lower(),
        "bytes": file.size,
        **(msgspec.to_builtins(found) if found else {"unreadable": True}),
    }


def _stat(arguments: argparse.Namespace) -> int:
    layout = _layout(arguments)
    files = all_segments(layout)
    summaries = []
    for file in files:
        with contextlib.suppress(OSError):
            summaries.append(summarise(file, around=True))
    status = read_status(layout)
    unreadable = len(files) - len(summaries)
    disk = os.statvfs(layout.data)
    free = disk.f_bavail * disk.f_frsize
    size = sum(file.size for file in files)
    oldest_us = min((found.oldest_us for found in summaries if found.records), default=0)
    room = sum(found.room_bytes for found in summaries)
    age_s = max(0.0, time.time() - oldest_us / 1e6) if oldest_us else 0.0
    found: dict[str, Any] = {
        "segments": len(files),
        "states": {state.name.lower(): sum(file.state is state for file in files) for state in State},
        "bytes": size,
        "room_bytes": room,
        "raw_bytes": sum(found.raw_bytes for found in summaries),
        "frames": sum(found.frames for found in summaries),
        "records": sum(found.records for found in summaries),
        "events": sum(found.events for found in summaries),
        "damaged_bytes": sum(found.damaged_bytes for found in summaries),
        "unreadable": unreadable,
        "oldest_s": round(age_s, 3),
        "free_bytes": free,
        # While nothing is deleted: what is written now came within its age.
        "full_in_s": round(free / ((size - room) / age_s)) if size > room and age_s > 0 else None,
        "quarantined": sum(sink.in_quarantine for sink in status.sinks),
        "torn_bytes": sum(path.stat().st_size for path in layout.torn.glob("*")) if layout.torn.is_dir() else 0,
        "sinks": [
            {
                "sink": sink.sink,
                "id": sink.id,
                "waiting_events": sink.waiting_events,
                "oldest_waiting_s": round(sink.oldest_waiting_s, 3),
                "in_quarantine": sink.in_quarantine,
                "unaccounted": sink.unaccounted,
            }
            for sink in status.sinks
        ],
    }
    if arguments.json:
        _print(found)
        return EXIT_UNUSABLE if unreadable else 0
    for name, value in found.items():
        if name == "sinks":
            for sink in found["sinks"]:
                sys.stdout.write(
                    f"{sink['id']:<40} {sink['waiting_events']:,} events wait, {sink['in_quarantine']:,} in quarantine\n"
                )
        elif isinstance(value, dict):
            sys.stdout.write(f"{name:<16} {', '.join(f'{count} {state}' for state, count in value.items())}\n")
        else:
            sys.stdout.write(f"{name:<16} {'-' if value is None else f'{value:,}'}\n")
    return EXIT_UNUSABLE if unreadable else 0


def _cat(arguments: argparse.Namespace) -> int:
    status = 0
    selection = _selection(arguments)
    for file in _readable_files(arguments):
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            status = EXIT_UNUSABLE
            continue
        end = 0
        for item in frames(file, around=True):
            end = item.end
            if isinstance(item, Damage):
                print(f"{file.name}: bytes {item.offset} to {item.end} are damaged", file=sys.stderr)
                status = status or EXIT_BAD_DATA
                continue
            try:
                sys.stdout.buffer.writelines([line + b"\n" for line in _selected(item, selection, arguments.events)])
            except ValueError as error:
                print(f"{file.name}: the frame at {item.offset}: {error}", file=sys.stderr)
                status = status or EXIT_BAD_DATA
        sys.stdout.buffer.flush()
        if file.state is not State.OPEN and file.size > max(end, SEGMENT_HEADER_BYTES):
            print(f"{file.name}: bytes {end} to {file.size} are damaged", file=sys.stderr)
            status = status or EXIT_BAD_DATA
    return status


def _selected(frame: Frame, selection: Selection, as_events: bool) -> list[bytes]:
    """Raises `ValueError` when the frame or a record in it is not what it says."""
    lines = frame.lines()
    if as_events:
        return [event_line(event) for line in lines for event in selection.events(decode_record(line))]
    return lines if selection == Selection() else [line for line in lines if selection.record(decode_record(line))]


def _verify(arguments: argparse.Namespace) -> int:
    status = 0
    for file in _readable_files(arguments):
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            status = EXIT_UNUSABLE
            continue
        faults = _faults(file)
        if faults:
            status = status or EXIT_BAD_DATA
        if arguments.json:
            _print({"segment": str(file.name), "slot": file.slot, "faults": faults})
        else:
            sys.stdout.write(f"{file.name} {'; '.join(faults) or 'ok'}\n")
    return status


def _faults(file: SegmentFile) -> list[str]:
    """A sentence for everything that is wrong with a segment."""
    data = read(file, around=True)
    if file.size and not data:
        # Deleted since it was found, as everything is shipped.
        return []
    found = summarise(file, around=True)
    faults = []
    if file.state is State.BAD:
        faults.append("set aside as unreadable")
    # An open segment without a frame is one that is being made.
    if file.state is not State.OPEN or found.frames:
        faults += _header_faults(file, data)
    if found.missing_frames:
        faults.append(f"{found.missing_frames} frames are missing")
    end = max(found.end, SEGMENT_HEADER_BYTES)
    if file.state is not State.OPEN and len(data) > end and not is_room(data[end:]):
        faults.append(f"bytes {end} to {len(data)} are damaged")
    for item in scan(data, file.name.incarnation):
        if isinstance(item, Damage):
            faults.append(f"bytes {item.offset} to {item.end} are damaged")
            continue
        try:
            for line in item.lines():
                msgspec.json.decode(decode_record(line).data)
        except ValueError as error:
            faults.append(f"the frame at {item.offset} ({FRAME_HEADER_BYTES} bytes of header): {error}")
    return faults


def _header_faults(file: SegmentFile, data: bytes) -> list[str]:
    header = parse_segment_header(data)
    if header is None:
        return [f"bytes 0 to {min(len(data), SEGMENT_HEADER_BYTES)} are damaged" if data else "empty"]
    return [] if header.name == file.name else [f"the header is that of {header.name}"]


def _repair(arguments: argparse.Namespace) -> int:
    status = 0
    torn = None if arguments.files else _layout(arguments).torn
    for file in _readable_files(arguments):
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            status = EXIT_UNUSABLE
            continue
        if not arguments.files and file.state is State.OPEN and is_locked(file):
            # As it should be: its worker writes it.
            continue
        try:
            finding = mend(RealDisk(), file, torn) if arguments.yes else examine(file)
        except Busy as error:
            print(f"edge segments repair: {error}", file=sys.stderr)
            status = status or EXIT_TRY_AGAIN
            continue
        except OSError as error:
            print(f"{file.path}: {error}", file=sys.stderr)
            status = EXIT_UNUSABLE
            continue
        if finding.action == "unreadable":
            status = status or EXIT_BAD_DATA
        if arguments.json:
            _print({**msgspec.to_builtins(finding), "done": arguments.yes})
        elif finding.action != "none":
            will = "" if arguments.yes else "would be: "
            sys.stdout.write(
                f"{finding.segment} {will}{finding.action}; {finding.records:,} records, {finding.cut_bytes:,} bytes after"
                f" the last good frame, {finding.skipped_bytes:,} damaged bytes are skipped\n"
            )
    return status


def _replay(arguments: argparse.Namespace) -> int:
    selection = _selection(arguments)
    if arguments.quarantine:
        if arguments.files:
            raise ConfigError("--quarantine: expected no FILE beside it")
        sources = quarantines(_layout(arguments), arguments.sink, arguments.to)
        replayed = [replay_quarantine(folder, url, selection, arguments.yes) for folder, url in sources]
    elif arguments.to is None:
        raise ConfigError("--to: expected the URL of a sink, or --quarantine")
    else:
        replayed = [replay_segments(_readable_files(arguments), arguments.to, selection, arguments.yes)]
    for each in replayed:
        if arguments.json:
            _print({**msgspec.to_builtins(each), "done": arguments.yes})
        elif arguments.yes:
            sys.stdout.write(f"{each.sink}: {each.sent:,} events sent, {each.refused:,} refused, {each.left:,} left\n")
        else:
            sys.stdout.write(f"{each.sink}: {each.left:,} events would be sent; --yes sends them\n")
        if each.why:
            print(f"edge segments replay: {each.sink}: {each.why}", file=sys.stderr)
    return max((each.status for each in replayed), default=0)
