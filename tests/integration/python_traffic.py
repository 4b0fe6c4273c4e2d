"""An application that captures events all the time with the official Python library; run as a process of its own.

    python python_traffic.py HOST EVENTS_PER_SECOND

Ends when its standard input does. Prints one JSON object: `captured` are the uuids the library returned, `failed` those it
reported through its error callback as not delivered.
"""

import json
import select
import sys
import time
from typing import Any

from posthog import Posthog

TOKEN = "phc_traffic"


def main(host: str, events_per_second: str) -> None:
    failed: list[str] = []
    captured: list[str] = []

    def on_error(error: Exception, items: list[dict[str, Any]]) -> None:
        failed.extend(item["uuid"] for item in items)

    # The library tries again: max_retries times, with a growing pause in between.
    client = Posthog(TOKEN, host=host, flush_at=20, flush_interval=0.3, max_retries=10, on_error=on_error, gzip=True)
    number = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        uuid = client.capture("traffic", distinct_id=f"user-{number % 31}", properties={"n": number})
        assert uuid is not None
        captured.append(uuid)
        number += 1
        time.sleep(1 / float(events_per_second))
    client.shutdown()
    json.dump({"captured": captured, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
