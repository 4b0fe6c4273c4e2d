"""What every Python peer does with a request: unwrap, parse, check, append. The least that answering 200 takes.

It appends through a buffer and answers before anything is written, compresses nothing, counts nothing and has no limits:
a peer does less than `edge` does, so a ratio flatters the peer.
"""

import base64
import gzip
import os
from collections.abc import Mapping
from functools import cache
from typing import BinaryIO, Final

import orjson
from lzstring import LZString

PATHS: Final = ("/i/v0/e/", "/e/", "/batch/")
BUFFER_BYTES: Final = 64 * 1024
REFUSED: Final = {"error": "expected JSON with api_key, event and distinct_id"}
STATUS: Final = {"status": 1}


def accept(body: bytes, query: Mapping[str, str]) -> bool:
    """Append the JSON text as a line, or say that it is no batch of events."""
    compression = query.get("compression", "")
    try:
        # Not every client says so.
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        elif compression == "lz64":
            body = LZString().decompressFromBase64(body.decode()).encode()
        elif "data" in query:
            body = base64.b64decode(query["data"])
        parsed = orjson.loads(body)
    except (ValueError, EOFError, OSError):
        return False
    for event in parsed.get("batch", (parsed,)):
        if (
            not (event.get("api_key") or parsed.get("api_key"))
            or not event.get("event")
            or not (event.get("distinct_id") or event.get("properties", {}).get("distinct_id"))
        ):
            return False
    _journal().write(body + b"\n")
    return True


@cache
def _journal() -> BinaryIO:
    # Open for as long as the process runs.
    return open(os.environ["BENCH_DATA"], "ab", buffering=BUFFER_BYTES)
