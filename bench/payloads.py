"""The requests the benchmarks send: complete HTTP bytes, made beforehand, all different.

    name  head     headers  body
    A     312 B    10       350 B         one event of a server library, POST /i/v0/e/
    B     313 B    10       1,034 B       one browser event as text/plain with an Origin, POST /e/
    C     332 B    11       about 11 KB   gzip of a batch of 50, about 25 KB of JSON, POST /batch/
    F     1,337 B  20       350 B         A's event behind a browser's headers: long cookie, query string, Origin

Heads grow or shrink by a few bytes with the host's name. Everything comes out of a seeded
generator, so two runs and two servers get the same bytes.
"""

import gzip
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

TOKEN: Final = "phc_bench"
BATCH_EVENTS: Final = 50

_START: Final = datetime(2025, 11, 21, tzinfo=UTC)
_EVENTS: Final = ("order completed", "signed up", "invoice paid", "report exported", "search performed", "item added")
_PLANS: Final = ("free", "team", "scale", "enterprise")
_PAGES: Final = ("pricing", "docs", "insights", "replay", "settings", "dashboard", "cohorts", "experiments")
_PAD: Final = "abcdefghijklmnopqrstuvwxyz0123456789"

_SERVER_LIBRARY: Final = (
    "Host: {host}",
    "User-Agent: posthog-python/7.91.1 Python/3.11.7 Linux/6.18",
    "Accept-Encoding: gzip, deflate",
    "Accept: */*",
    "Connection: keep-alive",
    "Content-Type: application/json",
    "Content-Length: {length}",
    "X-Forwarded-For: {address}",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 443",
)
_BROWSER: Final = (
    "Host: {host}",
    "Connection: keep-alive",
    "Content-Length: {length}",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/142",
    "Content-Type: text/plain",
    "Accept: */*",
    "Origin: https://shop{site}.example",
    "Referer: https://shop{site}.example/",
    "Accept-Encoding: gzip, br",
    "Accept-Language: en",
)
_BROWSER_BEHIND_A_BALANCER: Final = (
    "Host: {host}",
    "Connection: keep-alive",
    "Content-Length: {length}",
    "Pragma: no-cache",
    "Cache-Control: no-cache",
    'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
    'sec-ch-ua-platform: "Windows"',
    "sec-ch-ua-mobile: ?0",
    "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142 Safari/537",
    "Content-Type: text/plain",
    "Accept: */*",
    "Origin: https://shop{site}.example",
    "Sec-Fetch-Site: same-site",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Dest: empty",
    "Referer: https://shop{site}.example/pricing?utm_source=newsletter",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "X-Forwarded-For: {address}",
    "Cookie: {cookie}",
)


@dataclass(frozen=True)
class Payload:
    """One workload: `requests` are complete (head and body), each holding `events` events."""

    name: str
    about: str
    events: int
    requests: tuple[bytes, ...]


def build(name: str, host: str = "127.0.0.1:8000", variants: int = 0, seed: int = 1) -> Payload:
    """The workload called `name`, addressed to `host`. Raises `KeyError` for a name that is not in `NAMES`.

    `variants` is how many different requests; 0 is the workload's own number, which is more JSON than a compressor's window
    remembers, so that replaying them does not look like better compression.
    """
    kind = _KINDS[name]
    draw = random.Random(f"{name}:{seed}")
    requests = tuple(kind.make(draw, host) for _ in range(variants or kind.variants))
    return Payload(name, kind.about, kind.events, requests)


def _server_event(draw: random.Random, host: str) -> bytes:
    return _request("POST /i/v0/e/ HTTP/1.1", _SERVER_LIBRARY, draw, host, _single(draw, 350))


def _browser_event(draw: random.Random, host: str) -> bytes:
    return _request("POST /e/?ip=0&ver=1.258.6 HTTP/1.1", _BROWSER, draw, host, _page_view(draw, 1034))


def _gzip_batch(draw: random.Random, host: str) -> bytes:
    batch = {
        "batch": [_batched(draw) for _ in range(BATCH_EVENTS)],
        "historical_migration": False,
        "sent_at": _moment(draw),
        "api_key": TOKEN,
    }
    headers = (*_SERVER_LIBRARY, "Content-Encoding: gzip")
    return _request("POST /batch/ HTTP/1.1", headers, draw, host, gzip.compress(_json(batch), 6, mtime=0))


def _server_event_from_a_browser(draw: random.Random, host: str) -> bytes:
    line = f"POST /e/?ip=0&_={1763683200000 + draw.randrange(10**8)}&ver=1.258.6 HTTP/1.1"
    return _request(line, _BROWSER_BEHIND_A_BALANCER, draw, host, _single(draw, 350))


