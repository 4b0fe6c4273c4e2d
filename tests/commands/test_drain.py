import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.checkpoints import load_all
from edge.disk import RealDisk
from edge.layout import Layout
from tests.drain.spools import Slot
from tests.exposition import parse
from tests.server.running import PATIENCE_S, edge, environment


def once(data: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    return edge("drain", "--once", "--data", data, *words)


def delivered(folder: Path) -> list[str]:
    paths = sorted(folder.glob("*.ndjson"))
    return [json.loads(line)["event"] for path in paths for line in path.read_text().splitlines()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What two dead workers left: finished segments and open ones, the second one's torn."""
    first, second = Slot(tmp_path / "data", 0), Slot(tmp_path / "data", 3)
    first.commit("a", "b")
    first.seal()
    first.commit("c")
    second.commit("d")
    (opened,) = second.files
    opened.write_bytes(opened.read_bytes() + b"torn")
    return tmp_path / "data"


def test_once_ships_everything_of_dead_workers_and_ends(data: Path) -> None:
    done = once(data)
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(delivered(data / "events")) == ["a", "b", "c", "d"]
    # Nothing is left to ship, and shipping again delivers nothing again.
    assert list((data / "spool").rglob("*.zst")) == []
    assert once(data).returncode == 0
    assert len(delivered(data / "events")) == 4


def test_once_on_a_folder_where_nothing_was_accepted_is_done_at_once(tmp_path: Path) -> None:
    assert once(tmp_path).returncode == 0


@pytest.mark.parametrize("what", ["a segment", "a quarantined event", "damaged bytes"])
def test_what_can_never_be_shipped_is_told_as_long_as_it_is_there(data: Path, tmp_path: Path, what: str) -> None:
    """A volume that is removed when it was drained takes it along."""
    left, sentence = {
        "a segment": (data / "spool/slot-00/000000000009-000000000000abc9.bad", "could not be read wholly"),
        "a quarantined event": (
            data / "quarantine/posthog-1/5c0d2e88b1f09a37-1-0.json",
            f"{data}/quarantine/posthog-1 has 1 events that were refused for good",
        ),
        "damaged bytes": (
            data / "damaged/slot-00-000000000001-000000000000abc1-64.bin",
            f"{data}/damaged has 1 files of what could not be read",
        ),
    }[what]
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"what is left")
    for _ in range(2):
        done = once(data)
        assert done.returncode == 65
        assert sentence in done.stderr
    assert sorted(delivered(data / "events")) == ["a", "b", "c", "d"]
    (tmp_path / "file").touch()
    assert once(data, "--to", f"file:{tmp_path}/file").returncode == 69
    left.unlink()
    assert once(data).returncode == 0


def test_a_variable_that_nothing_reads_is_told(tmp_path: Path) -> None:
    done = edge("drain", "--once", "--data", tmp_path, env={"EDGE_WORKER": "3"})
    assert done.returncode == 0
    assert "nothing reads EDGE_WORKER, did you mean EDGE_WORKERS?" in done.stderr
    assert "EDGE_RESERVE_BYTES" not in done.stderr


def test_a_share_is_shipped_by_whoever_has_it(data: Path) -> None:
    """Slots 0 and 3: of three drainers the first has both, of two each has one."""
    assert once(data, "--share", "2/2").returncode == 0
    assert sorted(delivered(data / "events")) == ["d"]
    assert once(data, "--share", "2/3").returncode == 0
    assert sorted(delivered(data / "events")) == ["d"]
    assert once(data, "--share", "1/3").returncode == 0
    assert sorted(delivered(data / "events")) == ["a", "b", "c", "d"]


def test_every_sink_gets_everything(data: Path, tmp_path: Path) -> None:
    done = once(data, "--to", f"file:{tmp_path}/out", "--to", "null:", "--to", "stdout:?shape=captured")
    assert done.returncode == 0
    assert sorted(delivered(tmp_path / "out")) == ["a", "b", "c", "d"]
    assert len(done.stdout.splitlines()) == 4
    assert all(json.loads(line)["token"] == "phc_x" for line in done.stdout.splitlines())
    assert len(load_all(RealDisk(), str(Layout(data).checkpoints))) == 3


def test_a_destination_that_cannot_be_prepared_is_status_69(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = once(data, "--to", f"file:{tmp_path}/file")
    assert done.returncode == 69
    assert done.stderr.startswith(f"edge drain: file:{tmp_path}/file: File exists")
    assert len(list((data / "spool").rglob("*.zst"))) == 3


def test_a_destination_that_takes_nothing_is_status_69_and_nothing_is_lost(data: Path, tmp_path: Path) -> None:
    """A folder so deep that no file in it has a path short enough: nothing can be written, by no user."""
    deep = tmp_path
    while len(str(deep)) < 3900:
        deep = deep / ("d" * 100)
    deep = deep / ("d" * (4080 - len(str(deep))))
    done = once(data, "--to", f"file:{deep}", "--to", f"file:{tmp_path}/out")
    assert done.returncode == 69
    assert "File name too long" in done.stderr
    assert sorted(delivered(tmp_path / "out")) == ["a", "b", "c", "d"]
    assert len(list((data / "spool").rglob("*.zst"))) == 3
    assert once(data, "--to", f"file:{tmp_path}/other").returncode == 0
    assert sorted(delivered(tmp_path / "other")) == ["a", "b", "c", "d"]


def test_a_reader_that_is_gone_is_status_69(data: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        command = [sys.executable, "-m", "edge", "drain", "--once", "--data", str(data), "--to", "stdout:"]
        done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, env=environment(), timeout=60)
    finally:
        os.close(write_end)
    assert done.returncode == 69
    assert b"standard output: [Errno 32] Broken pipe" in done.stderr
    assert len(list((data / "spool").rglob("*.zst"))) == 3


def test_a_drainer_runs_until_told_and_answers_probes(data: Path) -> None:
    command = [sys.executable, "-m", "edge", "drain", "--data", str(data), "--admin", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment()) as process:
        try:
            assert process.stderr is not None
            admin = _admin_port(process)
            deadline = time.monotonic() + PATIENCE_S
            while len(delivered(data / "events")) < 4:
                assert time.monotonic() < deadline, "expected what was there to be shipped"
                time.sleep(0.02)
            assert [_get(admin, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
            shipped: list[float] = []
            while not shipped:
                # They are counted when the checkpoint says so.
                assert time.monotonic() < deadline, "expected what was shipped to be counted"
                status, text = _get(admin, "/metrics")
                assert status == 200
                families = parse(text)
                shipped = [
                    value
                    for (_, labels), value in families["edge_drain_events_total"].samples.items()
                    if ("outcome", "shipped") in labels
                ]
            assert shipped == [4]
            assert "edge_spool_bytes" in families
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_service_manager_learns_of_a_drainer(data: Path) -> None:
    """Of one that listens in the abstract namespace."""
    name = f"edge-tests-{data.parent.name}-{os.getpid()}"
    command = [sys.executable, "-m", "edge", "drain", "--data", str(data)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(PATIENCE_S)
        with subprocess.Popen(command, env=environment({"NOTIFY_SOCKET": f"@{name}"})) as process:
            try:
                assert manager.recv(99) == b"READY=1"
            finally:
                process.send_signal(signal.SIGTERM)
            assert manager.recv(99) == b"STOPPING=1"
            assert process.wait(PATIENCE_S) == 0


def test_a_drainer_beside_a_server_has_an_address_of_its_own(data: Path, tmp_path: Path) -> None:
    """With the file and the environment of the server, whose address is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = tmp_path / "edge.toml"
        settings.write_text(f'admin = "{address}"\ndata = "{data}"\ndrain_admin = "127.0.0.1:0"\n')
        command = [sys.executable, "-m", "edge", "drain", "--config", str(settings)]
        env = environment({"EDGE_ADMIN": address})
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=env) as process:
            try:
                assert _get(_admin_port(process), "/livez")[0] == 200
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0


def _admin_port(process: "subprocess.Popen[bytes]") -> int:
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], PATIENCE_S)
    assert ready
    while line := process.stderr.readline():
        if line.startswith(b"admin on http://"):
            return int(line.rpartition(b":")[2])
    raise AssertionError("expected the admin port to be told")


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_folder_that_cannot_be_used_is_told_in_a_sentence(data: Path) -> None:
    (data / "ckpt").write_text("in the way")
    done = once(data)
    assert done.returncode == 74
    assert "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
