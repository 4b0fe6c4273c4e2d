import json
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.running import PATIENCE_S, Client, edge, environment, running, wait_until

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
POST = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)


def delivered(data: Path) -> list[str]:
    paths = sorted((data / "events").glob("*.ndjson"))
    return [json.loads(line)["event"] for path in paths for line in path.read_text().splitlines()]


def test_a_service_manager_learns_when_it_accepts_and_when_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with running(tmp_path, verb="up", env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as server:
            assert manager.recv(99) == b"READY=1"
            assert server.ask(POST).status == 200
            assert server.stop() == 0
            assert manager.recv(99) == b"STOPPING=1"
            # Its children have nothing to say.
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.recv(99)


def test_what_is_accepted_comes_out_without_any_configuration(tmp_path: Path) -> None:
    with running(tmp_path, verb="up") as server:
        for _ in range(5):
            assert server.ask(POST).status == 200
        wait_until(lambda: len(delivered(server.data)) == 5, "the events come out")

        def shipped() -> list[float]:
            return [value for name, value in server.metrics().items() if 'outcome="shipped"' in name]

        # Counted after they are there.
        wait_until(lambda: shipped() == [5], "they are counted")
        assert 'process_open_fds{process="drainer"}' in server.metrics()
        assert server.ask(POST).status == 200
        assert server.stop() == 0
        # What is accepted to the last is shipped before the end.
        assert len(delivered(server.data)) == 6


def test_events_have_standard_output_for_themselves(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "edge",
        "up",
        "--to",
        "stdout:",
        "--workers",
        "1",
        "--data",
        str(tmp_path / "data"),
    ]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert select.select([process.stderr], [], [], PATIENCE_S)[0]
            while not (line := process.stderr.readline()).startswith(b"listening on http://"):
                assert line, "expected it to start"
            with Client(("127.0.0.1", int(line.rpartition(b":")[2]))) as client:
                assert client.ask(POST).status == 200
            assert select.select([process.stdout], [], [], PATIENCE_S)[0]
            assert json.loads(process.stdout.readline())["event"] == "e"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stdout.read() == b""


def test_several_drainers_ship_what_all_workers_accepted(tmp_path: Path) -> None:
    with running(tmp_path, "--drainers", "2", verb="up", workers=2) as server:
        wait_until(lambda: len(list((server.data / "ckpt").glob(".lock*"))) == 4, "both drainers have a worker's slot")
        # Until both workers have had some.
        while {path.name[:7] for path in (server.data / "events").glob("*.ndjson")} != {"slot-00", "slot-01"}:
            assert server.ask(POST).status == 200
        names = [name for name in server.metrics() if name.startswith("process_open_fds")]
        assert {'process_open_fds{process="drainer-0"}', 'process_open_fds{process="drainer-1"}'} <= set(names)
        accepted = int(server.metrics()["capture_events_ingested_total"])
        server.signal(signal.SIGHUP)
        wait_until(lambda: server.log_text().count("is replaced") == 2, "the workers are replaced")
        for _ in range(20):
            assert server.ask(POST).status == 200
        wait_until(lambda: len(delivered(server.data)) == accepted + 20, "everything came out, whatever slot it is in")
        assert server.stop() == 0
    assert len(delivered(server.data)) == accepted + 20
    assert {path.name for path in (server.data / "ckpt").glob("*.1.json")}


def test_several_drainers_have_no_standard_output_in_common(tmp_path: Path) -> None:
    done = edge("up", "--data", tmp_path / "data", "--drainers", "2", "--to", "stdout:")
    assert done.returncode == 78
    assert "--drainers: expected 1 with --to stdout:, where lines would mix, found 2" in done.stderr


def test_a_destination_that_cannot_be_prepared_is_status_69(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = edge("up", "--data", tmp_path / "data", "--to", f"file:{tmp_path}/file/events")
    assert done.returncode == 69
    assert done.stderr.startswith(f"edge up: file:{tmp_path}/file/events: ")
    assert not (tmp_path / "data").exists()
