import os
import subprocess
import sys
import textwrap
import threading
import zlib
from collections.abc import Iterator

import pytest

from bench.cpu import _DEFLATED, _TIMES, CpuMeter, TaskSum, core_speed, pinned, two_cores

# Burns 50 ms of CPU on the word "burn", ends on the word "end", starts one more of itself on the word "child".
# Every word is answered when it is done.
OBEDIENT = textwrap.dedent("""
    import subprocess, sys, time
    child = None
    for word in sys.stdin:
        if word == "burn\\n":
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
        elif word == "child\\n":
            child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]], stdin=-1, stdout=-1, text=True)
        elif word == "end child\\n":
            child.communicate("")
        elif word.startswith("child "):
            child.stdin.write(word.removeprefix("child "))
            child.stdin.flush()
            child.stdout.readline()
        print("done", flush=True)
""")
# A little less than it burns: a task that has not gone to sleep yet is short by up to a tick.
BURNT_NS = 40_000_000


class Obedient:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OBEDIENT, OBEDIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def do(self, word: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.communicate("")


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    process = Obedient()
    yield process
    process.end()


def test_cpu_burnt_by_the_process_is_seen(obedient: Obedient) -> None:
    obedient.do("nothing")
    meter = CpuMeter(obedient.pid)
    obedient.do("burn")
    assert meter.read_ns() >= BURNT_NS


def test_cpu_burnt_before_the_meter_was_made_is_not_counted(obedient: Obedient) -> None:
    for _ in range(4):
        obedient.do("burn")
    meter = CpuMeter(obedient.pid)
    obedient.do("nothing")
    assert meter.read_ns() < BURNT_NS


def test_cpu_burnt_by_a_child_is_seen(obedient: Obedient) -> None:
    obedient.do("child")
    obedient.do("child nothing")
    meter = CpuMeter(obedient.pid)
    obedient.do("child burn")
    assert meter.read_ns() >= BURNT_NS


def test_cpu_burnt_by_another_thread_is_seen() -> None:
    def burn() -> None:
        sum(range(10**6))
        burnt.set()
        leave.wait()

    burnt, leave = threading.Event(), threading.Event()
    meter = CpuMeter(os.getpid())
    thread = threading.Thread(target=burn)
    thread.start()
    burnt.wait()
    thread_ns = _schedstat_ns(thread.native_id or 0)
    read_ns = meter.read_ns()
    leave.set()
    thread.join()
    assert read_ns >= thread_ns > 0


def _schedstat_ns(task: int) -> int:
    with open(f"/proc/self/task/{task}/schedstat") as file:
        return int(file.read().split()[0])


def test_a_child_that_ends_keeps_what_the_last_reading_saw(obedient: Obedient) -> None:
    obedient.do("child")
    meter = CpuMeter(obedient.pid)
    obedient.do("child burn")
    before_ns = meter.read_ns()
    obedient.do("end child")
    assert meter.read_ns() >= before_ns >= BURNT_NS


def test_a_process_that_has_ended_keeps_what_the_last_reading_saw(obedient: Obedient) -> None:
    meter = CpuMeter(obedient.pid)
    obedient.do("burn")
    before_ns = meter.read_ns()
    obedient.end()
    assert meter.read_ns() == before_ns


@pytest.mark.parametrize(
    ("readings", "sums"),
    [
        pytest.param([[(1, 5), (2, 7)], [(1, 6), (2, 9)]], [12, 15], id="tasks run"),
        pytest.param([[(1, 5), (2, 7)], [(1, 6)], [(1, 8)]], [12, 13, 15], id="a task ends"),
        pytest.param([[(1, 5)], [(1, 5), (2, 3)]], [5, 8], id="a task starts"),
        pytest.param([[(1, 5), (2, 7)], [(1, 5), (2, 1)], [(1, 5), (2, 4)]], [12, 13, 16], id="a number is used again"),
        pytest.param([[(1, 5)], []], [5, 5], id="all end"),
    ],
)
def test_the_sum_never_goes_backwards(readings: list[list[tuple[int, int]]], sums: list[int]) -> None:
    total = TaskSum()
    assert [total.update(reading) for reading in readings] == sums


def test_a_process_started_while_pinned_stays_on_that_core_and_the_caller_does_not() -> None:
    before = os.sched_getaffinity(0)
    core, _ = two_cores()
    with pinned({core}):
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert child.stdout.split() == [str(core)]
    assert os.sched_getaffinity(0) == before


def test_a_single_core_is_shared() -> None:
    core, _ = two_cores()
    with pinned({core}):
        assert two_cores() == (core, core)


def test_a_core_is_as_fast_as_its_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1_000, 1_000 + 250_000_000])
    monkeypatch.setattr("bench.cpu.time.thread_time_ns", lambda: next(times))
    allowed = os.sched_getaffinity(0)
    inflated = _TIMES * len(zlib.decompress(_DEFLATED))
    assert core_speed(min(allowed)) == pytest.approx(inflated / 1e6 / 0.25)
    assert os.sched_getaffinity(0) == allowed
