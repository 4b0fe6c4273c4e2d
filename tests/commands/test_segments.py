import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.cli import main
from edge.commands import segments
from edge.segment.frame import encode_room_header, encode_segment_header
from edge.segment.name import SegmentName
from edge.segment.record import decode_record
from edge.spool.inspect import named_segment
from tests.drain.spools import Slot
from tests.server.running import edge, environment


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    """Two segments: one sealed with two frames, one open."""
    made = Slot(tmp_path / "data")
    made.commit("a", "b")
    made.commit("c")
    made.seal()
    made.commit("d")
    return made


def run(capsysbinary: pytest.CaptureFixture[bytes], *words: str | Path) -> tuple[int, str, str]:
    status = main(["segments", *map(str, words)])
    captured = capsysbinary.readouterr()
    return status, captured.out.decode(), captured.err.decode()


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


# --- ls


def test_ls_tells_people_what_there_is(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    status, out, _ = run(capsysbinary, "ls", "--data", slot.layout.data)
    assert status == 0
    head, sealed, opened = (line.split() for line in out.splitlines())
    assert head == ["segment", "slot", "state", "bytes", "records", "events", "damage"]
    assert sealed[:3] == ["000000000001-000000000000abc1", "0", "sealed"]
    assert sealed[4:] == ["3", "3", "-"]
    assert opened[:3] == ["000000000002-000000000000abc2", "0", "open"]


def test_ls_tells_programs_what_there_is(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    status, out, _ = run(capsysbinary, "ls", "--json", "--data", slot.layout.data)
    assert status == 0
    sealed, opened = map(json.loads, out.splitlines())
    assert (sealed["state"], sealed["frames"], sealed["records"], sealed["events"]) == ("sealed", 2, 3, 3)
    assert sealed["bytes"] == slot.files[0].stat().st_size == sealed["end"]
    assert (opened["state"], opened["records"], opened["damaged_bytes"]) == ("open", 1, 0)


def test_ls_of_files_that_are_none(slot: Slot, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    other = tmp_path / "other.txt"
    other.write_text("nothing of ours, but longer than any header of a segment is")
    status, out, error = run(capsysbinary, "ls", "--json", other, tmp_path / "nowhere", slot.files[0])
    assert status == 74
    assert [json.loads(line)["records"] for line in out.splitlines()] == [3]
    assert f"{other}: expected a segment" in error
    assert f"{tmp_path / 'nowhere'}: [Errno 2]" in error


@pytest.mark.parametrize("words", ["status", "segments ls", "segments stat", "segments cat", "segments verify"])
def test_what_is_no_slot_is_in_nobodys_way(words: str, slot: Slot) -> None:
    slot.layout.slot(5).write_text("in the way")
    done = edge(*words.split(), "--data", slot.layout.data)
    assert (done.returncode, done.stderr) == (0, "")


# --- what may not be opened


@pytest.fixture
def closed(slot: Slot) -> Iterator[Path]:
    """A sealed segment in between that cannot be opened, by no user: a socket in its place."""
    path = slot.directory / "000000000001-ffffffffffffffff.zst"
    # The whole path is too long for a socket.
    directory = os.open(slot.directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/{path.name}")
        yield path
    os.close(directory)


@pytest.mark.parametrize(
    ("words", "lines"),
    [("ls", 4), ("cat", 4), ("verify", 2), ("repair", 1), ("replay --to null:", 1)],
    ids=lambda value: str(value).split()[0],
)
def test_a_segment_that_may_not_be_opened_hides_no_other(
    words: str, lines: int, slot: Slot, closed: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    status, out, error = run(capsysbinary, *words.split(), "--data", slot.layout.data)
    assert (status, len(out.splitlines())) == (74, lines)
    assert str(closed) in error


def test_a_segment_that_may_not_be_opened_is_listed_and_counted(
    slot: Slot, closed: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    _, out, _ = run(capsysbinary, "ls", "--data", slot.layout.data)
    assert [line.split()[-1] for line in out.splitlines()] == ["damage", "-", "unreadable", "-"]
    _, out, _ = run(capsysbinary, "ls", "--json", "--data", slot.layout.data)
    assert ["unreadable" in json.loads(line) for line in out.splitlines()] == [False, True, False]
    status, out, _ = run(capsysbinary, "stat", "--json", "--data", slot.layout.data)
    found = json.loads(out)
    assert (status, found["unreadable"], found["segments"], found["events"]) == (74, 1, 3, 4)
    assert run(capsysbinary, "stat", "--data", slot.layout.data)[0] == 74


@pytest.mark.parametrize("words", ["status", "segments stat"])
def test_a_folder_that_cannot_be_read_is_told_in_a_sentence(words: str, slot: Slot) -> None:
    slot.layout.checkpoints.write_text("in the way")
    done = edge(*words.split(), "--data", slot.layout.data)
    assert done.returncode == 74
    assert done.stderr == f"edge {words.split()[0]}: [Errno 20] Not a directory: '{slot.layout.checkpoints}'\n"


# --- cat


def test_cat_prints_the_records_as_they_are_stored(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    status, out, error = run(capsysbinary, "cat", "--data", slot.layout.data)
    assert (status, error) == (0, "")
    lines = out.splitlines()
    assert [json.loads(line)["data"]["event"] for line in lines] == ["a", "b", "c", "d"]
    assert decode_record(lines[0].encode()).token == "phc_x"
    assert run(capsysbinary, "cat", "--data", slot.layout.data, "--json") == (0, out, "")


def test_cat_of_a_copied_file_needs_no_spool(
    slot: Slot, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    copy = tmp_path / "copied"
    shutil.copy(slot.files[0], copy)
    status, out, _ = run(capsysbinary, "cat", copy)
    assert status == 0
    assert len(out.splitlines()) == 3


def test_cat_skips_damage_and_says_where_it_is(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    damage(slot.files[0], 48 + 60)
    status, out, error = run(capsysbinary, "cat", "--data", slot.layout.data)
    assert status == 65
    assert [json.loads(line)["data"]["event"] for line in out.splitlines()] == ["c", "d"]
    assert "000000000001-000000000000abc1: bytes 48 to " in error
    assert error.endswith(" are damaged\n")


def test_cat_says_so_when_the_end_of_a_finished_segment_is_damaged(
    slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = slot.files[0]
    path.write_bytes(path.read_bytes()[:-1])
    status, out, error = run(capsysbinary, "cat", path)
    assert status == 65
    assert len(out.splitlines()) == 2
    assert "are damaged" in error


def test_cat_of_an_open_segment_leaves_out_what_is_being_written(
    slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = slot.files[1]
    path.write_bytes(path.read_bytes() + path.read_bytes()[48:90])
    status, out, error = run(capsysbinary, "cat", path)
    assert (status, error) == (0, "")
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("verb", ["cat", "ls"])
def test_a_reader_that_has_seen_enough_is_no_error(verb: str, tmp_path: Path) -> None:
    """Whether more is to be written, or all of it fits into a buffer."""
    slot = Slot(tmp_path)
    for _ in range(2000):
        slot.commit("x" * 100)
    command = [sys.executable, "-m", "edge", "segments", verb, "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as cat:
        assert cat.stdout is not None
        assert cat.stderr is not None
        if verb == "cat":
            assert cat.stdout.readline()
        cat.stdout.close()
        assert cat.stderr.read() == b""
    assert cat.returncode == 0


# --- verify


def test_verify_finds_nothing_wrong_with_what_is_right(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    status, out, _ = run(capsysbinary, "verify", "--data", slot.layout.data)
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == ["ok", "ok"]


def test_verify_of_damage_is_status_65(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    damage(slot.files[0], 48 + 60)
    status, out, _ = run(capsysbinary, "verify", "--json", "--data", slot.layout.data)
    assert status == 65
    damaged, fine = map(json.loads, out.splitlines())
    assert any("bytes 48 to " in fault for fault in damaged["faults"])
    assert fine["faults"] == []


HEADERS = {
    "empty": (lambda data: b"", "empty", 65),
    "cut within the header": (lambda data: data[:30], "bytes 0 to 30 are damaged", 65),
    "bit of the header": (lambda data: bytes([*data[:20], data[20] ^ 1, *data[21:]]), "bytes 0 to 48 are damaged", 0),
    "header of another": (
        lambda data: encode_segment_header(SegmentName(9, 9), 0, 0) + data[48:],
        "the header is that of 000000000009-0000000000000009",
        0,
    ),
}


@pytest.mark.parametrize(("damaged", "told", "repaired"), HEADERS.values(), ids=HEADERS)
def test_verify_of_a_damaged_header_is_status_65(
    damaged: Callable[[bytes], bytes],
    told: str,
    repaired: int,
    slot: Slot,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Repair has nothing to do where every frame is good, and cannot do anything where there is none."""
    path = slot.files[0]
    path.write_bytes(damaged(path.read_bytes()))
    status, out, _ = run(capsysbinary, "verify", path)
    assert (status, out) == (65, f"000000000001-000000000000abc1 {told}\n")
    assert run(capsysbinary, "repair", path)[0] == repaired


def test_verify_of_an_open_segment_that_is_being_made_finds_nothing_wrong(
    slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = slot.files[1]
    data = path.read_bytes()
    for size in (0, 30, 48):
        path.write_bytes(data[:size])
        assert run(capsysbinary, "verify", path)[:2] == (0, "000000000002-000000000000abc2 ok\n")
    path.write_bytes(bytes(48) + data[48:])
    assert run(capsysbinary, "verify", path)[0] == 65


def test_a_segment_that_is_deleted_before_it_is_read_is_no_damage(slot: Slot) -> None:
    file = named_segment(slot.files[0])
    file.path.unlink()
    assert segments._faults(file) == []


def test_verify_of_room_that_is_not_used_finds_nothing_wrong(
    slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = slot.files[0].rename(slot.files[0].with_suffix(".suspect.zst"))
    path.write_bytes(path.read_bytes() + encode_room_header(9000) + bytes(9000 - 8))
    assert run(capsysbinary, "verify", path)[0] == 0


def test_verify_of_what_was_set_aside_is_status_65(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path = slot.files[0]
    path.rename(path.with_suffix(".bad"))
    status, out, _ = run(capsysbinary, "verify", "--data", slot.layout.data)
    assert status == 65
    assert "set aside as unreadable" in out


def test_verify_of_a_missing_frame_is_status_65(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path = slot.files[0]
    ends = json.loads(run(capsysbinary, "ls", "--json", path)[1])["end"]
    data = path.read_bytes()
    second = data.index(data[48:52], 49)
    path.write_bytes(data[:48] + data[second:ends])
    status, out, _ = run(capsysbinary, "verify", path)
    assert status == 65
    assert "1 frames are missing" in out


def test_verify_of_a_record_that_is_none_is_status_65(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The checksum fits: a fault of the writer, not of the disk."""
    slot = Slot(tmp_path)
    slot.commit("a", body=b'{"event":')
    slot.seal()
    status, out, _ = run(capsysbinary, "verify", "--data", tmp_path)
    assert status == 65
    assert "the frame at 48 " in out


@pytest.mark.parametrize("what", ["missing", "a folder"])
def test_verify_of_what_cannot_be_read_is_status_74(
    what: str, slot: Slot, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "000000000009-000000000000abc9.zst"
    if what == "a folder":
        path.mkdir()
    status, out, error = run(capsysbinary, "verify", path, slot.files[0])
    assert status == 74
    assert out.endswith(" ok\n")
    assert error.startswith(f"{path}: ")


def test_damage_does_not_hide_what_cannot_be_read(
    slot: Slot, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    damage(slot.files[0], 48 + 60)
    assert run(capsysbinary, "verify", slot.files[0], tmp_path / "nowhere")[0] == 74
    assert run(capsysbinary, "verify", tmp_path / "nowhere", slot.files[0])[0] == 74


def test_the_program_ends_with_the_status(slot: Slot) -> None:
    damage(slot.files[0], 48 + 60)
    assert edge("segments", "verify", "--data", slot.layout.data).returncode == 65


# --- filters


def test_cat_prints_the_records_that_are_asked_for(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def found(*words: str) -> list[str]:
        status, out, _ = run(capsysbinary, "cat", "--data", slot.layout.data, *words)
        assert status == 0
        return [json.loads(line)["data"]["event"] for line in out.splitlines()]

    assert found("--event", "b", "--event", "d") == ["b", "d"]
    assert found("--token", "phc_x") == list("abcd")
    assert found("--token", "phc_y") == []
    assert found("--until", "2020-01-01T00:00:00Z") == []
    assert found("--since", "2025-11-21T00:00:00Z", "--event", "a") == ["a"]


def test_cat_prints_events_as_they_are_shipped(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    _, out, _ = run(capsysbinary, "cat", "--events", "--data", slot.layout.data)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == list("abcd")
    _, out, _ = run(capsysbinary, "cat", "--events", "--uuid", events[2]["uuid"].upper(), "--data", slot.layout.data)
    assert json.loads(out) == events[2]


def test_a_time_that_is_none_is_told(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    status, _, error = run(capsysbinary, "cat", "--since", "soon", "--data", slot.layout.data)
    assert status == 78
    assert "--since, --until: expected a time such as" in error


# --- stat


def test_stat_tells_the_whole(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["drain", "--once", "--data", str(slot.layout.data), "--to", "null:"]) == 0
    # The drainer has recovered, shipped and deleted what the slot's writer left open.
    slot = Slot(slot.layout.data, 7)
    slot.commit("e", "f")
    status, out, _ = run(capsysbinary, "stat", "--json", "--data", slot.layout.data)
    assert status == 0
    found = json.loads(out)
    assert (found["segments"], found["records"], found["events"]) == (1, 2, 2)
    assert found["bytes"] == sum(path.stat().st_size for path in slot.files)
    assert found["states"] == {"open": 1, "sealed": 0, "suspect": 0, "bad": 0}
    assert found["full_in_s"] > 0
    assert found["quarantined"] == 0
    [sink] = found["sinks"]
    assert (sink["id"], sink["waiting_events"], sink["in_quarantine"], sink["unaccounted"]) == ("null", 2, 0, 0)
    _, out, _ = run(capsysbinary, "stat", "--data", slot.layout.data)
    assert ["events", "2"] in [line.split() for line in out.splitlines()]


def test_stat_takes_room_that_is_not_used_for_no_traffic(
    slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    def stat() -> dict[str, int]:
        found: dict[str, int] = json.loads(run(capsysbinary, "stat", "--json", "--data", slot.layout.data)[1])
        return found

    before = stat()
    path = slot.files[1]
    path.write_bytes(path.read_bytes() + encode_room_header(1 << 20) + bytes((1 << 20) - 8))
    found = stat()
    assert (before["room_bytes"], found["room_bytes"], found["bytes"] - before["bytes"]) == (0, 1 << 20, 1 << 20)
    # What is written beside the tests changes what is free a little; the room would make it a thousandth.
    assert found["full_in_s"] > before["full_in_s"] / 2


def test_stat_of_a_new_folder_is_of_nothing(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    _, out, _ = run(capsysbinary, "stat", "--json", "--data", tmp_path)
    found = json.loads(out)
    assert (found["segments"], found["oldest_s"], found["full_in_s"], found["sinks"]) == (0, 0.0, None, [])


# --- repair


def test_repair_tells_and_with_yes_does_what_recovery_would(
    slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    opened = slot.files[1]
    opened.write_bytes(opened.read_bytes() + b"torn")
    before = {path.name: path.read_bytes() for path in slot.files}
    status, out, _ = run(capsysbinary, "repair", "--data", slot.layout.data)
    assert status == 0
    assert out.startswith("000000000002-000000000000abc2 would be: cut and seal; 1 records, 4 bytes after")
    assert {path.name: path.read_bytes() for path in slot.files} == before
    status, out, _ = run(capsysbinary, "repair", "--json", "--yes", "--data", slot.layout.data)
    assert status == 0
    assert [json.loads(line)["action"] for line in out.splitlines()] == ["none", "cut and seal"]
    assert not [path for path in slot.files if ".open." in path.name]
    assert [path.read_bytes() for path in slot.layout.torn.iterdir()] == [b"torn"]
    status, out, _ = run(capsysbinary, "verify", "--data", slot.layout.data)
    assert status == 0


def test_repair_leaves_a_living_worker_alone(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    slot = Slot(tmp_path, locked=True)
    slot.commit("a")
    status, out, _ = run(capsysbinary, "repair", "--yes", "--data", tmp_path)
    assert (status, out) == (0, "")
    status, _, error = run(capsysbinary, "repair", "--yes", slot.files[0])
    assert status == 75
    assert "in use by a worker" in error
    slot.release()


def test_repair_of_what_holds_nothing_good_is_bad_data(slot: Slot, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    slot.files[0].write_bytes(slot.files[0].read_bytes()[:60])
    status, out, _ = run(capsysbinary, "repair", "--yes", slot.files[0])
    assert status == 65
    assert "unreadable" in out
