"""A process of ours and its children: how a child is started, says that it is ready, and learns that its parent is gone.

A child gets a JSON specification and its descriptors by inheritance. It writes one byte to its ready pipe when it works, and
reads from the lifeline, a pipe nobody writes to: its end means that the parent is gone, however that came about.
"""

import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

log = logging.getLogger(__name__)

EXIT_USAGE: Final = 2
EXIT_BAD_DATA: Final = 65
"""Something is damaged, or was refused for good."""
EXIT_UNAVAILABLE: Final = 69
"""A destination, an upstream or a server does not answer, or takes nothing."""
EXIT_CONFIG: Final = 78
EXIT_TRY_AGAIN: Final = 75
"""Another process holds what this one needs."""
EXIT_UNUSABLE: Final = 74
"""The data folder, or a part of it, cannot be read or written."""
EXIT_FAULT: Final = 70
"""A programming error was met; the parent starts the process again."""

RETIRE: Final = signal.SIGUSR1
"""To a worker: a successor accepts beside you, finish at leisure and end."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, RETIRE)

MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024)}
"""What glibc arrives at by itself behind large blocks that were freed: memory that bodies and frames had is kept for the next
ones, instead of given back and taken again page by page."""

S = TypeVar("S", bound=msgspec.Struct)


def open_standard_streams() -> None:
    """Open those of the descriptors 0 to 2 that are closed on /dev/null, before a socket or a segment becomes one of them.

    `sys.stdout` stays `None` then, which is how it can be told, and its descriptor takes no writes: a sink would take them for
    delivered.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest one that is free.
            opened = os.open(os.devnull, os.O_RDONLY if fd == 1 else os.O_RDWR)
            assert opened == fd
            os.set_inheritable(fd, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def tell_manager(state: str) -> None:
    """Tell the service manager, if one started us and wants to know: `READY=1`, `STOPPING=1` (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(1.0)
        # One in the abstract namespace has no name in a folder.
        manager.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def raise_descriptor_limit() -> int:
    """Let this process, and the children it starts, have as many descriptors as it may; how many that is.

    The soft limit is there for programs that call `select`, which knows no descriptor above 1023; of ours none does with more
    than its lifeline, which is among its first.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A hard limit above what the kernel allows by now cannot be set, not even as it is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Lifeline:
    """Held by a parent for as long as it lives."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)


class Child:
    """One started child process."""

    def __init__(self, name: str, module: str, spec: msgspec.Struct, fds: Sequence[int]) -> None:
        """Starts `python -m MODULE FD FD`: the descriptors of the specification and of the ready pipe."""
        self.name = name
        self.started_s = time.monotonic()
        self.ready = False
        self.told_s = 0.0
        """When it was last sent a signal."""
        self._ready_fd, ready_write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._ready_fd, False)
        spec_fd = os.memfd_create("edge-spec", os.MFD_CLOEXEC)
        os.write(spec_fd, msgspec.json.encode(spec))
        os.lseek(spec_fd, 0, os.SEEK_SET)
        command = [sys.executable, "-P", "-m", module, str(spec_fd), str(ready_write_fd)]
        try:
            # -P: modules come from the installation, not from whatever folder the parent was started in.
            self.process = subprocess.Popen(
                command,
                pass_fds=[spec_fd, ready_write_fd, *fds],
                stdin=subprocess.DEVNULL,
                env={**MEMORY, **os.environ},
            )
        finally:
            os.close(spec_fd)
            os.close(ready_write_fd)

    def poll_ready(self) -> bool:
        """Whether it has said that it works."""
        if not self.ready and self._ready_fd >= 0:
            try:
                self.ready = os.read(self._ready_fd, 1) != b""
            except BlockingIOError:
                return False
            self.close()
        return self.ready

    def close(self) -> None:
        """Let go of the ready pipe; the process is not touched."""
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
            self._ready_fd = -1

    def signal(self, number: int) -> None:
        self.told_s = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)


def read_spec(kind: type[S], arguments: Sequence[str]) -> tuple[S, int]:
    """In a child: the specification and the descriptor to say ready on. Signals reach the child from here on."""
    spec_fd, ready_fd = map(int, arguments)
    with os.fdopen(spec_fd, "rb") as file:
        spec = msgspec.json.decode(file.read(), type=kind)
    # A terminal's Ctrl-C, and its end, go to the whole group; what is to be done about it is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return spec, ready_fd


def accept_signals() -> None:
    """Undo the parent's blocking of signals, once the handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def refuse_signals() -> None:
    """In the calling thread. At a process's end, whose exit status says whether all is well: its handlers go away before it
    does, and a signal that comes in between would kill it. In every other thread from its beginning: one that is not wholly
    gone by then would be given the signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def say_ready(ready_fd: int) -> None:
    os.write(ready_fd, b"1")
    os.close(ready_fd)


def is_held(path: Path) -> bool:
    """A living process holds the lock on the file. Raises `OSError` for one that is there and may not be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def lock_holder(path: Path) -> str:
    """Who holds a lock on the file, as `process 123`, as far as the kernel tells; for messages."""
    with contextlib.suppress(OSError):
        inode = str(path.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            # 1: FLOCK  ADVISORY  WRITE 123 08:01:456 0 EOF; the process is 0 or -1 where it is not of this namespace.
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode and int(fields[4]) > 0:
                return f"process {fields[4]}"
    return "another process"
