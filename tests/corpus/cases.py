"""The corpus: what clients may send, as data, with what each is answered and what is delivered of it.

`rows.toml` lists what is promised, by section; `cases/*.toml` hold the proofs. A case:

    [[case]]
    id = "query, base64 unescaped"
    rows = ["decoding/base64 in a query"]      what it proves
    method = "GET"                             default POST
    target = "/e/?ip=1&data="                  default "/e/"; `targets` makes a case of each
    headers = ["Content-Type: text/plain"]     besides Host, Origin and Content-Length; one of the same name replaces these
    body = '$EVENT'                            text, where names of TEXTS stand for theirs; or `hex`
    pad = 100                                  blanks before the last byte, up to so many bytes
    wrap = ["base64"]                          of WRAPPINGS, the innermost first
    in = "target"                              where it goes, default "body"
    status = 200                               the default
    answer = '{"status":1}'                    the whole body; the default for status 200, and nothing for 204
    refusal = ["type", "code", "detail"]       in place of `answer`; TEXTS here, too; `...` where the detail goes on
    shows = { vary = "origin" }                headers of the answer, names in lower case
    lacks = ["retry-after"]                    headers it does not have
    events = ['{}']                            what is delivered, in order; TEXTS here, too; default nothing

Of an event in `events` only what differs from this needs to be there:

    {"event":"e","distinct_id":"u","token":"phc_a","ip":"127.0.0.1","lane":"main","properties":{},
     "timestamp":"now","uuid":"made"}

`now` is the time of receipt, which `now-5` is five seconds before; `made` is a version 7 uuid of the timestamp.
"""

import gzip
import json
import re
import tomllib
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus
from uuid import UUID

import brotli
import msgspec
import zstandard

from bench.lz import compress
from edge.wire.rejections import REFUSALS, Reason

HERE: Final = Path(__file__).parent
ORIGIN: Final = "https://shop.example"

TEXTS: Final = {
    "$EVENT": '{"api_key":"phc_a","event":"e","distinct_id":"u"}',
    "$SNAPSHOT": (
        '{"api_key":"phc_a","event":"$snapshot","distinct_id":"u",'
        '"properties":{"$session_id":"s-1","$snapshot_data":[{"a":1}]}}'
    ),
    "$REPLAY": (
        '{"event":"$snapshot_items","lane":"replay","properties":{"distinct_id":"u","$session_id":"s-1",'
        '"$window_id":"s-1","$snapshot_source":"web","$snapshot_items":[{"a":1}],"$lib":"web"}}'
    ),
    "$DEEP": "[" * 200 + "]" * 200,
    "$X200": "x" * 200,
    "$EURO150": "€" * 150,
    "$NO_DATA": REFUSALS[Reason.NO_DATA].detail,
    "$NO_KEY": REFUSALS[Reason.NO_TOKEN].detail,
}
"""What would be long to write, or is written often."""

_DEFAULTS: Final[dict[str, Any]] = {
    "event": "e",
    "distinct_id": "u",
    "token": "phc_a",
    "ip": "127.0.0.1",
    "lane": "main",
    "properties": {},
    "timestamp": "now",
    "uuid": "made",
}


def _raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def _cesu8(data: bytes) -> bytes:
    """UTF-8 with each surrogate encoded by itself, as old browser libraries write an emoji."""
    units = data.decode().encode("utf-16-le")
    text = "".join(chr(int.from_bytes(units[at : at + 2], "little")) for at in range(0, len(units), 2))
    return text.encode("utf-8", "surrogatepass")


WRAPPINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zlib": zlib.compress,
    "raw deflate": _raw_deflate,
    "zstd": zstandard.ZstdCompressor().compress,
    "brotli": brotli.compress,
    "lz64": lambda data: compress(data.decode()),
    "base64": b64encode,
    "base64, url-safe": urlsafe_b64encode,
    "unpadded": lambda data: data.rstrip(b"="),
    "spaces for plus": lambda data: data.replace(b"+", b" "),
    "lines": lambda data: data[:20] + b"\r\n" + data[20:] + b"\r\n",
    "percent": lambda data: quote_plus(data).encode(),
    "form": lambda data: b"data=" + data,
    "form, last": lambda data: b"ip=1&_=1694769302325&data=" + data,
    "lz64 declared behind": lambda data: data + b"&compression=lz64",
    "CESU-8": _cesu8,
    "no low surrogates": lambda data: re.sub(rb"\xed[\xb0-\xbf].", b"", data, flags=re.DOTALL),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "NUL behind": lambda data: data + b"\0",
    "100,001 times": lambda data: b"[" + b",".join([data] * 100_001) + b"]",
    "nested 400,000 deep": lambda data: b"[" * 400_000 + data + b"]" * 400_000,
    "half": lambda data: data[: len(data) // 2],
    "chunked": lambda data: b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data),
}


