import errno
import json

import pytest

from edge.drain.event import Event
from edge.drain.expand import expand
from edge.drain.quarantine import Quarantine, Quarantined, Suspect, describe, list_quarantined, load
from edge.segment.name import SegmentName
from edge.segment.record import Record
from tests.fakes import Fault, FaultyDisk, MemoryDisk

FOLDER = "/data/quarantine/sink"
RECORD = "5c0d2e88b1f09a37-31"
BODY = b'{"event":"odd","distinct_id":"u","properties":{"big":123456789012345678901234567890,"a":1},"$set":{"x":1e999}}'


def event(body: bytes = BODY) -> Event:
    [found] = expand(Record(RECORD, 1_763_690_000_123_456, "phc_x", "e", "203.0.113.7", body)).events
    return found


def empty_disk() -> MemoryDisk:
    """The data folder is there."""
    disk = MemoryDisk()
    disk.makedirs("/data")
    disk.settle()
    return disk


def quarantined(index: int = 0) -> Quarantined:
    return describe(Suspect(event(), "refused", "status 400: no"), "sink", 3, SegmentName(42, 7), RECORD, index)


def quarantine(disk: MemoryDisk | FaultyDisk) -> Quarantine:
    return Quarantine(disk, FOLDER)


def test_an_event_comes_out_as_it_went_in() -> None:
    disk = empty_disk()
    quarantine(disk).put([quarantined()])
    [name] = list_quarantined(disk, FOLDER)
    assert name == f"{RECORD}-0.json"
    assert load(disk, FOLDER, name).to_event() == event()


def test_the_file_is_a_line_of_json_with_the_reason_and_the_events_own_text() -> None:
    disk = empty_disk()
    quarantine(disk).put([quarantined()])
    data = disk.tree()[f"{FOLDER}/{RECORD}-0.json"]
    assert data.count(b"\n") == 1
    assert BODY in data
    found = json.loads(data)
    assert (found["reason"], found["why"], found["slot"], found["segment"]) == (
        "refused",
        "status 400: no",
        3,
        "000000000042-0000000000000007",
    )


def test_the_same_event_again_takes_the_place_of_its_file() -> None:
    disk = empty_disk()
    quarantine(disk).put([quarantined(0), quarantined(1)])
    quarantine(disk).put([quarantined(0)])
    assert list_quarantined(disk, FOLDER) == [f"{RECORD}-0.json", f"{RECORD}-1.json"]


def test_an_event_that_is_taken_after_a_crash_is_not_kept() -> None:
    disk = empty_disk()
    quarantine(disk).put([quarantined(0), quarantined(1)])
    restarted = quarantine(disk)
    restarted.settle([f"{RECORD}-0.json", "5c0d2e88b1f09a37-99-0.json"])
    assert list_quarantined(disk, FOLDER) == [f"{RECORD}-1.json"]


def test_what_this_process_set_aside_stays() -> None:
    """Only what an earlier process left can be of an event that comes again."""
    disk = empty_disk()
    own = quarantine(disk)
    own.put([quarantined(0)])
    own.settle([f"{RECORD}-0.json"])
    assert list_quarantined(disk, FOLDER) == [f"{RECORD}-0.json"]


def test_it_is_on_stable_storage_when_put_returns() -> None:
    disk = empty_disk()
    quarantine(disk).put([quarantined(0), quarantined(1)])
    after = disk.after_power_loss()
    assert [load(after, FOLDER, name).index for name in list_quarantined(after, FOLDER)] == [0, 1]


def test_whichever_call_fails_a_second_attempt_puts_everything() -> None:
    calls = FaultyDisk(empty_disk())
    Quarantine(calls, FOLDER).put([quarantined(0), quarantined(1)])
    for nth in range(len(calls.calls)):
        disk = FaultyDisk(empty_disk())
        disk.fail_nth(nth, Fault(errno.ENOSPC))
        try:
            failing = Quarantine(disk, FOLDER)
            failing.put([quarantined(0), quarantined(1)])
        except OSError:
            Quarantine(disk, FOLDER).put([quarantined(0), quarantined(1)])
        assert isinstance(disk.inner, MemoryDisk)
        after = disk.inner.after_power_loss()
        assert [load(after, FOLDER, name).index for name in list_quarantined(after, FOLDER)] == [0, 1]
        assert not [name for name in disk.inner.listdir(FOLDER) if name.endswith(".tmp")]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"reason":1}', b"\xff", b'{"reason":"x"'])
def test_a_file_that_is_none_is_told(data: bytes) -> None:
    disk = empty_disk()
    disk.makedirs(FOLDER)
    disk.write(f"{FOLDER}/{RECORD}-0.json", data)
    with pytest.raises(ValueError, match=r".+"):
        load(disk, FOLDER, f"{RECORD}-0.json")


def test_a_folder_that_is_not_there_holds_nothing() -> None:
    assert list_quarantined(MemoryDisk(), FOLDER) == []
