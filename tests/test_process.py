"""Children of ours, real ones: this file is also the program they run."""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import pytest

from edge.disk import RealDisk
from edge.process import (
    EXIT_TRY_AGAIN,
    SIGNALS,
    Child,
    Lifeline,
    accept_signals,
    is_held,
    read_spec,
    say_ready,
    tell_manager,
)

MODULE: Final = "tests.test_process"
PATIENCE_S: Final = 20.0


class Spec(msgspec.Struct):
    """What the child is to do; it writes what it sees to a file."""

    what: str
    seen: str = ""
    lifeline_fd: int = -1


def child(spec: Spec, *fds: int) -> Child:
    return Child("child", MODULE, spec, fds)


def until_ready(started: Child) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not started.poll_ready():
        assert started.process.poll() is None, "the child ended"
        assert time.monotonic() < deadline, "the child never said that it works"
        time.sleep(0.005)


@pytest.mark.parametrize("address", ["", "somewhere", "/no/such/socket", "@no such socket", "/" + "x" * 200])
def test_a_service_manager_that_cannot_be_told_is_not(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    tell_manager("READY=1")


def test_a_service_manager_that_does_not_listen_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talker:
            talker.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    talker.sendto(b"x", str(tmp_path / "notify"))
        # For ever, without a limit.
        tell_manager("READY=1")


def test_a_child_gets_its_specification_and_says_when_it_works(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    started = child(Spec("write", str(seen)))
    until_ready(started)
    assert started.ready
    assert started.process.wait(PATIENCE_S) == 0
    assert msgspec.json.decode(seen.read_bytes(), type=Spec) == Spec("write", str(seen))


def test_a_child_that_ends_before_it_works_is_never_ready() -> None:
    started = child(Spec("fail"))
    assert started.process.wait(PATIENCE_S) == EXIT_TRY_AGAIN
    assert not started.poll_ready()
    assert not started.poll_ready()
    started.close()


def test_a_child_inherits_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    lifeline = Lifeline()
    other, unrelated = os.pipe()
    os.set_inheritable(other, True)
    try:
        started = child(Spec("list", str(seen), lifeline.read_fd), lifeline.read_fd)
        assert started.process.wait(PATIENCE_S) == 0
        started.close()
    finally:
        os.close(other)
        os.close(unrelated)
    # Standard streams, the ready pipe, the lifeline, and the one that lists them.
    assert len(msgspec.json.decode(seen.read_bytes(), type=list[int])) == 6


def test_a_child_keeps_memory_as_the_environment_says_and_else_as_we_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "12345")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("OURS", "1")
    started = child(Spec("environment", str(seen)))
    assert started.process.wait(PATIENCE_S) == 0
    started.close()
    found = msgspec.json.decode(seen.read_bytes(), type=dict[str, str])
    assert found["MALLOC_TRIM_THRESHOLD_"] == "12345"
    assert int(found["MALLOC_MMAP_THRESHOLD_"]) == 32 * 1024 * 1024
    assert found["OURS"] == "1"


def test_a_lifeline_ends_with_the_process_that_holds_it() -> None:
    """Whatever way that process ends."""
    lifeline = Lifeline()
    started = child(Spec("wait for the lifeline", lifeline_fd=lifeline.read_fd), lifeline.read_fd)
    until_ready(started)
    assert started.process.poll() is None
    os.close(lifeline._write_fd)
    assert started.process.wait(PATIENCE_S) == 0


def test_signals_reach_a_child_once_it_accepts_them() -> None:
    """Blocked by the parent, they wait until the child has its handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        started = child(Spec("wait for TERM"))
        started.signal(signal.SIGTERM)
        assert started.process.wait(PATIENCE_S) == 7
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    started.signal(signal.SIGTERM)
    started.close()


def test_an_interrupt_is_ignored_by_children() -> None:
    lifeline = Lifeline()
    started = child(Spec("wait for the lifeline", lifeline_fd=lifeline.read_fd), lifeline.read_fd)
    until_ready(started)
    started.signal(signal.SIGINT)
    os.close(lifeline._write_fd)
    assert started.process.wait(PATIENCE_S) == 0


def test_a_specification_of_another_kind_is_an_error() -> None:
    fd = os.memfd_create("spec")
    os.write(fd, b'{"what":1}')
    os.lseek(fd, 0, os.SEEK_SET)
    with pytest.raises(msgspec.ValidationError):
        read_spec(Spec, [str(fd), "99"])


def _main(arguments: list[str]) -> int:
    spec, ready_fd = read_spec(Spec, arguments)
    if spec.what == "fail":
        return EXIT_TRY_AGAIN
    if spec.what == "write":
        Path(spec.seen).write_bytes(msgspec.json.encode(spec))
    if spec.what == "list":
        Path(spec.seen).write_bytes(msgspec.json.encode([int(fd) for fd in os.listdir("/proc/self/fd")]))
    if spec.what == "environment":
        Path(spec.seen).write_bytes(msgspec.json.encode(dict(os.environ)))
    if spec.what == "wait for TERM":
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
        accept_signals()
        signal.pause()
    say_ready(ready_fd)
    if spec.what == "wait for the lifeline":
        assert os.read(spec.lifeline_fd, 1) == b""
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1:]))


def test_a_lock_is_held_as_long_as_somebody_holds_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_held(path)
    assert not path.exists()
    lock = RealDisk().lock(str(path))
    assert lock is not None
    assert is_held(path)
    os.close(lock)
    assert not is_held(path)
    # Nor is it held by who looked.
    again = RealDisk().lock(str(path))
    assert again is not None
    os.close(again)


def test_a_lock_that_may_not_be_opened_is_no_free_one(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        is_held(path)
