import asyncio
import threading
import time
import weakref

import pytest

from edge.spool.disk_thread import DiskThread
from tests.fakes import until


def fault(error: BaseException) -> None:
    raise AssertionError(f"no fault was expected: {error}")


def test_jobs_run_in_order_in_one_thread_and_results_come_back_on_the_loop() -> None:
    async def scenario() -> None:
        thread = DiskThread(asyncio.get_running_loop(), fault)
        ran: list[tuple[int, int]] = []
        done: list[tuple[OSError | None, int]] = []
        for number in range(20):
            thread.submit(
                lambda number=number: ran.append((number, threading.get_ident())),  # type: ignore[misc]
                lambda error: done.append((error, threading.get_ident())),
            )
        await until(lambda: len(done) == 20)
        thread.close()
        here = threading.get_ident()
        assert [number for number, _ in ran] == list(range(20))
        assert {ident for _, ident in ran}.isdisjoint({here})
        assert done == [(None, here)] * 20

    asyncio.run(scenario())


def test_error_of_the_disk_is_handed_to_done_and_the_thread_goes_on() -> None:
    async def scenario() -> None:
        thread = DiskThread(asyncio.get_running_loop(), fault)
        done: list[OSError | None] = []
        error = OSError(5, "the disk")

        def fail() -> None:
            raise error

        thread.submit(fail, done.append)
        thread.submit(lambda: None, done.append)
        await until(lambda: len(done) == 2)
        thread.close()
        assert done == [error, None]

    asyncio.run(scenario())


class Held:
    """What a job was to write."""


@pytest.mark.parametrize("wait_s", [0.0, 5.0], ids=["told later", "waited for"])
def test_what_a_job_had_is_let_go_of_when_it_is_finished(wait_s: float) -> None:
    async def scenario() -> None:
        thread = DiskThread(asyncio.get_running_loop(), fault)
        held = Held()
        there = weakref.ref(held)
        thread.submit(lambda held=held: None, lambda _, held=held: None, wait_s)  # type: ignore[misc]
        del held
        await until(lambda: there() is None)
        thread.close()

    asyncio.run(scenario())


def test_result_that_is_waited_for_is_told_before_the_loop_goes_on() -> None:
    async def scenario() -> None:
        thread = DiskThread(asyncio.get_running_loop(), fault)
        done: list[OSError | None] = []
        ran: list[str] = []
        error = OSError(5, "the disk")

        def fail() -> None:
            ran.append("second")
            raise error

        thread.submit(lambda: ran.append("first"), lambda _: None)
        thread.submit(fail, done.append, 10)
        assert (ran, done) == (["first", "second"], [error])
        thread.submit(lambda: None, done.append, 10)
        assert done == [error, None]
        thread.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert done == [error, None]

    asyncio.run(scenario())


def test_result_that_was_waited_for_too_long_comes_back_on_the_loop() -> None:
    async def scenario() -> None:
        thread = DiskThread(asyncio.get_running_loop(), fault)
        done: list[tuple[OSError | None, int]] = []
        gate = threading.Event()
        thread.submit(lambda: assert_opens(gate), lambda error: done.append((error, threading.get_ident())), 0.01)
        assert done == []
        gate.set()
        await until(lambda: bool(done))
        thread.close()
        await asyncio.sleep(0)
        assert done == [(None, threading.get_ident())]

    asyncio.run(scenario())


def assert_opens(gate: threading.Event) -> None:
    assert gate.wait(10)


def test_result_that_comes_when_the_waiting_ends_is_told_once() -> None:
    async def scenario() -> None:
        thread = DiskThread(asyncio.get_running_loop(), fault)
        done: list[int] = []
        within = 0
        for number in range(2000):
            seconds = 0.0001 + 0.0001 * (number % 7) / 7
            thread.submit(lambda: time.sleep(0.0001), lambda _, number=number: done.append(number), seconds)  # type: ignore[misc]
            within += done[-1:] == [number]
            await until(lambda number=number: done[-1:] == [number])  # type: ignore[misc]
        thread.close()
        await asyncio.sleep(0)
        assert done == list(range(2000))
        assert 0 < within < 2000, "expected some results while they were waited for, and some later"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [AssertionError, ValueError, KeyboardInterrupt])
def test_any_other_exception_is_a_fault_and_nobody_is_told_that_it_worked(kind: type[BaseException]) -> None:
    async def scenario() -> None:
        faults: list[BaseException] = []
        thread = DiskThread(asyncio.get_running_loop(), faults.append)
        done: list[OSError | None] = []

        def fail() -> None:
            raise kind("ours")

        thread.submit(fail, done.append)
        thread.submit(fail, done.append, 0.01)
        await until(lambda: len(faults) == 2)
        thread.close()
        assert [type(error) for error in faults] == [kind, kind]
        assert done == []

    asyncio.run(scenario())


def test_close_runs_what_was_submitted_and_ends_the_thread() -> None:
    async def scenario() -> None:
        before = threading.active_count()
        thread = DiskThread(asyncio.get_running_loop(), fault)
        ran: list[int] = []
        for number in range(10):
            thread.submit(lambda number=number: ran.append(number), lambda _: None)  # type: ignore[misc]
        assert threading.active_count() == before + 1
        thread.close()
        assert ran == list(range(10))
        assert threading.active_count() == before
        with pytest.raises(ValueError, match="file descriptor"):
            thread.submit(lambda: None, lambda _: None)

    asyncio.run(scenario())
