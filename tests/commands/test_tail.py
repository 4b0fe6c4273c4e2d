import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.commands.tail import WRITE_BYTES
from edge.drain.selection import in_sample
from tests.drain.spools import Slot
from tests.server.running import PATIENCE_S, Server, edge, environment, running, wait_until


class Tailing:
    """A running `edge tail`, whose lines are read as they come."""

    def __init__(self, data: Path, *flags: str, pipe_bytes: int = -1) -> None:
        self._errors = data.parent / "tail.err"
        command = [sys.executable, "-m", "edge", "tail", "--data", str(data), *flags]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment(), pipesize=pipe_bytes
            )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        self._waiting = b""

    def line(self) -> str:
        """The next one."""
        deadline = time.monotonic() + PATIENCE_S
        while b"\n" not in self._waiting:
            ready, _, _ = select.select([self.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self.stdout.fileno(), 1 << 16) if ready else b""
            assert piece, f"expected a line, found {self._waiting!r}; told: {self.told()}"
            self._waiting += piece
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line.decode()

    def name(self) -> str:
        """That of the event of the next line."""
        return name_of(self.line())

    def names(self, count: int) -> list[str]:
        return [self.name() for _ in range(count)]

    def told(self) -> str:
        """On standard error."""
        return self._errors.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit status; nothing more was printed."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        assert (self._waiting, self.stdout.read()) == (b"", b"")
        return status


def name_of(line: str) -> str:
    return str(json.loads(line)["event"]) if line.startswith("{") else line.split("  ")[2]


@contextmanager
def tailing(data: Path, *flags: str, pipe_bytes: int = -1) -> Iterator[Tailing]:
    tail = Tailing(data, *flags, pipe_bytes=pipe_bytes)
    try:
        yield tail
    finally:
        tail.process.kill()
        tail.process.wait()
        tail.stdout.close()
    assert "Traceback" not in tail.told()


def send(server: Server, name: str, padding: int = 0) -> None:
    body = json.dumps(
        {"api_key": "phc_x", "event": name, "distinct_id": "d", "properties": {"x": os.urandom(padding).hex()}}
    ).encode()
    assert server.ask(b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)).status == 200


def names(*words: str | Path, status: int = 0) -> list[str]:
    """Of what there is now."""
    done = edge("tail", "--no-follow", "--json", "--data", *words)
    assert (done.returncode, done.stderr) == (status, "")
    return [name_of(line) for line in done.stdout.splitlines()]


def files(slot: Slot) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in slot.directory.iterdir() if path.is_file()}


# --- live


def test_events_are_printed_as_they_are_committed_in_slots_that_come_while_it_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with tailing(data) as tail:
        wait_until(tail.told, "it says that there is nothing")
        with running(tmp_path) as server:
            for number in range(3):
                send(server, f"e{number}")
                assert tail.name() == f"e{number}"
            before = server.workers()
            server.signal(signal.SIGHUP)
            wait_until(lambda: not set(before) & set(server.workers()), "the worker has a successor, and another slot")
            send(server, "after")
            assert tail.name() == "after"
            assert len(list((data / "spool").iterdir())) == 2
        assert tail.end() == 0
        assert tail.told() == "edge tail: nothing was accepted here yet\n"


def test_what_is_shipped_and_deleted_meanwhile_is_passed_over(tmp_path: Path) -> None:
    flags = ("--segment-bytes-max", "4KiB", "--to", "null:")
    with running(tmp_path, *flags, verb="up") as server, tailing(server.data, "--json") as tail:
        for number in range(12):
            send(server, f"e{number}", padding=2000)
            assert tail.name() == f"e{number}"
        spool = server.data / "spool"
        wait_until(lambda: not list(spool.glob("*/000000000001-*")), "the first one is deleted")
        send(server, "after it")
        assert tail.name() == "after it"
        assert tail.end() == 0
        assert tail.told() == ""


