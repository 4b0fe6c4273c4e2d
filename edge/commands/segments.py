"""`edge segments ls|cat|verify`: look inside a spool, live or not, or inside single files."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from edge.config import DATA, DRAIN, SERVE, ConfigError, add_options, load
from edge.layout import Layout
from edge.segment.frame import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from edge.segment.name import State
from edge.segment.record import decode_record
from edge.segment.scan import Damage
from edge.spool.inspect import SegmentFile, Summary, all_segments, frames, named_segment, summarise

EXIT_BAD_DATA: Final = 65
EXIT_UNREADABLE: Final = 74


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="VERB", required=True)
    for name, text in {
        "ls": "the segments there are and what they hold",
        "cat": "the stored records, one JSON object a line; damage is skipped and told on standard error",
        "verify": "check every checksum and every record; exit status 0 clean, 65 damaged, 74 unreadable",
    }.items():
        verb = verbs.add_parser(name, help=text, description=text)
        add_options(verb, (DATA,))
        verb.add_argument(
            "files", nargs="*", type=Path, metavar="FILE", help="segments to look at instead of the spool"
        )
        if name != "cat":
            verb.add_argument("--json", action="store_true", help="machine-readable, one object a line")


def run(arguments: argparse.Namespace) -> int:
    return {"ls": _ls, "cat": _cat, "verify": _verify}[arguments.what](arguments)


def _files(arguments: argparse.Namespace) -> Iterator[SegmentFile | tuple[Path, str]]:
    """The segments asked for; a path and a sentence for each that cannot be read."""
    if arguments.files:
        for path in arguments.files:
            try:
                yield named_segment(path)
            except (OSError, ValueError) as error:
                yield path, str(error)
        return
    settings = load((DATA,), arguments, os.environ, (*SERVE, *DRAIN))
    layout = Layout(Path(settings["data"]))
    if not layout.data.is_dir():
        raise ConfigError(f"--data: there is no folder {settings['data']}")
    yield from all_segments(layout)


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
            status = EXIT_UNREADABLE
            continue
        found = summarise(file)
        if arguments.json:
            _print(_row(file, found))
        else:
            sys.stdout.write(
                f"{file.name!s:<36} {file.slot:>4} {file.state.name.lower():<8} {file.size:>12,} {found.records:>9,}"
                f" {found.events:>9,}  {found.damaged_bytes or '-'}\n"
            )
    return status


def _row(file: SegmentFile, found: Summary) -> dict[str, Any]:
    return {
        "segment": str(file.name),
        "slot": file.slot,
        "state": file.state.name.lower(),
        "bytes": file.size,
        **msgspec.to_builtins(found),
    }


def _cat(arguments: argparse.Namespace) -> int:
    status = 0
    for file in _files(arguments):
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            status = EXIT_UNREADABLE
            continue
        end = 0
        for item in frames(file):
            end = item.end
            if isinstance(item, Damage):
                print(f"{file.name}: bytes {item.offset} to {item.end} are damaged", file=sys.stderr)
                status = status or EXIT_BAD_DATA
                continue
            try:
                sys.stdout.buffer.writelines([line + b"\n" for line in item.lines()])
            except ValueError as error:
                print(f"{file.name}: the frame at {item.offset}: {error}", file=sys.stderr)
                status = status or EXIT_BAD_DATA
        sys.stdout.buffer.flush()
        if file.state is not State.OPEN and file.size > max(end, SEGMENT_HEADER_BYTES):
            print(f"{file.name}: bytes {end} to {file.size} are damaged", file=sys.stderr)
            status = status or EXIT_BAD_DATA
    return status


def _verify(arguments: argparse.Namespace) -> int:
    status = 0
    for file in _files(arguments):
        if isinstance(file, tuple):
            print(f"{file[0]}: {file[1]}", file=sys.stderr)
            status = EXIT_UNREADABLE
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
    found = summarise(file)
    faults = []
    if file.state is State.BAD:
        faults.append("set aside as unreadable")
    if found.missing_frames:
        faults.append(f"{found.missing_frames} frames are missing")
    if file.state is not State.OPEN and (tail := file.size - max(found.end, SEGMENT_HEADER_BYTES)) > 0:
        faults.append(f"bytes {file.size - tail} to {file.size} are damaged")
    for item in frames(file):
        if isinstance(item, Damage):
            faults.append(f"bytes {item.offset} to {item.end} are damaged")
            continue
        try:
            for line in item.lines():
                msgspec.json.decode(decode_record(line).data)
        except ValueError as error:
            faults.append(f"the frame at {item.offset} ({FRAME_HEADER_BYTES} bytes of header): {error}")
    return faults
