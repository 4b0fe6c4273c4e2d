import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.segment.name import SegmentName, State, parse_name, parse_state

NAME = SegmentName(42, 0x9F31C0AA17BE5D02)
STEM = "000000000042-9f31c0aa17be5d02"


@pytest.mark.parametrize(
    ("state", "file_name"),
    [
        pytest.param(State.OPEN, f"{STEM}.open.zst", id="open"),
        pytest.param(State.SEALED, f"{STEM}.zst", id="sealed"),
        pytest.param(State.SUSPECT, f"{STEM}.suspect.zst", id="suspect"),
        pytest.param(State.BAD, f"{STEM}.bad", id="bad"),
    ],
)
def test_the_state_is_in_the_file_name(state: State, file_name: str) -> None:
    assert NAME.file_name(state) == file_name
    assert parse_name(file_name) == (NAME, state)
    assert parse_state(file_name) is state


def test_a_bare_stem_is_a_sealed_segment() -> None:
    assert str(NAME) == STEM
    assert parse_name(STEM) == (NAME, State.SEALED)


@pytest.mark.parametrize(
    "file_name",
    [
        pytest.param("", id="nothing"),
        pytest.param(".lock", id="lock"),
        pytest.param(f".{STEM}.zst.tmp", id="temporary file"),
        pytest.param(f"{STEM}.zst.tmp", id="unknown suffix"),
        pytest.param(f"{STEM}.zst\n", id="trailing newline"),
        pytest.param(f"slot-00/{STEM}.zst", id="path"),
        pytest.param("000000000042.zst", id="no incarnation"),
        pytest.param("000000000042-9F31C0AA17BE5D02.zst", id="upper case"),
        pytest.param("000000000042-9f31c0aa17be5d0.zst", id="short incarnation"),
        pytest.param("00000000042-9f31c0aa17be5d02.zst", id="short counter"),
        pytest.param("0000000000042-9f31c0aa17be5d02.zst", id="one zero too many"),
        pytest.param("99999999999999999999-9f31c0aa17be5d02.zst", id="counter above 64 bits"),
        pytest.param("٠٠٠٠٠٠٠٠٠٠٤٢-9f31c0aa17be5d02.zst", id="digits of another script"),
    ],
)
def test_other_names_are_no_segments(file_name: str) -> None:
    assert parse_name(file_name) is None
    assert parse_state(file_name) is None


@given(
    st.integers(0, 10**19 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from(State),
)
def test_every_name_is_read_as_it_was_written(counter: int, incarnation: int, state: State) -> None:
    name = SegmentName(counter, incarnation)
    assert parse_name(name.file_name(state)) == (name, state)


def test_segments_are_ordered_by_counter_beyond_twelve_digits() -> None:
    names = [SegmentName(10**12, 1), SegmentName(999_999_999_999, 9), SegmentName(2, 3), SegmentName(1, 7)]
    assert [name.counter for name in sorted(names)] == [1, 2, 999_999_999_999, 10**12]
