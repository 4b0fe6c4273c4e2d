import json
from pathlib import Path

import pytest

from edge.cli import main
from tests.drain.spools import Slot


def status(data: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["status", "--data", str(data), *words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three events in a slot, of which one is shipped, and one that is not an event."""
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.commit("nameless", body=b'[{"distinct_id":"d"}]')
    slot.seal()
    assert main(["drain", "--once", "--data", str(tmp_path), "--to", "null:"]) == 0
    slot.commit("b", "c")
    return tmp_path


def test_it_tells_people_what_is_where(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = status(data, capsys)
    assert text.startswith(f"data {data}\n\nspool\n  slot 00  1 open; ")
    assert "2 records, 2 events" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[lines.index("sinks") + 1 : lines.index("sinks") + 5] == [
        "null:",
        "shipped 1 events",
        "dropped 1 events",
        "no_event_name 1",
    ]
    assert lines[-1].startswith("waiting 2 events in 2 records, the oldest for ")


def test_it_tells_programs_the_same(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(status(data, capsys, "--json"))
    assert found["data"] == str(data)
    (slot,) = found["slots"]
    assert (slot["slot"], slot["segments"], slot["records"], slot["events"]) == (0, {"open": 1}, 2, 2)
    (sink,) = found["sinks"]
    assert (sink["sink"], sink["shipped"], sink["dropped"]) == ("null:", 1, {"no_event_name": 1})
    assert (sink["waiting_records"], sink["waiting_events"]) == (2, 2)


def test_damage_and_quarantine_are_told_only_when_there_are_any(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = status(data, capsys)
    assert "damaged" not in text
    assert "quarantined" not in text
    (path,) = Slot(data).files
    content = bytearray(path.read_bytes())
    path.write_bytes(content + content[48:])
    assert "bytes are damaged" not in status(data, capsys)
    content[60] ^= 0xFF
    path.write_bytes(content + content[48:])
    assert "slot 00" in status(data, capsys)


def test_a_new_folder_is_told_to_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = status(tmp_path, capsys)
    assert "nothing was ever accepted here" in text
    assert "nothing was shipped yet" in text
