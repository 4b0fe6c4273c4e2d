"""`edge up`: serve and drain under one supervisor."""

import argparse
import os
import sys

from edge.commands.drain import EXIT_UNAVAILABLE, Unavailable, sink_urls
from edge.commands.serve import start
from edge.config import DRAIN, SERVE, UP, add_options, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, UP)


def run(arguments: argparse.Namespace) -> int:
    settings = load(UP, arguments, os.environ, (*SERVE, *DRAIN))
    try:
        urls = sink_urls(settings)
    except Unavailable as error:
        print(f"edge up: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    return start(settings, urls)
