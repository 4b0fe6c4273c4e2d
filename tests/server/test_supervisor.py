"""The whole tree of processes, driven by signals."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from edge.layout import Layout
from edge.metrics import Board
from edge.notation import Address
from edge.process import SIGNALS, Child, Lifeline
from edge.segment.name import State
from edge.server.supervisor import Job, Supervisor, listen, try_to_bind
from edge.spool.inspect import all_segments
from tests.server.running import (
    PATIENCE_S,
    Client,
    Server,
    command_line,
    descendants,
    edge,
    environment,
    is_running,
    running,
    wait_until,
)

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
POST = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)
READINESS = b"GET /_readiness HTTP/1.1\r\nHost: h\r\n\r\n"


class Slow(msgspec.Struct):
    """What takes its time by design, begun before the first test and looked at by one of them."""

    first: Server
    second: "subprocess.Popen[str]"
    """An instance on the first one's data folder."""
    stuck: Server
    """Told to stop, while a client has sent half a request."""
    client: Client


@pytest.fixture(scope="module", autouse=True)
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    folder = tmp_path_factory.mktemp("slow")
    with running(folder / "first") as first, running(folder / "stuck") as stuck:
        free_slot(first)
        command = [sys.executable, "-m", "edge", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        second = subprocess.Popen(
            [*command, "--workers", "1", "--data", str(first.data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        with second, stuck.connect() as client:
            client.send(POST[:-1])
            stuck.signal(signal.SIGTERM)
            yield Slow(first, second, stuck, client)
            second.kill()


def free_slot(server: Server) -> None:
    """Slot 0 is nobody's, as behind every other HUP."""
    server.signal(signal.SIGHUP)
    wait_until(lambda: "is replaced" in server.log_text(), "the worker has the other slot")
    (old, _) = server.workers()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not is_running(old), "the old worker has left its slot")


@pytest.fixture
def signals() -> Iterator[None]:
    """A supervisor blocks signals in the process it is made in."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def states(server: Server) -> list[State]:
    return [file.state for file in all_segments(Layout(server.data))]


# --- starting


def test_a_second_instance_on_a_data_folder_gives_up_and_says_why(slow: Slow) -> None:
    out, error = slow.second.communicate(timeout=PATIENCE_S)
    assert slow.second.returncode == 75
    assert out == ""
    in_use = f"{slow.first.data} is in use by process {slow.first.process.pid}"
    assert f"{in_use}, which is given 10 s to end" in error
    assert f'{in_use}"' in error
    assert slow.first.ask(POST).status == 200


def test_an_instance_waits_for_one_that_is_stopping(tmp_path: Path) -> None:
    with running(tmp_path) as first, first.connect() as client:
        client.send(POST[:-1])
        first.signal(signal.SIGTERM)
        wait_until(lambda: first.get_admin("/_readiness").status == 503, "it is stopping")
        # The client's request ends when the second one is waiting.
        with ThreadPoolExecutor(1) as threads:
            starting = threads.submit(Server, tmp_path)
            wait_until(lambda: "is given 10 s to end" in first.log_text(), "the second one waits")
            client.send(POST[-1:])
            assert client.answer().status == 200
            second = starting.result(PATIENCE_S)
        try:
            assert first.wait() == 0
            assert second.ask(POST).status == 200
            assert second.stop() == 0
            assert len(second.records()) == 2
        finally:
            second.kill()


def test_an_instance_starts_at_once_behind_one_that_was_killed(tmp_path: Path) -> None:
    """Whose workers are orphans for a moment, and hold their slots."""
    with running(tmp_path) as first, first.connect() as client:
        (orphan,) = first.workers()
        assert client.ask(POST).status == 200
        first.process.kill()
        first.process.wait()
        with running(tmp_path) as second:
            assert second.ask(POST).status == 200
            wait_until(lambda: not is_running(orphan), "the orphan has ended")
            assert f"{first.data} is in use" not in second.log_text()
            assert second.stop() == 0
            assert len(second.records()) == 2


@pytest.mark.parametrize("shared", [False, True], ids=["by another program", "by another edge"])
def test_a_port_in_use_is_an_error(tmp_path: Path, shared: bool) -> None:
    with socket.socket() as taken:
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = ("--admin", "127.0.0.1:0", "--data", tmp_path / "data")
        done = edge("serve", "--listen", f"127.0.0.1:{port}", *free)
        assert done.returncode == 75
        assert f"edge: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_an_admin_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = edge("serve", "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{port}", "--data", tmp_path / "data")
    assert done.returncode == 75
    assert f"cannot listen on 127.0.0.1:{port} for the admin port" in done.stderr


def test_a_data_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    free = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1")
    done = edge("serve", *free, "--data", tmp_path / "file" / "data")
    assert done.returncode == 74
    assert f"{tmp_path}/file/data cannot be used: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def test_sockets_share_a_port(host: str) -> None:
    sockets = listen(Address(host, 0), 3)
    try:
        assert len({bound.getsockname()[1] for bound in sockets}) == 1
        assert len({bound.fileno() for bound in sockets}) == 3
    finally:
        for bound in sockets:
            bound.close()


def test_connections_that_end_leave_the_port_free_for_the_next_instance(tmp_path: Path) -> None:
    with running(tmp_path / "first") as first:
        # The side that closes first keeps the port in TIME_WAIT.
        with first.connect() as client:
            client.ask(POST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            assert client.is_closed()
        assert first.stop() == 0
        port = first.address[1]
    with running(tmp_path / "second", listen=f"127.0.0.1:{port}") as second:
        assert second.address[1] == port
        assert second.ask(POST).status == 200


# --- restarting


def test_a_killed_worker_is_started_again_and_no_connection_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert server.ask(POST).status == 200
        assert server.ask(POST).status == 200
        (killed,) = server.workers()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not is_running(killed), "the worker is gone")
        # They wait in the socket's queue until somebody takes them.
        clients = [server.connect() for _ in range(20)]
        try:
            for client in clients:
                client.send(POST)
            assert [client.answer().status for client in clients] == [200] * 20
        finally:
            for client in clients:
                client.socket.close()
        (started,) = server.workers()
        assert started != killed
        assert len(server.records()) == 22
        assert {path.name for path in (server.data / "spool").iterdir()} == {"slot-00"}
        metrics = server.metrics()
        assert metrics["edge_worker_restarts_total"] == 1
        assert metrics["edge_recovered_segments_total"] == 1
        # Counters go on where the dead worker's ended; what it had counted since the last tick is lost.
        assert metrics["capture_events_ingested_total"] == 22


def test_a_worker_that_dies_before_it_works_leaves_no_descriptor_behind(signals: None) -> None:
    def start(turn: int) -> Child:
        return Child("dying", "this_module_does_not_exist", msgspec.defstruct("Spec", [])(), [])

    job = Job("dying", start, critical=True)
    supervisor = Supervisor([job], Board.create(1), Lifeline())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        job.child = start(0)
        job.child.process.wait()
        supervisor._restart_the_dead()
    assert job.failures == 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_that_cannot_be_started_is_tried_again_later(signals: None) -> None:
    def start(turn: int) -> Child:
        raise BlockingIOError("no more processes")

    job = Job("worker-0", start, critical=True)
    supervisor = Supervisor([job], Board.create(1), Lifeline())
    supervisor._restart_the_dead()
    assert job.child is None
    assert job.due_s > 0
    assert supervisor.alive() == {"worker-0": False}
    assert supervisor.pids() == {}


# --- replacing


def test_workers_are_replaced_one_after_the_other_and_no_connection_notices(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server, server.connect() as kept, server.connect() as half:
        assert kept.ask(POST).status == 200
        half.send(POST[:-5])
        for turn in (1, 2):
            before = server.workers()
            server.signal(signal.SIGHUP)
            wait_until(lambda turn=turn: server.log_text().count("is replaced") == 2 * turn, "both are replaced")  # type: ignore[misc]
            assert not set(before) & set(server.workers()[-2:])
            for _ in range(4):
                with server.connect() as client:
                    assert client.ask(READINESS).status == 200
                    # One that an old worker accepted before it was told may be closed with its answer.
                    assert client.ask(POST).status == 200
            assert server.get_admin("/_readiness").status == 200
            if kept.socket.fileno() >= 0:
                # An old worker says that this is the end, and not that it is not ready.
                assert kept.ask(READINESS).status == 200
                assert kept.is_closed()
                half.send(POST[-5:])
                answer = half.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert half.is_closed()
                kept.socket.close()
            wait_until(lambda: len(server.workers()) == 2, "the old workers have ended")
            for _ in range(4):
                with server.connect() as client:
                    assert "connection" not in client.ask(READINESS).headers
        assert {path.name for path in (server.data / "spool").iterdir()} == {f"slot-{slot:02d}" for slot in range(4)}
        assert server.metrics()["edge_worker_restarts_total"] == 0
        assert server.metrics()["capture_events_ingested_total"] == 10
        assert server.get_admin("/_liveness").status == 200
        assert server.stop() == 0
        assert len(server.records()) == 10
        assert set(states(server)) == {State.SEALED}


def test_a_stop_ends_the_old_workers_and_the_new(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.connect() as idle:
        assert idle.ask(POST).status == 200
        (old,) = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(lambda: set(server.workers()) - {old} != set(), "the successor runs")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not descendants(server.process.pid)
        assert idle.is_closed()
        assert len(server.records()) == 1


def test_a_worker_whose_successor_does_not_start_goes_on(signals: None, caplog: pytest.LogCaptureFixture) -> None:
    """The new program may be broken: the old one is running."""
    spec = msgspec.defstruct("Spec", [])()

    def start(turn: int) -> Child:
        return Child("worker-0", "this_module_does_not_exist" if turn else "http.server", spec, [])

    job = Job("worker-0", start, critical=True)
    supervisor = Supervisor([job], Board.create(1), Lifeline())
    job.child = old = start(0)
    supervisor._replaced = [job]
    supervisor._replace()
    assert supervisor._successor is not None
    supervisor._successor[1].process.wait()
    supervisor._replace()
    assert (job.child, job.turn, job.leaving) == (old, 0, None)
    assert not supervisor._replacing
    assert "worker-0 is not replaced" in caplog.text
    old.process.kill()
    old.process.wait()
    old.close()


# --- stopping


def test_requests_under_way_are_finished_and_everything_is_sealed(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        with server.connect() as early, server.connect() as late, server.connect() as probe, server.connect() as idle:
            assert [client.ask(POST).status for client in (early, late, probe, idle)] == [200] * 4
            early.send(POST[:-5])
            late.send(POST[:5])
            assert probe.ask(READINESS).status == 200
            server.signal(signal.SIGTERM)
            wait_until(lambda: probe.ask(READINESS).status == 503, "the worker stops")
            assert probe.is_closed()
            assert server.get_admin("/_readiness").status == 503
            assert server.get_admin("/_liveness").status == 200
            with pytest.raises(ConnectionRefusedError):
                server.connect()
            early.send(POST[-5:])
            answer = early.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert early.is_closed()
            # Only the last of several says that it is the last.
            late.send(POST[5:] + POST + POST)
            answers = [late.answer() for _ in range(3)]
            assert [answer.status for answer in answers] == [200] * 3
            assert ["connection" in answer.headers for answer in answers] == [False, False, True]
            assert late.is_closed()
            assert idle.is_closed()
        assert server.wait() == 0
        assert len(server.records()) == 8
        assert states(server) == [State.SEALED]


def test_a_request_that_does_not_end_is_refused_in_the_end(slow: Slow) -> None:
    answer = slow.client.answer()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert slow.client.is_closed()
    assert slow.stuck.wait() == 0
    assert slow.stuck.records() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, workers=2) as server:
        with server.connect() as client:
            assert client.ask(POST).status == 200
        server.signal(number)
        assert server.wait() == 0
        assert states(server) == [State.SEALED]
        assert len(server.records()) == 1
        assert not descendants(server.process.pid)


@pytest.mark.parametrize("module", ["edge.server.worker", "edge.drain.process"])
def test_a_process_that_is_told_to_stop_once_more_while_it_ends_has_ended_well(tmp_path: Path, module: str) -> None:
    """As a worker is that was replaced just before everything stops."""
    with running(tmp_path, verb="up") as server:
        assert server.ask(POST).status == 200
        (pid,) = [pid for pid in descendants(server.process.pid) if module in command_line(pid)]
        server.signal(signal.SIGTERM)
        while is_running(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        assert server.wait() == 0


def takes_signals(task: Path) -> bool:
    """The thread could be given a signal that is meant for its process."""
    lines = (task / "status").read_text().splitlines()
    blocked = int(dict(line.split(":\t", 1) for line in lines if ":\t" in line)["SigBlk"], 16)
    return not all(blocked >> (number - 1) & 1 for number in SIGNALS)


def test_a_signal_meets_no_thread_that_would_end_the_process(tmp_path: Path) -> None:
    """While the main thread does not wait for signals, or ends, any other could be given one."""
    with running(tmp_path, verb="up") as server:
        pids = [server.process.pid, *descendants(server.process.pid)]
        assert len(pids) == 3

        def are_safe() -> bool:
            # Their other threads have begun, which block signals first of all.
            threads = [[task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)] for pid in pids]
            return all(threads) and not any(takes_signals(task) for tasks in threads for task in tasks)

        wait_until(are_safe, "the threads of all processes leave signals to the main one")


def test_workers_end_by_themselves_without_their_supervisor(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server:
        for _ in range(10):
            assert server.ask(POST).status == 200
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(map(is_running, workers)), "the workers are gone")
        assert set(states(server)) == {State.SEALED}
        assert len(server.records()) == 10


def test_an_address_is_tried_and_left_as_it_was() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            try_to_bind(address)
    try_to_bind(address)
    try_to_bind(Address("::1", 0))
    for bound in listen(address, 2):
        bound.close()
    with pytest.raises(OSError, match="assign"):
        try_to_bind(Address("192.0.2.1", 0))
