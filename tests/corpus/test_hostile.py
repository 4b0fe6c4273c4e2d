"""Whatever is sent: an answer that says whose fault it is, memory in bounds, and a spool the drainer can read."""

import gc
import gzip
import json
import random
import re
import subprocess
import sys
import tracemalloc
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import brotli
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.lz import compress
from edge.segment.record import RecordIds, decode_record
from edge.wire.capture import capture
from edge.wire.rejections import REFUSALS, Rejected
from edge.wire.request import MIB, Limits, Request
from edge.wire.routes import CAPTURE_PATHS, find_route
from tests.corpus.cases import TEXTS, WRAPPINGS
from tests.server.running import PATIENCE_S, Server, decoders, environment, running

ANSWERS: Final = {200, 204, 400, 401, 413}

FLAGS: Final = (
    *("--body-bytes-max", "1MiB", "--replay-body-bytes-max", "1MiB", "--decoded-bytes-max", "1MiB"),
    *("--lz64-bytes-max", "20KiB", "--durability", "page"),
)
DECODED_MAX: Final = MIB
MEMORY_MAX: Final = DECODED_MAX + 8 * MIB


# --- any request

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters() | st.characters(categories=["Cs"]), max_size=10)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
MEMBERS = st.sampled_from(
    ["api_key", "token", "$token", "batch", "event", "distinct_id", "$distinct_id", "properties", "uuid", "timestamp"]
    + ["offset", "sent_at", "sentAt", "historical_migration", "$set", "$group_key", "$group_id"]
)
TELLING: Final[list[Any]] = [
    "phc_a",
    "e",
    "u",
    "$exception",
    "2023-09-15T09:15:02Z",
    1694769302,
    1e300,
    -5,
    True,
    {},
    [],
]
EVENTS = st.dictionaries(
    MEMBERS, st.sampled_from(TELLING) | VALUES | st.dictionaries(MEMBERS, st.sampled_from(TELLING) | VALUES, max_size=3)
)
KEYED = EVENTS.map(lambda event: {"api_key": "phc_a"} | event)
PAYLOADS = (
    VALUES
    | EVENTS
    | KEYED
    | st.lists(KEYED | VALUES, max_size=4)
    | st.builds(lambda wrapper, batch: wrapper | {"batch": batch}, KEYED, st.lists(EVENTS | VALUES, max_size=4))
)
JSON_TEXTS = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    ),
    PAYLOADS,
    st.booleans(),
    st.sampled_from([None, 1]),
)
SEEDS = st.sampled_from(
    [*(text.encode() for text in TEXTS.values()), gzip.compress(TEXTS["$EVENT"].encode()), b"data="]
)
DAMAGED = st.builds(
    lambda text, at, put: text[: at % (len(text) + 1)] + put + text[at % (len(text) + 1) + len(put) :],
    JSON_TEXTS | SEEDS,
    st.integers(0, 500),
    st.binary(max_size=3),
)
BODIES = JSON_TEXTS | st.binary(max_size=200) | DAMAGED

WRAPPERS: Final = {
    name: wrap
    for name, wrap in WRAPPINGS.items()
    if name not in ("lz64", "chunked", "CESU-8", "100,001 times", "nested 400,000 deep")
}
"""Those that take any bytes and need no header."""

PATHS = st.sampled_from([f"/{path}{slash}" for path in CAPTURE_PATHS for slash in ("", "/")])
NAMES = st.sampled_from(
    ["gzip", "gzip-js", "br", "lz64", "lz-string", "base64", "deflate", "zstd", "deflate, gzip", ""]
)
QUERIES = st.lists(
    st.builds("compression={}".format, NAMES)
    | st.sampled_from(
        ["_=1", "_=x", "beacon=1", "verbose=1", "ip=1", "api_key=phc_q", "data=", "data=e30", "sent_at=%"]
    ),
    max_size=3,
).map(lambda fields: "&".join(fields).replace(" ", "%20"))
TYPES = st.sampled_from(
    ["application/json", "text/plain", "application/x-www-form-urlencoded; charset=x", "multipart/x"]
)


