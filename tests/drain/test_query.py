from pathlib import Path

from edge.checkpoints import load_all
from edge.cli import main
from edge.disk import RealDisk
from edge.drain.query import create_events, read_spool
from edge.drain.sinks.parquet import open_database
from tests.drain.spools import Slot


def names(data: Path) -> list[str]:
    slot = Slot(data)
    with open_database() as database:
        create_events(database, slot.layout, "none", None, read_spool(slot.layout, "none", data))
        return [name for (name,) in database.execute("SELECT event FROM events ORDER BY event").fetchall()]


def test_damage_costs_itself_only(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    size = slot.files[0].stat().st_size
    slot.commit("b")
    slot.commit("c")
    data = bytearray(slot.files[0].read_bytes())
    data[size + 60] ^= 0xFF
    slot.files[0].write_bytes(bytes(data))
    assert names(tmp_path) == ["a", "c"]


def test_what_can_be_read_of_segments_set_aside_is_there(tmp_path: Path) -> None:
    """A folder can be opened, and not read; a link to itself not even that."""
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    slot.files[0].rename(slot.files[0].with_suffix(".bad"))
    (slot.directory / "000000000007-000000000000abc7.bad").mkdir()
    lost = slot.directory / "000000000008-000000000000abc8.bad"
    lost.symlink_to(lost)
    slot.commit("b")
    assert names(tmp_path) == ["a", "b"]


def test_records_without_events_are_no_rows(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("nameless", body=b'[{"distinct_id":"d"}]')
    slot.commit("a")
    assert names(tmp_path) == ["a"]


def test_what_is_shipped_while_it_looks_is_there_once(tmp_path: Path) -> None:
    """The checkpoint moves, and segments are deleted, between the look at the spool and the look at the files."""
    slot, late = Slot(tmp_path), Slot(tmp_path, 1)
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    main(["drain", "--once", "--data", str(tmp_path)])
    [sink_id] = load_all(RealDisk(), str(slot.layout.checkpoints))
    other = Slot(tmp_path, 2)
    other.commit("c")
    other.seal()
    other.commit("d")
    spools = read_spool(slot.layout, sink_id, tmp_path)
    late.commit("e")
    main(["drain", "--once", "--data", str(tmp_path)])
    assert other.files == []
    with open_database() as database:
        create_events(database, slot.layout, sink_id, slot.layout.events, spools)
        found = database.execute("SELECT event FROM events ORDER BY event").fetchall()
    assert [name for (name,) in found] == ["a", "b", "c", "d", "e"]