def _request(line: str, headers: tuple[str, ...], draw: random.Random, host: str, body: bytes) -> bytes:
    known = {
        "host": host,
        "length": len(body),
        "address": f"203.0.{draw.randrange(100, 256)}.{draw.randrange(100, 256)}",
        "site": draw.randrange(10),
        "cookie": f"ph_{TOKEN}_posthog={draw.randbytes(276).hex()}; _ga=GA1.1.{draw.randrange(10**8, 10**9)}",
    }
    return "\r\n".join([line, *headers, "", ""]).format(**known).encode() + body


def _single(draw: random.Random, size: int) -> bytes:
    properties: dict[str, object] = {
        "$lib": "posthog-python",
        "$lib_version": "7.91.1",
        "plan": draw.choice(_PLANS),
        "amount": draw.randrange(100000) / 100,
    }
    event: dict[str, object] = {
        "api_key": TOKEN,
        "event": draw.choice(_EVENTS),
        "distinct_id": f"user_{draw.randrange(10**7):07d}",
        "uuid": _uuid(draw),
        "timestamp": _moment(draw),
        "properties": properties,
    }
    return _padded(draw, event, properties, size)


def _page_view(draw: random.Random, size: int) -> bytes:
    page = f"https://shop.example/{draw.choice(_PAGES)}/{draw.randrange(10**6)}"
    properties: dict[str, object] = {
        "token": TOKEN,
        "distinct_id": _uuid(draw),
        "$session_id": _uuid(draw),
        "$window_id": _uuid(draw),
        "$device_id": _uuid(draw),
        "$current_url": page,
        "$host": "shop.example",
        "$pathname": page.removeprefix("https://shop.example"),
        "$referrer": "$direct",
        "$browser": "Chrome",
        "$browser_version": draw.randrange(100, 143),
        "$os": "Linux",
        "$screen_height": draw.randrange(600, 2000),
        "$screen_width": draw.randrange(800, 4000),
        "$viewport_height": draw.randrange(400, 2000),
        "$viewport_width": draw.randrange(400, 4000),
        "$lib": "web",
        "$lib_version": "1.258.6",
        "$insert_id": draw.randbytes(8).hex(),
        "$time": 1763683200 + draw.randrange(10**8) / 1000,
    }
    event: dict[str, object] = {
        "api_key": TOKEN,
        "event": "$pageview",
        "distinct_id": properties["distinct_id"],
        "uuid": _uuid(draw),
        "timestamp": _moment(draw),
        "properties": properties,
    }
    return _padded(draw, event, properties, size)


def _batched(draw: random.Random) -> dict[str, object]:
    return {
        "event": draw.choice(_EVENTS),
        "distinct_id": _uuid(draw),
        "uuid": _uuid(draw),
        "timestamp": _moment(draw),
        "properties": {
            "$lib": "posthog-python",
            "$lib_version": "7.91.1",
            "$session_id": _uuid(draw),
            "$ip": f"203.0.{draw.randrange(256)}.{draw.randrange(256)}",
            "plan": draw.choice(_PLANS),
            "amount": draw.randrange(10**6) / 100,
            "basket": "".join(draw.choices(_PAD, k=145)),
            "items": draw.randrange(1, 40),
        },
    }


def _padded(draw: random.Random, event: dict[str, object], properties: dict[str, object], size: int) -> bytes:
    """The event as exactly `size` bytes of JSON: one more property takes up what is missing."""
    properties["note"] = ""
    missing = size - len(_json(event))
    assert missing > 0, f"the event is {-missing} bytes too long for {size}"
    properties["note"] = "".join(draw.choices(_PAD, k=missing))
    return _json(event)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _uuid(draw: random.Random) -> str:
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))


def _moment(draw: random.Random) -> str:
    return (_START + timedelta(microseconds=draw.randrange(10**11))).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class _Kind:
    about: str
    events: int
    variants: int
    make: Callable[[random.Random, str], bytes]


_KINDS: Final = {
    "A": _Kind("one event of a server library, 350 B", 1, 4096, _server_event),
    "B": _Kind("one browser event, 1 KB of text/plain", 1, 2048, _browser_event),
    "C": _Kind(f"gzip batch of {BATCH_EVENTS} events, 25 KB", BATCH_EVENTS, 256, _gzip_batch),
    "F": _Kind("350 B behind 1.3 KB of browser headers", 1, 4096, _server_event_from_a_browser),
}
NAMES: Final = tuple(_KINDS)
