from edge.wire.request import Limits, Request


def test_headers_are_looked_up_by_their_lower_case_name() -> None:
    request = Request(
        headers={
            b"content-type": b"text/plain",
            b"content-encoding": b"gzip",
            b"authorization": b"Bearer a",
            b"user-agent": b"Mozilla",
        }
    )
    assert request.content_type == b"text/plain"
    assert request.content_encoding == b"gzip"
    assert request.authorization == b"Bearer a"
    assert request.user_agent == b"Mozilla"


def test_a_header_that_is_not_there_is_empty() -> None:
    request = Request()
    found = {request.content_type, request.content_encoding, request.authorization, request.user_agent}
    assert found == {b""}


def test_the_limits_are_the_documented_ones() -> None:
    assert (Limits().decoded_bytes_max, Limits().lz64_bytes_max) == (100 * 2**20, 2 * 2**20)
