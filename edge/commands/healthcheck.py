"""`edge healthcheck`: the probes of a running edge as an exit status, for containers, whose images have no HTTP client."""

import argparse
import os
import sys

import msgspec

from edge.commands.admin_port import Unanswered, ask, with_port
from edge.config import ADMIN, ALL, add_options, duration_between, load
from edge.notation import Address
from edge.process import EXIT_UNAVAILABLE
from edge.server.admin import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, (ADMIN,))
    parser.add_argument(
        "--live", action="store_true", help="whether a restart is needed, instead of whether to send requests"
    )
    parser.add_argument(
        "--within",
        type=duration_between("1ms", "5m", "3s"),
        default=3.0,
        metavar="TIME",
        help="for the connection, and for every step of the answer (default: 3s)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable: every check")


def run(arguments: argparse.Namespace) -> int:
    address = with_port("admin", load((ADMIN,), arguments, os.environ, ALL)["admin"])
    try:
        checks = _ask(address, "/_liveness" if arguments.live else "/_readiness", arguments.within)
    except Unanswered as error:
        print(f"edge healthcheck: no answer from {address}: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    failed = [f"{check.name}: {check.why}" for check in checks if not check.passed]
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(checks)).decode() + "\n")
    else:
        sys.stdout.write("\n".join(failed or ["ok"]) + "\n")
    return 1 if failed else 0


def _ask(address: Address, probe: str, within_s: float) -> list[Check]:
    """Raises `Unanswered`."""
    status, body = ask(address, f"{probe}?verbose", within_s)
    if status not in (200, 503):
        raise Unanswered(f"expected status 200 or 503 for {probe}, found {status}")
    try:
        checks = msgspec.json.decode(body, type=list[Check])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unanswered(f"expected the checks of edge, found something else: {error}") from error
    if not checks:
        raise Unanswered("expected the checks of edge, found none")
    return checks
