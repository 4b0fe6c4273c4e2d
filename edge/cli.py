"""The verbs. Each is a module of `edge.commands`, imported when it is used."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from edge import __version__
from edge.config import ConfigError
from edge.process import EXIT_CONFIG, EXIT_UNUSABLE, open_standard_streams

VERBS: Final = {
    "up": "serve and ship under one supervisor; needs no configuration",
    "serve": "accept events",
    "drain": "ship what was accepted",
    "send": "send a test event and show what was stored",
    "check": "would `edge up` run with these settings, and would its destinations take anything",
    "status": "what is in the spool, and how far each sink has come",
    "healthcheck": "the probes of a running edge as an exit status, for containers",
    "top": "traffic, disk and sinks of a running edge, live",
    "tail": "events as they are committed, live, and what of them is dropped",
    "sql": "ask what was accepted, shipped or not",
    "schema": "the table a database needs: clickhouse",
    "segments": "look inside the spool, mend it, send out of it again: ls, stat, cat, verify, repair, replay",
    "config": "the settings: show, where each comes from; init, a file to begin with; schema",
    "projects": "the registry of project keys: hash a personal key, check a file",
    "bench": "load for any capture server, and what this one takes of it",
    "version": "versions of edge, Python and the libraries",
}

SERVERS: Final = {"up", "serve", "drain"}
"""What standard output is not needed for: all others are run for what they print."""

_EXAMPLES: Final = """examples:
  edge up                                  accept on 127.0.0.1:8000, ship to ./edge-data/events
  edge send                                in a second terminal

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status. 0 ok, 1 failure, 2 usage, 65 bad data, 69 unavailable, 74 unreadable, or nowhere to write
    to, 75 in use, 78 configuration."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = " ".join(["edge", *words[:1]])
    open_standard_streams()
    if sys.stdout is None and not SERVERS & set(words[:1]):
        print(f"{program}: standard output is closed", file=sys.stderr)
        return EXIT_UNUSABLE
    try:
        try:
            return _run(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        # The reader of a listing has seen enough.
        _throw_output_away()
        return 0
    except OSError as error:
        print(f"{program}: {_refused_output() or error}", file=sys.stderr)
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="edge",
        description=_EXAMPLES + "Accepts analytics events, keeps them on disk, ships them downstream.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in VERBS.items():
        subparser = subparsers.add_parser(verb, help=text, description=text)
        if words and words[0] == verb:
            import_module(f"edge.commands.{verb}").add_arguments(subparser)
    parsed = parser.parse_args(words)
    status: int = import_module(f"edge.commands.{parsed.verb}").run(parsed)
    return status


def _refused_output() -> str:
    """A sentence when standard output does not take what was written to it, which is thrown away then; empty otherwise."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _throw_output_away()
        return f"standard output cannot be written: {error.strerror}"
    return ""


def _throw_output_away() -> None:
    """What is still buffered is for nobody, and must not fail at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
