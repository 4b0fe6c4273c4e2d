import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.client_ip import forwarded_ip, is_trusted, normalise_ip, parse_networks

PLAIN = {
    "IPv4": ("203.0.113.7", "203.0.113.7"),
    "IPv4 with a port": ("203.0.113.7:8080", "203.0.113.7"),
    "IPv6": ("2001:db8::1", "2001:db8::1"),
    "IPv6 in long form": ("2001:0DB8:0:0:0:0:0:0001", "2001:db8::1"),
    "IPv6 in brackets": ("[2001:db8::1]", "2001:db8::1"),
    "IPv6 with a port": ("[2001:db8::1]:443", "2001:db8::1"),
    "IPv6 with a zone": ("fe80::1%eth0", "fe80::1"),
    "mapped IPv4": ("::ffff:203.0.113.7", "203.0.113.7"),
    "mapped IPv4 with a port": ("[::ffff:203.0.113.7]:1", "203.0.113.7"),
    "blanks around it": ("  203.0.113.7\t", "203.0.113.7"),
    "name": ("edge.example", ""),
    "unknown, as of RFC 7239": ("unknown", ""),
    "number above 255": ("203.0.113.256", ""),
    "leading zero": ("203.0.113.07", ""),
    "three numbers": ("203.0.113", ""),
    "other digits": ("٢٠٣.0.113.7", ""),
    "line break behind it": ("203.0.113.7\n203.0.113.8", ""),
    "empty": ("", ""),
    "quote": ('203.0.113.7"', ""),
}


@pytest.mark.parametrize(("text", "address"), PLAIN.values(), ids=PLAIN)
def test_an_address_is_put_in_its_plain_form(text: str, address: str) -> None:
    assert normalise_ip(text) == address


@given(st.ip_addresses())
def test_every_address_is_its_own_plain_form_or_that_of_the_ipv4_in_it(address: object) -> None:
    plain = normalise_ip(str(address))
    assert plain == normalise_ip(plain)
    assert plain == str(address) or "." in plain


@given(st.text())
def test_no_text_breaks_a_record(text: str) -> None:
    """The address goes into the record as it is, so it must need no escapes."""
    assert set(normalise_ip(text)) <= set("0123456789abcdef.:")


FOR = b"x-forwarded-for"
REAL = b"x-real-ip"
HEADERS: dict[str, tuple[dict[bytes, bytes], str]] = {
    "none": ({}, ""),
    "X-Forwarded-For": ({FOR: b"203.0.113.7"}, "203.0.113.7"),
    "the leftmost": (
        {FOR: b"203.0.113.7, 10.0.0.1, 10.0.0.2", b"forwarded": b"for=1.1.1.1", REAL: b"2.2.2.2"},
        "203.0.113.7",
    ),
    "the leftmost that is an address": ({FOR: b"unknown, ,203.0.113.7:80, 10.0.0.1"}, "203.0.113.7"),
    "the leftmost, IPv6": ({FOR: b"[2001:db8::1]:443, 10.0.0.1"}, "2001:db8::1"),
    "Forwarded": (
        {b"forwarded": b"by=10.0.0.1;For=203.0.113.7;proto=https, for=10.0.0.2", REAL: b"2.2.2.2"},
        "203.0.113.7",
    ),
    "Forwarded, quoted": ({b"forwarded": b'for="[2001:db8::1]:443"'}, "2001:db8::1"),
    "Forwarded, the first hidden": ({b"forwarded": b"for=_hidden, for = 203.0.113.7"}, "203.0.113.7"),
    "X-Real-Ip": ({REAL: b"203.0.113.7", b"cf-connecting-ip": b"1.1.1.1"}, "203.0.113.7"),
    "Fly": ({b"fly-client-ip": b"203.0.113.7"}, "203.0.113.7"),
    "Akamai": ({b"true-client-ip": b"203.0.113.7", b"cf-connecting-ip": b"1.1.1.1"}, "203.0.113.7"),
    "Cloudflare": ({b"cf-connecting-ip": b"2001:db8::1", REAL: b"nobody"}, "2001:db8::1"),
    "X-Forwarded-For that is no address": ({FOR: b"unknown", b"forwarded": b"for=203.0.113.7"}, "203.0.113.7"),
    "Forwarded that names nobody": ({b"forwarded": b"proto=https", REAL: b"203.0.113.7"}, "203.0.113.7"),
    "nothing but nonsense": ({FOR: b"a", b"forwarded": b"for=_hidden", REAL: b""}, ""),
    "an enormous one": ({FOR: b"x" * 10_000, REAL: b"203.0.113.7"}, "203.0.113.7"),
    "one behind which something enormous stands": ({FOR: b"203.0.113.7," + b"x" * 10_000}, "203.0.113.7"),
    "an address behind very many that are none": ({FOR: b"x," * 1000 + b"203.0.113.7"}, ""),
}


@pytest.mark.parametrize(("headers", "address"), HEADERS.values(), ids=HEADERS)
def test_the_client_is_the_first_address_of_the_first_header_that_has_one(
    headers: dict[bytes, bytes], address: str
) -> None:
    assert forwarded_ip(headers) == address


TRUST = {
    "in a network": ("10.1.2.3", True),
    "first of a network": ("10.0.0.0", True),
    "outside": ("11.0.0.0", False),
    "IPv6": ("fd00::1", True),
    "IPv6 outside": ("2001:db8::1", False),
    "mapped IPv4": ("::ffff:10.1.2.3", True),
    "single address": ("192.0.2.1", True),
    "its neighbour": ("192.0.2.2", False),
    "none": ("", False),
}


@pytest.mark.parametrize(("peer", "trusted"), TRUST.values(), ids=TRUST)
def test_a_peer_is_trusted_if_it_is_in_a_network(peer: str, trusted: bool) -> None:
    assert is_trusted(peer, parse_networks("10.0.0.0/8, fc00::/7,192.0.2.1,")) is trusted


@pytest.mark.parametrize("text", ["10.0.0.0/33", "everybody", "10.0.0.0/8;::1"])
def test_what_is_no_network_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear"):
        parse_networks(text)
