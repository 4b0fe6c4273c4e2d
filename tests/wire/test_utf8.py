import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.wire import utf8
from edge.wire.utf8 import is_utf8, mend_cesu8

PIECE = utf8._PIECE_BYTES
HIGH, LOW = b"\xed\xa0\xbd", b"\xed\xba\x80"
ENDS = st.sampled_from(
    [b"", "é".encode(), "€".encode(), "🚀".encode(), HIGH, LOW, HIGH + LOW, LOW + HIGH, b"\x80" * 5, b"\xed", b"\xff"]
)
TEXTS = st.builds(
    lambda short, parts, count: b"x" * (PIECE - short) + b"".join(parts) * count,
    st.integers(0, 9),
    st.lists(ENDS, max_size=4),
    st.sampled_from([1, 2, PIECE // 3]),
) | st.binary(max_size=50)


def plainly_mended(text: bytes) -> bytes | None:
    try:
        halves = text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def is_plainly_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(TEXTS)
@example((b"x" + "🚀".encode()) * PIECE)
@example((HIGH + LOW) * PIECE)
def test_in_pieces_is_as_at_once(text: bytes) -> None:
    assert is_utf8(text) == is_plainly_utf8(text)
    try:
        mended = mend_cesu8(text)
    except ValueError:
        assert plainly_mended(text) is None
    else:
        assert mended == plainly_mended(text)
        assert is_utf8(mended)


@pytest.mark.parametrize("before", [0, 1, PIECE - 1, PIECE, 3 * PIECE + 5])
def test_the_place_of_what_is_wrong_is_told(before: int) -> None:
    with pytest.raises(ValueError, match=f"^{before}$"):
        mend_cesu8(b"x" * before + b"\xff" + b"y" * 9)
