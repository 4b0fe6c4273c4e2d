"""The parent: opens the listening sockets, starts a worker per socket and, for `up`, the drainer; starts again what dies.

Socket i belongs to worker i and is inherited by whichever process is that worker, so connections that wait in a socket's queue
survive its death. The sockets share one port (SO_REUSEPORT) and the kernel spreads connections over them.

HUP replaces the workers one after the other. A worker has two slots and uses them by turns: its successor starts in the other
one and accepts from the same socket before the old process is told to retire, so that no connection waits for anybody.
"""

import logging
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from edge.disk import Disk
from edge.layout import Layout
from edge.metrics import Board
from edge.notation import Address
from edge.process import RETIRE, SIGNALS, Child, Lifeline, lock_holder

log = logging.getLogger(__name__)

START_S: Final = 60.0
"""For all workers to say that they work; recovery of a large open segment is within it."""
KILL_S: Final = 30.0
"""For a child to stop."""
LEAVE_S: Final = 60.0
"""For a process that was replaced to end; it has shorter limits of its own."""
LOCK_WAIT_S: Final = 10.0
"""How long a predecessor that is stopping may keep the data folder."""
BACKLOG: Final = 4096
_RESTART_DELAYS_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_SETTLED_S: Final = 10.0
"""A child that lived this long starts again at once when it dies."""


class Job(msgspec.Struct):
    """A child that is to be running."""

    name: str
    start: Callable[[int], Child]
    """Start it for one of its turns, 0 or 1."""
    critical: bool
    """Without it the program has not started."""
    turn: int = 0
    child: Child | None = None
    leaving: Child | None = None
    """The process it was before, which has been told to end."""
    failures: int = 0
    due_s: float = 0.0


def try_to_bind(address: Address) -> None:
    """Bind it, without sharing it, and let go of it: nobody can connect meanwhile. Raises `OSError`."""
    with socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address.host, address.port))


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def listen(address: Address, count: int) -> list[socket.socket]:
    """`count` sockets on one port. Raises `OSError`."""
    family = _family(address)
    sockets: list[socket.socket] = []
    port = address.port
    if port:
        # These sockets would join those of another program that shares the port, of an `edge` above all.
        try_to_bind(address)
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


def lock_folder(disk: Disk, layout: Layout) -> int | None:
    """The lock on the data folder, `None` when another `edge` keeps it. Raises `OSError`.

    The slots' locks do not do: which slots a program uses depends on how often its workers were replaced, and on their number.
    No child has this one, so that it is free as soon as the supervisor is gone, however that came about: its children then
    hold nothing but their slots, and end.
    """
    disk.makedirs(str(layout.data))
    deadline = time.monotonic() + LOCK_WAIT_S
    told = False
    while (lock := disk.lock(str(layout.lock))) is None:
        holder = lock_holder(layout.lock)
        if time.monotonic() > deadline:
            log.error("%s is in use by %s", layout.data, holder)
            return None
        if not told:
            told = True
            log.warning("%s is in use by %s, which is given %.0f s to end", layout.data, holder, LOCK_WAIT_S)
        time.sleep(0.05)
    return lock


