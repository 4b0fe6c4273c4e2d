"""`edge send`: one test event over HTTP, then what was stored and how long it took."""

import argparse
import http.client
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from edge.config import ALL, DATA, ConfigError, add_options, load
from edge.layout import Layout
from edge.process import EXIT_UNAVAILABLE
from edge.segment.scan import Frame
from edge.spool.inspect import all_segments, frames

TIMEOUT_S: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", metavar="URL", help="the edge (default: %(default)s)"
    )
    parser.add_argument("--token", default="phc_test", help="project key (default: %(default)s)")
    parser.add_argument("--event", default="edge test event", help="event name (default: %(default)s)")
    parser.add_argument("--distinct-id", default="edge-send", help="whose event (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_options(parser, (DATA,))


def run(arguments: argparse.Namespace) -> int:
    settings = load((DATA,), arguments, os.environ, ALL)
    try:
        url = urlsplit(arguments.url)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"{error}, found {arguments.url!r}") from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"expected a URL such as http://127.0.0.1:8000, found {arguments.url!r}")
    event_id = str(uuid.uuid4())
    body = msgspec.json.encode(
        {
            "api_key": arguments.token,
            "event": arguments.event,
            "distinct_id": arguments.distinct_id,
            "uuid": event_id,
            "properties": {"$lib": "edge-send"},
        }
    )
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection: http.client.HTTPConnection | None = None
    try:
        connection = kind(url.hostname, port, timeout=TIMEOUT_S)
        connection.connect()
        started = time.perf_counter()
        connection.request("POST", url.path.rstrip("/") + "/i/v0/e/", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read().decode("utf-8", "replace")
        took_ms = (time.perf_counter() - started) * 1000
    except (http.client.InvalidURL, UnicodeError) as error:
        raise ConfigError(f"expected a URL such as http://127.0.0.1:8000, found {arguments.url!r}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        print(f"edge send: no answer from {arguments.url}: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    finally:
        if connection is not None:
            connection.close()
    try:
        stored = find_record(Layout(Path(settings["data"])), event_id) if response.status == 200 else None
    except OSError:
        # Somebody else's.
        stored = None
    if arguments.json:
        found = {"status": response.status, "answer": answer, "ms": round(took_ms, 3), "uuid": event_id}
        found["stored"] = msgspec.Raw(stored) if stored else None
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        sys.stdout.write(f"{response.status} {answer} in {took_ms:.2f} ms\n")
        if stored:
            sys.stdout.write(f"stored {stored.decode()}\n")
        elif response.status == 200:
            sys.stdout.write(f"stored; its spool is not {settings['data']} here, or cannot be read\n")
    return 0 if response.status == 200 else 1


def find_record(layout: Layout, event_id: str) -> bytes | None:
    """The record of an event that was accepted just now: in the last frames of a newest segment."""
    if not layout.spool.is_dir():
        return None
    wanted = event_id.encode()
    for file in reversed(all_segments(layout)):
        for frame in reversed([item for item in frames(file) if isinstance(item, Frame)]):
            for line in frame.lines():
                if wanted in line:
                    return line
    return None
