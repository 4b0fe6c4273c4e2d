from pathlib import Path

from edge.layout import Layout


def test_slots_are_numbered_directories_of_the_spool() -> None:
    layout = Layout(Path("/data"))
    assert layout.slot(0) == Path("/data/spool/slot-00")
    assert layout.slot(7) == Path("/data/spool/slot-07")
    assert layout.slot(123) == Path("/data/spool/slot-123")


def test_slots_found_are_those_there_lowest_first(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for slot in (10, 2, 100, 0):
        layout.slot(slot).mkdir(parents=True)
    assert layout.slots() == [0, 2, 10, 100]


def test_other_names_in_the_spool_are_no_slots(tmp_path: Path) -> None:
    """Every slot found is found again under its own path."""
    layout = Layout(tmp_path)
    for name in ("slot-01", "slot-007", "slot-1", "slot-", "slot-01.old", "xslot-02", "slot-٠٣", "SLOT-04"):
        (layout.spool / name).mkdir(parents=True)
    assert layout.slots() == [1]
    assert all(layout.slot(slot).is_dir() for slot in layout.slots())


def test_files_are_no_slots_and_no_quarantines(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.slot(1).mkdir(parents=True)
    layout.slot(5).write_text("in the way")
    for name in ("null", "file-1"):
        (layout.quarantine / name).mkdir(parents=True)
    (layout.quarantine / "notes.txt").touch()
    assert layout.slots() == [1]
    assert layout.quarantines() == [layout.quarantine / "file-1", layout.quarantine / "null"]


def test_data_folder_without_a_spool_has_no_slots(tmp_path: Path) -> None:
    assert Layout(tmp_path / "nowhere").slots() == []
    assert Layout(tmp_path / "nowhere").quarantines() == []