class Supervisor:
    """Runs its jobs until it is told to stop; holds the lifeline its children watch."""

    def __init__(self, jobs: list[Job], board: Board, lifeline: Lifeline) -> None:
        self.jobs = jobs
        self.stopping = False
        self.started = False
        self._replaced: list[Job] = []
        """Jobs that are still to be replaced."""
        self._successor: tuple[Job, Child] | None = None
        """The one that is starting."""
        self._board = board
        self._lifeline = lifeline
        # Before any thread is started, which takes this over: whichever thread met a signal would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def run(self, on_started: Callable[[], None], on_stopping: Callable[[], None]) -> int:
        """Until TERM or INT; the exit status. A second INT ends everything at once, HUP replaces everything."""
        deadline = time.monotonic() + START_S
        for job in self.jobs:
            job.child = job.start(job.turn)
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
        try:
            on_started()
        except OSError:
            # Nobody learns where it listens.
            self._stop(on_stopping)
            raise
        while True:
            received = signal.sigtimedwait(SIGNALS, 0.02 if self._replacing else 0.25)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                return self._stop(on_stopping)
            if received is not None and received.si_signo == signal.SIGHUP:
                log.info("replacing every process")
                self._replaced = list(self.jobs)
            self._restart_the_dead()
            self._replace()

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
                    job.child = job.start(job.turn)
                except OSError as error:
                    # As a machine that is out of processes or descriptors: the other children are none the worse.
                    log.error("%s cannot be started: %s", job.name, error)
                    job.due_s = now + _RESTART_DELAYS_S[-1]

    @property
    def _replacing(self) -> bool:
        return bool(self._replaced or self._successor or any(job.leaving for job in self.jobs))

    def _replace(self) -> None:
        """What can be done now to replace the jobs that are to be replaced, one after the other."""
        for job in self.jobs:
            self._see_off(job)
        if self._successor is not None:
            self._welcome(*self._successor)
        if self._successor is None and self._replaced and self._replaced[0].leaving is None:
            job = self._replaced.pop(0)
            if job.critical:
                try:
                    self._successor = job, job.start(1 - job.turn)
                except OSError as error:
                    log.error("%s is not replaced, its successor cannot be started: %s", job.name, error)
            elif job.child is not None:
                # The drainer's successor waits for its lock.
                job.leaving, job.child = job.child, None
                job.leaving.signal(signal.SIGTERM)
                job.due_s = 0.0

    def _welcome(self, job: Job, successor: Child) -> None:
        if successor.poll_ready():
            self._successor = None
            job.leaving, job.child, job.turn = job.child, successor, 1 - job.turn
            job.failures = 0
            if job.leaving is not None:
                job.leaving.signal(RETIRE)
            log.info("%s is replaced", job.name)
        elif successor.process.poll() is not None or time.monotonic() > successor.started_s + START_S:
            log.error("%s is not replaced: its successor did not start within %d s, or ended", job.name, START_S)
            self._successor = None
            self._replaced.clear()
            _kill(successor)

    def _see_off(self, job: Job) -> None:
        if job.leaving is None:
            return
        if job.leaving.process.poll() is None:
            if time.monotonic() < job.leaving.told_s + LEAVE_S:
                return
            log.error("%s, which was replaced, does not end", job.name)
        _kill(job.leaving)
        job.leaving = None

    def _stop(self, on_stopping: Callable[[], None]) -> int:
        self.stopping = True
        on_stopping()
        status = 0
        # The drainer last: it ships what the workers seal.
        for critical in (True, False):
            jobs = [job for job in self.jobs if job.critical is critical]
            group = [child for job in jobs for child in (job.child, job.leaving) if child is not None]
            if critical and self._successor is not None:
                group.append(self._successor[1])
            for child in group:
                child.signal(signal.SIGTERM)
            status = max([status, *map(self._wait, group)])
        return status

    def _wait(self, child: Child) -> int:
        process = child.process
        deadline = time.monotonic() + KILL_S
        while process.poll() is None:
            received = signal.sigtimedwait(SIGNALS, 0.05)
            again = received is not None and received.si_signo == signal.SIGINT
            if again or time.monotonic() > deadline:
                log.error("%s is killed", child.name)
                process.kill()
                process.wait()
        return 0 if process.returncode == 0 else 1

    def alive(self) -> dict[str, bool]:
        """Whether each job's process runs and has said that it works."""
        return {job.name: job.child is not None and job.child.ready for job in self.jobs}

    def pids(self) -> dict[str, int]:
        return {job.name: job.child.process.pid for job in self.jobs if job.child is not None}


def _kill(child: Child) -> None:
    child.close()
    child.process.kill()
    child.process.wait()
