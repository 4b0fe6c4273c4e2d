import json
import resource
from pathlib import Path

import pytest

from bench import connections, workers


def test_a_short_run_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BUSY", (2, 8))
    monkeypatch.setattr(connections, "_SETTLE_SECONDS", 0.3)
    arguments = ["--rounds", "1", "--seconds", "0.1", "--idle", "300"]
    assert connections.main([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("goal: ") == 3
    idle, busy, short = json.loads((tmp_path / "connections.json").read_text())["tables"]
    assert [(row["server"], row["connections"]) for row in idle["rows"]] == [("floor", 300), ("page", 300)]
    assert idle["rows"][1]["longest collection ms, at most"] is not None
    assert all(row["8"] > 0 for row in busy["rows"])
    assert all(row["us"] > 0 for row in short["rows"])


def test_fewer_are_opened_where_files_are_few_and_it_is_said() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        allowed, notes = connections.within_limit(10**9)
        assert allowed < before[1]
        assert str(allowed) in notes[0]
        assert connections.within_limit(10) == (10, [])
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_workers_in_a_short_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WORKERS", (1, 2))
    arguments = ["--rounds", "1", "--seconds", "0.1", "--connections", "32"]
    assert workers.main([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("goal: ") == 2
    one, two = json.loads((tmp_path / "workers.json").read_text())["tables"][0]["rows"]
    assert one["x one worker"] == 1
    # What the busiest of two does is less than what both do.
    assert two["us per request, busiest"] < two["us per request, all"]
