"""A record: one accepted request as stored, one line of JSON.

    {"id":"5c0d2e88b1f09a37-31","at":1763690000123456,"token":"phc_x","path":"e","ip":"203.0.113.7",
     "sent_at":"1763690000100","data":{...the client's JSON...}}

`data` is the client's JSON text with its bytes kept (raw line breaks become spaces) and is always the last field, so a
reader may cut it out without parsing it: the first `,"data":` of the line begins it, for inside a JSON string its first
quote would be escaped. `skew_us`, `sent_at` and `user_agent` stand before it, and are left out when they are 0 or empty.
"""

from collections.abc import Sequence
from itertools import count, islice
from typing import Final

import msgspec

_DATA: Final = b',"data":'
_LINE_FEED: Final = 0x0A
_CARRIAGE_RETURN: Final = 0x0D
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


class Record(msgspec.Struct, gc=False):
    """One accepted request. Immutable once stored; everything shipped is a function of it."""

    id: str
    """Unique for ever: the writer's random 64-bit incarnation and a counter, `5c0d2e88b1f09a37-31`."""
    at: int
    """Receive time, microseconds since the Unix epoch."""
    token: str
    """The project key, trimmed, ASCII."""
    path: str
    """Name of the capture route: `e`, `capture`, `batch`, `engage`, `s`, ..."""
    ip: str
    """The client's address in plain text form."""
    data: bytes = b""
    """The client's JSON text, one line."""
    sent_at: str = ""
    """When the client sent it, as found outside the payload (query `_`, form `sent_at`); not normalised."""
    user_agent: str = ""
    """What names the library: the User-Agent of session replay, the PostHog-Sdk-Info of capture v1; empty elsewhere."""
    skew_us: int = 0
    """Smallest difference between the client's clock and ours that its times are corrected by, microseconds; `SKEW_KEPT` when
    none is. Decided when the request is accepted, so that every attempt to ship it comes to the same times."""


_decode_head: Final = msgspec.json.Decoder(Record).decode
_decode_heads: Final = msgspec.json.Decoder(list[Record]).decode
_encode_text: Final = msgspec.json.Encoder().encode


SKEW_KEPT: Final = -1


class RecordIds:
    """What a writer gives its records: ids unique for ever, of its 64 random bits and a counter, and one `skew_us` to all."""

    __slots__ = ("next", "numbers", "prefix", "skew")

    def __init__(self, incarnation: int, skew_us: int = 0) -> None:
        self.prefix = f"{incarnation:016x}"
        self.skew = f',"skew_us":{skew_us}' if skew_us else ""
        """The member, as it is written."""
        self.numbers = count()
        self.next = self.numbers.__next__


_TEXTS_MAX: Final = 4096
_texts: Final[dict[str, str]] = {}


def _as_json(text: str) -> str:
    """`text` as JSON, remembered: few records differ in what this is asked for."""
    if len(_texts) >= _TEXTS_MAX:
        _texts.clear()
    encoded = _texts[text] = as_json(text).decode()
    return encoded


def as_json(text: str) -> bytes:
    """`text` as a JSON string, quotes included."""
    return _encode_text(text)


def encode_record(
    ids: RecordIds, at: int, token: str, path: str, ip: str, data: bytes, sent_at: str = "", user_agent: str = ""
) -> bytes:
    """The stored line, newline included. `ip` is plain text form or empty, so it needs no escapes."""
    # As numbers: to look for a `bytes` in a `bytes` raises and catches an exception within.
    if _LINE_FEED in data or _CARRIAGE_RETURN in data:
        data = data.translate(_LINE_BREAKS)
    more = ids.skew
    if sent_at:
        more += f',"sent_at":{_encode_text(sent_at).decode()}'
    if user_agent:
        more += f',"user_agent":{_encode_text(user_agent).decode()}'
    named = _texts.get(token) or _as_json(token)
    routed = _texts.get(path) or _as_json(path)
    head = f'{{"id":"{ids.prefix}-{ids.next()}","at":{at},"token":{named},"path":{routed},"ip":"{ip}"{more},"data":'
    return b"".join((head.encode(), data, b"}\n"))


_FORMATTED_BYTES_MAX: Final = 4096
"""Data above this is copied once, into the whole; the formatter copies it again whenever what it makes grows."""


_LINE_FIELDS: Final = 6


def encode_records(
    ids: RecordIds,
    at: int,
    tokens: Sequence[bytes],
    paths: Sequence[bytes],
    ips: Sequence[bytes],
    sent_ats: Sequence[bytes],
    texts: Sequence[bytes],
) -> bytes:
    """The lines of many records received at one moment, as `encode_record` makes them one by one.

    Of each the token and the path as JSON, the address, the digits of `sent_at` or nothing, and the data. One call of the
    formatter for all costs a third of what one for each does.
    """
    count = len(texts)
    fields: list[bytes | int] = [b""] * (_LINE_FIELDS * count)
    fields[::_LINE_FIELDS] = islice(ids.numbers, count)
    fields[1::_LINE_FIELDS] = tokens
    fields[2::_LINE_FIELDS] = paths
    fields[3::_LINE_FIELDS] = ips
    if any(sent_ats):
        fields[4::_LINE_FIELDS] = [sent_at and b',"sent_at":"%b"' % sent_at for sent_at in sent_ats]
    head = b'{"id":"%b-%%d","at":%d,"token":%%b,"path":%%b,"ip":"%%b"%b' % (ids.prefix.encode(), at, ids.skew.encode())
    if len(texts[0]) > _FORMATTED_BYTES_MAX:
        pieces = [b"}\n"] * (3 * count)
        pieces[::3] = ((head + b'%b,"data":%b\n') * count % tuple(fields)).split(b"\n")[:-1]
        pieces[1::3] = [
            text.translate(_LINE_BREAKS) if _LINE_FEED in text or _CARRIAGE_RETURN in text else text for text in texts
        ]
        return b"".join(pieces)
    together = b"".join(texts)
    if _LINE_FEED in together or _CARRIAGE_RETURN in together:
        texts = [text.translate(_LINE_BREAKS) for text in texts]
    fields[5::_LINE_FIELDS] = texts
    return (head + b'%b,"data":%b}\n') * count % tuple(fields)


def decode_record(line: bytes) -> Record:
    """The record of one line (with or without its newline). Raises `ValueError` when the line is none."""
    cut = line.find(_DATA)
    if cut < 0:
        raise ValueError('a record holds ,"data": and this line does not')
    end = len(line) - 1 if line.endswith(b"\n") else len(line)
    if line[end - 1 : end] != b"}":
        raise ValueError(f"a record ends in }} and this line in {line[-8:]!r}")
    record: Record = _decode_head(line[:cut] + b"}")
    record.data = line[cut + len(_DATA) : end - 1]
    return record


def decode_records(lines: Sequence[bytes]) -> list[Record]:
    """The records of many lines without their newlines, as `decode_record` makes them one by one in almost twice the time.

    Raises `ValueError` when one of them is none.
    """
    if not lines:
        return []
    parts = [line.partition(_DATA) for line in lines]
    records: list[Record] = _decode_heads(b"[%b}]" % b"},".join([head for head, _, _ in parts]))
    if len(records) != len(parts):
        raise ValueError(f"expected {len(parts)} records, found {len(records)}")
    for record, (_, _, data) in zip(records, parts, strict=True):
        if data[-1:] != b"}":
            raise ValueError(f"a record ends in }} and this line in {data[-8:]!r}")
        record.data = data[:-1]
    return records
