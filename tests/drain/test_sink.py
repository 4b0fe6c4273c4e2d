import pytest

from edge.drain.sink import Paused, Refusal, Refused, Retryable, TooLarge, split_url, without_secrets


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


@pytest.mark.parametrize(
    "refusal",
    [
        Retryable("no", 3.0, taken=[1]),
        TooLarge("no", taken=[1]),
        Refused("no", [0], taken=[1]),
        Paused("no", taken=[1]),
    ],
    ids=lambda refusal: type(refusal).__name__,
)
def test_every_refusal_may_say_what_was_taken_all_the_same(refusal: Refusal) -> None:
    assert refusal.taken == {1}
    assert str(refusal) == "no"


def test_no_event_is_both_taken_and_refused() -> None:
    with pytest.raises(AssertionError, match="taken or refused"):
        Refused("no", [0, 1], taken=[1])


def test_a_refusal_that_knows_no_culprit_is_not_one_that_names_none() -> None:
    assert Refused("no").indexes is None
    assert Refused("no", []).indexes == frozenset()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("file:./events?shape=event", "file:./events?shape=event"),
        (
            "kafka://h:1?rdkafka.sasl.username=u&rdkafka.sasl.password=a%26b&topics=main",
            "kafka://h:1?rdkafka.sasl.username=u&rdkafka.sasl.password=***&topics=main",
        ),
        ("kafka://h:1?rdkafka.sasl.password=env:KAFKA", "kafka://h:1?rdkafka.sasl.password=env:KAFKA"),
        ("kafka://h:1?rdkafka.ssl.key.pem=-----BEGIN", "kafka://h:1?rdkafka.ssl.key.pem=***"),
        ("clickhouse+http://user:pw@h:1/db.t?a=b", "clickhouse+http://***@h:1/db.t?a=b"),
        ("clickhouse+http://user:p@w@h:1/db.t?a=@", "clickhouse+http://***@h:1/db.t?a=@"),
        ("posthog+http://h:1?a=x:y@z", "posthog+http://h:1?a=x:y@z"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