def request(method: str, target: str, body: bytes, content_type: str, encoding: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: edge.example", f"Content-Type: {content_type}"]
    lines += [f"Content-Length: {len(body)}", *([f"Content-Encoding: {encoding}"] if encoding else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """At its end what it accepted is drained, all of it, by a drainer that meets no fault."""
    folder = tmp_path_factory.mktemp("hostile")
    with running(folder, *FLAGS) as found:
        yield found
        metrics = found.metrics()
        assert not metrics.get('edge_rejected_requests_total{cause="internal"}')
        assert found.stop() == 0
    command = [sys.executable, "-m", "edge", "drain", "--once", "--data", str(folder / "data")]
    drained = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE_S, env=environment())
    assert (drained.returncode, "Traceback" in drained.stderr) == (0, False), drained.stderr


@given(
    st.sampled_from(["POST", "POST", "GET"]),
    PATHS,
    QUERIES,
    BODIES,
    st.lists(st.sampled_from([*WRAPPERS]), max_size=6),
    TYPES,
    NAMES,
)
@settings(max_examples=400)
@example("POST", "/e/", "", b'{"api_key":"phc_a","event":"\\ud800","distinct_id":NaN}', [], "text/plain", "")
@example(
    "POST", "/s/", "beacon=1", b'[{"api_key":"phc_a","properties":{"$session_id":"s"}}]', ["gzip"], "text/plain", ""
)
def test_any_request_has_an_answer_that_is_no_fault_of_ours(
    server: Server, method: str, path: str, query: str, body: bytes, wrap: list[str], content_type: str, encoding: str
) -> None:
    for name in wrap:
        body = WRAPPERS[name](body)
    answer = server.ask(request(method, f"{path}?{query}" if query else path, body, content_type, encoding))
    assert answer.status in ANSWERS, answer
    if answer.status >= 400:
        error = answer.json()
        assert set(error) == {"type", "code", "detail", "attr"}
        assert error["code"] != "bad_request", "expected the test to speak HTTP"
    else:
        assert answer.body in (b'{"status":1}', b"1", b"")


# --- memory


def filled(head: bytes, unit: bytes, tail: bytes, size: int = DECODED_MAX) -> bytes:
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def _properties(unit: bytes) -> bytes:
    return filled(b'{"api_key":"phc_a","event":"e","distinct_id":"u","properties":{"p":[', unit, b"1]}}")


def _text(unit: bytes) -> bytes:
    return filled(b'{"api_key":"phc_a","event":"e","distinct_id":"u","properties":{"p":"', unit, b'"}}')


_PAIR: Final = b"\xed\xa0\xbd\xed\xba\x80"

DENSE: Final = {
    "numbers": _properties(b"1,"),
    "objects": _properties(b"{},"),
    "nests": _properties(b"[[[[]]]],"),
    "constants": _properties(b"NaN,"),
    "overflows": _properties(b"1e999,"),
    "one number": filled(b'{"api_key":"phc_a","a":', b"5", b"}"),
    "members": filled(b'{"api_key":"phc_a","a":{', b'"a":1,', b'"b":2}}'),
    "lone surrogates": _text(b"\\ud83c"),
    "CESU-8": _text(_PAIR),
    "one CESU-8 pair": _text(b"x")[:-40] + _PAIR + b'"}}',
    "one emoji": _text(b"x")[:-40] + "🚀".encode() + b'"}}',
    "not UTF-8": _text(b"x")[:-40] + b'\xff"}}',
    "cut short": _properties(b"{},")[:-1],
    "a list of objects": filled(b"[", b"{},", b"{}]"),
    "a list of keys": filled(b"[", b'{"token":"phc_a"},', b"{}]"),
    "a list of different types": filled(b"[", b'{"token":5},', b"{}]"),
    "a batch of objects": filled(b'{"api_key":"phc_a","batch":[', b"{},", b"{}]}"),
    "a batch of many objects": filled(b'{"api_key":"phc_a","batch":[', b'{"a":1234},', b"{}]}"),
    "a list of many objects": filled(b'[{"token":"phc_a"},', b'{"a":1234},', b"{}]"),
    "a batch of numbers": filled(b'{"batch":[', b"0,", b"0]}"),
    "a long key": filled(b'{"api_key":"', b"\\u00e9", b'"}'),
    "a list for a key": filled(b'{"api_key":[', b'"a",', b"1]}"),
    "line breaks": _properties(b"1,\n"),
    "a form of separators": filled(b"data=", b"&", b""),
    "a form of signs": filled(b"data=", b"%", b""),
    "a form of escapes": filled(b"data=", b"%41", b""),
    "a form of plus": filled(b"data=", b"+", b"A"),
    "base64 of nothing": filled(b"", b"AAAA", b""),
    "zeros": bytes(DECODED_MAX),
    "gzip's first bytes": b"\x1f\x8b" * (DECODED_MAX // 2),
}
"""As much of one thing as the limit allows, in little JSON and in few bytes."""


def _lz64() -> bytes:
    letters = random.Random(7)
    return compress('{"api_key":"phc_a","p":"' + "".join(chr(letters.randrange(160, 1000)) for _ in range(5000)) + '"}')


HOSTILE: Final[dict[str, tuple[str, bytes]]] = {
    **{name: ("/batch/", gzip.compress(text)) for name, text in DENSE.items()},
    "base64, twice": ("/e/", gzip.compress(b64encode(b64encode(_properties(b"{},")[: MIB // 2])))),
    "above the limit": ("/e/", gzip.compress(bytes(64 * MIB))),
    "brotli above the limit": ("/e/", brotli.compress(bytes(64 * MIB), quality=1)),
    "gzip in gzip": ("/e/", gzip.compress(gzip.compress(bytes(64 * MIB)))),
    "lz64 of few repetitions": ("/e/?compression=lz64", _lz64()),
    "lz64 of nothing but repetitions": ("/e/?compression=lz64", compress("x" * 300_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_request_takes_no_more_memory_than_its_limit_and_a_little(name: str) -> None:
    target, body = HOSTILE[name]
    route, query = find_route(target.encode())
    assert route is not None
    sent = Request("POST", query, body, {}, "192.0.2.1", 1)
    limits = Limits(decoded_bytes_max=DECODED_MAX, lz64_bytes_max=20 * 1024)
    gc.disable()
    tracemalloc.start()
    try:
        try:
            status, token = 200, decode_record(capture(sent, route, limits, RecordIds(1)).record).token
        except Rejected as rejected:
            status, token = REFUSALS[rejected.reason].status, "phc_a"
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert (status in ANSWERS, token) == (True, "phc_a")
    assert peak <= MEMORY_MAX
    # Nothing waits for the collector either.
    assert kept < 100_000


def test_a_worker_takes_no_more_memory_for_the_worst_than_that(tmp_path: Path) -> None:
    """More than for what is as large and harmless: storing it takes its memory, too. Its decoder's is counted with it."""
    with running(tmp_path, *FLAGS) as server:
        harmless = request("POST", "/batch/", gzip.compress(_text(b"x")), "application/json", "")
        assert server.ask(harmless).status == 200
        processes = [*server.workers(), *decoders(server)]
        before = sum(map(most_memory_bytes, processes))
        for target, body in HOSTILE.values():
            assert server.ask(request("POST", target, body, "text/plain", "")).status in ANSWERS
        assert [*server.workers(), *decoders(server)] == processes
        assert sum(map(most_memory_bytes, processes)) - before <= MEMORY_MAX


def most_memory_bytes(pid: int) -> int:
    """The most that the process has had in memory."""
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
