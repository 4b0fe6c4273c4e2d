import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.results import Environment, Goal, Result, Table, environment, filesystem_of, paired_ratio
from bench.servers import Sample

HERE = Environment("2025-11-21T00:00:00+00:00", "3.11.7", "6.18", "x86_64", "a CPU", 2, "ext4", {"orjson": "3.13.0"})
TABLE = Table("A", {"server": "", "us": ".1f", "req/s": ",.0f"}, [{"server": "floor", "us": 7.25, "req/s": 116152.4}])


def test_a_table_is_written_with_every_column_as_it_says() -> None:
    assert TABLE.markdown().splitlines() == [
        "A",
        "",
        "| server | us | req/s |",
        "| --- | ---: | ---: |",
        "| floor | 7.2 | 116,152 |",
    ]


def test_what_was_not_measured_is_an_empty_cell() -> None:
    assert replace(TABLE, rows=[{"server": "nginx", "us": None}]).markdown().splitlines()[-1] == "| nginx |  |  |"


@pytest.mark.parametrize(
    ("goal", "met", "line"),
    [
        pytest.param(Goal("A", 2.0, "x floor", 2.0), True, "goal: A at most 2.00 x floor: met with 2.00", id="at it"),
        pytest.param(
            Goal("A", 2.0, "x floor", 2.1), False, "goal: A at most 2.00 x floor: MISSED with 2.10", id="above"
        ),
        pytest.param(Goal("W", 1.8, "x", 1.9, True), True, "goal: W at least 1.80 x: met with 1.90", id="at least"),
        pytest.param(
            Goal("W", 1.8, "x", 1.7, True), False, "goal: W at least 1.80 x: MISSED with 1.70", id="too little"
        ),
        pytest.param(Goal("A", 2.0, "x", None), None, "goal: A at most 2.00 x: not measured", id="not measured"),
    ],
)
def test_a_goal_tells_whether_it_is_met(goal: Goal, met: bool | None, line: str) -> None:
    assert goal.met is met
    assert str(goal) == line


def test_a_result_is_written_as_json_and_read_as_markdown(tmp_path: Path) -> None:
    result = Result("peers", HERE, [TABLE], [Goal("A", 2.0, "x floor", 2.1)], ["fastify: expected node, found none"])
    path = result.write(tmp_path / "results")
    assert path == tmp_path / "results" / "peers.json"
    written = json.loads(path.read_text())
    assert written["environment"]["versions"] == {"orjson": "3.13.0"}
    assert written["tables"][0]["rows"] == [{"server": "floor", "us": 7.25, "req/s": 116152.4}]
    assert written["goals"][0]["met"] is False
    markdown = result.markdown()
    assert TABLE.markdown() in markdown
    assert "- fastify: expected node, found none" in markdown
    assert "- goal: A at most 2.00 x floor: MISSED with 2.10" in markdown


def test_the_environment_is_this_machine(tmp_path: Path) -> None:
    here = environment(tmp_path, {"node": "20"})
    assert here.cores >= 1
    assert here.filesystem == filesystem_of(tmp_path) != "unknown"
    assert here.versions["node"] == "20"
    assert here.versions["uvloop"]


def test_a_ratio_is_taken_within_the_rounds() -> None:
    # The quotient of the medians would be 1.5.
    ours = [Sample(10, 20_000, 1.0), Sample(10, 60_000, 1.0), Sample(10, 30_000, 1.0)]
    base = [Sample(10, 10_000, 1.0), Sample(10, 20_000, 1.0), Sample(10, 20_000, 1.0)]
    assert paired_ratio(ours, base) == pytest.approx(2.0)
