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


class Heavy(Exception):
    """The request may be more work than is done at once (`Light`). What is wrong with it, if anything is, is not known."""


class Light(msgspec.Struct, frozen=True):
    """The work that holds an event loop for some milliseconds at the most, whatever the bytes are; what may be more is `Heavy`.

    Sizes in bytes. Each is looked at before the work it stands for is done, or stops it.
    """

    text_bytes_max: int = 384 * 1024
    """The body, what a decoder makes of it, the JSON text: a millisecond or two together."""
    dense_bytes_max: int = 32 * 1024
    """JSON text of little but commas."""
    wrapped_bytes_max: int = 12 * 1024
    """Query, form, and whatever else has to be taken apart piece by piece or tried several ways."""
    loose_bytes_max: int = 8 * 1024
    """JSON text that needs repair or is of unexpected types."""
    lz64_bytes_max: int = 5 * 1024
    """lz64 text, whose decoder is Python code; of its output `text_bytes_max`."""
    elements_max: int = 500
    """Repairs, and elements that are looked at, at up to some microseconds each."""
    verdicts_max: int = 100
    """Events of capture v1, each of which is judged."""

    @classmethod
    def up_to(cls, bytes_max: int) -> "Light":
        """With `bytes_max` for texts, and no other size above it."""
        return cls(bytes_max, *(min(bytes_max, kib * 1024) for kib in (32, 12, 8, 5)))


EVENTS_MAX: Final = 100_000
"""Of one request, where nothing else is said."""
EVENTS_MAX_LEAST: Final = 500
"""No limit is lower: clients send as many at a time, and give up those of a request that is refused for it."""


class Limits(msgspec.Struct, frozen=True):
    """What the pure core takes at most; sizes in bytes."""

    decoded_bytes_max: int = 100 * MIB
    """Output of every decoding layer, and so of the whole request."""
    lz64_bytes_max: int = 2 * MIB
    """Output of the lz64 decoder, which is Python code."""
    events_max: int = EVENTS_MAX
    """Of one request."""
    light: Light | None = None
    """What is done at once; `None`: all that the other limits allow."""
