"""CPU time of a process tree in nanoseconds, its memory, and pinning.

Times are the scheduler's own run times, `/proc/PID/task/*/schedstat`, summed over every thread of the process and of all
its descendants. They are exact for a task that sleeps; one that is running right now may be short by up to a tick, so read
them when the server is idle.
"""

import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DEFLATED: Final = zlib.compress(b"".join(b'{"event":"e%d","distinct_id":"%x"},' % (n % 9, n**9) for n in range(2000)))
_TIMES: Final = 20


class CpuMeter:
    """CPU time used by a process and its descendants since the meter was made.

    What a task uses between the last reading before its end and its end is lost, as the kernel forgets a task that ends. So
    the sum is complete when no task ends between two readings, and it never goes backwards. A descendant whose parent has
    ended is no longer found.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._sum = TaskSum()
        self._start_ns = self._sum.update(_tree(pid))

    def read_ns(self) -> int:
        """Nanoseconds since the meter was made, never less than at the last reading."""
        return self._sum.update(_tree(self._pid)) - self._start_ns

    def read_split(self) -> tuple[int, int]:
        """Ticks of the clock spent in the programs and in the kernel, by the processes there are, since they started."""
        user = kernel = 0
        for pid in processes(self._pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                # The name, in brackets, may hold anything.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                user += int(fields[11])
                kernel += int(fields[12])
        return user, kernel


@dataclass(frozen=True)
class Memory:
    """Of a process tree. What processes share is in `rss_bytes` once for each, in `pss_bytes` once altogether.

    Kernel memory, such as that of sockets, is in neither.
    """

    rss_bytes: int
    pss_bytes: int


def memory(root: int) -> Memory:
    """Memory of `root` and its descendants as it is now."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in processes(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0]) * 1024
    return Memory(sums["Rss"], sums["Pss"])


def processes(root: int) -> list[int]:
    """`root` and its descendants."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, children.read_text().split())
    return found


class TaskSum:
    """Adds up the run times of tasks that come and go: one that is gone keeps what it was last seen with."""

    def __init__(self) -> None:
        self._used_ns: dict[int, int] = {}
        self._ended_ns = 0

    def update(self, tasks: Iterable[tuple[int, int]]) -> int:
        """Take in (task number, nanoseconds used) of every task there is; the nanoseconds of all that ever were."""
        for task, used_ns in tasks:
            last_ns = self._used_ns.get(task, 0)
            if used_ns < last_ns:
                # A new task got the number of one that has ended.
                self._ended_ns += last_ns
            self._used_ns[task] = used_ns
        return self._ended_ns + sum(self._used_ns.values())


def two_cores() -> tuple[int, int]:
    """A core for the server and one for the load generator: the same one where this process may use only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def core_speed(core: int) -> float:
    """How fast a program's own code is on that core right now: megabytes per second that zlib inflates, in CPU time.

    It is what depends most on others who have the other half of the core or slow down its clock. Takes some milliseconds.
    """
    with pinned({core}):
        # The first time is for the caches.
        zlib.decompress(_DEFLATED)
        started_ns = time.thread_time_ns()
        inflated = sum(len(zlib.decompress(_DEFLATED)) for _ in range(_TIMES))
        return inflated * 1000 / (time.thread_time_ns() - started_ns)


@contextmanager
def pinned(cores: Iterable[int]) -> Iterator[None]:
    """Keep this thread on `cores`. A process started meanwhile inherits that, and so does every descendant of it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tree(root: int) -> Iterator[tuple[int, int]]:
    """Every task of `root` and its descendants, as task number and nanoseconds used."""
    waiting = [root]
    while waiting:
        tasks = Path(f"/proc/{waiting.pop()}/task")
        # A task may end at any moment: between the listing and either file, and while a file is being read.
        try:
            numbers = os.listdir(tasks)
        except FileNotFoundError:
            continue
        for number in numbers:
            try:
                used_ns = int((tasks / number / "schedstat").read_text().split()[0])
                children = (tasks / number / "children").read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield int(number), used_ns
            waiting += map(int, children)
