"""The client's address: from forwarding headers when a trusted proxy sent them, else the peer's."""

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_OCTET: Final = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ipv4: Final = re.compile(rb"%b(?:\.%b){3}" % (_OCTET, _OCTET)).fullmatch
"""Nearly every client's form, read at a fraction of what `ip_address` costs."""

SINGLE_ADDRESS_HEADERS: Final = (b"x-real-ip", b"fly-client-ip", b"true-client-ip", b"cf-connecting-ip")
"""What some proxies say besides, or instead; the first one counts."""

FORWARDING_HEADERS: Final = frozenset((b"x-forwarded-for", b"forwarded", *SINGLE_ADDRESS_HEADERS))
"""Every header that is looked at for an address."""

_ENTRIES_MAX: Final = 8
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


def forwarded_ip(headers: Mapping[bytes, bytes]) -> str:
    """The leftmost address of `X-Forwarded-For`, else of `Forwarded` (RFC 7239), else the one in a header of a single
    address; empty when none has one. Names in lower case.

    What stands before the first address, `unknown` for one, is passed over, up to eight entries.
    """
    forwarded_for = headers.get(b"x-forwarded-for", b"")
    if first := read_address(forwarded_for.partition(b",")[0].strip()):
        return first
    candidates = [
        *_entries(forwarded_for),
        *map(_forwarded_for, _entries(headers.get(b"forwarded", b""))),
        *(headers.get(name, b"") for name in SINGLE_ADDRESS_HEADERS),
    ]
    return next(filter(None, map(read_address, candidates)), "")


def _entries(header: bytes) -> list[bytes]:
    return header.split(b",", _ENTRIES_MAX)[:_ENTRIES_MAX]


def _forwarded_for(entry: bytes) -> bytes:
    for pair in entry.split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name.strip().lower() == b"for":
            return value.strip(b' "')
    return b""


def read_address(candidate: bytes) -> str:
    """One entry of a forwarding header, in plain text form; empty when it is no address."""
    if _ipv4(candidate) is not None:
        return candidate.decode()
    return normalise_ip(candidate.decode("latin-1")) if 0 < len(candidate) <= _ADDRESS_BYTES_MAX else ""


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
