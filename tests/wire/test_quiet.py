import msgspec
import pytest

from edge.wire.quiet import QUIET_PATHS, quiet_answer


@pytest.mark.parametrize("path", QUIET_PATHS)
@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "with a slash"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_quiet_path_is_a_small_object_of_json(method: str, path: str, slash: str) -> None:
    answer = quiet_answer(method, f"/{path}{slash}".encode(), b"")
    assert answer is not None
    assert (answer.status, answer.content_type) == (200, b"application/json")
    assert isinstance(msgspec.json.decode(answer.body), dict)
    assert len(answer.body) < 400


NOT_FOUND = {
    "a script that would be none": b"/array/phc_x/config.js",
    "the configuration beside it": b"/array/phc_x/config",
    "a script": b"/static/recorder.js",
    "logs that would be lost": b"/i/v1/logs",
    "traces": b"/i/v1/traces",
    "definitions that are asked of /flags then": b"/flags/definitions",
    "the same in older clients": b"/api/feature_flag/local_evaluation",
    "more slashes than one": b"/flags//",
    "no path": b"*",
}


@pytest.mark.parametrize("path", NOT_FOUND.values(), ids=NOT_FOUND)
def test_everything_else_is_not_found(path: bytes) -> None:
    assert quiet_answer("GET", path, b"") is None
    assert quiet_answer("POST", path, b"") is None


def test_other_methods_are_not_answered() -> None:
    assert quiet_answer("DELETE", b"/flags", b"") is None
    assert quiet_answer("other", b"/decide", b"") is None


@pytest.mark.parametrize(
    ("query", "flags"),
    [(b"", []), (b"v=1", []), (b"v=", []), (b"v=2", {}), (b"ip=1&v=3", {}), (b"v=4", {}), (b"v=x", {})],
)
def test_decide_answers_in_the_shape_of_its_version(query: bytes, flags: object) -> None:
    answer = quiet_answer("POST", b"/decide/", query)
    assert answer is not None
    assert msgspec.json.decode(answer.body)["featureFlags"] == flags


def test_flags_are_not_made_up_and_compression_goes_on() -> None:
    answer = quiet_answer("POST", b"/flags/", b"v=2&config=true")
    assert answer is not None
    found = msgspec.json.decode(answer.body)
    assert found["errorsWhileComputingFlags"] is True
    assert found["flags"] == found["featureFlags"] == {}
    assert found["supportedCompression"] == ["gzip", "gzip-js"]
