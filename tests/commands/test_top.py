import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import pytest

from tests.commands.test_admin_port import answering, http
from tests.server.running import PATIENCE_S, Server, edge, environment, running, wait_until

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
BATCH = (
    b'{"api_key":"phc_x","batch":[{"event":"a","distinct_id":"d"},{"event":"b","distinct_id":"d"},{"distinct_id":"d"}]}'
)

ENTER = b"\x1b[?1049h\x1b[?25l"
LEAVE = b"\x1b[?25h\x1b[?1049l"


def post(body: bytes) -> bytes:
    return b"POST /batch/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def address(admin: tuple[str, int]) -> str:
    return f"{admin[0]}:{admin[1]}"


@contextmanager
def objects(*words: str, env: dict[str, str] | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """What `edge top --json` prints, line by line; the first comes when the first reading is long done."""
    command = [sys.executable, "-m", "edge", "top", "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(env), text=True) as process:
        assert process.stdout is not None
        try:
            yield map(json.loads, lines(process.stdout))
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.close()
        assert process.wait(PATIENCE_S) == 0


def lines(stream: IO[str]) -> Iterator[str]:
    deadline = time.monotonic() + PATIENCE_S
    while line := stream.readline():
        assert time.monotonic() < deadline, f"expected something else than {line}"
        yield line


# --- numbers


def test_what_was_sent_is_what_is_told(tmp_path: Path) -> None:
    """All counts, over as many intervals as it takes to count them; none is counted twice."""
    sent = 12
    wanted = {
        "requests": 3.0 * sent,
        "events": 4.0 * sent,
        "body_bytes": float((len(EVENT) + len(BATCH) + len(b"{")) * sent),
        "refused": {"bad_json": float(sent)},
        "commits": 2.0 * sent,
        "shipped": 3.0 * sent,
        "dropped": 1.0 * sent,
        "dropped_by_cause": {"no_event_name": float(sent)},
    }
    found: dict[str, Any] = {name: {} if isinstance(value, dict) else 0.0 for name, value in wanted.items()}
    with running(tmp_path, verb="up") as server:
        assert server.ask(post(EVENT)).status == 200
        wait_until(lambda: grown(server, "http_requests_total", 'outcome="shipped"') == 2, "one is counted by all")
        with objects("--admin", address(server.admin), "--interval", "0.3s") as frames:
            assert next(frames)["admin"]["interval_s"] is not None
            for _ in range(sent):
                assert server.ask(post(EVENT)).status == 200
                assert server.ask(post(BATCH)).status == 200
                assert server.ask(post(b"{")).status == 400
            quiet = 0
            for frame in frames:
                counted = counts(frame)
                for name, value in counted.items():
                    if isinstance(value, dict):
                        for cause, count in value.items():
                            found[name][cause] = found[name].get(cause, 0.0) + count
                    else:
                        found[name] += value
                quiet = quiet + 1 if found["shipped"] + found["dropped"] >= 4 * sent else 0
                if quiet == 3:
                    break
    assert {name: value if isinstance(value, dict) else round(value, 6) for name, value in found.items()} == wanted


def grown(server: Server, *parts: str) -> float:
    """The sum of the samples that have one of these in their name."""
    return sum(value for name, value in server.metrics().items() if any(part in name for part in parts))


def counts(frame: dict[str, Any]) -> dict[str, Any]:
    """Rates times their interval."""
    interval_s = frame["admin"]["interval_s"]
    traffic, (sink,) = frame["traffic"], frame["sinks"]

    def times(rates: dict[str, float]) -> dict[str, float]:
        return {cause: round(rate * interval_s, 6) for cause, rate in rates.items()}

    return {
        "requests": traffic["requests_per_s"] * interval_s,
        "events": traffic["events_per_s"] * interval_s,
        "body_bytes": traffic["body_bytes_per_s"] * interval_s,
        "refused": times(traffic["refused_by_cause_per_s"]),
        "commits": frame["disk"]["commits_per_s"] * interval_s,
        "shipped": sink["shipped_per_s"] * interval_s,
        "dropped": traffic["dropped_events_per_s"] * interval_s,
        "dropped_by_cause": times(traffic["dropped_events_by_cause_per_s"]),
    }


class Relay:
    """Stands before an admin port; lets its caller do something between two readings."""

    def __init__(self, admin: tuple[str, int], before: Callable[[int], None]) -> None:
        self._admin = admin
        self._before = before
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Wakes the thread from waiting for a connection.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listening.close()

    def _run(self) -> None:
        with suppress(OSError):
            for number in range(1_000_000):
                client, _ = self._listening.accept()
                with client, socket.create_connection(self._admin, PATIENCE_S) as server:
                    self._before(number)
                    server.sendall(client.recv(1 << 16))
                    # The server closes a connection when no more will be asked.
                    server.shutdown(socket.SHUT_WR)
                    while piece := server.recv(1 << 16):
                        client.sendall(piece)


def test_one_frame_tells_what_happened_between_its_two_readings(tmp_path: Path) -> None:
    with running(tmp_path, verb="up", workers=1) as server:
        clients = [server.connect() for _ in range(3)]

        def send(number: int) -> None:
            if number % 2:
                before = grown(server, "http_requests_total", "edge_fsync_duration_seconds_count")
                for _ in range(8):
                    assert clients[0].ask(post(EVENT)).status == 200
                after = before + 16
                wait_until(
                    lambda: grown(server, "http_requests_total", "edge_fsync_duration_seconds_count") == after,
                    "it is counted",
                )
            wait_until(lambda: server.metrics()['edge_connections{worker="0"}'] == 3, "the connections are counted")

        with Relay(server.admin, send) as relay:
            words = ("top", "--admin", relay.address, "--once", "--interval", "100ms")
            done = edge(*words, "--json")
            assert (done.returncode, done.stderr) == (0, "")
            (line,) = done.stdout.splitlines()
            frame = json.loads(line)
            text = edge(*words)
            assert (text.returncode, text.stderr) == (0, "")
        for client in clients:
            client.socket.close()
    interval_s = frame["admin"]["interval_s"]
    assert frame["admin"]["address"] == relay.address
    assert frame["traffic"]["requests_per_s"] * interval_s == pytest.approx(8)
    assert frame["traffic"]["events_per_s"] * interval_s == pytest.approx(8)
    assert frame["disk"]["commits_per_s"] * interval_s == pytest.approx(8)
    assert frame["disk"]["records_per_commit"] == 1
    assert frame["traffic"]["connections"] == 3
    assert [(worker["worker"], worker["connections"]) for worker in frame["traffic"]["workers"]] == [(0, 3)]
    assert 0 < frame["traffic"]["answer_p50_s"] <= frame["traffic"]["answer_p99_s"]
    assert frame["disk"]["fsync_p99_s"] > 0
    assert frame["disk"]["spool_bytes"] > 0
    shown = [" ".join(line.split()) for line in text.stdout.splitlines()]
    assert shown[0].startswith(f"edge {frame['admin']['version']} at {relay.address}, rates, p50 and p99 are of ")
    assert "worker 0 3 open, 0 B in flight" in shown
    assert any(re.fullmatch(r"file-[0-9a-f]+… [0-9.]+ 0.00 0.00 0 no \d+ s 0", line) for line in shown)
    assert any(re.search(r"^answers p50 [0-9.]+ ms answers p99 [0-9.]+ ms", line) for line in shown)
    assert "\x1b" not in text.stdout


def test_a_drainer_with_an_address_of_its_own_is_asked_there(tmp_path: Path) -> None:
    with running(tmp_path, workers=1) as server:
        command = [sys.executable, "-m", "edge", "drain", "--data", str(server.data), "--admin", "127.0.0.1:0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(), text=True) as drainer:
            assert drainer.stderr is not None
            try:
                line = next(line for line in lines(drainer.stderr) if line.startswith("admin on http://"))
                settings = tmp_path / "edge.toml"
                settings.write_text(f'admin = "{address(server.admin)}"\ndrain_admin = "127.0.0.1:1"\n')
                env = {"EDGE_DRAIN_ADMIN": line.removeprefix("admin on http://").strip()}
                with objects("--config", str(settings), "--interval", "0.2s", env=env) as frames:
                    next(frames)
                    for _ in range(5):
                        assert server.ask(post(BATCH)).status == 200
                    shipped = dropped = accepted = 0.0
                    while round(shipped) < 10 or round(dropped) < 5 or round(accepted) < 15:
                        frame = next(frames)
                        (sink,) = frame["sinks"]
                        interval_s = frame["drain_admin"]["interval_s"]
                        shipped += sink["shipped_per_s"] * interval_s
                        dropped += (
                            frame["traffic"]["dropped_events_by_cause_per_s"].get("no_event_name", 0) * interval_s
                        )
                        accepted += frame["traffic"]["events_per_s"] * frame["admin"]["interval_s"]
                assert (round(shipped), round(dropped), round(accepted)) == (10, 5, 15)
                assert frame["drain_admin"]["address"] == env["EDGE_DRAIN_ADMIN"]
                done = edge("top", "--config", settings, "--once", "--interval", "100ms")
                assert (done.returncode, done.stdout) == (69, "")
                assert done.stderr == "edge top: no answer from 127.0.0.1:1: Connection refused\n"
            finally:
                drainer.send_signal(signal.SIGTERM)
            drainer.stderr.read()
            assert drainer.wait(PATIENCE_S) == 0


def test_a_drainer_that_the_edge_tells_of_is_asked_nowhere_else(tmp_path: Path) -> None:
    with running(tmp_path, verb="up") as server:
        words = ("--admin", address(server.admin), "--drain-admin", "127.0.0.1:1")
        done = edge("top", *words, "--once", "--interval", "100ms", "--json")
        assert done.returncode == 0
        frame = json.loads(done.stdout)
        assert frame["drain_admin"] is None
        assert len(frame["sinks"]) == 1


# --- nothing answers


def test_an_edge_that_is_replaced_and_restarted_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        admin = address(chosen.getsockname())
    with objects("--admin", admin, "--interval", "0.2s") as frames:
        frame = next(frames)
        assert frame["admin"]["why"] == "Connection refused"
        since_s = frame["admin"]["unanswered_since_s"]
        assert since_s <= frame["time_s"]
        assert next(frames)["admin"]["unanswered_since_s"] == since_s
        assert (frame["traffic"]["requests_per_s"], frame["traffic"]["connections"], frame["sinks"]) == (None, None, [])
        # The second one has fewer to tell of than the first.
        for times, events_per_s in ((9, None), (4, 0.0)):
            with running(tmp_path, "--admin", admin, verb="up") as server:
                while frame["admin"]["unanswered_since_s"] is not None:
                    frame = next(frames)
                assert frame["traffic"]["events_per_s"] == events_per_s
                server.signal(signal.SIGHUP)
                events = 0.0
                for _ in range(times):
                    assert server.ask(post(EVENT)).status == 200
                while round(events) < times:
                    frame = next(frames)
                    assert frame["admin"]["unanswered_since_s"] is None
                    events += (frame["traffic"]["events_per_s"] or 0.0) * (frame["admin"]["interval_s"] or 0.0)
                assert round(events) == times
                assert server.stop() == 0
            while frame["admin"]["unanswered_since_s"] is None:
                frame = next(frames)


OTHERS = {
    "a page": (http(b"<html>\n"), "no metrics, expected a name, labels and a number, found '<html>'"),
    "other metrics": (http(b"up 1\n"), "expected the metrics of edge, found others"),
    "no page": (http(b"", b"404 Not Found"), "expected status 200 for /metrics, found 404"),
    "not text": (http(b"\xff\n"), "no metrics, 'utf-8' codec can't decode"),
    "half": (http(b"edge_build_info 1\n" * 2)[:-18], "expected the whole answer, of at most 16777216 bytes, found 18"),
    "not HTTP": (b"SSH-2.0-\x1b[2Jx\r\n", "SSH-2.0- [2Jx\n"),
    "nothing": (b"", "Remote end closed connection without response"),
}


@pytest.mark.parametrize(("answer", "why"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_edge_is_status_69_with_its_address(answer: bytes, why: str) -> None:
    with answering(answer) as other:
        done = edge("top", "--once", "--admin", str(other))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith(f"edge top: no answer from {other}: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_that_is_none_is_status_69() -> None:
    done = edge("top", "--once", "--admin", "a..b:80")
    assert done.returncode == 69
    assert done.stderr.startswith("edge top: no answer from a..b:80: ")


# --- usage


def test_without_a_terminal_one_is_asked_for() -> None:
    done = edge("top")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "edge top: expected a terminal to draw on, or --once or --json\n"


@pytest.mark.parametrize("interval", ["0", "soon", "10ms", "2h", "-1s"])
def test_an_interval_is_a_time_within_reason(interval: str) -> None:
    done = edge("top", "--once", f"--interval={interval}")
    assert done.returncode == 2
    assert f"expected a time from 100ms to 1h such as 2s, found '{interval}'" in done.stderr


@pytest.mark.parametrize("flag", ["--admin", "--drain-admin"])
def test_a_port_to_be_chosen_cannot_be_asked(flag: str) -> None:
    done = edge("top", "--once", flag, "127.0.0.1:0")
    assert done.returncode == 78
    key = flag.removeprefix("--").replace("-", "_")
    assert done.stderr == f"edge top: {key}: expected the port that was printed at the start, found 127.0.0.1:0\n"


def test_every_object_is_written_at_once_until_the_reader_has_seen_enough(tmp_path: Path) -> None:
    printed: list[bool] = []
    processes: list[subprocess.Popen[bytes]] = []

    def look(number: int) -> None:
        if number in (2, 3, 4):
            # It waits for this reading, and has told of those before.
            stdout = processes[0].stdout
            assert stdout is not None
            printed.append(
                bool(select.select([stdout], [], [], 0)[0]) and os.read(stdout.fileno(), 1 << 16).count(b"\n") == 1
            )
            if number == 4:
                stdout.close()

    with running(tmp_path) as server, Relay(server.admin, look) as relay:
        command = [sys.executable, "-m", "edge", "top", "--json", "--interval", "0.1s", "--admin", relay.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            processes.append(process)
            assert process.stderr is not None
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr.read() == b""
    assert printed == [True, True, True]


# --- the terminal


class Terminal:
    """A real one, with a program on it."""

    def __init__(self, command: Sequence[str], rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**environment(), "COLUMNS": "", "LINES": ""}
        )
        os.close(slave)
        self.output = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def wait_for(self, pattern: bytes, *, nudge: Callable[[], None] = lambda: None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.output, re.DOTALL):
            assert time.monotonic() < deadline, f"expected {pattern!r}, found {self.output!r}"
            nudge()
            if select.select([self._master], [], [], 0.05)[0]:
                self.output += os.read(self._master, 1 << 16)

    def wait(self) -> int:
        """The exit status, when everything is read."""
        with suppress(OSError):
            # The end of a terminal that nobody has open is an error.
            while piece := os.read(self._master, 1 << 16):
                self.output += piece
        return self.process.wait(PATIENCE_S)


def top(*words: str) -> list[str]:
    return [sys.executable, "-m", "edge", "top", "--interval", "0.2s", *words]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_terminal_is_restored(number: signal.Signals, status: int, tmp_path: Path) -> None:
    with running(tmp_path, verb="up") as server, Terminal(top("--admin", address(server.admin))) as terminal:
        # Drawn in place, until rates are known.
        terminal.wait_for(rb"no rates yet.*\x1b\[H\x1b\[K.*rates, p50 and p99.*imbal.*\x1b\[H")
        terminal.process.send_signal(number)
        assert terminal.wait() == status
    assert terminal.output.startswith(ENTER)
    assert terminal.output.endswith(LEAVE)
    assert terminal.output.count(LEAVE) == 1
    assert b"Traceback" not in terminal.output


def test_a_frame_is_cut_to_the_window(tmp_path: Path) -> None:
    with running(tmp_path) as server, Terminal(top("--admin", address(server.admin)), rows=5, columns=40) as terminal:
        terminal.wait_for(rb"\x1b\[H.*\x1b\[H")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 0
    frame = terminal.output.split(b"\x1b[H")[1]
    shown = [line.replace(b"\x1b[K", b"") for line in re.split(rb"\r+\n", frame)]
    assert len(shown) == 5
    assert max(map(len, shown)) == 40
    assert re.match(rb"\.\.\. \d+ more lines", shown[-1])


def test_a_terminal_is_told_since_when_nothing_answers() -> None:
    with Terminal(top("--admin", "127.0.0.1:1")) as terminal:
        told = rb"127\.0\.0\.1:1 does not answer since (\S+ \S+) UTC: Connection"
        terminal.wait_for(told + rb".*\x1b\[H.*" + told)
        assert len(set(re.findall(told, terminal.output))) == 1
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 0
    assert terminal.output.endswith(LEAVE)


def test_a_terminal_is_restored_after_a_fault() -> None:
    program = "from edge.commands.top import screen\nwith screen():\n    print('drawn', flush=True)\n    1 / 0"
    with Terminal([sys.executable, "-c", program]) as terminal:
        assert terminal.wait() == 1
    assert re.search(
        re.escape(ENTER) + rb".*drawn.*" + re.escape(LEAVE) + rb".*ZeroDivisionError", terminal.output, re.DOTALL
    )


def test_a_stopped_program_leaves_the_screen_to_the_shell() -> None:
    with Terminal(top("--admin", "127.0.0.1:1")) as terminal:
        terminal.wait_for(rb"does not answer")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.wait_for(re.escape(LEAVE))
        # It may not have stopped yet when it is told to go on.
        terminal.wait_for(
            re.escape(LEAVE) + re.escape(ENTER) + rb".*does not answer",
            nudge=lambda: terminal.process.send_signal(signal.SIGCONT),
        )
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 0
    assert terminal.output.count(LEAVE) == 2
    assert terminal.output.endswith(LEAVE)
