"""The arithmetic and the arguments of the comparison, and one short run of it."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bench import compare, payloads
from bench.compare import Run, goals, remarks, table
from bench.results import Goal
from bench.servers import Sample


def samples(*us_per_request: float, busy: float = 0.9) -> list[Sample]:
    return [Sample(1000, int(us * 1_000_000), us / 1000 / busy, 0.5, 20_000_000, 0.6) for us in us_per_request]


def run(name: str, costs: Mapping[str, Sequence[float]], connections: int = 64, **failures: str) -> Run:
    taken = {label: samples(*us) for label, us in costs.items()}
    return Run(payloads.build(name, variants=1), connections, taken, failures)


A = {
    "floor": (10.0, 20.0, 10.0),
    "page": (20.0, 40.0, 30.0),
    "fsync": (28.0, 56.0, 39.0),
    "starlette": (80.0, 160.0, 100.0),
    "fastapi": (200.0, 400.0, 300.0),
    "aiohttp": (40.0, 80.0, 60.0),
    "fastify": (40.0, 80.0, 60.0),
}


def reached(found: Sequence[Goal]) -> dict[tuple[str, str], tuple[float | None, bool | None]]:
    return {(goal.what, goal.unit): (goal.reached and round(goal.reached, 3), goal.met) for goal in found}


def test_goals_of_single_events_are_medians_of_the_ratios_within_rounds() -> None:
    many = run("A", {"floor": (8.0,), "page": (20.0,), "fsync": (22.0,)}, 512)
    assert reached(goals([run("A", A), many], ["starlette"])) == {
        ("A, page", "x floor"): (2.0, True),
        ("A, 64 connections, fsync", "x page"): (1.4, False),
        ("A, 512 connections, fsync", "x page"): (1.1, True),
        ("A, page", "x starlette"): (0.25, True),
        ("A, page", "x fastapi"): (0.1, True),
        ("A, page", "x aiohttp"): (0.5, False),
        ("A, page", "x fastify"): (0.5, True),
    }


def test_goals_of_batches_and_browsers() -> None:
    found = goals(
        [
            run("A", {"floor": (8.0,), "page": (20.0,)}),
            run("C", {"floor": (8.0,), "page": (150.0,), "nginx": (50.0,), "aiohttp": (300.0,), "fastify": (250.0,)}),
            run("E", {"floor": (8.0,), "page": (90.0,), "nginx": (50.0,), "aiohttp": (100.0,), "fastify": (150.0,)}),
            run("F", {"floor": (8.0, 8.0, 8.0), "page": (24.0, 48.0, 24.0), "page, A": (20.0, 40.0, 18.0)}),
            run("G", {"floor": (8.0,), "page": (900.0,), "fastify": (500.0,)}),
        ],
        ["fastify", "aiohttp", "granian"],
    )
    later = {key: value for key, value in reached(found).items() if not key[0].startswith("A")}
    assert [goal.what[0] for goal in found if goal.unit == "x floor"] == ["A", "C", "E", "F", "G"]
    assert later == {
        ("C, page", "x floor"): (18.75, True),
        ("E, page", "x floor"): (11.25, False),
        ("F, page", "x floor"): (3.0, False),
        ("G, page", "x floor"): (112.5, True),
        ("C, page", "µs per event"): (3.0, False),
        ("C, page", "x the fastest peer that validates (fastify)"): (0.6, True),
        ("E, page", "x the fastest peer that validates (aiohttp)"): (0.9, False),
        ("F, page", "x A"): (1.2, True),
        ("G, page", "x fastify"): (1.8, False),
    }


def test_a_goal_about_a_peer_that_is_missing_is_not_measured() -> None:
    found = goals([run("A", {"floor": (8.0,), "page": (20.0,)}), run("C", {"page": (100.0,)})], [])
    unmeasured = {goal.unit for goal in found if goal.met is None}
    assert unmeasured == {
        "x floor",
        "x page",
        "x starlette",
        "x fastapi",
        "x aiohttp",
        "x fastify",
        "x the fastest peer that validates",
    }


def test_a_row_has_cost_spread_rate_memory_and_ratios() -> None:
    (row,) = [
        row for row in table(run("C", {"floor": (10, 10, 10), "page": (90, 100, 140)})).rows if row["server"] == "page"
    ]
    assert row == {
        "server": "page",
        "µs/request": 100.0,
        "least": 90.0,
        "most": 140.0,
        "µs/event": 2.0,
        "kernel": 0.5,
        "requests/s": pytest.approx(9000.0),
        "busy": pytest.approx(0.9),
        "load busy": 0.6,
        "RSS MB": 20.0,
        "x floor": pytest.approx(10.0),
        "x page": pytest.approx(1.0),
    }


def test_failed_servers_and_idle_ones_are_named() -> None:
    idle = Run(
        payloads.build("A", variants=1),
        64,
        {"floor": samples(8.0), "nginx": samples(9.0, busy=0.7)},
        {"rust": "rust: A: 3 errors, the first: HTTP/1.1 500\n    a traceback"},
        (400.0, 300.4, 500.0, 380.0),
    )
    assert remarks(idle) == [
        f"{idle.title}: the servers' core inflated 390 MB/s (300-500)",
        f"{idle.title}: rust: A: 3 errors, the first: HTTP/1.1 500",
        f"{idle.title}: busy less than 80%, so that their cost reads high: nginx 70%",
    ]
    assert {"server": "rust (failed)"} in table(idle).rows


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        pytest.param(["--payloads", "A,Z"], "found Z", id="payload"),
        pytest.param(["--peers", "iis"], "found iis", id="peer"),
        pytest.param(["--rounds", "0"], "above 0", id="rounds"),
        pytest.param(["--server", "capture"], "expected NAME=COMMAND", id="no command"),
        pytest.param(["--server", "nginx=x"], "the name nginx is taken", id="name taken"),
        pytest.param(["--server", "a=x", "--server", "a=y"], "the name a is taken", id="name twice"),
        pytest.param(["--path", "a=/x"], "no --server names", id="path of nobody"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.main(argv)
    assert why in capsys.readouterr().err


SHORT = ["--rounds", "2", "--seconds", "0.05", "--connections", "4"]


def test_a_run_measures_peers_and_servers_by_command_line_and_writes_it_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shlex.join(["env", "BENCH_DATA={data}", sys.executable, "-m", "bench.peers.starlette_peer", "{port}"])
    folders = ["--data", str(tmp_path / "data"), "--results", str(tmp_path)]
    servers = ["--server", f"mine={mine}", "--path", "mine=/i/v0/e/", "--server", "broken=false {port}"]
    assert compare.main([*SHORT, "--payloads", "C", "--peers", "starlette", *servers, *folders]) == 0
    written = json.loads((tmp_path / "compare.json").read_text())
    (rows,) = [each["rows"] for each in written["tables"]]
    assert [row["server"] for row in rows] == ["floor", "page", "fsync", "mine", "starlette", "broken (failed)"]
    assert all(row["µs/request"] > 0 and row["RSS MB"] > 1 for row in rows[:-1])
    assert any("broken: ended with status 1" in note for note in written["notes"])
    assert written["environment"]["versions"]["starlette"]
    assert "| starlette |" in capsys.readouterr().out
    assert not list((tmp_path / "data").iterdir())


def test_a_missed_goal_is_a_failure_when_asked_for(tmp_path: Path) -> None:
    folders = ["--data", str(tmp_path / "data"), "--results", str(tmp_path)]
    status = compare.main([*SHORT, "--payloads", "C", "--peers", "none", "--strict", *folders])
    found = json.loads((tmp_path / "compare.json").read_text())["goals"]
    assert status == int(any(goal["met"] is False for goal in found))
