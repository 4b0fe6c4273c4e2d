"""Every kind of sink there is, by the scheme of its URL."""

from collections.abc import Callable
from typing import Final

from edge.drain.sink import Sink, SinkUrl, split_url, without_secrets
from edge.drain.sinks import clickhouse, file, kafka, null, objects, posthog, stdout

SINKS: Final[dict[str, Callable[[SinkUrl], tuple[str, Sink]]]] = {
    "file": file.make,
    "posthog+https": posthog.make,
    "posthog+http": posthog.make,
    "stdout": stdout.make,
    "null": null.make,
    "kafka": kafka.make,
    "s3": objects.make,
    "gs": objects.make,
    "az": objects.make,
    "clickhouse+http": clickhouse.make,
    "clickhouse+https": clickhouse.make,
}


def make_sink(text: str) -> tuple[str, Sink]:
    """The sink's id, which names its checkpoint and labels its metrics, and the sink.

    Raises `ValueError` for a URL that cannot be used, `OSError` when the destination cannot be prepared.
    """
    url = split_url(text)
    if url.scheme not in SINKS or ":" not in text:
        raise ValueError(
            f"expected a sink URL that begins with {', '.join(f'{name}:' for name in SINKS)}, found {without_secrets(text)!r}"
        )
    return SINKS[url.scheme](url)
