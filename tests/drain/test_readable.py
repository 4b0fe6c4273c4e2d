import json

import pytest

from edge.drain.expand import expand
from edge.drain.readable import DROPPED_BYTES_MAX, dropped_text, event_text, printable
from edge.segment.record import Record

AT_US = 1_763_690_000_123_000
HEAD = "2025-11-21T01:53:20.123Z  phc_x  a b  ada"


def text(properties: bytes, columns: int | None = None, name: str = "a b") -> str:
    data = b'{"event":%b,"distinct_id":"ada","properties":%b}' % (json.dumps(name).encode(), properties)
    [event] = expand(Record("1-1", AT_US, "phc_x", "e", "", data)).events
    return event_text(event, columns)


def test_an_event_is_its_time_key_name_and_person_then_its_properties_in_the_clients_bytes() -> None:
    assert text(b'{"b": 1e999,"a":"\xc3\xa9"}') == HEAD + '  {"b": 1e999,"a":"é"}'
    assert text(b"null") == HEAD + "  {}"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (len(HEAD) + 2 + 13, '  {"a":"wörld"}'),
        (len(HEAD) + 2 + 12, '  {"a":"wörld…'),
        (len(HEAD) + 2 + 2, "  {…"),
        (len(HEAD) + 2 + 1, "  …"),
        (len(HEAD) + 2, ""),
        (1, ""),
    ],
)
def test_properties_are_cut_to_the_width_and_nothing_else_is(columns: int, expected: str) -> None:
    assert text('{"a":"wörld"}'.encode(), columns) == HEAD + expected


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    properties = '{"a":"日本e\u0301!"}'.encode()
    assert text(properties, len(HEAD) + 2 + 14).endswith('日本e\u0301!"}')
    assert text(properties, len(HEAD) + 2 + 12).endswith("日本e\u0301…")
    assert text(properties, len(HEAD) + 2 + 9).endswith('"日…')
    assert text(b"{}", 2 + 2 + len(HEAD) - 1 + 2, name="日 b").endswith("ada  {}")
    assert text(b"{}", 2 + 2 + len(HEAD) - 1 + 1, name="日 b").endswith("ada  …")


def test_large_properties_are_not_looked_at_behind_the_width() -> None:
    # Bytes that are no text would not come out of a client; here they would be shown if they were looked at.
    accents = '{"a":"' + "e" + "\u0301" * 1000 + '"}'
    assert len(text(accents.encode(), len(HEAD) + 2 + 20)) < len(HEAD) + 200
    assert text(accents.encode(), len(HEAD) + 2 + 20).endswith("\u0301…")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("plain $pageview é 日本 😀", "plain $pageview é 日本 😀"),
        ("\x1b[31m\r\n\t\0\x7f", r"\u001b[31m\u000d\u000a\u0009\u0000\u007f"),
        ("\x9b31m", r"\u009b31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u200bb\u2028c\ufeff", r"a\u200bb\u2028c\ufeff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_an_escape(shown: str, expected: str) -> None:
    assert printable(shown) == expected


def test_every_field_of_a_client_is_made_printable() -> None:
    data = '{"event":"\\u001ba","distinct_id":"\\u001bb","properties":{"c":"\x9b"}}'.encode()
    [event] = expand(Record("1-1", AT_US, "k\x1b", "e", "", data)).events
    assert event_text(event, None) == r'2025-11-21T01:53:20.123Z  k\u001b  \u001ba  \u001bb  {"c":"\u009b"}'
    record = Record("1-1", AT_US, "k\x1b", "p\x1b", "", data)
    assert printable(dropped_text(record, {"no_event_name": 1}, None)) == dropped_text(
        record, {"no_event_name": 1}, None
    )


def test_what_is_dropped_is_its_reasons_and_the_beginning_of_what_was_sent() -> None:
    record = Record("1-1", AT_US, "phc_x", "batch", "", b'{"batch":[' + b"1," * 5000 + b"1]}")
    head = "dropped not_an_object 5001, unreadable 2  2025-11-21T01:53:20.123Z  phc_x  batch  "
    shown = dropped_text(record, {"not_an_object": 5001, "unreadable": 2}, None)
    assert shown == head + record.data[:DROPPED_BYTES_MAX].decode() + "…"
    assert dropped_text(record, {"not_an_object": 5001, "unreadable": 2}, len(head) + 6) == head + '{"bat…'
