"""The admin port of a running edge, as the verbs that look at one ask it."""

import http.client
from typing import Final

from edge.config import ConfigError
from edge.notation import Address

TIMEOUT_S: Final = 5.0
"""For the connection, and for every step of an answer."""
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024


class Unanswered(Exception):
    """Nothing usable from an address: why, in a few words."""


def with_port(key: str, address: Address) -> Address:
    """Raises `ConfigError` for the port that lets a server pick one."""
    if not address.port:
        raise ConfigError(f"{key}: expected the port that was printed at the start, found {address}")
    return address


def ask(address: Address, target: str, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
    """Status and body of the answer to a GET. Raises `Unanswered`."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Unanswered(_reason(error)) from error
    finally:
        connection.close()
    if response.length:
        raise Unanswered(f"expected the whole answer, of at most {ANSWER_BYTES_MAX} bytes, found {len(body)}")
    return response.status, body


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # It may quote what was answered.
    told = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(told.split()) or type(error).__name__
