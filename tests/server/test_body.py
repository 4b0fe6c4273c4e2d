import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.server import body as body_module
from edge.server.body import ArrivingBody, body_size
from edge.server.heavy import Body

PACKETS = st.lists(st.lists(st.binary(max_size=40), max_size=4), max_size=12)


def whole(packets: list[list[bytes]], one_piece_bytes_max: int) -> bytes | Body:
    """The last packet is the one that the body ends in."""
    body = ArrivingBody()
    for packet in packets[:-1]:
        body.pieces.extend(packet)
        body.gather()
    for packet in packets[-1:]:
        body.pieces.extend(packet)
    return body.whole(one_piece_bytes_max)


@given(PACKETS, st.integers(0, 200), st.integers(1, 100))
def test_a_body_is_what_came_however_it_was_cut(
    packets: list[list[bytes]], one_piece_bytes_max: int, buffer_bytes: int
) -> None:
    expected = b"".join(piece for packet in packets for piece in packet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_module, "_BUFFER_BYTES", buffer_bytes)
        found = whole(packets, one_piece_bytes_max)
    assert body_size(found) == len(expected)
    if isinstance(found, list):
        assert b"".join(found) == expected
        assert body_size(found) > one_piece_bytes_max
    else:
        assert found == expected


def test_a_body_of_one_packet_is_not_copied() -> None:
    packet = b"x" * 1000
    assert whole([[packet]], 10) is packet


def test_what_is_large_and_comes_in_pieces_stays_in_pieces() -> None:
    assert whole([[b"a" * 6], [b"b" * 5]], 10) == [memoryview(b"aaaaaabbbbb")]
    assert whole([[b"a" * 6], [b"b" * 4]], 10) == b"aaaaaabbbb"


def test_what_is_held_is_counted_and_let_go() -> None:
    body = ArrivingBody()
    body.pieces += [b"abc", b"de"]
    assert body.gather() == body.gathered_bytes == 5
    body.pieces.append(b"f")
    assert body.take_pieces() == b"f"
    assert body.gathered_bytes == 5
    body.clear()
    assert (body.gathered_bytes, body.whole(10)) == (0, b"")
