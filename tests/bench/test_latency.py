import json
from pathlib import Path

import pytest

from bench import latency
from bench.latency import SYNC_BYTES, sync_times


def test_every_time_is_of_one_append(tmp_path: Path) -> None:
    found = sync_times(tmp_path / "sync", 0.1)
    assert found
    assert all(each > 0 for each in found)
    assert (tmp_path / "sync").stat().st_size == len(found) * SYNC_BYTES


def test_a_short_run_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SHARES", (0.1, 0.5))
    monkeypatch.setattr(latency, "WARM_SECONDS", 0.1)
    arguments = ["--rounds", "1", "--seconds", "0.1", "--connections", "4"]
    assert latency.main([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path)]) == 0
    assert "goal: p99 at 50% of capacity, fsync," in capsys.readouterr().out
    rows = json.loads((tmp_path / "latency.json").read_text())["tables"][0]["rows"]
    assert {(row["server"], row["share"]) for row in rows} == {
        (server, share) for server in ("floor", "page", "fsync") for share in (0.1, 0.5)
    }
    assert all(row["p50 ms"] > 0 for row in rows)
