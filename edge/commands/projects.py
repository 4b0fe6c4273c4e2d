"""`edge projects hash|check`: make the hash of a personal key, try a file before it is put in force."""

import argparse
import getpass
import sys
from pathlib import Path
from typing import Final

import msgspec

from edge.config import ConfigError
from edge.server.projects import load_projects
from edge.wire.projects import ProjectsError, Registry, hash_key

PROJECT_PREFIX: Final = "phc_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="VERB", required=True)
    text = "print the hash of a personal key for [[personal_key]]; the key is asked for, or read from standard input"
    verbs.add_parser("hash", help=text, description=text)
    text = "exit status 0 when the file can be used with --projects, 78 and the reason when not"
    check = verbs.add_parser("check", help=text, description=text)
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    return _hash() if arguments.what == "hash" else _check(arguments.file, as_json=arguments.json)


def _hash() -> int:
    # Not an argument: other users see those, and shells remember them.
    key = getpass.getpass("personal key: ") if sys.stdin.isatty() else sys.stdin.readline()
    key = key.strip()
    if not key or not key.isascii() or key.startswith(PROJECT_PREFIX):
        # Personal keys of old have no prefix.
        print("edge projects: expected a personal key, such as phx_...", file=sys.stderr)
        return 1
    print(hash_key(key))
    return 0


def _check(path: Path, *, as_json: bool) -> int:
    try:
        registry = load_projects(str(path))
    except ProjectsError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        found = {
            "mode": registry.mode,
            "projects": len(registry.projects),
            "keys": len(registry.keys),
            "personal_keys": len(registry.personal),
            "injected": len(registry.injected),
        }
        print(msgspec.json.encode(found).decode())
    else:
        print(describe(registry))
    return 0


def describe(registry: Registry) -> str:
    return (
        f"mode {registry.mode}: {len(registry.projects)} projects with {len(registry.keys)} keys,"
        f" {len(registry.personal)} personal keys, {len(registry.injected)} rules for missing keys"
    )
