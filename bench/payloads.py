"""The requests the benchmarks send: complete HTTP bytes, made beforehand, all different.

    name  head     headers  body
    A     311 B    10       350 B         one event of a server library, POST /i/v0/e/
    B     313 B    10       1,034 B       one browser event as text/plain with an Origin, POST /e/
    C     336 B    11       about 11 KB   gzip of a batch of 50, about 25 KB of JSON, POST /batch/
    D     827 B    10       none          one 350 B event as base64 in the query, GET /e/
    E     312 B    10       20,739 B      batch of 20 events of 1 KB, POST /batch/
    F     1,335 B  20       350 B         A's event behind a browser's headers: long cookie, query string, Origin
    G     322 B    10       about 3.8 KB  lz-string of a batch of 5, 5.1 KB of JSON, POST /batch/?compression=lz64
    H     632 B    17       about 800 B   gzip of a wrapper of two browser events, 2 KB of JSON, and no header that says so,
                                          as today's browser library sends it, POST /i/v0/e/
    mix                                   all of them, in the shares of `MIX`

Heads grow or shrink by a few bytes with the host's name. Everything comes out of a seeded
generator, so two runs and two servers get the same bytes.
"""

import base64
import gzip
import json
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from bench import lz

TOKEN: Final = "phc_bench"
BATCH_EVENTS: Final = 50
LARGE_BATCH_EVENTS: Final = 20
LZ_BATCH_EVENTS: Final = 5
BROWSER_BATCH_EVENTS: Final = 2
MIX: Final = {"A": 400, "H": 230, "B": 120, "F": 79, "C": 100, "E": 50, "D": 20, "G": 1}
"""Requests of each kind among a thousand.

Nobody publishes such shares. Chosen: server libraries and browsers send about as many requests each; most hold an event or two,
as libraries flush after seconds and visitors are slow, and one in seven is a batch, which then carries most of the events.
Half of the browsers have today's library. GET is left to pixels, and lz64 to browser libraries from years ago.
"""

_START: Final = datetime(2025, 11, 21, tzinfo=UTC)
_EVENTS: Final = ("order completed", "signed up", "invoice paid", "report exported", "search performed", "item added")
_PLANS: Final = ("free", "team", "scale", "enterprise")
_PAGES: Final = ("pricing", "docs", "insights", "replay", "settings", "dashboard", "cohorts", "experiments")
_PAD: Final = "abcdefghijklmnopqrstuvwxyz0123456789"

