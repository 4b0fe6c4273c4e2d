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


HEADERS = {
    "none": (None, None, None, ""),
    "X-Forwarded-For": (b"203.0.113.7", None, None, "203.0.113.7"),
    "the leftmost": (b"203.0.113.7, 10.0.0.1, 10.0.0.2", b"for=1.1.1.1", b"2.2.2.2", "203.0.113.7"),
    "Forwarded": (None, b"by=10.0.0.1;For=203.0.113.7;proto=https, for=10.0.0.2", b"2.2.2.2", "203.0.113.7"),
    "Forwarded, quoted": (None, b'for="[2001:db8::1]:443"', None, "2001:db8::1"),
    "X-Real-Ip": (None, None, b"203.0.113.7", "203.0.113.7"),
    "X-Forwarded-For that is no address": (b"unknown, 10.0.0.1", b"for=203.0.113.7", None, "203.0.113.7"),
    "Forwarded that names nobody": (None, b"proto=https", b"203.0.113.7", "203.0.113.7"),
    "nothing but nonsense": (b"a", b"for=_hidden", b"", ""),
    "an enormous one": (b"x" * 10_000, None, b"203.0.113.7", "203.0.113.7"),
    "one behind which something enormous stands": (b"203.0.113.7," + b"x" * 10_000, None, None, "203.0.113.7"),
}


@pytest.mark.parametrize(("x_forwarded_for", "forwarded", "x_real_ip", "address"), HEADERS.values(), ids=HEADERS)
def test_the_client_is_the_first_address_of_the_first_header_that_has_one(
    x_forwarded_for: bytes | None, forwarded: bytes | None, x_real_ip: bytes | None, address: str
) -> None:
    assert forwarded_ip(x_forwarded_for, forwarded, x_real_ip) == address


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
