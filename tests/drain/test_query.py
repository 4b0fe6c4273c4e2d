from pathlib import Path

from edge.drain.query import create_events
from edge.drain.sinks.parquet import open_database
from tests.drain.spools import Slot


def names(data: Path) -> list[str]:
    slot = Slot(data)
    with open_database() as database:
        create_events(database, slot.layout, "none", None, data)
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


def test_records_without_events_are_no_rows(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("nameless", body=b'[{"distinct_id":"d"}]')
    slot.commit("a")
    assert names(tmp_path) == ["a"]
