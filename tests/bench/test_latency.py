import json
import shutil
from pathlib import Path

import pytest

from bench import latency
from bench.latency import SYNC_BYTES, sync_times, waits_for

_DURABLE_FLOOR = ["durable-c"] if shutil.which("cc") else []


def test_every_time_is_of_one_append(tmp_path: Path) -> None:
    found = sync_times(tmp_path / "sync", 0.1)
    assert found
    assert all(each > 0 for each in found)
    assert (tmp_path / "sync").stat().st_size == len(found) * SYNC_BYTES


def test_whoever_comes_while_the_disk_stands_still_waits() -> None:
    syncs = [1.0, 1.0, 8.0, 1.0, 1.0]
    # Until the end of the sync behind the one that is under way.
    assert waits_for(syncs, 1.0) == [2.0, 9.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0]
    assert waits_for(syncs[:1]) == []


def test_a_short_run_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SHARES", (0.1, 0.5))
    monkeypatch.setattr(latency, "WARM_SECONDS", 0.1)
    monkeypatch.setattr(latency, "CAPACITY_SECONDS", 0.1)
    arguments = ["--rounds", "2", "--seconds", "0.1", "--connections", "4"]
    assert latency.main([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path)]) == 0
    assert "goal: p99 at 50% of capacity, fsync," in capsys.readouterr().out
    found = json.loads((tmp_path / "latency.json").read_text())
    of_servers, of_the_disk = found["tables"]
    rows = of_servers["rows"]
    assert {(row["server"], row["share"]) for row in rows} == {
        (server, share) for server in ("floor", "page", "fsync", *_DURABLE_FLOOR) for share in (0.1, 0.5)
    }
    assert all(row["p50 ms"] > 0 for row in rows)
    rates = {(row["server"], row["share"]): row["rate"] for row in rows}
    assert all(rates[server, share] == rates["fsync", share] for server in _DURABLE_FLOOR for share in (0.1, 0.5))
    assert all(row["p99.9 ms, all"] >= row["p99 ms, all"] >= row["p50 ms"] for row in rows)
    together, floor = sorted(found["notes"], reverse=True)
    assert together.startswith("p99 of fsync at that rate over all rounds together: ")
    assert floor.startswith("p99 of durable-c at that rate: " if _DURABLE_FLOOR else "durable-c is missing: ")
    sync, wait = of_the_disk["rows"]
    assert wait["p50 ms"] > sync["p50 ms"] > 0
