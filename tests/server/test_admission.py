"""The rules one by one and in their order; `test_protocol.py` and the corpus show them over sockets."""

from typing import Any

import msgspec
import pytest

from edge.server.admission import (
    DESCRIPTORS_RESERVED,
    Head,
    Refusal,
    ServerSettings,
    body_bytes_max,
    connections_fitting,
    descriptors_needed,
    judge_head,
)
from edge.wire.rejections import Reason
from edge.wire.routes import find_route

SETTINGS = ServerSettings()


def head(url: bytes = b"/e/", method: str = "POST", **changed: Any) -> Head:
    common = Head("1.1", method, url, find_route(url)[0], {b"host": b"edge"}, 3, 60)
    return msgspec.structs.replace(common, **changed)


BROKEN: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.URI_TOO_LONG, {"url": b"/e/?" + b"x" * SETTINGS.target_bytes_max}),
    (Reason.HEADERS_TOO_LARGE, {"fields": SETTINGS.headers_max + 1}),
    (Reason.HEADERS_TOO_LARGE, {"bytes": SETTINGS.header_bytes_max + 1}),
    (Reason.HTTP_VERSION, {"version": "2.0"}),
    (Reason.BAD_REQUEST, {"headers": {}}),
    (Reason.TRANSFER_ENCODING, {"headers": {b"host": b"edge", b"transfer-encoding": b"gzip, chunked"}}),
    (Reason.METHOD_NOT_ALLOWED, {"method": "CONNECT"}),
]
"""In the order in which they are told, each with what breaks it."""


@pytest.mark.parametrize(("reason", "changed"), BROKEN, ids=[reason.value for reason, _ in BROKEN])
def test_what_makes_the_next_message_uncertain_closes(reason: Reason, changed: dict[str, Any]) -> None:
    found = judge_head(head(**changed), SETTINGS)
    assert found is not None
    assert (found.reason, found.closes) == (reason, True)


def test_of_several_broken_rules_the_first_is_told() -> None:
    for at, (reason, _) in enumerate(BROKEN):
        # The first of them last, as two may be broken by the same part of the head.
        together: dict[str, Any] = {}
        for _, changed in reversed(BROKEN[at:]):
            together.update(changed)
        found = judge_head(head(**together), SETTINGS)
        assert found is not None
        assert found.reason is reason


def test_http_1_0_needs_no_host_and_has_no_transfer_encoding() -> None:
    assert judge_head(head(version="1.0", headers={}), SETTINGS) is None
    chunked = {b"transfer-encoding": b"chunked"}
    assert judge_head(head(headers={b"host": b"edge"} | chunked), SETTINGS) is None
    assert judge_head(head(headers={b"host": b"edge", b"transfer-encoding": b" Chunked "}), SETTINGS) is None
    assert judge_head(head(version="1.0", headers=chunked), SETTINGS) == Refusal(Reason.TRANSFER_ENCODING, closes=True)


def test_a_target_is_long_where_it_carries_no_payload() -> None:
    long = b"?" + b"x" * SETTINGS.other_target_bytes_max
    assert judge_head(head(b"/e/" + long, "GET"), SETTINGS) is None
    for other in (b"/elsewhere" + long, b"/" + long, b"/i/v1/analytics/events" + long):
        assert judge_head(head(other), SETTINGS) == Refusal(Reason.URI_TOO_LONG)


def test_a_method_the_route_does_not_have_is_told_with_those_it_has() -> None:
    found = judge_head(head(method="PUT"), SETTINGS)
    assert found == Refusal(Reason.METHOD_NOT_ALLOWED, allowed="GET, HEAD, OPTIONS, POST")
    assert judge_head(head(method="OPTIONS"), SETTINGS) is None
    assert judge_head(head(b"/elsewhere", "PUT"), SETTINGS) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (b"/e/", SETTINGS.body_bytes_max),
        (b"/s/", SETTINGS.replay_body_bytes_max),
        (b"/i/v1/analytics/events", SETTINGS.v1_body_bytes_max),
        (b"/elsewhere", SETTINGS.body_bytes_max),
    ],
)
def test_a_body_may_have_what_its_route_allows(url: bytes, expected: int) -> None:
    assert body_bytes_max(find_route(url)[0], SETTINGS) == expected


@pytest.mark.parametrize(
    ("upstream", "descriptors", "expected"),
    [
        pytest.param(0, 10_000 + DESCRIPTORS_RESERVED, 10_000, id="just enough"),
        pytest.param(0, 1 << 20, 10_000, id="plenty"),
        pytest.param(0, 1024, 1024 - DESCRIPTORS_RESERVED, id="too few"),
        pytest.param(512, 4096, 4096 - 512 - DESCRIPTORS_RESERVED, id="too few, with upstreams"),
        pytest.param(512, 1024, 256, id="hardly more than upstreams take"),
        pytest.param(0, 100, 25, id="fewer than are reserved"),
        pytest.param(0, 1, 1, id="none"),
    ],
)
def test_connections_are_what_descriptors_allow(upstream: int, descriptors: int, expected: int) -> None:
    assert connections_fitting(10_000, upstream, descriptors) == expected
    assert connections_fitting(10, upstream, descriptors) == min(10, expected)


def test_as_many_descriptors_as_are_needed_are_enough() -> None:
    needed = descriptors_needed(10_000, 512)
    assert connections_fitting(10_000, 512, needed) == 10_000
    assert connections_fitting(10_000, 512, needed - 1) == 9_999
