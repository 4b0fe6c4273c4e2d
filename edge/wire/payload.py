"""JSON text → what the edge must know of it: the project key and how many events there are.

Everything else, properties above all, is checked for syntax and left as the bytes it is.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from edge.wire.rejections import Reason, Rejected
from edge.wire.repair import REPAIRS_MAX, repair_json
from edge.wire.request import EVENTS_MAX, EVENTS_MAX_LEAST, Heavy, Light
from edge.wire.utf8 import is_utf8
from edge.wire.validate import is_key


class Payload(msgspec.Struct, gc=False, frozen=True):
    """A request's JSON, proved to be one, with what was read of it."""

    text: bytes
    """The JSON text to store: the client's bytes, or their repaired equivalent."""
    tokens: tuple[object, ...]
    """The project key found, not yet judged; two when there are different ones, which is one too many. One that is blank or no
    string stands here only where there is no other, for the error it deserves if the request has none elsewhere either."""
    events: int
    """Elements of the list or batch, 1 for a single event."""
    repaired: bool = False


_COMMAS_MAX: Final = 100_000
"""Of a batch that is found in one go: megabytes of `{}` must not become gigabytes of objects."""
_DENSE_BYTES: Final = 128 * 1024
"""Shorter texts decode to a few megabytes at most, whatever is in them."""

_ELEMENT_BYTES_MIN: Final = 16
"""Of the smallest elements that are found in one go, at some 70 bytes each. In ordinary JSON commas are farther apart."""
_LISTED_MAX: Final = 20_000
"""Of a list, whose elements are built; a batch's are only found."""

_PLAIN_EVENTS_MAX: Final = EVENTS_MAX_LEAST
"""Of a batch that is taken without a further look at its limits."""

NOT_TEXT: Final = object()
"""Stands for a key that is no string, and may be large."""
_ABSENT: Final = msgspec.Raw(b"")


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
    """What an object says at its top: whose it is, and whether it is one event."""

    api_key: str | None = None
    token: str | None = None
    dollar_token: str | None = msgspec.field(name="$token", default=None)
    batch: list[msgspec.Raw] | None = None


class _LooseProperties(msgspec.Struct, gc=False):
    token: msgspec.Raw = _ABSENT


class _Loose(msgspec.Struct, gc=False):
    """The same members of any types. Nothing is decoded, so nothing fails and nothing is built."""

    api_key: msgspec.Raw = _ABSENT
    token: msgspec.Raw = _ABSENT
    dollar_token: msgspec.Raw = msgspec.field(name="$token", default=_ABSENT)
    batch: msgspec.Raw = _ABSENT
    properties: msgspec.Raw = _ABSENT


_decode_keys: Final = msgspec.json.Decoder(_Keys).decode
_decode_object: Final = msgspec.json.Decoder(_Envelope).decode
_decode_list: Final = msgspec.json.Decoder(list[_Envelope]).decode
_decode_loose: Final = msgspec.json.Decoder(_Loose).decode
_decode_loose_properties: Final = msgspec.json.Decoder(_LooseProperties).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_skip: Final = msgspec.json.Decoder(msgspec.Raw).decode
_value_end: Final = re.compile(r".* trailing characters \(byte ([0-9]+)\)").fullmatch
_blanks: Final = re.compile(rb"[ \t\r\n]*+").match


def read_plain(text: bytes) -> tuple[str, int] | None:
    """The project key, not yet judged, and the number of events of a text of some KiB, whose members are of the types they are
    meant to have; `None` for what is not plainly that."""
    try:
        if not text.isascii():
            text.decode()
        keys = _decode_keys(text)
    except msgspec.ValidationError:
        return _read_plain_inside(text) if text[0] == 0x5B else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    batch = keys.batch
    if batch is None:
        key = keys.dollar_token or keys.token or keys.api_key
        return (key, 1) if key else _read_plain_inside(text)
    key = keys.api_key or keys.token or keys.dollar_token
    if not key:
        return _read_plain_inside(text)
    return (key, len(batch)) if 0 < len(batch) <= _PLAIN_EVENTS_MAX else None


def _read_plain_inside(text: bytes) -> tuple[str, int] | None:
    """The same where the key is in the events, as browsers have it, or in their properties."""
    if _is_dense(text):
        # It would be built for nothing.
        return None
    try:
        payload = _read_typed(text, None)
    except (msgspec.MsgspecError, RecursionError, Rejected):
        return None
    key = payload.tokens[0] if len(payload.tokens) == 1 else None
    return (key, payload.events) if isinstance(key, str) and key and payload.events <= _PLAIN_EVENTS_MAX else None


def read_payload(text: bytes, light: Light | None = None, events_max: int = EVENTS_MAX) -> Payload:
    """`text` begins with `{` or `[`. Raises `Rejected` for what is no JSON, or holds no event or too many; and `Heavy`."""
    if light is not None:
        if len(text) > light.text_bytes_max or (len(text) > light.dense_bytes_max and _is_dense(text)):
            raise Heavy
    elif len(text) > _DENSE_BYTES and _is_dense(text):
        return _read_loose(text, light, events_max)
    if not text.isascii() and not is_utf8(text):
        return _read_loose(text, light, events_max)
    try:
        payload = _read_typed(text, light)
    except msgspec.MsgspecError:
        return _read_loose(text, light, events_max)
    except RecursionError:
        raise Rejected(Reason.TOO_NESTED) from None
    if payload.events > events_max:
        raise _too_many(events_max)
    return payload


