"""The verbs. Each is a module of `edge.commands`, imported when it is used."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from edge import __version__
from edge.config import ConfigError

EXIT_USAGE: Final = 2
EXIT_CONFIG: Final = 78

VERBS: Final = {
    "up": "serve and ship under one supervisor; needs no configuration",
    "serve": "accept events",
    "drain": "ship what was accepted",
    "send": "send a test event and show what was stored",
    "status": "what is in the spool, and how far each sink has come",
    "sql": "ask what was accepted, shipped or not",
    "schema": "the table a database needs: clickhouse",
    "segments": "look inside the spool, mend it, send out of it again: ls, stat, cat, verify, repair, replay",
    "projects": "the registry of project keys: hash a personal key, check a file",
    "bench": "load for any capture server, and what this one takes of it",
    "version": "versions of edge, Python and the libraries",
}

_EXAMPLES: Final = """examples:
  edge up                                  accept on 127.0.0.1:8000, ship to ./edge-data/events
  edge send                                in a second terminal

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status. 0 ok, 1 failure, 2 usage, 65 bad data, 69 unavailable, 75 in use, 78 configuration."""
    words = list(sys.argv[1:] if arguments is None else arguments)
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
    command = import_module(f"edge.commands.{parsed.verb}")
    try:
        status: int = command.run(parsed)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"edge {parsed.verb}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        # The reader of a listing has seen enough. What is still buffered is for nobody, and must not fail at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status
