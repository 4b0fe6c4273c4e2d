"""One thread per worker for what may wait on the disk: jobs run in order, results come back to the event loop."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from edge.process import refuse_signals

Job = Callable[[], None]
Done = Callable[[OSError | None], None]


class DiskThread:
    """`submit` from the loop's thread; `done` is called there with the `OSError` the job raised, or `None`.

    Any other exception of a job is a programming error and goes to `on_fault`: requests wait for an answer that will never
    come, so the process has to end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_fault: Callable[[BaseException], None]) -> None:
        self._loop = loop
        self._on_fault = on_fault
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edge-disk", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        self._jobs.put((job, done))

    def close(self) -> None:
        """Run what was submitted, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        refuse_signals()
        while (task := self._jobs.get()) is not None:
            job, done = task
            try:
                job()
            except OSError as error:
                self._loop.call_soon_threadsafe(done, error)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that may end the process
                self._loop.call_soon_threadsafe(self._on_fault, error)
            else:
                self._loop.call_soon_threadsafe(done, None)
