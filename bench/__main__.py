"""The benchmarks: `python -m bench` runs every one, `python -m bench NAME [options]` one of them or a tool."""

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

from bench import (
    compare,
    connections,
    drill,
    growth,
    hot,
    instructions,
    latency,
    load,
    open_loop,
    plot,
    ship,
    stages,
    stalls,
    workers,
)

Verb = Callable[[Sequence[str]], int]

BENCHMARKS: Final[dict[str, Verb]] = {
    "compare": compare.main,
    "latency": latency.main,
    "connections": connections.main,
    "workers": workers.main,
    "stalls": stalls.main,
    "growth": growth.main,
    "drill": drill.main,
    "ship": ship.main,
    "stages": stages.main,
}
TOOLS: Final[dict[str, Verb]] = {
    "hot": hot.main,
    "instructions": instructions.main,
    "load": load.main,
    "open": open_loop.main,
    "plot": plot.main,
}


def main(argv: Sequence[str]) -> int:
    """The exit status: 0, or that of the first benchmark that failed."""
    # Left to itself, either signal would end this process and leave its servers running.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    verbs = BENCHMARKS | TOOLS
    try:
        if not argv:
            statuses = [benchmark([]) for benchmark in BENCHMARKS.values()]
            return next(filter(None, statuses), 0)
        if argv[0] in verbs:
            return verbs[argv[0]](argv[1:])
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    asked = argv[0] in ("-h", "--help")
    print(f"usage: python -m bench [{'|'.join(verbs)}] [options]", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _leave(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
