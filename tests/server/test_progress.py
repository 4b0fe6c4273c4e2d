import pytest

from edge.server.progress import Progress

TARGET = b"/e/?data=abc"
HEAD = b"GET /e/?data=abc HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"
FIELDS = len(HEAD) - len(TARGET)


@pytest.mark.parametrize("before", [b"", b"the end of another request"])
@pytest.mark.parametrize("behind", [b"", b"a body"])
@pytest.mark.parametrize("cut", range(len(b"GET /"), len(HEAD)))
def test_a_head_is_as_large_as_its_bytes_wherever_it_is_cut(before: bytes, behind: bytes, cut: int) -> None:
    first, second = before + HEAD[:cut], HEAD[cut:] + behind
    progress = Progress()
    progress.begin(first)
    target = HEAD[4:cut].partition(b" ")[0]
    progress.count_head(first, b"GET " + target)
    progress.go_on(second)
    assert progress.head_bytes(TARGET) == FIELDS


def test_a_head_in_one_packet_is_not_counted() -> None:
    progress = Progress()
    progress.begin(HEAD)
    assert progress.head_bytes(TARGET) == 0


def test_a_head_byte_by_byte_is_counted_whole() -> None:
    progress = Progress()
    for index in range(len(HEAD)):
        packet = HEAD[index : index + 1]
        if index == 0:
            progress.begin(packet)
        else:
            progress.go_on(packet)
        if index < len(HEAD) - 1:
            progress.count_head(packet, b"")
    assert progress.head_bytes(TARGET) == FIELDS


def test_of_a_method_behind_another_request_its_last_byte_counts() -> None:
    progress = Progress()
    progress.begin(b"the end of another request, PO")
    progress.reset()
    progress.count_head(b"the end of another request, PO", b"")
    assert progress.bytes == 1


def test_trailers_are_long_behind_their_limit() -> None:
    progress = Progress()
    progress.count_trailers([(b"a", b"b" * 4000), (b"c", b"d" * 86)])
    assert not progress.has_long_trailers
    progress.count_trailers([(b"e", b"")])
    assert progress.has_long_trailers
    progress.reset()
    assert not progress.has_long_trailers


@pytest.mark.parametrize(("packets", "framing"), [(3, False), (4, True)])
def test_packets_without_body_are_framing_when_they_are_many(packets: int, framing: bool) -> None:
    """The first may be as large as the packet that the head is in."""
    progress = Progress()
    progress.begin_body(4096)
    for _ in range(packets):
        progress.count_body(4096, more=False)
    assert progress.is_mostly_framing(0, 1 << 20) is framing
    progress.count_body(1, more=True)
    assert not progress.is_mostly_framing(1, 1 << 20)


@pytest.mark.parametrize(("body_bytes", "framing"), [(1000, True), (1001, False)])
def test_a_body_in_chunks_of_a_byte_is_framing_above_eight_times_its_bytes(body_bytes: int, framing: bool) -> None:
    progress = Progress()
    progress.begin_body(4096)
    progress.count_body(100 + 64 * 1024 + 8 * 1000 + 1, more=True)
    assert progress.is_mostly_framing(body_bytes, 100) is framing
