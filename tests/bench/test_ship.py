import json
import re
from pathlib import Path

import pytest

from bench import payloads, ship
from tests.bench.shipping import rows_of


@pytest.mark.parametrize("name", ship.PAYLOADS)
def test_a_spool_that_was_made_is_shipped_whole(name: str, tmp_path: Path) -> None:
    payload = payloads.build(name, variants=3)
    assert ship.make_spool(tmp_path / "data", payload, 200) > 0
    ship.drain(tmp_path / "data", f"file:{tmp_path}/out")
    lines = [line for path in (tmp_path / "out").iterdir() for line in path.read_bytes().splitlines()]
    assert len(lines) == 200


def test_several_drainers_ship_a_slot_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    size = ship.make_spool(tmp_path / "spool", payloads.build("A"), 200)
    data = ship._copy(tmp_path, tmp_path / "spool", 2)
    assert ship.drain(data, f"file:{tmp_path}/out", 2).cpu_s > 0
    lines = [line for path in (tmp_path / "out").iterdir() for line in path.read_bytes().splitlines()]
    assert len(lines) == 400
    assert size > 0
    options = ["--drainers", "2", "--events", "200", "--payload", "A", "--runs", "1", "--to", "null:"]
    assert ship.main([*options, "--data", str(tmp_path), "--results", str(tmp_path)]) == 0
    assert re.search(r"\| A \| null: \|.*\n\| A \| null:, 2 drainers \|", capsys.readouterr().out)


def test_every_sink_gets_a_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = rows_of(capsys, tmp_path, "null:", "null:?shape=captured")
    assert len(rows) == 2
    assert json.loads((tmp_path / "ship.json").read_text())["goals"][0]["reached"] is None
    assert all(re.search(r"\| -?\d+\.\d\d \| [\d,]+ \| \d+ \|$", row) for row in rows)
    assert not list((tmp_path / "data").iterdir())
