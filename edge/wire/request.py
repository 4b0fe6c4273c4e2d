"""What the connection hands to the pure core, and the limits it is held to."""

from collections.abc import Mapping
from typing import Final

import msgspec

MIB: Final = 1024 * 1024


class Request(msgspec.Struct, gc=False):
    """One HTTP request, body complete and unchunked, nothing decoded yet."""

    method: str = ""
    query: bytes = b""
    """Query part of the target without the question mark, still percent-encoded."""
    body: bytes = b""
    headers: Mapping[bytes, bytes] = {}
    """By lower-case name; of several with one name the first."""
    client_ip: str = ""
    received_us: int = 0
    """Receive time, microseconds since the Unix epoch."""

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"")

    @property
    def content_encoding(self) -> bytes:
        return self.headers.get(b"content-encoding", b"")

    @property
    def authorization(self) -> bytes:
        return self.headers.get(b"authorization", b"")

    @property
    def user_agent(self) -> bytes:
        return self.headers.get(b"user-agent", b"")


class Limits(msgspec.Struct, frozen=True):
    """Sizes the pure core enforces, in bytes."""

    decoded_bytes_max: int = 100 * MIB
    """Output of every decoding layer, and so of the whole request."""
    lz64_bytes_max: int = 2 * MIB
    """Output of the lz64 decoder, which is Python code and would hold the loop for longer."""
