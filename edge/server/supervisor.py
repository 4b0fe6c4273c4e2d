"""The parent: opens the listening sockets, starts a worker per socket and, for `up`, the drainer; starts again what dies.

Socket i belongs to slot i and is inherited by whichever worker has the slot, so connections that wait in a socket's queue
survive the death of its worker. The sockets share one port (SO_REUSEPORT) and the kernel spreads connections over them.
"""

import logging
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from edge.config import Address
from edge.metrics import Board
from edge.process import SIGNALS, Child, Lifeline

log = logging.getLogger(__name__)

START_S: Final = 60.0
"""For all workers to say that they work; recovery of a large open segment is within it."""
KILL_S: Final = 30.0
"""For a child to stop."""
BACKLOG: Final = 4096
_RESTART_DELAYS_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_SETTLED_S: Final = 10.0
"""A child that lived this long starts again at once when it dies."""


class Job(msgspec.Struct):
    """A child that is to be running."""

    name: str
    start: Callable[[], Child]
    critical: bool
    """Without it the program has not started."""
    child: Child | None = None
    failures: int = 0
    due_s: float = 0.0


def listen(address: Address, count: int) -> list[socket.socket]:
    """`count` sockets on one port. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sockets: list[socket.socket] = []
    port = address.port
    if port:
        # Bound without sharing: these sockets would join those of another program that shares the port, of an `edge` above all.
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, port))
    for _ in range(count):
        bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind((address.host, port))
        bound.listen(BACKLOG)
        bound.setblocking(False)
        port = bound.getsockname()[1]
        sockets.append(bound)
    return sockets


class Supervisor:
    """Runs its jobs until it is told to stop; holds the lifeline its children watch."""

    def __init__(self, jobs: list[Job], board: Board, lifeline: Lifeline) -> None:
        self.jobs = jobs
        self.stopping = False
        self.started = False
        self._board = board
        self._lifeline = lifeline
        # Before any thread is started, which takes this over: whichever thread met a signal would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def run(self, on_started: Callable[[], None], on_stopping: Callable[[], None]) -> int:
        """Until TERM or INT; the exit status. A second INT ends everything at once."""
        deadline = time.monotonic() + START_S
        for job in self.jobs:
            job.child = job.start()
        while not self.started:
            received = signal.sigtimedwait(SIGNALS, 0.01)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                return self._stop(on_stopping)
            for job in self.jobs:
                assert job.child is not None
                status = job.child.process.poll()
                if status is not None and job.critical:
                    log.error("%s did not start, exit status %d", job.name, status)
                    self._stop(on_stopping)
                    return status if status > 0 else 1
            ready = [job.child.poll_ready() or not job.critical for job in self.jobs if job.child is not None]
            self.started = all(ready)
            if not self.started and time.monotonic() > deadline:
                log.error("not everything started within %d s", START_S)
                self._stop(on_stopping)
                return 1
        on_started()
        while True:
            received = signal.sigtimedwait(SIGNALS, 0.25)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                return self._stop(on_stopping)
            self._restart_the_dead()

    def _restart_the_dead(self) -> None:
        now = time.monotonic()
        for job in self.jobs:
            child = job.child
            if child is not None:
                status = child.process.poll()
                if status is None:
                    child.poll_ready()
                    continue
                child.close()
                job.failures = 0 if now - child.started_s > _SETTLED_S else job.failures + 1
                delay = _RESTART_DELAYS_S[min(job.failures, len(_RESTART_DELAYS_S) - 1)]
                log.error("%s ended with status %d, starting again in %.1f s", job.name, status, delay)
                self._board.rows[-1].add("edge_worker_restarts_total", 1)
                job.child = None
                job.due_s = now + delay
            if job.child is None and now >= job.due_s:
                try:
                    job.child = job.start()
                except OSError as error:
                    # As a machine that is out of processes or descriptors: the other children are none the worse.
                    log.error("%s cannot be started: %s", job.name, error)
                    job.due_s = now + _RESTART_DELAYS_S[-1]

    def _stop(self, on_stopping: Callable[[], None]) -> int:
        self.stopping = True
        on_stopping()
        status = 0
        # The drainer last: it ships what the workers seal.
        for group in ([job for job in self.jobs if job.critical], [job for job in self.jobs if not job.critical]):
            for job in group:
                if job.child is not None:
                    job.child.signal(signal.SIGTERM)
            status = max([status, *(self._wait(job) for job in group)])
        return status

    def _wait(self, job: Job) -> int:
        if job.child is None:
            return 0
        process = job.child.process
        deadline = time.monotonic() + KILL_S
        while process.poll() is None:
            received = signal.sigtimedwait(SIGNALS, 0.05)
            again = received is not None and received.si_signo == signal.SIGINT
            if again or time.monotonic() > deadline:
                log.error("%s is killed", job.name)
                process.kill()
                process.wait()
        return 0 if process.returncode == 0 else 1

    def alive(self) -> dict[str, bool]:
        """Whether each job's process runs and has said that it works."""
        return {job.name: job.child is not None and job.child.ready for job in self.jobs}

    def pids(self) -> dict[str, int]:
        return {job.name: job.child.process.pid for job in self.jobs if job.child is not None}
