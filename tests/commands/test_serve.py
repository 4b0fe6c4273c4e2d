import argparse
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from edge import __version__
from edge.commands import serve
from edge.config import ALL, SERVE, load
from edge.disk import RealDisk
from edge.layout import Layout
from edge.metrics import METRICS, Board
from edge.process import Lifeline
from edge.segment.record import SKEW_KEPT
from edge.server.admin import Probes
from edge.server.supervisor import Job, Supervisor
from edge.spool.budget import BudgetSettings, DiskBudget
from edge.spool.inspect import Extent
from edge.status import spool_gauges
from tests.exposition import Family, parse
from tests.server.running import Server, edge, environment, running, wait_until

MIB = 1024 * 1024

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
READINESS = b"GET /_readiness HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("serve"), "--durability", "page") as found:
        assert found.ask(POST).status == 200
        yield found


def test_it_tells_where_it_listens(server: Server) -> None:
    assert server.output.decode() == f"listening on {server.url}\nadmin on http://127.0.0.1:{server.admin[1]}\n"


def test_probes_tell_that_all_is_well(server: Server) -> None:
    assert server.get_admin("/_liveness").body == b"ok\n"
    checks = msgspec.json.decode(server.get_admin("/_readiness?verbose").body)
    assert checks == [
        {"name": "stopping", "passed": True, "why": "running"},
        {"name": "worker-0", "passed": True, "why": "accepting"},
        {"name": "disk", "passed": True, "why": "room"},
    ]


def test_a_full_disk_is_told_and_everything_is_refused_from_the_first_request_on(tmp_path: Path) -> None:
    with running(tmp_path, "--disk-free-min", "1000000GiB") as server:
        answer = server.ask(POST.replace(b"\r\n\r\n", b"\r\nOrigin: https://app.example\r\n\r\n", 1))
        assert answer.status == 503
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        readiness = server.get_admin("/_readiness?verbose")
        assert readiness.status == 503
        assert {"name": "disk", "passed": False, "why": "full"} in msgspec.json.decode(readiness.body)
        assert server.ask(READINESS).status == 503
        assert server.metrics()["edge_disk_pressure"] == 3
        assert server.stop() == 0
        assert server.records() == []


def test_a_disk_that_is_nearly_full_is_kept_from_session_replays(tmp_path: Path) -> None:
    replay = POST.replace(b"/e/", b"/s/")
    with running(tmp_path) as server:
        assert server.ask(POST).status == 200
        assert server.ask(replay).status == 200
        assert server.stop() == 0
        size = sum(path.stat().st_size for path in server.data.glob("spool/*/*.zst"))
    with running(tmp_path, "--spool-bytes-max", str(int(size / 0.93))) as server:
        assert server.metrics()["edge_spool_bytes"] == size
        assert server.ask(replay).status == 503
        assert server.ask(POST).status == 200
        wait_until(lambda: server.metrics()["edge_spool_bytes"] > size, "the size is measured again and again")
        assert server.metrics()['edge_spool_segments{state="open"}'] == 1


def test_room_is_held_in_reserve(server: Server) -> None:
    reserve = server.data / "reserve"
    wait_until(reserve.exists, "the reserve is there")
    wait_until(lambda: reserve.stat().st_size == 64 * 1024, "it has its size")


@pytest.fixture(scope="module")
def families(server: Server) -> dict[str, Family]:
    return parse(server.get_admin("/metrics").body.decode())


def test_metrics_are_all_that_are_declared_and_nothing_twice(families: dict[str, Family], tmp_path: Path) -> None:
    expected = {metric.name for metric in METRICS} | {"edge_build_info"}
    expected |= set(parse(spool_gauges(Layout(tmp_path), Extent()))) | set(parse(serve.process_metrics({})))
    assert set(families) == expected


def test_metrics_tell_the_build(families: dict[str, Family]) -> None:
    ((_, labels),) = families["edge_build_info"].samples
    assert dict(labels)["version"] == __version__