def test_no_event_is_lost_or_twice_between_the_last_and_the_next(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server:
        send(server, "e0")
        with tailing(server.data, "--lines", "1000", "--json") as tail:
            for number in range(1, 300):
                send(server, f"e{number}")
            assert sorted(tail.names(300)) == sorted(f"e{number}" for number in range(300))
            assert tail.end() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(number: signal.Signals, status: int, tmp_path: Path) -> None:
    data = tmp_path / "data"
    Slot(data).commit("e")
    with tailing(data) as tail:
        tail.line()
        assert tail.end(number) == status
        assert tail.told() == ""


def test_a_signal_ends_it_while_its_reader_has_stopped_to_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    slot = Slot(data)
    slot.commit("e")
    around = len(edge("tail", "--no-follow", "--data", data).stdout) - len("e")
    # What fills the pipe, and a little more, which Python would keep for later.
    slot.commit("e" * (WRITE_BYTES - around))
    slot.commit("e")
    with tailing(data, "--lines", "2", pipe_bytes=WRITE_BYTES) as tail:

        def waiting() -> int:
            size: int = struct.unpack("i", fcntl.ioctl(tail.stdout, termios.FIONREAD, bytes(4)))[0]
            return size

        wait_until(lambda: waiting() == WRITE_BYTES, "the pipe is full")
        tail.process.send_signal(signal.SIGTERM)
        assert tail.process.wait(PATIENCE_S) == 0


def test_it_ends_when_its_reader_goes_away_also_without_another_event(tmp_path: Path) -> None:
    data = tmp_path / "data"
    Slot(data).commit("e")
    with tailing(data) as tail:
        tail.line()
        tail.stdout.close()
        assert tail.process.wait(PATIENCE_S) == 0
        assert tail.told() == ""


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    for _ in range(100):
        slot.commit("x" * 2000)
    script = f'"$0" -m edge tail --lines 100 --data {tmp_path} | head -1; echo "${{PIPESTATUS[@]}}"'
    command = ["bash", "-c", script, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    line, statuses = done.stdout.splitlines()
    assert name_of(line) == "x" * 2000
    assert (statuses, done.stderr) == ("0 0", "")


# --- the last ones


def test_it_begins_with_the_last_ten_in_order(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "data")
    for number in range(0, 24, 2):
        slot.commit(f"e{number}", f"e{number + 1}")
        if number % 6 == 0:
            slot.seal()
    assert names(slot.layout.data) == [f"e{number}" for number in range(14, 24)]
    assert names(slot.layout.data, "--lines", "3") == ["e21", "e22", "e23"]
    assert names(slot.layout.data, "--lines", "0") == []
    assert names(slot.layout.data, "--lines", "50") == [f"e{number}" for number in range(24)]
    with tailing(slot.layout.data, "--lines", "1") as tail:
        assert tail.name() == "e23"
        slot.commit("next")
        slot.seal()
        slot.commit("over")
        assert tail.names(2) == ["next", "over"]
        assert tail.end() == 0


def test_without_anything_to_show_it_ends_or_waits(tmp_path: Path) -> None:
    done = edge("tail", "--no-follow", "--data", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "edge tail: nothing was accepted here yet\n")
    slot = Slot(tmp_path / "data")
    slot.commit("old")
    with tailing(slot.layout.data, "--lines", "0") as tail:
        while not select.select([tail.stdout], [], [], 0.05)[0]:
            slot.commit("new")
        assert tail.name() == "new"


# --- which, and how


def test_filters_choose_events_before_and_behind(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "data")
    slot.commit("a", "b")
    slot.commit("a", token="phc_y")
    data = slot.layout.data
    assert names(data, "--token", "phc_y", "--lines", "1") == ["a"]
    assert names(data, "--token", "phc_x") == ["a", "b"]
    assert names(data, "--event", "b", "--event", "c") == ["b"]
    stored = [json.loads(line) for line in edge("segments", "cat", "--events", "--data", data).stdout.splitlines()]
    done = edge("tail", "--no-follow", "--json", "--data", data, "--uuid", stored[1]["uuid"].upper())
    assert [json.loads(line) for line in done.stdout.splitlines()] == [stored[1]]
    with tailing(data, "--token", "phc_y", "--event", "a", "--event", "z", "--lines", "1") as tail:
        assert tail.line().split("  ")[1:3] == ["phc_y", "a"]
        slot.commit("a", "z")
        slot.commit("y", "z", token="phc_y")
        assert tail.line().split("  ")[1:3] == ["phc_y", "z"]
        assert tail.end() == 0


def test_a_sample_is_the_same_events_everywhere(tmp_path: Path) -> None:
    uuids = [f"018a981f-4b35-7c66-825e-8b0eeae6{number:04x}" for number in range(100)]
    slot, other = Slot(tmp_path / "data"), Slot(tmp_path / "data", 1)
    for each, some in ((slot, uuids[:50]), (other, uuids[50:])):
        for uuid in some:
            each.commit("e", body=json.dumps({"event": uuid, "distinct_id": "u", "uuid": uuid}).encode())
    expected = [uuid for uuid in uuids if in_sample(uuid, 4)]
    assert names(slot.layout.data, "--sample", "4", "--lines", "100") == expected
    assert names(slot.layout.data, "--sample", "1", "--lines", "100") == uuids


def test_what_is_dropped_is_told_with_its_reasons_where_it_may_be_meant(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    body = b'{"batch":[{"event":"a","distinct_id":"u"},{"event":"","distinct_id":"u"},{"event":"b"},{"event":"c"}]}'
    slot.commit("odd", body=body, path="batch", token="phc_y")

    def printed(*words: str) -> list[str]:
        done = edge("tail", "--no-follow", "--data", tmp_path, *words)
        assert done.returncode == 0
        return done.stdout.splitlines()

    event = "2025-11-21T01:53:20Z  phc_y  a  u  {}"
    drop = f"dropped no_event_name 1, no_distinct_id 2  2025-11-21T01:53:20Z  phc_y  batch  {body.decode()}"
    assert printed() == printed("--token", "phc_y") == [event, drop]
    assert printed("--lines", "1") == [drop]
    assert printed("--event", "a") == [event]
    assert printed("--token", "phc_x") == []
    assert [json.loads(line)["event"] for line in printed("--json")] == ["a"]


def test_json_is_what_is_shipped(tmp_path: Path) -> None:
    Slot(tmp_path).commit(
        "a", "b", body=b'{"event":"a","distinct_id":"u","properties":{"b":1e999},"$set":{"x":[1, 2]}}'
    )
    cat = edge("segments", "cat", "--events", "--data", tmp_path)
    tail = edge("tail", "--no-follow", "--json", "--data", tmp_path)
    assert tail.stdout == cat.stdout != ""


def in_terminal(columns: int, *words: str | Path) -> bytes:
    """What one of so many columns is sent."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        env = environment()
        env.pop("COLUMNS", None)
        command = [sys.executable, "-m", "edge", "tail", "--no-follow", "--data", *map(str, words)]
        assert subprocess.run(command, stdout=slave, timeout=60, env=env).returncode == 0
        assert select.select([master], [], [], PATIENCE_S)[0]
        return os.read(master, 1 << 16)
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_gets_lines_of_its_width_and_nothing_it_obeys(tmp_path: Path) -> None:
    Slot(tmp_path).commit(
        "e",
        body='{"event":"\\u001b[2Ja","distinct_id":"u\\u0007\u009b","properties":{"x":"\u009b31m日本語日本語日本語"}}'.encode(),
    )
    head = r"2025-11-21T01:53:20Z  phc_x  \u001b[2Ja  u\u0007\u009b  "
    assert in_terminal(len(head) + 20, tmp_path).decode() == head + '{"x":"\\u009b31m日本…\r\n'
    whole = edge("tail", "--no-follow", "--data", tmp_path).stdout
    assert whole == head + '{"x":"\\u009b31m日本語日本語日本語"}\n'


# --- what cannot be read


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_damage_is_told_once_and_read_around(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "data")
    slot.commit("lost")
    end = slot.files[0].stat().st_size
    slot.commit("a")
    slot.seal()
    flip(slot.files[0], 48 + 60)
    slot.files[0].write_bytes(slot.files[0].read_bytes() + b"torn")
    size = slot.files[0].stat().st_size
    lines = [
        f"edge tail: segment 000000000001-000000000000abc1: bytes {start} to {stop} are damaged and skipped\n"
        for start, stop in ((size - 4, size), (48, end))
    ]
    before = files(slot)
    done = edge("tail", "--no-follow", "--json", "--data", slot.layout.data)
    assert (done.returncode, done.stderr) == (65, "".join(lines))
    assert name_of(done.stdout) == "a"
    with tailing(slot.layout.data) as tail:
        assert tail.name() == "a"
        assert before == files(slot)
        slot.commit("b")
        assert tail.name() == "b"
        assert tail.told() == "".join(lines)
        assert tail.end() == 0


def test_a_segment_that_cannot_be_opened_is_told_and_hides_no_other(tmp_path: Path) -> None:
    slot, other = Slot(tmp_path / "data"), Slot(tmp_path / "data", 1)
    slot.commit("a")
    slot.seal()
    path = slot.directory / "000000000001-ffffffffffffffff.zst"
    directory = os.open(slot.directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/{path.name}")
        done = edge("tail", "--no-follow", "--json", "--data", slot.layout.data)
        assert (done.returncode, name_of(done.stdout)) == (74, "a")
        told = f"edge tail: slot 00 cannot be read: [Errno 6] No such device or address: '{path}'\n"
        assert done.stderr == told
        with tailing(slot.layout.data) as tail:
            assert tail.name() == "a"
            other.commit("beside")
            assert tail.name() == "beside"
            slot.commit("behind")
            assert tail.name() == "behind"
            *_, last = tail.told().splitlines()
            assert tail.told().startswith(told)
            assert last.startswith(
                f"edge tail: segment {path.name.removesuffix('.zst')} cannot be opened, it is passed"
            )
            assert len(tail.told().splitlines()) == 2
            assert tail.end() == 0
    assert path.exists()
    os.close(directory)


# --- what cannot be done


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--sample 0", "--sample: expected a whole number above zero, found '0'"),
        ("--sample 1.5", "--sample: expected a whole number above zero, found '1.5'"),
        ("--lines=-1", "--lines: expected a whole number, found '-1'"),
        ("--lines ten", "--lines: expected a whole number, found 'ten'"),
    ],
)
def test_a_number_that_is_none_is_status_78(words: str, told: str, tmp_path: Path) -> None:
    done = edge("tail", "--no-follow", "--data", tmp_path, *words.split())
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"edge tail: {told}\n")
