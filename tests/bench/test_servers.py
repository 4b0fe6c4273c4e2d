import os
import sys
from pathlib import Path

import pytest

from bench import payloads
from bench.cpu import memory, processes, two_cores
from bench.servers import ROOT, Command, Failed, checkout, edge, floor, running

CORE, _ = two_cores()


def test_a_server_that_prints_its_address_is_found_and_measured(tmp_path: Path) -> None:
    with running(floor(), tmp_path, {CORE}) as server:
        assert os.sched_getaffinity(server.pid) == {CORE}
        sample = server.sample(payloads.build("A", variants=16), 4, 0.1)
    assert sample.requests > 4
    assert sample.us_per_request > 0
    assert 0 <= sample.kernel_share <= 1
    assert sample.rss_bytes > 1_000_000
    assert 0 < sample.load_busy <= 1.1
    assert not Path(f"/proc/{server.pid}").exists()


def test_a_server_given_a_port_is_ready_when_it_accepts(tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text("hello")
    arguments = (sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1")
    with running(Command("any server", arguments, tmp_path), tmp_path, {CORE}) as server:
        assert server.port > 0
        with pytest.raises(Failed, match=r"any server: A: \d+ errors, the first: .*501"):
            server.sample(payloads.build("A", variants=1), 1, 0.05)


def test_the_edge_stores_where_it_is_told(tmp_path: Path) -> None:
    with running(edge("page", "page", extra=("--segment-bytes-max", "1MiB")), tmp_path, {CORE}) as server:
        assert server.sample(payloads.build("A", variants=16), 2, 0.1).requests > 2
        assert len(processes(server.pid)) >= 2
        assert list(server.data.rglob("*.zst"))
        used = memory(server.pid)
    assert used.rss_bytes > used.pss_bytes > 0


@pytest.mark.parametrize(
    ("program", "why"),
    [
        pytest.param("print('no such option'); raise SystemExit(3)", "status 3 .*\n    no such option", id="ends"),
        pytest.param(None, "No such file", id="is not there"),
    ],
)
def test_a_server_that_does_not_come_up_says_why(program: str | None, why: str, tmp_path: Path) -> None:
    arguments = ("/nowhere/server",) if program is None else (sys.executable, "-c", program)
    with pytest.raises(Failed, match=f"(?s)broken: .*{why}"), running(Command("broken", arguments), tmp_path, {CORE}):
        pass


def test_edge_must_come_out_of_the_checkout_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="expected `edge` from"):
        edge("old page", "page", checkout=tmp_path)


def test_a_checkout_is_a_folder_or_a_revision(tmp_path: Path) -> None:
    assert checkout(str(ROOT), tmp_path) == ROOT
    with pytest.raises(Failed, match="no folder with `edge` and no revision"):
        checkout("no-such-revision", tmp_path)
