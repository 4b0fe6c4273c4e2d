import json
from pathlib import Path

import pytest

from bench import growth
from edge.layout import Layout
from edge.status import read_status


def test_a_backlog_is_segments_that_can_be_read(tmp_path: Path) -> None:
    growth.make_backlog(tmp_path, 30)
    [slot] = read_status(Layout(tmp_path)).slots
    assert (slot.segments, slot.records, slot.events, slot.damaged_bytes) == ({"sealed": 30}, 30, 30, 0)


def test_payloads_hold_as_many_events_and_tokens_as_they_say() -> None:
    batch = growth.batch_payload(7, 2)
    assert len(batch.requests) == 2
    assert all(len(json.loads(request.partition(b"\r\n\r\n")[2])["batch"]) == 7 for request in batch.requests)
    few, many = (growth.token_payload(count) for count in (3, 2500))
    for payload, count in ((few, 3), (many, 2500)):
        tokens = {json.loads(request.partition(b"\r\n\r\n")[2])["api_key"] for request in payload.requests}
        assert len(tokens) == count
        assert len({len(token) for token in tokens}) == 1


def test_a_short_run_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BATCHES", (1, 5))
    monkeypatch.setattr(growth, "SHIPPED", (20, 40))
    monkeypatch.setattr(growth, "_IDLE_SECONDS", 0.2)
    arguments = ["--rounds", "1", "--seconds", "0.1", "--tokens", "1", "20", "--backlog", "0", "50"]
    assert growth.main([*arguments, "--data", str(tmp_path / "data"), "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("goal: ") == 4
    batches, tokens, backlog, shipping = json.loads((tmp_path / "growth.json").read_text())["tables"]
    assert [row["events"] for row in batches["rows"]] == [1, 5]
    assert [row["tokens"] for row in tokens["rows"]] == [1, 20]
    assert [row["segments"] for row in backlog["rows"]] == [0, 50]
    assert all(row[column] > 0 for row in backlog["rows"] for column in backlog["columns"] if column != "segments")
    assert [row["segments"] for row in shipping["rows"]] == [20, 40]
    assert not list((tmp_path / "data").iterdir())
