"""`edge up`: serve and drain under one supervisor."""

import argparse
import os
import sys

from edge.commands.drain import Unavailable, sink_urls
from edge.commands.serve import start
from edge.config import ALL, UP, ConfigError, add_options, load
from edge.process import EXIT_UNAVAILABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, UP)


def run(arguments: argparse.Namespace) -> int:
    settings = load(UP, arguments, os.environ, ALL)
    try:
        urls = sink_urls(settings)
    except Unavailable as error:
        print(f"edge up: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    require_unmixed_lines(settings["drainers"], urls)
    return start(settings, urls)


def require_unmixed_lines(drainers: int, urls: list[str]) -> None:
    """Raises `ConfigError`."""
    if drainers > 1 and any(url.startswith("stdout:") for url in urls):
        raise ConfigError(f"--drainers: expected 1 with --to stdout:, where lines would mix, found {drainers}")
