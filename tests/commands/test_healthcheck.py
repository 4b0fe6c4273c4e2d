import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.notation import Address
from edge.server.admin import AdminServer, Check, Probes
from tests.commands.test_admin_port import answering, http
from tests.server.running import PATIENCE_S, edge, running

FINE = Check("worker-0", True, "accepting")
FULL = Check("disk", False, "full")
STUCK = Check("worker-1", False, "its loop has not turned for 12 s")


@pytest.fixture
def unwell() -> Iterator[str]:
    """The address of an admin port that has something to complain of."""
    server = AdminServer(Address("127.0.0.1", 0), Probes(lambda: [FINE, STUCK], lambda: [FINE, FULL, STUCK], str))
    yield str(server.address)
    server.close()


def test_an_edge_that_works_is_status_0_and_one_that_takes_nothing_status_1(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        admin = f"127.0.0.1:{server.admin[1]}"
        for words in (["--admin", admin], ["--admin", admin, "--live"]):
            done = edge("healthcheck", *words)
            assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    with running(tmp_path, "--disk-free-min", "1000000GiB") as server:
        admin = f"127.0.0.1:{server.admin[1]}"
        done = edge("healthcheck", "--admin", admin)
        assert (done.returncode, done.stdout) == (1, "disk: full\n")
        # A restart makes no room.
        assert edge("healthcheck", "--live", "--admin", admin).returncode == 0


def test_every_failed_check_is_a_line(unwell: str) -> None:
    done = edge("healthcheck", "--admin", unwell)
    assert (done.returncode, done.stdout) == (1, "disk: full\nworker-1: its loop has not turned for 12 s\n")
    done = edge("healthcheck", "--live", "--admin", unwell)
    assert (done.returncode, done.stdout) == (1, "worker-1: its loop has not turned for 12 s\n")


def test_every_check_is_told_to_programs(unwell: str) -> None:
    done = edge("healthcheck", "--json", "--admin", unwell)
    assert done.returncode == 1
    assert json.loads(done.stdout) == [
        {"name": "worker-0", "passed": True, "why": "accepting"},
        {"name": "disk", "passed": False, "why": "full"},
        {"name": "worker-1", "passed": False, "why": "its loop has not turned for 12 s"},
    ]


def test_the_address_comes_from_where_the_edge_has_it(unwell: str, tmp_path: Path) -> None:
    """A container's variable names every address of it."""
    everywhere = f"0.0.0.0:{unwell.rpartition(':')[2]}"
    assert edge("healthcheck", env={"EDGE_ADMIN": everywhere}).returncode == 1
    settings = tmp_path / "edge.toml"
    settings.write_text(f'admin = "{unwell}"\n')
    assert edge("healthcheck", "--config", settings).returncode == 1


def test_nobody_there_is_status_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    done = edge("healthcheck", "--admin", f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == f"edge healthcheck: no answer from 127.0.0.1:{port}: Connection refused\n"


def test_an_edge_that_hangs_is_given_up_in_the_time_it_was_given() -> None:
    before = set(threading.enumerate())
    given_up = threading.Event()

    def late() -> list[Check]:
        given_up.wait(2.0)
        return [FINE]

    with closing(AdminServer(Address("127.0.0.1", 0), Probes(late, late, str))) as admin:
        done = edge("healthcheck", "--within", "50ms", "--admin", str(admin.address))
    given_up.set()
    for thread in set(threading.enumerate()) - before:
        # Other tests look whether they leave any behind.
        thread.join(PATIENCE_S)
    assert (done.returncode, done.stderr.rpartition(": ")[2]) == (69, "timed out\n")


OTHERS = {
    "no route": (http(b"", b"404 Not Found"), "expected status 200 or 503 for /_readiness, found 404"),
    "a page": (http(b"<html>"), "expected the checks of edge, found something else: JSON is malformed"),
    "other checks": (http(b'[{"check":"a"}]'), "expected the checks of edge, found something else: Object missing"),
    "no text": (http(b'["\xff"]'), "expected the checks of edge, found something else"),
    "no checks": (http(b"[]"), "expected the checks of edge, found none"),
}


@pytest.mark.parametrize(("answer", "why"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_edge_is_status_69(answer: bytes, why: str) -> None:
    with answering(answer) as other:
        done = edge("healthcheck", "--admin", str(other))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith(f"edge healthcheck: no answer from {other}: {why}")


@pytest.mark.parametrize("time", ["0s", "6m", "soon", "-1s"])
def test_a_time_it_cannot_wait_is_refused(time: str) -> None:
    done = edge("healthcheck", f"--within={time}")
    assert done.returncode == 2
    assert f"expected a time from 1ms to 5m such as 3s, found '{time}'" in done.stderr


def test_the_port_that_lets_a_server_pick_one_is_refused() -> None:
    done = edge("healthcheck", "--admin", "127.0.0.1:0")
    assert (done.returncode, done.stderr) == (
        78,
        "edge healthcheck: admin: expected the port that was printed at the start, found 127.0.0.1:0\n",
    )
