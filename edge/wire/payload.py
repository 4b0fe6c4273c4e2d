"""JSON text → what the edge must know of it: the project key and how many events there are.

Everything else, properties above all, is checked for syntax and left as the bytes it is.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import orjson

from edge.wire.rejections import Reason, Rejected
from edge.wire.repair import repair_json


class Payload(msgspec.Struct, gc=False, frozen=True):
    """A request's JSON, proved to be one, with what was read of it."""

    text: bytes
    """The JSON text to store: the client's bytes, or their repaired equivalent."""
    tokens: tuple[object, ...]
    """The project key found, not yet judged and of any JSON type; two when there are different ones, which is one too many."""
    events: int
    """Elements of the list or batch, 1 for a single event."""
    repaired: bool = False


class _Properties(msgspec.Struct, gc=False):
    token: str | None = None


class _Envelope(msgspec.Struct, gc=False):
    """The few members read of a well-typed object. Unread ones are skipped; any odd type takes the lenient way."""

    api_key: str | None = None
    token: str | None = None
    dollar_token: str | None = msgspec.field(name="$token", default=None)
    batch: list[msgspec.Raw] | None = None
    properties: _Properties | None = None


class _Keys(msgspec.Struct, gc=False):
    """What tells whether an object is one event with its key at the top."""

    api_key: str | None = None
    token: str | None = None
    dollar_token: str | None = msgspec.field(name="$token", default=None)
    batch: msgspec.Raw | None = None


_decode_keys: Final = msgspec.json.Decoder(_Keys).decode
_decode_object: Final = msgspec.json.Decoder(_Envelope).decode
_decode_list: Final = msgspec.json.Decoder(list[_Envelope]).decode


def read_plain_key(text: bytes) -> str | None:
    """The project key, not yet judged, of a text that is one object and one event with its key at the top; else `None`."""
    try:
        if not text.isascii():
            text.decode()
        keys = _decode_keys(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return (keys.api_key or keys.token or keys.dollar_token) if keys.batch is None else None


def read_payload(text: bytes) -> Payload:
    """`text` begins with `{` or `[`. Raises `Rejected` for what is no JSON or holds no event."""
    try:
        if not text.isascii():
            text.decode()
        if text[0] == 0x7B:
            envelope = _decode_object(text)
            key = envelope.api_key or envelope.token or envelope.dollar_token
            if key and envelope.batch is None:
                return Payload(text, (key,), 1)
            return _read_object(text, envelope, key)
        envelopes = _decode_list(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _read_lenient(text)
    except RecursionError:
        raise Rejected(Reason.TOO_NESTED) from None
    if not envelopes:
        raise Rejected(Reason.EMPTY_BATCH)
    return Payload(text, _distinct(_event_token(envelope) for envelope in envelopes), len(envelopes))


def _read_object(text: bytes, envelope: _Envelope, key: str | None) -> Payload:
    """A batch, or an event that does not carry its key at the top."""
    if envelope.batch is None:
        key = _event_token(envelope)
        return Payload(text, () if key is None else (key,), 1)
    if not envelope.batch:
        raise Rejected(Reason.EMPTY_BATCH)
    inside = (key,) if key else map(_event_token, map(_decode_object, envelope.batch))
    return Payload(text, _distinct(inside), len(envelope.batch))


def _event_token(envelope: _Envelope) -> str | None:
    key = envelope.dollar_token or envelope.token or envelope.api_key
    if key:
        return key
    inside = None if envelope.properties is None else envelope.properties.token
    empty = (inside, envelope.dollar_token, envelope.token, envelope.api_key)
    return next((token for token in empty if token is not None), None)


def _read_lenient(text: bytes) -> Payload:
    """The same for what the strict reader refused: members of unexpected types, or text that needs repair."""
    repaired = False
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        text = repair_json(text)
        repaired = True
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            # Repaired text is JSON; what orjson still refuses is its depth.
            raise Rejected(Reason.TOO_NESTED) from error
    if isinstance(value, dict):
        batch = value.get("batch")
        if not isinstance(batch, list):
            return Payload(text, _distinct([_lenient_token(value)]), 1, repaired)
        key = _first_key(value, ("api_key", "token", "$token"))
        tokens = _distinct(map(_lenient_token, batch)) if key is None or key == "" else (key,)
        value = batch
    else:
        tokens = _distinct(map(_lenient_token, value))
    if not value:
        raise Rejected(Reason.EMPTY_BATCH)
    return Payload(text, tokens, len(value), repaired)


def _lenient_token(event: object) -> object | None:
    if not isinstance(event, dict):
        return None
    key = _first_key(event, ("$token", "token", "api_key"))
    properties = event.get("properties")
    if not key and isinstance(properties, dict):
        found = properties.get("token")
        return key if found is None else found
    return key


def _first_key(members: dict[str, Any], names: tuple[str, ...]) -> object | None:
    """The first that is a non-empty string; failing that the first that is there at all, for the error it deserves."""
    present = [members[name] for name in names if members.get(name) is not None]
    return next((key for key in present if key and isinstance(key, str)), present[0] if present else None)


def _distinct(tokens: Iterable[object | None]) -> tuple[object, ...]:
    found: list[object] = []
    for token in tokens:
        if token is None or token in found:
            continue
        found.append(token)
        # What is no text is refused as that, and not compared: it may be large. Two are as wrong as more.
        if len(found) > 1 or not isinstance(token, str):
            break
    return tuple(found)
