import json
from pathlib import Path

import pytest

from edge.checkpoints import Checkpoint, CheckpointFile, Totals, Trouble
from edge.cli import main
from edge.disk import RealDisk
from edge.layout import Layout
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
    assert lines[lines.index("sinks") + 1 : lines.index("sinks") + 6] == [
        "null:",
        "accepted 4 events",
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


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("retryable", "takes nothing since 2025-11-21T"),
        ("paused", "PAUSED, its settings have to be mended, since 2025-11-21T"),
        ("breaker", "PAUSED, it refuses everything, since 2025-11-21T"),
    ],
)
def test_a_sink_in_trouble_and_events_nobody_can_account_for_stand_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, sentence: str
) -> None:
    folder = Layout(tmp_path).checkpoints
    folder.mkdir(parents=True)
    trouble = Trouble(kind, "status 401: no such key", 1_763_690_000_000_000)
    totals = Totals(records=3, accepted=9, shipped=4, quarantined=2, limited=1)
    CheckpointFile(RealDisk(), str(folder), "null").save(Checkpoint("null:", {}, totals, trouble))
    text = status(tmp_path, capsys)
    assert sentence in text
    assert "status 401: no such key" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "shipped 4 events, 1 of them over quota" in lines
    assert "quarantined 2 events, 0 of them still there" in lines
    assert "UNACCOUNTED 3 events: keep the data folder and report this" in lines
    (sink,) = json.loads(status(tmp_path, capsys, "--json"))["sinks"]
    assert sink["trouble"]["kind"] == kind


def test_a_segment_that_cannot_be_read_hides_no_other(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder in its place can be opened, and not read, by any user."""
    (Layout(data).slot(0) / "000000000099-9f31c0aa17be5d02.zst").mkdir()
    text = status(data, capsys)
    assert "2 records, 2 events" in text
    assert main(["segments", "ls", "--data", str(data)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["segments", "stat", "--data", str(data)]) == 0
    assert main(["segments", "verify", "--data", str(data)]) in (0, 65)
