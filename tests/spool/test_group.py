import zstandard

from edge.segment.frame import FRAME_RAW_BYTES_MAX, FRAME_RECORDS_MAX, Compressor, Packed
from edge.spool.group import Group, PackedRecord
from tests.fakes import RecordingWaiter

WAITER = RecordingWaiter()


def group(lines: list[bytes]) -> Group:
    return Group.of([(line, 1, number, 1000 - number, WAITER) for number, line in enumerate(lines)])


def packed(lines: list[bytes]) -> list[Packed]:
    return group(lines).pack(Compressor())


def content(frames: list[Packed]) -> list[bytes]:
    return [zstandard.ZstdDecompressor().decompress(b"".join(frame.pieces)) for frame in frames]


def test_small_group_is_one_frame_in_order_of_arrival() -> None:
    lines = [b"c\n", b"a\n", b"b\n"]
    (frame,) = packed(lines)
    assert content([frame]) == [b"c\na\nb\n"]
    assert (frame.records, frame.events, frame.raw_bytes) == (3, 0 + 1 + 2, 6)
    assert frame.oldest_us == 998


def test_group_keeps_what_belongs_together() -> None:
    other = RecordingWaiter()
    pending = [(b"a\n", 1, 2, 11, WAITER), (b"bb\nc\n", 2, 3, 12, other)]
    found = Group.of(pending)
    assert list(zip(found.lines, found.records, found.events, found.received_us, found.waiters, strict=True)) == pending
    assert found.raw_bytes == 7


def test_group_of_nothing_is_empty() -> None:
    assert (len(Group.of([]).lines), Group.of([]).raw_bytes) == (0, 0)


def test_group_of_exactly_the_limits_is_one_frame() -> None:
    assert len(packed([b"x\n"] * FRAME_RECORDS_MAX)) == 1
    assert len(packed([b"x" * (FRAME_RAW_BYTES_MAX // 2 - 1) + b"\n"] * 2)) == 1


def test_many_records_are_split_at_the_limit_of_records() -> None:
    lines = [b"%d\n" % number for number in range(2 * FRAME_RECORDS_MAX + 1)]
    frames = packed(lines)
    assert [frame.records for frame in frames] == [FRAME_RECORDS_MAX, FRAME_RECORDS_MAX, 1]
    assert b"".join(content(frames)) == b"".join(lines)
    assert sum(frame.events for frame in frames) == sum(range(len(lines)))
    assert [frame.oldest_us for frame in frames] == [1000 - 999, 1000 - 1999, 1000 - 2000]


def test_what_was_appended_together_is_not_split() -> None:
    many = b"x\n" * (FRAME_RECORDS_MAX // 2 + 1)
    records = many.count(b"\n")
    pending = [
        (many, records, records, 1000, WAITER),
        (many, records, records, 1001, WAITER),
        (b"a\n", 1, 1, 1002, WAITER),
    ]
    frames = Group.of(pending).pack(Compressor())
    assert [frame.records for frame in frames] == [records, records + 1]
    assert content(frames) == [many, many + b"a\n"]


def test_large_records_are_split_at_the_limit_of_bytes() -> None:
    line = b"x" * (FRAME_RAW_BYTES_MAX // 4) + b"\n"
    frames = packed([line] * 10)
    assert [frame.records for frame in frames] == [3, 3, 3, 1]
    assert all(frame.raw_bytes <= FRAME_RAW_BYTES_MAX for frame in frames)


def test_record_above_the_limit_is_a_frame_of_its_own() -> None:
    huge = b"x" * FRAME_RAW_BYTES_MAX + b"\n"
    frames = packed([b"a\n", b"b\n", huge, huge, b"c\n"])
    assert [frame.records for frame in frames] == [2, 1, 1, 1]
    assert content(frames) == [b"a\nb\n", huge, huge, b"c\n"]
    assert content(packed([huge])) == [huge]
    assert content(packed([huge, b"a\n"])) == [huge, b"a\n"]


def came_packed(line: bytes, place: int, events: int = 5) -> PackedRecord:
    frame = Compressor().compress(line)
    return PackedRecord([memoryview(frame)[:7], memoryview(frame)[7:]], len(frame), len(line), events, 1, WAITER, place)


def test_records_that_came_packed_keep_their_place() -> None:
    ready = [came_packed(b"P\n", 0), came_packed(b"Q\n", 2), came_packed(b"R\n", 2, events=7), came_packed(b"S\n", 3)]
    lines = [(b"a\n", 1, 1, 11, WAITER), (b"b\n", 1, 2, 10, WAITER), (b"c\n", 1, 3, 12, WAITER)]
    found = Group.of(lines, ready)
    frames = found.pack(Compressor())
    assert content(frames) == [b"P\n", b"a\nb\n", b"Q\n", b"R\n", b"c\n", b"S\n"]
    assert [(frame.records, frame.events) for frame in frames] == [(1, 5), (2, 3), (1, 5), (1, 7), (1, 3), (1, 5)]
    assert frames[1].oldest_us == 10
    assert (len(found.waiters), sum(found.events), len(found.received_us)) == (7, 28, 7)
    assert found.raw_bytes == 6 + sum(record.frame_bytes for record in ready)


def test_a_group_may_hold_nothing_else() -> None:
    found = Group.of([], [came_packed(b"P\n", 0)])
    assert content(found.pack(Compressor())) == [b"P\n"]
    assert list(found.waiters) == [WAITER]
