"""`edge bench`: the benchmarks and load generators, for this program and for any other server that speaks its protocol."""

import argparse

from bench.__main__ import BENCHMARKS, TOOLS, main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="[NAME [options]]",
        help="`load URL` asks as fast as it is answered, `open URL --rate R` at a rate. "
        f"Tools: {', '.join(TOOLS)}. Benchmarks, which all run without a name: {', '.join(BENCHMARKS)}. "
        "`NAME --help` shows the options.",
    )


def run(arguments: argparse.Namespace) -> int:
    return main(arguments.words)
