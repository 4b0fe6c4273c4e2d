"""docs/format.md says what the code does: its offsets are the code's, and its test vectors are what the code reads."""

import re
import struct
from pathlib import Path

import pytest

from edge.segment import frame as frame_module
from edge.segment.frame import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_RAW_BYTES_MAX,
    FRAME_RECORDS_MAX,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    VERSION,
    encode_room_header,
    is_room,
    parse_segment_header,
)
from edge.segment.name import SegmentName, State, parse_name
from edge.segment.record import Record, RecordIds, decode_record, encode_record
from edge.segment.scan import Damage, Frame, scan

TEXT = (Path(__file__).parent.parent / "docs" / "format.md").read_text()


def section(heading: str) -> str:
    return re.split(rf"^##+ {heading}\n", TEXT, flags=re.MULTILINE)[1].split("\n## ")[0].split("\n### ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its head."""
    table = text[text.index("|") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def fenced(kind: str) -> str:
    return TEXT.split(f"```{kind}\n")[1].split("\n```")[0]


FILE_NAME = re.findall(r"The file `([^`]+)`", TEXT)[0]
DATA = bytes.fromhex(fenced("hex"))
LINES = fenced("json").encode().split(b"\n")
_PARSED = parse_name(FILE_NAME)
assert _PARSED is not None
NAME = _PARSED[0]


@pytest.mark.parametrize(
    ("heading", "layout", "header_bytes", "fixed"),
    [
        pytest.param(
            "Segment header",
            frame_module._SEGMENT,
            SEGMENT_HEADER_BYTES,
            {0: f"magic `0x{int.from_bytes(SEGMENT_MAGIC, 'little'):X}`", 4: f": {SEGMENT_HEADER_BYTES - 8}"},
            id="segment header",
        ),
        pytest.param(
            "Frame pair",
            frame_module._FRAME,
            FRAME_HEADER_BYTES,
            {0: f"magic `0x{int.from_bytes(FRAME_MAGIC, 'little'):X}`", 4: f": {FRAME_HEADER_BYTES - 8}"},
            id="frame pair",
        ),
    ],
)
def test_documented_offsets_are_those_of_the_code(
    heading: str, layout: struct.Struct, header_bytes: int, fixed: dict[int, str]
) -> None:
    documented = [(int(offset), int(size), text) for offset, size, text in rows(section(heading)) if size]
    codes = re.findall(r"\d*[a-zA-Z]", layout.format.lstrip("<"))
    sizes = [struct.calcsize(f"<{code}") for code in codes]
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    assert [(offset, size) for offset, size, _ in documented] == list(zip(offsets, sizes, strict=True))
    assert sum(sizes) == header_bytes
    texts = {offset: text for offset, _, text in documented}
    assert texts[8].endswith(f": {VERSION}")
    for offset, text in fixed.items():
        assert texts[offset].endswith(text)


def test_documented_limits_are_those_of_the_code() -> None:
    assert f"at most {FRAME_RECORDS_MAX} records and {FRAME_RAW_BYTES_MAX} bytes of content" in TEXT


def test_documented_room_is_that_of_the_code() -> None:
    (magic, length) = rows(section("Room"))
    header = encode_room_header(4096)
    assert magic == ["0", "4", f"magic `0x{int.from_bytes(header[:4], 'little'):X}`"]
    assert length[:2] == ["4", str(len(header) - 4)]
    assert int.from_bytes(header[4:], "little") == 4096 - len(header)


def test_documented_suffixes_are_those_of_the_code() -> None:
    assert [row[0] for row in rows(section("Files"))] == [f"`{state.value}`" for state in State]


def test_documented_record_fields_are_those_of_the_code_in_the_stored_order() -> None:
    documented = [row[0].strip("`") for row in rows(section("Records"))]
    assert sorted(documented) == sorted(Record.__struct_fields__)
    line = encode_record(RecordIds(1, 5), 1, "t", "e", "::1", b"{}", "s", "u").decode()
    assert re.findall(r'[{,]"(\w+)":', line) == documented


def test_test_vector_holds_the_documented_records() -> None:
    assert f"{len(DATA)} bytes" in TEXT
    frames = [item for item in scan(DATA, NAME.incarnation) if isinstance(item, Frame)]
    assert [line for frame in frames for line in frame.lines()] == LINES
    assert [decode_record(line).at for line in LINES] == [1763690000123456 + 1000 * number for number in range(3)]


def test_test_vector_has_the_documented_headers() -> None:
    header = parse_segment_header(DATA)
    assert header is not None
    vector = section("Test vector")
    assert [int(value, 0) for _, value in rows(vector.split("Its segment header:")[1])] == [
        header.slot,
        header.created_us,
        header.name.counter,
        header.name.incarnation,
        int.from_bytes(DATA[40:48], "little"),
    ]
    assert header.name == NAME
    documented = [[int(cell, 0) for cell in row[1:]] for row in rows(vector.split("Its pairs:")[1])]
    frames = [item for item in scan(DATA, NAME.incarnation) if isinstance(item, Frame)]
    assert [list(column) for column in zip(*documented, strict=True)] == [
        [
            frame.offset,
            frame.header.records,
            frame.header.frame_bytes,
            frame.header.raw_bytes,
            frame.header.sequence,
            frame.header.oldest_us,
            frame.header.previous_bytes,
            frame.header.events,
            frame.header.checksum,
        ]
        for frame in frames
    ]


CHANGES = {
    "none": DATA,
    "byte 70 set to 255": DATA[:70] + b"\xff" + DATA[71:],
    "cut to 465 bytes": DATA[:465],
    "4096 zeroes appended": DATA + bytes(4096),
    "`5c 2a 4d 18 f8 0f 00 00` and 4088 zeroes appended": DATA + bytes.fromhex("5c2a4d18f80f0000") + bytes(4088),
    "the bytes 48 to 228 appended once more": DATA + DATA[48:229],
    "the bytes 0 to 47 set to 0": bytes(48) + DATA[48:],
    "read with incarnation 0x0000000000000000": DATA,
}


def test_documented_damage_is_what_the_code_finds() -> None:
    documented = dict(rows(section("Test vector").split("Damage to try on it:")[1]))
    assert list(documented) == list(CHANGES)
    for change, data in CHANGES.items():
        name = SegmentName(42, 0) if "incarnation" in change else NAME
        items = list(scan(data, name.incarnation))
        frames = [item for item in items if isinstance(item, Frame)]
        records = sum(frame.header.records for frame in frames)
        said = [f"{records or 'no'} record{'s' if records > 1 else ''}"]
        said = [f"damage from {d.offset} to {d.end}" for d in items if isinstance(d, Damage)] + said
        end = frames[-1].end if frames else SEGMENT_HEADER_BYTES
        if end < len(data):
            said.append(f"{'room' if is_room(data[end:]) else 'a tail'} from {end}")
        sequences = [frame.header.sequence for frame in frames]
        if sequences != sorted(sequences):
            said.append(f"the sequence goes back to {sequences[-1]}")
        assert documented[change] == ", ".join(said), change