_USER_AGENT: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142 Safari/537"
)

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
_PIXEL: Final = (
    "Host: {host}",
    "Connection: keep-alive",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/142",
    "Accept: image/avif,image/webp,*/*",
    "Referer: https://shop{site}.example",
    "Accept-Encoding: gzip, br",
    "Accept-Language: en",
    "X-Forwarded-For: {address}",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 443",
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
    f"User-Agent: {_USER_AGENT}",
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
_BROWSER_TODAY: Final = (
    "Host: {host}",
    "Connection: keep-alive",
    "Content-Length: {length}",
    'sec-ch-ua-platform: "Windows"',
    f"User-Agent: {_USER_AGENT}",
    'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
    "Content-Type: text/plain",
    "sec-ch-ua-mobile: ?0",
    "Accept: */*",
    "Origin: https://shop{site}.example",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Dest: empty",
    "Referer: https://shop{site}.example/",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "X-Forwarded-For: {address}",
)


@dataclass(frozen=True)
class Payload:
    """One workload: `requests` are complete (head and body), each holding `events` events, in a mix on average."""

    name: str
    about: str
    events: float
    requests: tuple[bytes, ...]


def build(name: str, host: str = "127.0.0.1:8000", variants: int = 0, seed: int = 1) -> Payload:
    """The workload called `name`, addressed to `host`. Raises `KeyError` for a name that is not in `NAMES`.

    `variants` is how many different requests; 0 is the workload's own number, which is more JSON than a compressor's window
    remembers, so that replaying them does not look like better compression.
    """
    if name == "mix":
        return _mix(host, variants, seed)
    kind = _KINDS[name]
    draw = random.Random(f"{name}:{seed}")
    requests = tuple(kind.make(draw, host) for _ in range(variants or kind.variants))
    return Payload(name, kind.about, kind.events, requests)


def at_path(payload: Payload, path: str) -> Payload:
    """The same requests to another path, queries kept."""
    requests = tuple(
        re.sub(rb"^(\w+) [^ ?]*", rb"\1 " + path.encode(), request, count=1) for request in payload.requests
    )
    return replace(payload, requests=requests)


def _mix(host: str, variants: int, seed: int) -> Payload:
    total = sum(MIX.values())
    size = variants or total
    # Shares first, order afterwards: a thousand requests hold exactly what the table says.
    kinds = [name for name, share in MIX.items() for _ in range(share)]
    random.Random(f"mix:{seed}").shuffle(kinds)
    kinds = [kinds[index % total] for index in range(size)]
    made = {name: iter(build(name, host, kinds.count(name), seed).requests) for name in MIX if name in kinds}
    events = sum(_KINDS[name].events for name in kinds) / size
    return Payload("mix", "requests of all kinds", events, tuple(next(made[name]) for name in kinds))


def _server_event(draw: random.Random, host: str) -> bytes:
    return _request("POST /i/v0/e/ HTTP/1.1", _SERVER_LIBRARY, draw, host, _single(draw, 350))


def _browser_event(draw: random.Random, host: str) -> bytes:
    return _request("POST /e/?ip=0&ver=1.258.6 HTTP/1.1", _BROWSER, draw, host, _page_view(draw, 1034, _visitor(draw)))


def _gzip_batch(draw: random.Random, host: str) -> bytes:
    batch = {
        "batch": [_batched(draw) for _ in range(BATCH_EVENTS)],
        "historical_migration": False,
        "sent_at": _moment(draw),
        "api_key": TOKEN,
    }
    headers = (*_SERVER_LIBRARY, "Content-Encoding: gzip")
    return _request("POST /batch/ HTTP/1.1", headers, draw, host, gzip.compress(_json(batch), 6, mtime=0))


def _get(draw: random.Random, host: str) -> bytes:
    data = quote(base64.b64encode(_single(draw, 350)), safe="")
    return _request(f"GET /e/?data={data}&ip=0&_={_millis(draw)}&ver=1.258.6 HTTP/1.1", _PIXEL, draw, host, b"")


def _large_batch(draw: random.Random, host: str) -> bytes:
    body = _batch_of(draw, LARGE_BATCH_EVENTS, 20_739)
    return _request("POST /batch/ HTTP/1.1", _SERVER_LIBRARY, draw, host, body)


def _lz_batch(draw: random.Random, host: str) -> bytes:
    body = lz.compress(_batch_of(draw, LZ_BATCH_EVENTS, 5_100).decode())
    return _request("POST /batch/?compression=lz64&ip=0 HTTP/1.1", _BROWSER, draw, host, body)


def _browser_batch(draw: random.Random, host: str) -> bytes:
    visitor = _visitor(draw) | {"$lib_version": "1.449.2", "$raw_user_agent": _USER_AGENT, "$is_identified": False}
    batch = {
        "api_key": TOKEN,
        "batch": [_seen_by_a_browser(draw, visitor) for _ in range(BROWSER_BATCH_EVENTS)],
        "sent_at": _moment(draw),
    }
    return _request("POST /i/v0/e/ HTTP/1.1", _BROWSER_TODAY, draw, host, gzip.compress(_json(batch), 6, mtime=0))


def _batch_of(draw: random.Random, events: int, size: int) -> bytes:
    """A batch of page views as exactly `size` bytes of JSON, the events about as large as each other."""
    start, end = b'{"api_key":"%s","batch":[' % TOKEN.encode(), b"]}"
    left = size - len(start) - len(end) - (events - 1)
    sizes = [left // events + (index < left % events) for index in range(events)]
    visitor = _visitor(draw) | {
        "$raw_user_agent": _USER_AGENT,
        "title": "Pricing and plans, monthly and yearly | the shop",
    }
    return start + b",".join(_page_view(draw, each, visitor) for each in sizes) + end


def _server_event_from_a_browser(draw: random.Random, host: str) -> bytes:
    line = f"POST /e/?ip=0&_={_millis(draw)}&ver=1.258.6 HTTP/1.1"
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


def _visitor(draw: random.Random) -> dict[str, object]:
    """What the events of one browser have in common."""
    return {
        "token": TOKEN,
        "distinct_id": _uuid(draw),
        "$session_id": _uuid(draw),
        "$window_id": _uuid(draw),
        "$device_id": _uuid(draw),
        "$browser": "Chrome",
        "$browser_version": draw.randrange(100, 143),
        "$os": "Linux",
        "$screen_height": draw.randrange(600, 2000),
        "$screen_width": draw.randrange(800, 4000),
        "$viewport_height": draw.randrange(400, 2000),
        "$viewport_width": draw.randrange(400, 4000),
        "$lib": "web",
        "$lib_version": "1.258.6",
    }


def _page(draw: random.Random) -> dict[str, object]:
    page = f"https://shop.example/{draw.choice(_PAGES)}/{draw.randrange(10**6)}"
    return {
        "$current_url": page,
        "$host": "shop.example",
        "$pathname": page.removeprefix("https://shop.example"),
        "$referrer": "$direct",
    }


def _page_view(draw: random.Random, size: int, visitor: dict[str, object]) -> bytes:
    properties = visitor | {
        **_page(draw),
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


def _seen_by_a_browser(draw: random.Random, visitor: dict[str, object]) -> dict[str, object]:
    """As browser libraries have it: the person is a property, and the project's key another one."""
    properties = visitor | {
        **_page(draw),
        "$pageview_id": _uuid(draw),
        "$insert_id": draw.randbytes(8).hex(),
        "$time": 1763683200 + draw.randrange(10**8) / 1000,
        "title": "Pricing and plans, monthly and yearly | the shop",
    }
    timestamp = _moment(draw).replace("+00:00", "Z")
    return {"uuid": _uuid(draw), "event": "$pageview", "properties": properties, "timestamp": timestamp}


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


def _millis(draw: random.Random) -> int:
    return 1763683200000 + draw.randrange(10**8)


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
    "D": _Kind("GET, 350 B as base64 in the query", 1, 4096, _get),
    "E": _Kind(f"batch of {LARGE_BATCH_EVENTS} events, 20 KB", LARGE_BATCH_EVENTS, 256, _large_batch),
    "F": _Kind("350 B behind 1.3 KB of browser headers", 1, 4096, _server_event_from_a_browser),
    "G": _Kind(f"lz64 batch of {LZ_BATCH_EVENTS} events, 5 KB", LZ_BATCH_EVENTS, 256, _lz_batch),
    "H": _Kind(
        f"unsignalled gzip of {BROWSER_BATCH_EVENTS} browser events", BROWSER_BATCH_EVENTS, 2048, _browser_batch
    ),
}
NAMES: Final = (*_KINDS, "mix")
