import pytest

from bench.stalls import CASES, Case, events, filled, lz64
from edge.wire.lz import decompress_base64
from edge.wire.payload import read_payload

SMALL = ("plain, 384 KiB", "gzip, 384 KiB inside", "GET, 60 KiB", "v1, 100 events", "100,000 tiny events")


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_its_lz64_is_what_the_decoder_reads() -> None:
    text = filled(b"1,", 3000)
    assert decompress_base64(lz64(text), 3000) == text


@pytest.mark.parametrize("size", [128 * 1024, 1024 * 1024])
def test_a_batch_is_nearly_as_large_as_asked_for(size: int) -> None:
    text = events(size)
    assert size * 0.75 < len(text) <= size
    assert read_payload(text).events > 10


@pytest.mark.parametrize("case", [case for case in CASES if case.name in SMALL], ids=lambda case: case.name)
def test_a_request_says_how_long_it_is(case: Case) -> None:
    head, _, body = case.request().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
