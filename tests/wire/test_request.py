from edge.wire.request import Light, Limits, Request


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


def test_no_size_of_light_work_is_above_that_of_its_texts() -> None:
    assert Light.up_to(384 * 1024) == Light()
    assert Light.up_to(1) == Light(1, 1, 1, 1, 1)
    larger = Light.up_to(1024 * 1024)
    assert (larger.text_bytes_max, larger.wrapped_bytes_max) == (1024 * 1024, Light().wrapped_bytes_max)