def _written_out(text: str) -> str:
    for name, meaning in TEXTS.items():
        text = text.replace(name, meaning)
    return text


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    rows: tuple[str, ...]
    method: str = "POST"
    target: str = "/e/"
    targets: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: str = ""
    hex: str = ""
    pad: int = 0
    wrap: tuple[str, ...] = ()
    place: str = msgspec.field(name="in", default="body")
    status: int = 200
    answer: str | None = None
    refusal: tuple[str, str, str] | None = None
    shows: dict[str, str] = {}
    lacks: tuple[str, ...] = ()
    events: tuple[str, ...] = ()

    @property
    def sent(self) -> bytes:
        """The request as it is on the wire."""
        content = bytes.fromhex(self.hex) or _written_out(self.body).encode()
        content = content[:-1] + b" " * (self.pad - len(content)) + content[-1:]
        for name in self.wrap:
            content = WRAPPINGS[name](content)
        target = self.target.encode()
        if self.place == "target":
            target, content = target + content, b""
        standard = ["Host: edge.example", f"Origin: {ORIGIN}"]
        if content and "chunked" not in self.wrap:
            standard.append(f"Content-Length: {len(content)}")
        own = {line.partition(":")[0].lower() for line in self.headers}
        lines = [line for line in standard if line.partition(":")[0].lower() not in own] + list(self.headers)
        head = "".join(f"{line}\r\n" for line in lines if line.partition(":")[2])
        return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (self.method.encode(), target, head.encode(), content)

    def body_expected(self, found: bytes) -> bytes:
        """What the body should be. Of a detail that goes on, the rest is taken from what was `found`."""
        if self.method == "HEAD" or self.status == 204:
            return b""
        if self.refusal is not None:
            kind, code, detail = map(_written_out, self.refusal)
            if detail.endswith("..."):
                goes_on = str(json.loads(found)["detail"])
                detail = goes_on if goes_on.startswith(detail.removesuffix("...")) else detail
            return msgspec.json.encode({"type": kind, "code": code, "detail": detail, "attr": None})
        return ('{"status":1}' if self.answer is None else self.answer).encode()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    case: tuple[Case, ...]


class Rows(msgspec.Struct, forbid_unknown_fields=True):
    """What is promised."""

    promised: dict[str, dict[str, str]]
    """By section, name and text. Proved by cases."""
    tested: dict[str, str]
    """What a request and its answer cannot show: text, and the test that does."""
    declined: dict[str, str]
    """What other servers do and this one does not, with the reason."""


def load_cases() -> list[Case]:
    return [
        case
        for path in sorted((HERE / "cases").glob("*.toml"))
        for written in msgspec.convert(tomllib.loads(path.read_text()), _File).case
        for case in _each(written)
    ]


def _each(case: Case) -> Iterator[Case]:
    if not case.targets:
        yield case
    for target in case.targets:
        yield msgspec.structs.replace(case, id=f"{case.id}: {target}", target=target, targets=())


def load_rows() -> Rows:
    return msgspec.convert(tomllib.loads((HERE / "rows.toml").read_text()), Rows)


def expected_event(text: str) -> dict[str, Any]:
    event: dict[str, Any] = _DEFAULTS | json.loads(_written_out(text))
    return event


def as_expected(delivered: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """`delivered` in the words of `expected`: without what no case can know, where it is what it should be."""
    found = dict(delivered)
    now = _instant(found.pop("now"))
    timestamp = _instant(found["timestamp"])
    wanted = expected["timestamp"]
    if wanted.startswith("now") and timestamp == now + timedelta(seconds=float(wanted[3:] or 0)):
        found["timestamp"] = wanted
    if expected["uuid"] == "made" and _is_made(UUID(found["uuid"]), timestamp):
        found["uuid"] = "made"
    return found


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _is_made(uuid: UUID, timestamp: datetime) -> bool:
    millis = max(0, (timestamp - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))
    return uuid.version == 7 and uuid.variant.startswith("specified in RFC 4122") and uuid.int >> 80 == millis
