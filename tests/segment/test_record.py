import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.segment.record import (
    SKEW_KEPT,
    Record,
    RecordIds,
    decode_record,
    decode_records,
    encode_record,
    encode_records,
)

IDS = RecordIds(0x5C0D2E88B1F09A37)
AT = 1_763_690_000_123_456

# What a header or a query may hold, decoded; a token is trimmed ASCII.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TOKEN = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def encode(data: bytes, token: str = "phc_x", sent_at: str = "", user_agent: str = "") -> bytes:
    return encode_record(IDS, AT, token, "e", "203.0.113.7", data, sent_at, user_agent)


@given(TOKEN, TEXT, TEXT, JSON, st.booleans())
def test_record_is_read_as_it_was_written(
    token: str, sent_at: str, user_agent: str, data: object, escaped: bool
) -> None:
    text = json.dumps(data, ensure_ascii=escaped).encode()
    line = encode(text, token, sent_at, user_agent)
    record = decode_record(line)
    assert (record.token, record.sent_at, record.user_agent) == (token, sent_at, user_agent)
    assert (record.at, record.path, record.ip) == (AT, "e", "203.0.113.7")
    assert record.data == text
    assert json.loads(line)["data"] == data
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]


def test_line_is_the_documented_one() -> None:
    line = encode_record(RecordIds(0x5C0D2E88B1F09A37), AT, "phc_x", "e", "203.0.113.7", b"[1]", "1763690000100")
    assert line == (
        b'{"id":"5c0d2e88b1f09a37-0","at":1763690000123456,"token":"phc_x","path":"e","ip":"203.0.113.7",'
        b'"sent_at":"1763690000100","data":[1]}\n'
    )


def test_what_is_empty_is_left_out() -> None:
    assert set(json.loads(encode(b"1"))) == {"id", "at", "token", "path", "ip", "data"}
    assert set(json.loads(encode(b"1", sent_at="2", user_agent="3"))) >= {"sent_at", "user_agent"}


@pytest.mark.parametrize("skew_us", [0, 30_000_000, SKEW_KEPT])
def test_every_record_of_a_writer_says_what_becomes_of_its_times(skew_us: int) -> None:
    ids = RecordIds(1, skew_us)
    lines = [encode_record(ids, AT, "t", "e", "::1", b"1", sent_at) for sent_at in ("", "2")]
    ids = RecordIds(1, skew_us)
    columns = [b'"t"'] * 2, [b'"e"'] * 2, [b"::1"] * 2, [b"", b"2"], [b"1"] * 2
    assert encode_records(ids, AT, *columns) == b"".join(lines)
    assert [(found.skew_us, found.sent_at) for found in map(decode_record, lines)] == [(skew_us, ""), (skew_us, "2")]
    assert (b"skew_us" in lines[0]) == bool(skew_us)


@pytest.mark.parametrize("first", [10, 5_000])
@pytest.mark.parametrize("second", [10, 5_000])
@pytest.mark.parametrize("line_break", ["", "\n", "\r"])
def test_many_records_are_the_lines_of_each(first: int, second: int, line_break: str) -> None:
    texts = [b"[%b]" % (b" " * first), b"[%b%b]" % (line_break.encode(), b" " * second), b"[3]"]
    ids = RecordIds(1, 7)
    lines = [encode_record(ids, AT, "t", "e", "::1", text) for text in texts]
    columns = [b'"t"'] * 3, [b'"e"'] * 3, [b"::1"] * 3, [b""] * 3, texts
    ids = RecordIds(1, 7)
    assert encode_records(ids, AT, *columns).splitlines(keepends=True) == lines
    assert ids.next() == len(texts)


def test_ids_count_up_behind_the_writers_incarnation() -> None:
    ids = RecordIds(1)
    found = [decode_record(encode_record(ids, AT, "t", "e", "", b"1")).id for _ in range(3)]
    assert found == ["0000000000000001-0", "0000000000000001-1", "0000000000000001-2"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a": 123456789012345678901234567890, "a": 1e999}', id="numbers and duplicate keys"),
        pytest.param(b'{"a":"\\ud800 \\u0000"}', id="escapes"),
        pytest.param(b'{"data":{"data":1},"x":"}\\n"}', id="data in data"),
        pytest.param(b"  [ ]\t", id="blanks"),
    ],
)
def test_data_keeps_its_bytes(data: bytes) -> None:
    assert decode_record(encode(data)).data == data


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        pytest.param(b"[1,\n2]", b"[1, 2]", id="line feed"),
        pytest.param(b"[1,\r\n2]", b"[1,  2]", id="both"),
        pytest.param(b"[1,\r2]", b"[1, 2]", id="carriage return"),
    ],
)
def test_raw_line_breaks_become_spaces(data: bytes, stored: bytes) -> None:
    line = encode(data)
    assert decode_record(line).data == stored
    assert len(line.decode().splitlines()) == 1


@pytest.mark.parametrize("text", ['","data":', ',"data":', '\\","data":{}', '"}\n'])
def test_text_that_looks_like_the_data_field_stays_where_it_is(text: str) -> None:
    record = decode_record(encode(b'{"k":",\\"data\\":"}', token=text.strip(), sent_at=text, user_agent=text))
    assert (record.token, record.sent_at, record.user_agent) == (text.strip(), text, text)
    assert record.data == b'{"k":",\\"data\\":"}'


def test_newline_at_the_end_is_optional() -> None:
    line = encode(b"[1]")
    assert decode_record(line) == decode_record(line[:-1])


LINE = encode(b'{"event":"x"}')


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="blank"),
        pytest.param(b'{"id":"x"}\n', id="no data"),
        pytest.param(encode(b"[1]")[:-2], id="last brace lost"),
        pytest.param(LINE[1:], id="first brace lost"),
        pytest.param(LINE.replace(b'"at":', b'"when":'), id="field missing"),
        pytest.param(LINE.replace(b'"token":"phc_x"', b'"token":7'), id="field of another type"),
        pytest.param(LINE.replace(b"phc_x", b"\xff"), id="no UTF-8"),
    ],
)
def test_line_that_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_record(line)
    for lines in ([line], [LINE[:-1], line, LINE[:-1]]):
        with pytest.raises(ValueError, match=r"."):
            decode_records(lines)


def test_lines_together_are_the_records_they_are_one_by_one() -> None:
    lines = [
        LINE[:-1],
        encode(b'{"data":{"data":1},"x":"}"}', sent_at="1763690000100")[:-1],
        encode(b"[1] ", token=',"data":', user_agent='"}')[:-1],
    ]
    assert decode_records(lines) == [decode_record(line) for line in lines]
    assert decode_records([]) == []


def test_lines_that_make_up_for_each_other_are_refused() -> None:
    one = LINE[:-1]
    # Two heads in one line and, put together, a list of records all the same.
    with pytest.raises(ValueError, match="expected 1 records, found 2"):
        decode_records([one.replace(b',"data":', b'},{"id":"2-2","at":1,"token":"t","path":"e","ip":"","data":')])


def test_record_has_no_more_fields_than_the_format_says() -> None:
    assert Record.__struct_fields__ == ("id", "at", "token", "path", "ip", "data", "sent_at", "user_agent", "skew_us")
