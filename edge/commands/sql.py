"""`edge sql "SELECT …"`: a question to everything that was accepted, shipped to files or still in the spool."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.commands.drain import Unavailable, sink_urls
from edge.config import ALL, DATA, TO, ConfigError, add_options, load
from edge.drain.query import create_events, read_spool
from edge.drain.sink import split_url
from edge.drain.sinks.parquet import open_database, require_duckdb
from edge.drain.sinks.table import make_sink
from edge.layout import existing_layout

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, (DATA, TO))
    parser.add_argument("query", metavar="SQL", help="in DuckDB's dialect, over the view `events`")
    parser.add_argument("--json", action="store_true", help="machine-readable, one object a line")


def run(arguments: argparse.Namespace) -> int:
    settings = load((DATA, TO), arguments, os.environ, ALL)
    layout = existing_layout(Path(settings["data"]).absolute())
    try:
        require_duckdb("sql")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    import duckdb

    sink_id, directory = _file_sink(settings)
    if directory is None:
        print("edge sql: no sink is a folder of files: only what is still in the spool is looked at", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="edge-sql-") as scratch, open_database() as database:
        try:
            create_events(database, layout, sink_id, directory, read_spool(layout, sink_id, Path(scratch)))
            _answer(database, arguments.query, arguments.json)
        except duckdb.Error as error:
            print(f"edge sql: {error}", file=sys.stderr)
            return 1
    return 0


def _file_sink(settings: dict[str, Any]) -> tuple[str, Path | None]:
    """Id and folder of the first sink that is a folder of flat events."""
    try:
        urls = sink_urls(settings)
    except Unavailable as error:
        raise ConfigError(str(error)) from error
    for text in urls:
        url = split_url(text)
        if url.scheme == "file":
            if url.options.get("shape", "event") != "event":
                raise ConfigError("--to: expected shape=event of the files to look at, found shape=captured")
            return make_sink(text)[0], Path(url.target.removeprefix("//")).absolute()
    return "", None


def _answer(database: "DuckDBPyConnection", query: str, as_json: bool) -> None:
    """Raises `duckdb.Error`."""
    # Its own trailing semicolon and comment must not reach what is put around it.
    inner = f"(\n{query.strip().rstrip(';')}\n)"
    if as_json:
        database.execute(f"SELECT to_json(answer)::VARCHAR FROM {inner} answer")  # noqa: S608 - the user's own question
        while rows := database.fetchmany(1000):
            sys.stdout.writelines(f"{row[0]}\n" for row in rows)
        return
    database.execute(f"SELECT COLUMNS(*)::VARCHAR FROM {inner}")  # noqa: S608 - the user's own question
    names = [column[0] for column in database.description or []]
    found = [["" if value is None else " ".join(value.split()) for value in row] for row in database.fetchall()]
    widths = [max(len(row[place]) for row in [names, *found]) for place in range(len(names))]
    for row in [names, ["-" * width for width in widths], *found]:
        sys.stdout.write(
            "  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip() + "\n"
        )
