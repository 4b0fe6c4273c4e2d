"""An application that uses the official Python library as its documentation shows; run as a process of its own.

    python python_driver.py HOST plain|gzip

Prints one JSON object: `calls` is a list of [name of the call, uuid the library returned, wall time before, wall time after],
`errors` what the library reported through its error callback. Times are Unix seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from posthog import Posthog

TOKEN = "phc_python_sdk"
EXPLICIT_UUID = "0191f5c0-7c1a-7b5e-9d2f-0123456789ab"
EXPLICIT_TIME = datetime(2024, 2, 29, 23, 30, 15, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
NESTED = {
    "text": 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back',
    "list": [1, 2.5, None, True, {"deep": [["x"], {}]}],
    "größe": {"日本": "é"},
    "big": 12345678901234567890,
    "nul": "a\0b",
}
BURST = 500


def main(host: str, encoding: str) -> None:
    errors: list[str] = []
    calls: list[tuple[str, str | None, float, float]] = []

    def call(name: str, function: Callable[..., str | None], *arguments: Any, **keywords: Any) -> None:
        before = time.time()
        calls.append((name, function(*arguments, **keywords), before, time.time()))

    client = Posthog(
        TOKEN, host=host, gzip=encoding == "gzip", on_error=lambda error, items: errors.append(repr(error))
    )
    call("set", client.set, distinct_id="ada", properties={"email": "ada@example.com", "plan": "pro"})
    call("set_once", client.set_once, distinct_id="ada", properties={"first_seen": "2024-01-01"})
    call("capture", client.capture, "signed up", distinct_id="ada", properties={"plan": "pro", "seats": 3})
    call("groups", client.capture, "upgraded", distinct_id="ada", groups={"company": "acme"})
    call("alias", client.alias, previous_id="anon-1", distinct_id="ada")
    call("group_identify", client.group_identify, "company", "acme", {"name": "Acme", "employees": 11})
    try:
        raise ValueError("the cart is empty 🛒")
    except ValueError as error:
        call("exception", client.capture_exception, error, distinct_id="ada", properties={"cart": "c-1"})
    call(
        "explicit",
        client.capture,
        "explicit",
        distinct_id="ada",
        properties=NESTED,
        timestamp=EXPLICIT_TIME,
        uuid=EXPLICIT_UUID,
    )
    call("anonymous", client.capture, "nobody in particular")
    for number in range(BURST):
        call(f"burst-{number}", client.capture, "burst", distinct_id=f"user-{number % 7}", properties={"n": number})
    client.flush()
    client.shutdown()
    json.dump({"calls": calls, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
