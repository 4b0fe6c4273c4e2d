"""An application that uses the official Python library over capture v1; run as a process of its own.

    POSTHOG_CAPTURE_MODE=v1 python capture_v1_driver.py HOST none|gzip|deflate|zstd

Prints one JSON object: `calls` is a list of [name of the call, uuid the library returned], `errors` a list of [what the library
reported, the events it says were dropped].
"""

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from posthog import Posthog

TOKEN = "phc_python_v1"
EXPLICIT_UUID = "0191f5c0-7c1a-7b5e-9d2f-0123456789ab"
EXPLICIT_TIME = datetime(2024, 2, 29, 23, 30, 15, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
NESTED = {
    "text": 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back',
    "list": [1, 2.5, None, True, {"deep": [["x"], {}]}],
    "größe": {"日本": "é"},
    "big": 12345678901234567890,
    "nul": "a\0b",
}
BURST = 300


def main(host: str, compression: str) -> None:
    errors: list[tuple[str, list[Any]]] = []
    calls: list[tuple[str, str | None]] = []

    def call(name: str, function: Callable[..., str | None], *arguments: Any, **keywords: Any) -> None:
        calls.append((name, function(*arguments, **keywords)))

    def on_error(error: Exception, items: list[Any]) -> None:
        errors.append((repr(error), getattr(error, "drops", [])))

    client = Posthog(TOKEN, host=host, capture_compression=compression, on_error=on_error)
    call("set", client.set, distinct_id="ada", properties={"email": "ada@example.com"})
    call("capture", client.capture, "signed up", distinct_id="ada", properties={"plan": "pro", "$session_id": "s-1"})
    call("alias", client.alias, previous_id="anon-1", distinct_id="ada")
    call("group_identify", client.group_identify, "company", "acme", {"name": "Acme"})
    try:
        raise ValueError("the cart is empty 🛒")
    except ValueError as error:
        call("exception", client.capture_exception, error, distinct_id="ada")
    explicit = {"distinct_id": "ada", "timestamp": EXPLICIT_TIME, "uuid": EXPLICIT_UUID}
    call("explicit", client.capture, "explicit", properties=NESTED, **explicit)
    unskewed = {"$ignore_sent_at": True, "$cookieless_mode": "1", "$product_tour_id": "tour"}
    call("options", client.capture, "options", distinct_id="ada", timestamp=EXPLICIT_TIME, properties=unskewed)
    call("anonymous", client.capture, "nobody in particular")
    call("placeholder", client.capture, "no person", distinct_id="anonymous")
    call("refused", client.capture, "too long an id", distinct_id="x" * 201)
    for number in range(BURST):
        call(f"burst-{number}", client.capture, "burst", distinct_id=f"user-{number % 7}", properties={"n": number})
    client.shutdown()
    importer = Posthog(TOKEN, host=host, historical_migration=True, on_error=on_error)
    call("historical", importer.capture, "long ago", distinct_id="ada", timestamp=EXPLICIT_TIME)
    importer.shutdown()
    json.dump({"calls": calls, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
