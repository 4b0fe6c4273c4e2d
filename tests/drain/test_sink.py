import pytest

from edge.drain.sink import split_url


@pytest.mark.parametrize(
    ("text", "scheme", "target", "options"),
    [
        ("file:./a/b", "file", "./a/b", {}),
        ("file:/a?format=ndjson&shape=event", "file", "/a", {"format": "ndjson", "shape": "event"}),
        ("stdout:", "stdout", "", {}),
        ("null:?shape=captured", "null", "", {"shape": "captured"}),
        ("file:/a?format", "file", "/a", {"format": ""}),
    ],
)
def test_a_url_is_taken_apart(text: str, scheme: str, target: str, options: dict[str, str]) -> None:
    url = split_url(text)
    assert (url.scheme, url.target, url.options) == (scheme, target, options)


def test_options_have_the_first_allowed_value_for_a_default() -> None:
    assert split_url("null:?shape=captured").take(shape=("event", "captured"), x=("1", "2")) == {
        "shape": "captured",
        "x": "1",
    }


def test_options_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="null: expected no options, found 'a'"):
        split_url("null:?a=b").take()
