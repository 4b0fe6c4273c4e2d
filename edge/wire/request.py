"""What the connection hands to the pure core, and the limits it is held to."""

from typing import Final

import msgspec

MIB: Final = 1024 * 1024


class Request(msgspec.Struct, gc=False):
    """One HTTP request, body complete and unchunked, nothing decoded yet.

    Header values are the bytes as received, `b""` when the header was absent.
    """

    method: str = ""
    url: bytes = b""
    path: bytes = b""
    """Path part of `url`: no query, no scheme and authority."""
    query: bytes = b""
    """Query part of `url` without the question mark, still percent-encoded."""
    body: bytes = b""
    content_type: bytes = b""
    content_encoding: bytes = b""
    authorization: bytes = b""
    user_agent: bytes = b""
    client_ip: str = ""
    received_us: int = 0
    """Receive time, microseconds since the Unix epoch."""


class Limits(msgspec.Struct, frozen=True):
    """Sizes the pure core enforces, in bytes."""

    decoded_bytes_max: int = 100 * MIB
    """Output of every decoding layer, and so of the whole request."""
    lz64_bytes_max: int = 2 * MIB
    """Output of the lz64 decoder, which is Python code and would hold the loop for longer."""
