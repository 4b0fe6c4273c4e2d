"""One thread per worker for what may wait on the disk: jobs run in order, results come back to the event loop."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

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
        self._jobs: SimpleQueue[tuple[Job, Done, _Awaited | None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edge-disk", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """`done` is called from a later turn of the loop."""
        self._jobs.put((job, done, None))

    def submit_and_wait(self, job: Job, done: Done, seconds: float) -> None:
        """The same, and `done` is called from within when the job, and those before it, are finished in so many seconds."""
        awaited = _Awaited()
        self._jobs.put((job, done, awaited))
        if not awaited.ready.acquire(timeout=seconds):
            if awaited.decided.acquire(blocking=False):
                return
            awaited.ready.acquire()
        done(awaited.error)

    def close(self) -> None:
        """Run what was submitted, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        refuse_signals()
        while (task := self._jobs.get()) is not None:
            job, done, awaited = task
            try:
                job()
            except OSError as error:
                self._tell(done, error, awaited)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that may end the process
                self._loop.call_soon_threadsafe(self._on_fault, error)
            else:
                self._tell(done, None, awaited)

    def _tell(self, done: Done, error: OSError | None, awaited: _Awaited | None) -> None:
        if awaited is not None and awaited.decided.acquire(blocking=False):
            awaited.error = error
            awaited.ready.release()
        else:
            self._loop.call_soon_threadsafe(done, error)
