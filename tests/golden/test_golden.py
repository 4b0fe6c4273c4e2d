"""A segment of every released format version stays readable for ever. The files are never written again."""

import json
import subprocess
from pathlib import Path

from edge.segment.name import SegmentName, State
from edge.segment.record import Record, decode_record
from edge.segment.scan import Frame
from edge.spool.inspect import Summary, frames, named_segment, summarise

VERSION_1 = Path(__file__).parent / "000000000041-5c0d2e88b1f09a37.zst"
AT = 1_763_690_000_123_456
RECORDS = [
    Record(
        "77aa0c1d2e3f4a5b-0",
        AT,
        "phc_golden",
        "e",
        "203.0.113.7",
        b'{"event":"$pageview","distinct_id":"u1","properties":{"$current_url":"https://example.com/?a=1&b=2"}}',
    ),
    Record(
        "77aa0c1d2e3f4a5b-1",
        AT + 1000,
        "phc_golden",
        "batch",
        "2001:db8::1",
        b'{"batch":[{"event":"signed up","distinct_id":"\xc3\xbc2","properties":{"plan":"gr\xc3\xb6\xc3\x9fte \\u00e4 '
        b'\xe2\x9c\x93"}},{"event":"$identify","distinct_id":"u2"}],"sent_at":"2025-11-21T01:53:20.100Z"}',
    ),
    Record(
        "77aa0c1d2e3f4a5b-2",
        AT + 2000,
        "phc_golden",
        "capture",
        "203.0.113.7",
        b'{"event":"number","distinct_id":"u3","properties":{"big":123456789012345678901234567890,"dup":1,"dup":2}}',
        sent_at="1763690000100",
    ),
    Record(
        "77aa0c1d2e3f4a5b-3",
        AT + 3000,
        "phc_golden",
        "s",
        "203.0.113.7",
        b'[{"event":"$snapshot","distinct_id":"u4","properties":{"$snapshot_data":[{"type":4,"timestamp":1763690000000}],'
        b'"text":",\\"data\\":"}}]',
        user_agent='Mozilla/5.0 ("quoted", \\back)',
    ),
    Record(
        "77aa0c1d2e3f4a5b-4",
        AT + 4000,
        "phc_golden",
        "engage",
        "",
        b'{"$set":{"a":  1},"$distinct_id":"u5"}',
    ),
]


def test_segment_of_version_1_is_read_whole() -> None:
    file = named_segment(VERSION_1)
    assert (file.name, file.state, file.slot, file.size) == (
        SegmentName(41, 0x5C0D2E88B1F09A37),
        State.SEALED,
        3,
        941,
    )
    assert summarise(file) == Summary(frames=3, records=5, events=6, raw_bytes=1175, end=941, oldest_us=AT)
    found = [item for item in frames(file) if isinstance(item, Frame)]
    assert [decode_record(line) for frame in found for line in frame.lines()] == RECORDS


def test_segment_of_version_1_is_read_by_standard_tools() -> None:
    printed = subprocess.run(["zstdcat", VERSION_1], capture_output=True, check=True).stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["id"] for line in lines] == [record.id for record in RECORDS]
    assert [line["data"] for line in lines] == [json.loads(record.data) for record in RECORDS]
