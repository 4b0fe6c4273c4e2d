from urllib.parse import unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.fields import FIELDS_MAX, parse_fields

CASES = {
    "nothing": (b"", {}),
    "usual query": (
        b"compression=gzip-js&ip=1&_=1694769302325&ver=1.2",
        {"compression": b"gzip-js", "ip": b"1", "_": b"1694769302325", "ver": b"1.2"},
    ),
    "the first of a key wins": (b"a=1&a=2", {"a": b"1"}),
    "the first wins even when empty": (b"a=&a=2", {"a": b""}),
    "escaped key": (b"d%61ta=1", {"data": b"1"}),
    "plus is a space, %2B is a plus": (b"a+b=c+d%2Be", {"a b": b"c d+e"}),
    "escapes in either case": (b"a=%c3%A9", {"a": "é".encode()}),
    "broken escapes stay": (
        b"a=%&b=%4&c=%zz&d=%%41&e=100%",
        {"a": b"%", "b": b"%4", "c": b"%zz", "d": b"%A", "e": b"100%"},
    ),
    "only the first = of a pair separates": (b"data=eyJhIjoxfQ==&ip=1", {"data": b"eyJhIjoxfQ==", "ip": b"1"}),
    "unescaped base64 gets its plus as space": (b"data=a+b/c==", {"data": b"a b/c=="}),
    "no = is an empty value": (b"beacon&ip=1", {"beacon": b"", "ip": b"1"}),
    "no name": (b"=1&&a=2&", {"": b"1", "a": b"2"}),
    "key not UTF-8": (b"%ff=1", {"�": b"1"}),
    "value of any bytes": (b"data=%1f%8b%00", {"data": b"\x1f\x8b\0"}),
    "raw bytes": (b"data=\x1f\x8b\0", {"data": b"\x1f\x8b\0"}),
}


@pytest.mark.parametrize(("text", "fields"), CASES.values(), ids=CASES)
def test_fields_are_read_as_browsers_write_them(text: bytes, fields: dict[str, bytes]) -> None:
    assert parse_fields(text) == fields


@pytest.mark.parametrize("unit", [b"%41", b"%", b"x%4", b"%%41"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_no_escape_of_a_long_text_is_cut_in_two(unit: bytes, before: int) -> None:
    text = b"y" * before + unit * 20_000
    assert parse_fields(b"a=" + text) == {"a": unquote_to_bytes(text)}


def test_pairs_past_the_maximum_are_ignored() -> None:
    text = b"&".join(b"k%d=%d" % (i, i) for i in range(FIELDS_MAX + 5))
    fields = parse_fields(text)
    assert len(fields) == FIELDS_MAX
    assert fields[f"k{FIELDS_MAX - 1}"] == b"%d" % (FIELDS_MAX - 1)


@given(st.dictionaries(st.text(min_size=1), st.binary(), max_size=20))
def test_what_urlencode_writes_is_read_back(fields: dict[str, bytes]) -> None:
    assert parse_fields(urlencode(fields, errors="surrogatepass").encode()) == fields


@given(st.binary())
def test_any_bytes_are_some_fields(text: bytes) -> None:
    assert isinstance(parse_fields(text), dict)
