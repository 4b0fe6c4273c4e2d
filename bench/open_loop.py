"""An open-loop load generator: requests fall due at a given rate, whatever the server does, and latency counts from then on.

A closed loop stops asking while the server stands still, and so leaves the worst moments out of its figures (coordinated
omission). Here arrivals are a Poisson process; one that finds every connection busy waits for one, and its waiting counts.

    python -m bench open http://HOST:PORT --rate 10000 [--payload A] [--connections 64] [--seconds 10]

The generator busy-waits on its core for what is due next. How late it sent what it could have sent at once is printed as its
own lateness: where that is not far below the latencies, the generator was the limit and not the server.
"""

import argparse
import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.load import LoadGenerator, parse

_READ_BYTES: Final = 4096
_EARLY_S: Final = 0.0015
"""`poll` sleeps in whole milliseconds, so the last one before a request is due is spent awake."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Latencies:
    """Of one run; times in seconds, sorted."""

    rate: float
    """Asked for, requests a second."""
    seconds: float
    """From the first request due to the last answer."""
    answered: int
    errors: int
    first_error: str
    latencies_s: Sequence[float]
    lateness_s: Sequence[float]
    """How late requests were sent for which a connection was free."""

    def percentile_ms(self, percent: float) -> float:
        return percentile(self.latencies_s, percent) * 1000

    @property
    def lateness_ms(self) -> float:
        """Its 99th percentile."""
        return percentile(self.lateness_s, 99) * 1000


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed (nearest rank). Not a number when there are none."""
    if not ordered:
        return float("nan")
    return ordered[max(0, min(len(ordered) - 1, -int(-len(ordered) * percent // 100) - 1))]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments in [0, `seconds`) of a Poisson process of `rate` a second."""
    draw = random.Random(seed)
    found: list[float] = []
    at = draw.expovariate(rate)
    while at < seconds:
        found.append(at)
        at += draw.expovariate(rate)
    return found


class OpenLoop(LoadGenerator):
    """The same connections, with requests that fall due. Use it as a context."""

    def run_at(self, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 1) -> Latencies:
        """Send what falls due within `seconds`, and wait for the answers. Connections lost stay lost."""
        self._answered = self._errors = 0
        self._first_error = ""
        upcoming = itertools.cycle(requests)
        due = arrivals(rate, seconds, seed)
        # Latest last, to take off the end.
        due.reverse()
        idle = list(self._sockets)
        waiting: deque[float] = deque()
        asked: dict[int, float] = {}
        latencies: list[float] = []
        lateness: list[float] = []
        clock, poll = time.perf_counter, self._epoll.poll
        began = clock()
        moved = began

        def ask(fd: int, moment: float) -> None:
            asked[fd] = moment
            self._outstanding += 1
            self._send(fd, next(upcoming))

        self._outstanding = 0
        while due or waiting or self._outstanding:
            now = clock() - began
            while due and due[-1] <= now:
                moment = due.pop()
                if idle:
                    lateness.append(now - moment)
                    ask(idle.pop(), moment)
                else:
                    waiting.append(moment)
            timeout = 0.0
            if due and not waiting:
                timeout = max(0.0, due[-1] - now - _EARLY_S)
            elif not due:
                timeout = 0.1
            for fd, events in poll(timeout):
                if fd not in self._sockets or not self._is_answered(fd, events):
                    continue
                moved = clock()
                latencies.append(moved - began - asked.pop(fd))
                self._outstanding -= 1
                if waiting:
                    ask(fd, waiting.popleft())
                else:
                    idle.append(fd)
            if not self._sockets or clock() - moved > self._stall_seconds:
                self._give_up()
                self._errors += len(waiting) + len(due)
                break
        took = clock() - began
        latencies.sort()
        lateness.sort()
        return Latencies(rate, took, self._answered, self._errors, self._first_error, tuple(latencies), tuple(lateness))

    def _is_answered(self, fd: int, events: int) -> bool:
        """Read what came; whether it completes the answer."""
        if not self._send_rest(fd, events):
            return False
        try:
            data = self._sockets[fd].recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(fd, f"connection lost: {error}")
            return False
        if data == self._usual and fd not in self._partial:
            self._answered += 1
            return True
        return self._take(fd, data)


def main(argv: Sequence[str]) -> int:
    """Send one payload at a rate to any server and print how long answers took. 1 when there was an error."""
    parser = argparse.ArgumentParser(prog="python -m bench open", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, required=True, metavar="R", help="requests a second")
    args, (host, port), payload = parse(parser, argv)
    if args.rate <= 0 or args.seconds <= 0:
        parser.error("expected a rate and a time above 0")
    with OpenLoop(host, port, args.connections) as generator:
        found = generator.run_at(payload.requests, args.rate, args.seconds)
    print(f"{payload.name}: {payload.about}, {args.connections} connections, {found.seconds:.1f} s")
    print(f"{found.answered} answered, {found.answered / found.seconds:,.0f} requests/s of {args.rate:,.0f} due")
    print("latency ms: " + ", ".join(f"p{percent:g} {found.percentile_ms(percent):.2f}" for percent in PERCENTILES))
    print(f"longest {found.percentile_ms(100):.2f} ms; the generator's own lateness, p99: {found.lateness_ms:.2f} ms")
    if found.errors:
        print(f"{found.errors} errors, the first: {found.first_error}", file=sys.stderr)
        return 1
    return 0