def test_metrics_tell_what_each_process_uses(families: dict[str, Family]) -> None:
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        samples = {dict(labels)["process"]: value for (_, labels), value in families[name].samples.items()}
        assert samples.keys() == {"supervisor", "worker-0"}
        assert all(value > 0 for value in samples.values())


def test_a_process_that_is_gone_is_left_out() -> None:
    samples = parse(serve.process_metrics({"gone": 2**22 + 1}))["process_open_fds"].samples
    assert [dict(labels)["process"] for _, labels in samples] == ["supervisor"]


def test_a_variable_that_nothing_reads_is_told(tmp_path: Path) -> None:
    with running(tmp_path, env={"EDGE_WORKER": "3", "EDGE_HEADERS_MAX": "7"}) as server:
        assert "nothing reads EDGE_WORKER, did you mean EDGE_WORKERS?" in server.log_text()
        assert "EDGE_HEADERS_MAX" not in server.log_text()
        for headers, status in ((7, 200), (8, 431)):
            more = b"".join(b"X-%d: 1\r\n" % number for number in range(headers - 1))
            assert server.ask(b"GET / HTTP/1.1\r\nHost: h\r\n" + more + b"\r\n").status == status


def test_proxies_are_believed_as_told(tmp_path: Path) -> None:
    forwarded = POST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.1\r\n\r\n", 1)
    with running(tmp_path / "trusting") as server:
        assert server.ask(forwarded).status == 200
        assert [record.ip for record in server.records()] == ["203.0.113.7"]
    with running(tmp_path / "wary", "--trusted-proxies", "192.0.2.0/24") as server:
        assert server.ask(forwarded).status == 200
        assert [record.ip for record in server.records()] == ["127.0.0.1"]


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    with running(tmp_path, listen="[::1]:0") as server:
        assert server.ask(POST).status == 200
        assert server.output.startswith(b"listening on http://[::1]:")
        assert [record.ip for record in server.records()] == ["::1"]


def test_a_setting_that_cannot_be_used_is_status_78_before_anything_is_made(tmp_path: Path) -> None:
    done = edge("serve", "--data", tmp_path / "data", "--workers", "zero")
    assert done.returncode == 78
    assert not (tmp_path / "data").exists()


UNUSABLE = {
    "no URL": (("--upstream", "localhost:80"), "--upstream: expected http://HOST"),
    "assets without the rest": (("--assets-upstream", "http://h"), "--assets-upstream: expected --upstream with it"),
}


