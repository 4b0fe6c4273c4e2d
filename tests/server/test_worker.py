"""One worker: its slot, its loop, its end. All of it in the real process."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.layout import SPARE_NAME, Layout
from edge.segment.name import State
from edge.server import worker
from edge.server.worker import WorkerSpec
from edge.spool.inspect import all_segments
from edge.spool.spare import ROOM_BYTES_MIN
from tests.server.running import Server, running, wait_until

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
POST = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)


def test_every_worker_writes_a_slot_of_its_own(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server:
        sent = 0
        while len({file.slot for file in all_segments(Layout(server.data))}) < 2:
            # The kernel spreads connections over the sockets.
            assert server.ask(POST).status == 200
            sent += 1
            assert sent < 500
        assert server.stop() == 0
        files = all_segments(Layout(server.data))
        assert [(file.slot, file.state) for file in files] == [(0, State.SEALED), (1, State.SEALED)]
        assert len(server.records()) == sent


def test_record_ids_are_never_given_twice(tmp_path: Path) -> None:
    seen: list[str] = []
    for _ in range(2):
        with running(tmp_path) as server:
            for _ in range(3):
                assert server.ask(POST).status == 200
            assert server.stop() == 0
            seen = [record.id for record in server.records()]
    assert len(seen) == len(set(seen)) == 6


def test_segments_are_written_into_room_that_no_end_leaves_behind(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        slot = Layout(server.data).slot(0)
        wait_until((slot / SPARE_NAME).exists, "room")
        wait_until(lambda: (slot / SPARE_NAME).stat().st_size == ROOM_BYTES_MIN, "all of it")
        # What was synced last is offered a moment later.
        time.sleep(0.1)
        assert server.ask(POST).status == 200
        (segment,) = all_segments(Layout(server.data))
        assert (segment.state, segment.size) == (State.OPEN, ROOM_BYTES_MIN)
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: all_segments(Layout(server.data))[0].state is State.SEALED, "recovered")
        (segment,) = all_segments(Layout(server.data))
        assert segment.size < 1000
        assert server.ask(POST).status == 200
        assert server.stop() == 0
        assert [file.state for file in all_segments(Layout(server.data))] == [State.SEALED] * 2
        assert max(file.size for file in all_segments(Layout(server.data))) < 1000
        assert len(server.records()) == 2
        assert sorted(path.suffix for path in slot.iterdir() if not path.name.startswith(".")) == [".zst"] * 2


@pytest.mark.parametrize(
    "flags",
    [("--durability", "page"), ("--spool-bytes-max", "63MiB")],
    ids=["nothing waits for syncs", "a small spool"],
)
def test_no_room_is_made_where_it_is_of_no_use(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with running(tmp_path, *flags) as server:
        time.sleep(0.3)
        assert server.ask(POST).status == 200
        (segment,) = all_segments(Layout(server.data))
        assert segment.size < 1000
        assert not (Layout(server.data).slot(0) / SPARE_NAME).exists()


@pytest.mark.parametrize("durability", ["fsync", "page"])
def test_what_was_acknowledged_survives_the_death_of_the_worker(tmp_path: Path, durability: str) -> None:
    with running(tmp_path, "--durability", durability) as server:
        with server.connect() as client:
            for _ in range(50):
                assert client.ask(POST).status == 200
            os.kill(server.workers()[0], signal.SIGKILL)
            assert client.is_closed()
        assert server.ask(POST).status == 200
        assert len(server.records()) == 51


def test_a_terminals_interrupt_is_the_supervisors_business(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        (pid,) = server.workers()
        os.kill(pid, signal.SIGINT)
        assert server.ask(POST).status == 200
        assert server.workers() == [pid]


def test_a_worker_told_to_stop_by_itself_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        (pid,) = server.workers()
        os.kill(pid, signal.SIGTERM)
        assert server.ask(POST).status == 200
        wait_until(lambda: server.workers() not in ([], [pid]), "another worker runs")


def test_the_loop_shows_that_it_turns(tmp_path: Path) -> None:
    def beat(server: Server) -> float:
        return server.metrics()['edge_heartbeat_timestamp_seconds{worker="0"}']

    with running(tmp_path) as server:
        first = beat(server)
        assert abs(first - time.time()) < 60
        wait_until(lambda: beat(server) > first, "the heartbeat moves")
        metrics = server.metrics()
        assert metrics["edge_event_loop_lag_seconds_count"] >= 1
        assert metrics['edge_storage_failing{worker="0"}'] == 0


def test_a_segment_that_recovery_could_not_finish_is_finished_when_the_disk_lets_it(tmp_path: Path) -> None:
    """Folders have its names: nothing can be renamed to them, by no user. Readers of the slot would wait there for ever."""
    with running(tmp_path) as server:
        assert server.ask(POST).status == 200
        server.kill()
    (left,) = all_segments(Layout(server.data))
    in_the_way = [left.path.with_name(left.name.file_name(state)) for state in (State.SEALED, State.SUSPECT)]
    for folder in in_the_way:
        (folder / "held").mkdir(parents=True)
    with running(tmp_path) as server:
        assert server.ask(POST).status == 200
        wait_until(lambda: server.metrics()['edge_unfinished_segments{worker="0"}'] == 1, "it is told")
        assert server.get_admin("/_readiness").status == 200
        assert left.path.exists()
        for folder in in_the_way:
            shutil.rmtree(folder)
        wait_until(lambda: server.metrics()['edge_unfinished_segments{worker="0"}'] == 0, "it is finished")
        assert not left.path.exists()
        assert len(server.records()) == 2


def test_segments_end_by_size_and_by_age(tmp_path: Path) -> None:
    with running(tmp_path / "size", "--segment-bytes-max", "200B") as server:
        for _ in range(5):
            assert server.ask(POST).status == 200
        wait_until(lambda: server.metrics().get('edge_segment_sealed_total{reason="size"}', 0) >= 3, "segments end")
        assert len(server.records()) == 5
    with running(tmp_path / "age", "--segment-age-max", "300ms") as server:
        assert server.ask(POST).status == 200
        wait_until(lambda: server.metrics().get('edge_segment_sealed_total{reason="age"}', 0) == 1, "the segment ends")


def test_the_end_fits_into_the_ten_seconds_that_container_engines_wait() -> None:
    assert worker.QUIET_S < worker.STOP_S
    assert worker.STOP_S + worker.QUIET_S < 10


def test_a_worker_is_told_everything_it_needs() -> None:
    """Nothing is read later, but for the project registry from its file."""
    assert set(WorkerSpec.__struct_fields__) == {
        *(
            "slot",
            "data",
            "listen_fd",
            "board_fd",
            "board_rows",
            "lifeline_fd",
            "server",
            "spool",
            "skew_us",
            "projects",
            "upstream",
        )
    }


def test_a_worker_whose_slot_was_deleted_acknowledges_nothing_into_it(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert server.ask(POST).status == 200
        (pid,) = server.workers()
        shutil.rmtree(Layout(server.data).slot(0))
        wait_until(lambda: server.workers() not in ([], [pid]), "another worker runs")
        assert server.ask(POST).status == 200
        assert len(server.records()) == 1


def test_a_connection_made_as_the_stop_begins_is_waited_for() -> None:
    """The loop makes an accepted connection in its next turn, and the worker may be told to stop in this one."""

    class Waiting:
        told = False

        def stop(self) -> None:
            self.told = True
            connections.clear()

    connections: set[Waiting] = set()
    connection = Waiting()

    async def stop() -> None:
        told = asyncio.Event()
        told.set()
        asyncio.get_running_loop().call_soon(connections.add, connection)
        await worker._finish(SimpleNamespace(connections=connections, ready=True), told)  # type: ignore[arg-type]

    asyncio.run(stop())
    assert connection.told
