"""One thread per worker for what may wait on the disk: jobs run in order, results come back to the event loop."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable

from edge.process import refuse_signals

Job = Callable[[], None]
Done = Callable[[OSError | None], None]


class _Awaited:
    """A result that the loop's thread waits for, until it has waited long enough. Both threads may find at once that it is
    their turn to decide how the result is told; the first to take `decided` does."""

    __slots__ = ("decided", "error", "ready")

    def __init__(self) -> None:
        self.decided = threading.Lock()
        self.ready = threading.Lock()
        self.ready.acquire()
        self.error: OSError | None = None


class DiskThread:
    """`submit` from the loop's thread; `done` is called there with the `OSError` the job raised, or `None`.

    Any other exception of a job is a programming error and goes to `on_fault`: requests wait for an answer that will never
    come, so the process has to end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_fault: Callable[[BaseException], None]) -> None:
        self._loop = loop
        self._on_fault = on_fault
        self._jobs: deque[tuple[Job, Done, _Awaited | None] | None] = deque()
        # Not a lock, as `queue` has: writing to a descriptor lets go of the interpreter first, so that the thread that is woken
        # can run. On one core it would else take turns with this one several times before it has the interpreter.
        self._given = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._thread = threading.Thread(target=self._run, name="edge-disk", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done, wait_s: float = 0.0) -> None:
        """`done` is called from within when the job, and those before it, are finished in `wait_s`, and else from a later turn
        of the loop."""
        awaited = _Awaited() if wait_s else None
        self._give((job, done, awaited))
        if awaited is None:
            return
        if not awaited.ready.acquire(timeout=wait_s):
            if awaited.decided.acquire(blocking=False):
                return
            awaited.ready.acquire()
        done(awaited.error)

    def close(self) -> None:
        """Run what was submitted, then end the thread. A job that comes later raises `ValueError`."""
        self._give(None)
        self._thread.join()
        given, self._given = self._given, -1
        os.close(given)

    def _give(self, task: tuple[Job, Done, _Awaited | None] | None) -> None:
        self._jobs.append(task)
        os.eventfd_write(self._given, 1)

    def _take(self) -> tuple[Job, Done, _Awaited | None] | None:
        os.eventfd_read(self._given)
        return self._jobs.popleft()

    def _run(self) -> None:
        refuse_signals()
        while (task := self._take()) is not None:
            job, done, awaited = task
            try:
                job()
            except OSError as error:
                self._tell(done, error, awaited)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that may end the process
                self._loop.call_soon_threadsafe(self._on_fault, error)
            else:
                self._tell(done, None, awaited)
            # Or what was written would be kept until there is something else to do.
            del task, job, done

    def _tell(self, done: Done, error: OSError | None, awaited: _Awaited | None) -> None:
        if awaited is not None and awaited.decided.acquire(blocking=False):
            awaited.error = error
            awaited.ready.release()
        else:
            self._loop.call_soon_threadsafe(done, error)
