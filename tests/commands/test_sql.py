import json
from pathlib import Path
from typing import Any

import pytest

from edge.cli import main
from edge.layout import Layout
from edge.process import EXIT_CONFIG
from tests.drain.spools import Slot


def rows(data: Path, query: str, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["sql", query, "--json", "--data", str(data), *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("options", ["", "?format=ndjson.zst", "?format=parquet"], ids=["ndjson", "zst", "parquet"])
def test_shipped_and_waiting_events_are_there_once(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = f"file:{tmp_path}/out{options}"
    slot, other = Slot(tmp_path, locked=True), Slot(tmp_path, 1)
    slot.commit("a", "b")
    slot.seal()
    slot.commit("c")
    assert main(["drain", "--once", "--data", str(tmp_path), "--to", to]) == 0
    slot.commit(
        "d", body=b'{"event":"d","distinct_id":"u","properties":{"plan":"x"},"$set":{"n":1},"uuid":"%b"}' % UUID
    )
    other.commit("e")
    found = rows(tmp_path, "select event, token, lane from events order by event", capsys, "--to", to)
    assert [row["event"] for row in found] == ["a", "b", "c", "d", "e"]
    assert {(row["token"], row["lane"]) for row in found} == {("phc_x", "main")}
    before = rows(tmp_path, "select * from events order by event", capsys, "--to", to)
    assert main(["drain", "--once", "--data", str(tmp_path), "--to", to]) == 0
    after = rows(tmp_path, "from events order by event", capsys, "--to", to)
    assert after == before
    [row] = [row for row in after if row["event"] == "d"]
    assert (row["properties"], row["members"], row["uuid"]) == ({"plan": "x"}, {"$set": {"n": 1}}, UUID.decode())
    assert row["timestamp"] == row["now"] == "2025-11-21 01:53:20+00"
    assert (row["sent_at"], row["historical_migration"]) == (None, False)
    slot.release()


UUID = b"018a981f-4b35-7c66-825e-8b0eeae65714"


def test_a_file_ahead_of_the_checkpoint_is_left_to_the_spool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot = Slot(tmp_path, locked=True)
    slot.commit("a")
    main(["drain", "--once", "--data", str(tmp_path)])
    checkpoints = {path: path.read_bytes() for path in Layout(tmp_path).checkpoints.iterdir()}
    slot.commit("b")
    main(["drain", "--once", "--data", str(tmp_path)])
    for path in Layout(tmp_path).checkpoints.iterdir():
        if path in checkpoints:
            path.write_bytes(checkpoints[path])
    assert len(list(Layout(tmp_path).events.iterdir())) == 2
    slot.release()
    assert [row["event"] for row in rows(tmp_path, "select event from events order by 1", capsys)] == ["a", "b"]


def test_files_count_when_the_checkpoint_and_their_segments_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    main(["drain", "--once", "--data", str(tmp_path)])
    for path in Layout(tmp_path).checkpoints.glob("*.json"):
        path.unlink()
    assert [row["event"] for row in rows(tmp_path, "select event from events order by 1", capsys)] == ["a", "b"]


def test_people_get_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Slot(tmp_path).commit("pageview", "signup", "pageview")
    query = "select event, count(*) as n from events group by all order by n desc; "
    assert main(["sql", query, "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "event     n\n--------  -\npageview  2\nsignup    1\n"


def test_an_empty_folder_has_the_columns_and_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(tmp_path, "select count(*) as n, max(timestamp) as at from events", capsys) == [{"n": 0, "at": None}]


def test_without_a_folder_of_files_it_says_what_it_looks_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Slot(tmp_path).commit("a")
    assert main(["sql", "select event from events", "--data", str(tmp_path), "--to", "null:", "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out) == {"event": "a"}
    assert "only what is still in the spool" in found.err


def test_a_question_that_cannot_be_answered_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "select nothing from events", "--data", str(tmp_path)]) == 1
    assert 'edge sql: Binder Error: Referenced column "nothing" not found' in capsys.readouterr().err
    assert main(["sql", "select 1", "--data", str(tmp_path / "none")]) == EXIT_CONFIG
    assert (
        main(["sql", "select 1", "--data", str(tmp_path), "--to", f"file:{tmp_path}/x?shape=captured"]) == EXIT_CONFIG
    )
