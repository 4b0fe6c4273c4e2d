import json
from pathlib import Path

import pytest

from bench import drill


def test_a_short_drill_ships_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rate", "100", "--before", "1", "--refuse", "2", "--after", "1", "--connections", "4"]
    assert drill.main([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path), "--strict"]) == 0
    assert capsys.readouterr().out.count(": met") == 2
    [timeline] = json.loads((tmp_path / "drill.json").read_text())["tables"]
    rows = timeline["rows"]
    # It takes as soon as its process has come up.
    assert [row["destination"] for row in rows][:3] == ["takes", "refuses", "refuses"]
    assert len(rows) == 4
    assert all(row["accepted/s"] > 0 for row in rows)
    # In the second second nothing is under way any more.
    assert rows[2]["shipped/s"] == 0
    assert rows[2]["waiting"] > rows[1]["waiting"] > 0
