import json
import os
import socket
from pathlib import Path

from edge.checkpoints import Checkpoint, CheckpointFile, Position, Totals
from edge.disk import RealDisk
from edge.layout import Layout
from edge.segment.scan import Frame
from edge.spool.inspect import all_segments, extent, frames
from edge.status import read_status, spool_gauges
from tests.drain.spools import Slot
from tests.exposition import parse
from tests.server.running import edge


def checkpoint(data: Path, slots: dict[int, Position], totals: Totals | None = None) -> None:
    layout = Layout(data)
    layout.checkpoints.mkdir(parents=True, exist_ok=True)
    file = CheckpointFile(RealDisk(), str(layout.checkpoints), "null")
    file.save(Checkpoint("null:", slots, totals or Totals()))


def ends(data: Path, slot: int) -> list[Position]:
    """The end of every frame of a slot."""
    files = [file for file in all_segments(Layout(data)) if file.slot == slot]
    return [Position(str(file.name), item.end) for file in files for item in frames(file) if isinstance(item, Frame)]


def test_a_new_folder_holds_nothing(tmp_path: Path) -> None:
    status = read_status(Layout(tmp_path))
    assert (status.data, status.slots, status.sinks) == (str(tmp_path), [], [])


def test_slots_tell_what_they_hold(tmp_path: Path) -> None:
    first, second = Slot(tmp_path, 0), Slot(tmp_path, 12)
    first.commit("a", "b")
    first.seal()
    first.commit("c")
    second.commit("d")
    slots = read_status(Layout(tmp_path)).slots
    assert [(slot.slot, slot.segments, slot.records, slot.events, slot.damaged_bytes) for slot in slots] == [
        (0, {"sealed": 1, "open": 1}, 3, 3, 0),
        (12, {"open": 1}, 1, 1, 0),
    ]
    assert slots[0].bytes == sum(path.stat().st_size for path in first.files)


def test_damage_is_told(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    for name in "abc":
        slot.commit(name)
    slot.seal()
    (path,) = slot.files
    positions = ends(tmp_path, 0)
    data = bytearray(path.read_bytes())
    data[positions[0].offset + 60] ^= 0xFF
    path.write_bytes(data)
    (found,) = read_status(Layout(tmp_path)).slots
    assert found.records == 2
    assert found.damaged_bytes == positions[1].offset - positions[0].offset


def test_what_lies_behind_a_sinks_position_waits(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a", "b")
    slot.commit("c")
    slot.seal()
    slot.commit("d")
    positions = ends(tmp_path, 0)
    for position, waiting in ((None, 4), (positions[0], 2), (positions[1], 1), (positions[2], 0)):
        checkpoint(tmp_path, {} if position is None else {0: position})
        (sink,) = read_status(Layout(tmp_path)).sinks
        assert (sink.waiting_records, sink.waiting_events) == (waiting, waiting)
        assert (sink.oldest_waiting_s > 0) == (waiting > 0)


def test_a_sink_tells_what_became_of_events(tmp_path: Path) -> None:
    totals = Totals(records=9, shipped=7, dropped={"no_event_name": 2}, quarantined=1, damaged_bytes=30)
    checkpoint(tmp_path, {}, totals)
    (sink,) = read_status(Layout(tmp_path)).sinks
    assert (sink.sink, sink.id, sink.shipped, sink.dropped) == ("null:", "null", 7, {"no_event_name": 2})
    assert (sink.quarantined, sink.damaged_bytes, sink.waiting_records) == (1, 30, 0)


def test_what_can_be_read_of_segments_set_aside_waits_until_it_is_shipped(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    (path,) = slot.files
    size = path.stat().st_size
    path.rename(path.with_suffix(".bad"))
    waiting = []
    for offset in (0, size):
        checkpoint(tmp_path, {0: Position(path.stem, offset)})
        status = read_status(Layout(tmp_path))
        assert status.slots[0].segments == {"bad": 1}
        waiting.append(status.sinks[0].waiting_records)
    assert waiting == [1, 0]


def test_the_gauges_are_metrics(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    slot.commit("b")
    families = parse(spool_gauges(Layout(tmp_path), extent(Layout(tmp_path))))
    assert families["edge_spool_bytes"].samples["edge_spool_bytes", ()] == sum(p.stat().st_size for p in slot.files)
    segments = {dict(labels)["state"]: value for (_, labels), value in families["edge_spool_segments"].samples.items()}
    assert segments == {"open": 1, "sealed": 1, "suspect": 0, "bad": 0}
    assert families["edge_spool_oldest_age_seconds"].samples["edge_spool_oldest_age_seconds", ()] >= 0


def test_the_gauges_of_a_new_folder_are_zero(tmp_path: Path) -> None:
    families = parse(spool_gauges(Layout(tmp_path), extent(Layout(tmp_path))))
    assert all(value == 0 for family in families.values() for value in family.samples.values())
    assert json.dumps([family.kind for family in families.values()]) == json.dumps(["gauge"] * 4)


def test_what_a_sink_was_given_adds_up(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a", "b")
    totals = Totals(records=9, accepted=12, shipped=7, dropped={"no_event_name": 2}, merged=1, quarantined=1, limited=3)
    checkpoint(tmp_path, {}, totals)
    (sink,) = read_status(Layout(tmp_path)).sinks
    assert sink.accepted == 14
    assert sink.unaccounted == 1
    settled = sink.shipped + sum(sink.dropped.values()) + sink.merged + sink.quarantined
    assert sink.accepted == settled + sink.waiting_events + sink.unaccounted
    assert (sink.limited, sink.trouble) == (3, None)


def test_files_in_quarantine_are_counted_and_others_are_not(tmp_path: Path) -> None:
    checkpoint(tmp_path, {})
    folder = Layout(tmp_path).quarantine / "null"
    folder.mkdir(parents=True)
    for name in (
        "5c0d2e88b1f09a37-31-0.json",
        "5c0d2e88b1f09a37-31-1.json",
        ".5c0d2e88b1f09a37-31-2.json.tmp",
        "notes",
    ):
        (folder / name).touch()
    (sink,) = read_status(Layout(tmp_path)).sinks
    assert sink.in_quarantine == 2
    samples = parse(spool_gauges(Layout(tmp_path), extent(Layout(tmp_path))))["edge_quarantined_events"].samples
    assert samples == {("edge_quarantined_events", (("sink", "null"),)): 2.0}


def test_a_segment_that_may_not_be_opened_hides_no_other(tmp_path: Path) -> None:
    """A socket in its place cannot be opened, by no user."""
    slot = Slot(tmp_path)
    slot.commit("a")
    checkpoint(tmp_path, {})
    directory = os.open(slot.directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/000000000009-ffffffffffffffff.zst")
        status = read_status(Layout(tmp_path))
    os.close(directory)
    (found,) = status.slots
    assert (found.segments, found.records, found.unreadable) == ({"open": 1, "sealed": 1}, 1, 1)
    assert [sink.waiting_events for sink in status.sinks] == [1]
    text = edge("status", "--data", tmp_path)
    assert text.returncode == 74
    assert "1 segments cannot be read" in text.stdout