def _read_typed(text: bytes, light: Light | None) -> Payload:
    """The same where every member that is read has the type it is meant to have; raises `MsgspecError` where one has not."""
    if text[0] == 0x7B:
        envelope = _decode_object(text)
        if envelope.batch is None:
            key = _event_token(envelope)
            return Payload(text, () if key is None else (key,), 1)
        return _read_batch(text, envelope, envelope.batch, light)
    envelopes = _decode_list(text)
    if not envelopes:
        raise Rejected(Reason.EMPTY_BATCH)
    if light is not None and len(envelopes) > light.elements_max:
        raise Heavy
    return Payload(text, _distinct(_event_token(envelope) for envelope in envelopes), len(envelopes))


def _is_dense(text: bytes) -> bool:
    """Whether its elements, which are no more than its commas, could take much more memory than the text."""
    commas = text.count(b",")
    return commas >= min(_COMMAS_MAX if text[0] == 0x7B else _LISTED_MAX, len(text) // _ELEMENT_BYTES_MIN)


def _read_batch(text: bytes, wrapper: _Envelope, batch: list[msgspec.Raw], light: Light | None) -> Payload:
    if not batch:
        raise Rejected(Reason.EMPTY_BATCH)
    key = _first_key(wrapper.api_key, wrapper.token, wrapper.dollar_token)
    if is_key(key):
        return Payload(text, (key,), len(batch))
    if light is not None and len(batch) > light.elements_max:
        raise Heavy
    return Payload(text, _distinct((key, *map(_event_token, map(_decode_object, batch)))), len(batch))


def _event_token(envelope: _Envelope) -> object | None:
    key = envelope.dollar_token or envelope.token or envelope.api_key
    if key and not key.isspace():
        return key
    inside = None if envelope.properties is None else envelope.properties.token
    return _first_key(envelope.dollar_token, envelope.token, envelope.api_key, inside)


def _first_key(*tokens: object | None) -> object | None:
    """The first that may be one; failing that the first that is there at all, for the error it deserves."""
    present = [token for token in tokens if token is not None]
    return next(filter(is_key, present), present[0] if present else None)


def _read_loose(text: bytes, light: Light | None, events_max: int) -> Payload:
    """The same for members of unexpected types, text that needs repair, and lists too long to be built.

    Goes from element to element, at some microseconds each, and keeps none.
    """
    if light is not None and len(text) > light.loose_bytes_max:
        raise Heavy
    try:
        repaired = not is_utf8(text)
        _skip(text)
    except msgspec.DecodeError:
        repaired = True
    except RecursionError:
        raise Rejected(Reason.TOO_NESTED) from None
    if repaired:
        text = repair_json(text, REPAIRS_MAX if light is None else light.elements_max)
    elements = memoryview(text)
    key: object | None = None
    if text[0] == 0x7B:
        envelope = _decode_loose(text)
        elements = memoryview(envelope.batch)
        if not _begins(envelope.batch, b"["):
            return Payload(text, _distinct([_loose_token(envelope)]), 1, repaired)
        key = _first_key(_loose_text(envelope.api_key), _loose_text(envelope.token), _loose_text(envelope.dollar_token))
    keyed = is_key(key)
    count = 0
    tokens: tuple[object, ...] = () if key is None else (key,)
    for element in _each(elements):
        count += 1
        if light is not None and count > light.elements_max:
            raise Heavy
        if count > events_max:
            raise _too_many(events_max)
        if not keyed and len(tokens) < 2 and _begins(element, b"{"):
            tokens = _distinct((*tokens, _loose_token(_decode_loose(element))))
    if not count:
        raise Rejected(Reason.EMPTY_BATCH)
    return Payload(text, tokens, count, repaired)


def _too_many(events_max: int) -> Rejected:
    return Rejected(Reason.TOO_MANY_EVENTS, f"Expected at most {events_max}.")


def _each(array: memoryview) -> Iterator[memoryview]:
    """The elements of a JSON array that is known to be one, found by where a decoder of one value stops."""
    at = _behind_blanks(array, 1)
    while array[at] != 0x5D:
        try:
            _skip(array[at:])
        except msgspec.DecodeError as error:
            stop = _value_end(str(error))
        assert stop is not None
        # It has read what stopped it: a comma or the end of the array.
        end = at + int(stop[1]) - 1
        yield array[at:end]
        at = _behind_blanks(array, end + 1) if array[end] == 0x2C else end


def _behind_blanks(text: memoryview, at: int) -> int:
    found = _blanks(text, at)
    assert found is not None
    return found.end()


def _begins(value: memoryview | msgspec.Raw, character: bytes) -> bool:
    return bytes(memoryview(value)[:1]) == character


def _loose_token(event: _Loose) -> object | None:
    key = _first_key(_loose_text(event.dollar_token), _loose_text(event.token), _loose_text(event.api_key))
    if not is_key(key) and _begins(event.properties, b"{"):
        return _first_key(key, _loose_text(_decode_loose_properties(event.properties).token))
    return key


def _loose_text(value: msgspec.Raw) -> object | None:
    """The string, `NOT_TEXT` for something else, `None` for nothing."""
    if not value or _begins(value, b"n"):
        return None
    return _decode_text(value) if _begins(value, b'"') else NOT_TEXT


def _distinct(tokens: Iterable[object | None]) -> tuple[object, ...]:
    """The different ones, two at the most, blanks around them left out; one that is none only where there is no other."""
    found: list[object] = []
    odd: object | None = None
    for token in tokens:
        if token is None or token in found:
            continue
        if not is_key(token):
            odd = token if odd is None else odd
        elif (key := token.strip()) not in found:
            found.append(key)
            # Two are as wrong as more.
            if len(found) > 1:
                break
    return tuple(found) if found or odd is None else (odd,)
