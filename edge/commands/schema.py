"""`edge schema clickhouse`: the table that a sink writes into, as the statement that creates it."""

import argparse
import re
import sys
from typing import Final

from edge.config import ConfigError
from edge.drain.sinks.clickhouse import DDL

_TABLE: Final = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("database", choices=["clickhouse"])
    parser.add_argument("--table", default="default.events", metavar="DB.TABLE", help="(default: default.events)")


def run(arguments: argparse.Namespace) -> int:
    if not _TABLE.fullmatch(arguments.table):
        raise ConfigError(f"--table: expected DB.TABLE, found {arguments.table!r}")
    sys.stdout.write(DDL.format(table=arguments.table))
    return 0
