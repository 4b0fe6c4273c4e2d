"""`edge up`: serve and drain under one supervisor."""

import argparse
import os

from edge.commands.drain import sink_urls
from edge.commands.serve import start
from edge.config import DRAIN, SERVE, UP, add_options, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, UP)


def run(arguments: argparse.Namespace) -> int:
    settings = load(UP, arguments, os.environ, (*SERVE, *DRAIN))
    return start(settings, sink_urls(settings))
