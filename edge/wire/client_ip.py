"""The client's address: from forwarding headers when a trusted proxy sent them, else the peer's."""

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_OCTET: Final = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_leftmost_ipv4: Final = re.compile(rb"[ \t]*(%b(?:\.%b){3})[ \t]*(?:,|\Z)" % (_OCTET, _OCTET)).match
"""Nearly every client's form, read at a fraction of what `ip_address` costs."""

_ADDRESS_BYTES_MAX: Final = 64

Network = IPv4Network | IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR notation, comma-separated. Raises `ValueError` naming the part that is none."""
    return tuple(ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


def is_trusted(peer: str, networks: tuple[Network, ...]) -> bool:
    """Whether forwarding headers from `peer` are believed."""
    try:
        address = ip_address(normalise_ip(peer))
    except ValueError:
        return False
    return any(address in network for network in networks)


def plain_ipv4(x_forwarded_for: bytes) -> str:
    """The leftmost address when it is an IPv4 address and nothing else, as nearly always; else empty."""
    found = _leftmost_ipv4(x_forwarded_for)
    return "" if found is None else found[1].decode()


def forwarded_ip(x_forwarded_for: bytes | None, forwarded: bytes | None, x_real_ip: bytes | None) -> str:
    """The leftmost address of `X-Forwarded-For`, else of `Forwarded` (RFC 7239), else `X-Real-Ip`; empty when none parses."""
    if x_forwarded_for is not None and (plain := plain_ipv4(x_forwarded_for)):
        return plain
    leftmost = (x_forwarded_for or b"").partition(b",")[0]
    for candidate in (leftmost, _forwarded_for(forwarded or b""), x_real_ip):
        if (
            candidate
            and len(candidate) <= _ADDRESS_BYTES_MAX
            and (address := normalise_ip(candidate.decode("latin-1")))
        ):
            return address
    return ""


def _forwarded_for(header: bytes) -> bytes:
    for pair in header.split(b",", 1)[0].split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name.lower() == b"for":
            return value.strip(b'"')
    return b""


def normalise_ip(text: str) -> str:
    """Plain text form of `1.2.3.4`, `1.2.3.4:80`, `[::1]:80`, `::1`; mapped IPv4 as IPv4; empty when it is no address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)
