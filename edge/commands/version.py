"""`edge version`."""

import argparse
import platform
import sys
from importlib.metadata import version

import msgspec

from edge import __version__

_BACKPORTS = ("backports.zstd",) if sys.version_info < (3, 14) else ()
_LIBRARIES = (*_BACKPORTS, "httptools", "msgspec", "orjson", "uvloop", "xxhash", "zstandard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    if arguments.json:
        libraries = {name: version(name) for name in _LIBRARIES}
        system = platform.platform()
        found = {"edge": __version__, "python": platform.python_version(), "platform": system, "libraries": libraries}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
        return 0
    sys.stdout.write(f"edge {__version__}\nPython {platform.python_version()} on {platform.platform()}\n")
    sys.stdout.writelines(f"{name} {version(name)}\n" for name in _LIBRARIES)
    return 0