@pytest.mark.parametrize(("flags", "why"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_upstream_that_cannot_be_used_is_told_at_the_start(flags: tuple[str, ...], why: str, tmp_path: Path) -> None:
    done = edge("serve", "--data", tmp_path / "data", *flags)
    assert done.returncode == 78
    assert why in done.stderr


def test_an_upstream_without_its_package_is_told_at_the_start(tmp_path: Path) -> None:
    """The extra is not installed: as it looks to an import, the package is not there."""
    program = "import sys; sys.modules['aiohttp'] = None; from edge.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "serve", "--data", str(tmp_path / "data"), "--upstream", "http://h"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 78
    assert "pip install 'capture-edge[proxy]'" in done.stderr


def connected(server: Server, count: int, clients: ExitStack) -> list[int]:
    """The statuses that so many connections get, one after the other. Those that may stay do."""
    statuses = []
    for _ in range(count):
        client = clients.enter_context(server.connect())
        statuses.append(client.ask(READINESS).status)
        if statuses[-1] != 200:
            client.socket.close()
    return statuses


def test_connections_leave_descriptors_for_segments(tmp_path: Path) -> None:
    with running(tmp_path, shell="ulimit -n 300") as server, server.connect() as first, ExitStack() as clients:
        assert first.ask(READINESS).status == 200
        # One is the first, and a quarter of the descriptors is more than what the reserve leaves.
        assert connected(server, 290, clients) == [200] * 74 + [503] * 216
        # Its segment is the worker's first.
        assert first.ask(POST).status == 200
        assert server.get_admin("/_readiness").status == 200
        assert (
            server.log_text().count("with 300 descriptors a worker can have 75 connections: raise the hard limit") == 1
        )
        assert "(ulimit -Hn, LimitNOFILE=) to 10256, or lower --connections-max" in server.log_text()
        clients.close()
        wait_until(lambda: server.metrics()['edge_connections{worker="0"}'] == 1, "they are gone")
        with server.connect() as later:
            assert later.ask(POST).status == 200


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    flags = ("--connections-max", "200")
    with running(tmp_path, *flags, shell="ulimit -Sn 64; ulimit -Hn 500") as server, ExitStack() as clients:
        assert connected(server, 150, clients) == [200] * 150
        assert server.ask(POST).status == 200
        assert "--connections-max" not in server.log_text()


# --- what the probes make of the processes


@pytest.fixture
def board() -> Board:
    return Board.create(4)


@pytest.fixture
def probes(board: Board, tmp_path: Path) -> Iterator[Probes]:
    """Of one worker whose process was never started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def start(turn: int) -> None:
        raise AssertionError

    supervisor = Supervisor([Job("worker-0", start, critical=True)], board, Lifeline())  # type: ignore[arg-type]
    layout = Layout(tmp_path)
    budget = DiskBudget(RealDisk(), layout, BudgetSettings(), Extent, board.rows[-1])
    yield serve._probes(supervisor, board, layout, budget, [])
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("inline", ["384KiB", "1B"], ids=["on the loop", "in the decoder"])
def test_what_becomes_of_times_is_written_into_every_record(tmp_path: Path, inline: str) -> None:
    flags = ("--skew-correction", "off", "--inline-bytes-max", inline)
    with running(tmp_path, *flags) as server:
        with server.connect() as client:
            # Kept alive, alone and together; a list; in the query.
            client.send(POST + POST)
            found = [client.answer().status, client.answer().status, client.ask(POST).status]
            listed = b"[%b]" % EVENT
            found.append(
                client.ask(POST.replace(EVENT, listed).replace(b": %d" % len(EVENT), b": %d" % len(listed))).status
            )
            found.append(client.ask(b"GET /e/?data=%b HTTP/1.1\r\nHost: h\r\n\r\n" % b64encode(EVENT)).status)
        assert found == [200] * 5
        assert server.stop() == 0
        assert [record.skew_us for record in server.records()] == [SKEW_KEPT] * 5


def test_a_loop_that_does_not_turn_is_not_alive(probes: Probes, board: Board) -> None:
    (starting,) = probes.liveness()
    assert starting.passed
    board.rows[0].set("edge_heartbeat_timestamp_seconds", time.time_ns() // 1000)
    (turning,) = probes.liveness()
    assert (turning.name, turning.passed, turning.why) == ("worker-0", True, "turning")
    board.rows[0].set("edge_heartbeat_timestamp_seconds", time.time_ns() // 1000 - 30_000_000)
    (stuck,) = probes.liveness()
    assert (stuck.passed, stuck.why) == (False, "no turn of the loop for 30 s")


def test_a_worker_that_does_not_run_is_not_ready(probes: Probes) -> None:
    checks = {check.name: (check.passed, check.why) for check in probes.readiness()}
    assert checks["worker-0"] == (False, "not accepting yet")


def test_metrics_can_be_read_before_anything_runs(probes: Probes) -> None:
    assert parse(probes.metrics())["edge_commits_total"].samples == {("edge_commits_total", ()): 0.0}


def test_the_supervisor_counts_itself() -> None:
    samples = parse(serve.process_metrics({}))["process_open_fds"].samples
    (found,) = samples.values()
    assert abs(found - len(os.listdir("/proc/self/fd"))) <= 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param([], 64 * MIB, id="a segment"),
        pytest.param(["--segment-bytes-max", "8MiB"], 8 * MIB, id="a small segment"),
        pytest.param(["--spool-bytes-max", "1GiB", "--workers", "4"], 4 * MIB, id="a part of the spool"),
    ],
)
def test_room_for_segments_is_a_part_of_the_spool(flags: list[str], expected: int) -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    settings = load(SERVE, parser.parse_args(flags), {}, ALL)
    assert serve._spool(settings).room_bytes_max == expected
