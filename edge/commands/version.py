"""`edge version`."""

import argparse
import platform
import sys
from importlib.metadata import version

from edge import __version__

_BACKPORTS = ("backports.zstd",) if sys.version_info < (3, 14) else ()
_LIBRARIES = (*_BACKPORTS, "httptools", "msgspec", "orjson", "uvloop", "xxhash", "zstandard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(arguments: argparse.Namespace) -> int:
    sys.stdout.write(f"edge {__version__}\nPython {platform.python_version()} on {platform.platform()}\n")
    sys.stdout.writelines(f"{name} {version(name)}\n" for name in _LIBRARIES)
    return 0
