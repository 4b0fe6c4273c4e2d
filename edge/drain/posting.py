"""One HTTP connection to a destination, kept between requests, for the sinks that post what they ship."""

import http.client
import re
import ssl
from collections.abc import Mapping
from typing import Final

from edge.drain.sink import Paused, Retryable

TIMEOUT_S: Final = 30.0
"""For each connect, read and write. Longer than downstream takes for anything; an answer that comes later counts as none."""
ANSWER_BYTES_MAX: Final = 64 * 1024
"""Read of an answer; who says more is not asked anything else on that connection."""
_PRINTABLE: Final = re.compile(r"[!-~]*")


def require_address(scheme: str, host: str, path: str = "") -> None:
    """Raises `ValueError` for a host that cannot be looked up, and for a path that no request can name."""
    try:
        name = host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"{scheme}: expected the name of a host, found {host!r}: {error}") from error
    if not _PRINTABLE.fullmatch(name):
        raise ValueError(f"{scheme}: expected the name of a host, found {host!r}")
    if not _PRINTABLE.fullmatch(path):
        raise ValueError(f"{scheme}: expected a path of printable ASCII, all else percent-encoded, found {path!r}")


class Poster:
    """Used by one thread."""

    def __init__(self, host: str, port: int, *, secure: bool) -> None:
        self._host = host
        self._port = port
        self._secure = secure
        self._connection: http.client.HTTPConnection | None = None

    def post(self, target: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers by lower-case name, body. Raises `Retryable` for no answer, `Paused` for a bad certificate."""
        kept = self._connection is not None
        try:
            try:
                return self._exchange(target, data, headers)
            except ConnectionError:
                if not kept:
                    raise
                # A kept connection may have been closed at any time before; a new one says whether anybody is there.
                self.close()
                return self._exchange(target, data, headers)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise Paused(f"{self._host}: {error}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The last is what http.client lets through of numbers that make no sense, as a chunk of -5 bytes.
            self.close()
            raise Retryable(f"{self._host}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, target: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        if self._connection is None:
            if self._secure:
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=TIMEOUT_S, context=context
                )
            else:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        self._connection.request("POST", target, data, headers)
        response = self._connection.getresponse()
        answer = response.read(ANSWER_BYTES_MAX)
        if response.length and len(answer) < ANSWER_BYTES_MAX:
            raise http.client.IncompleteRead(answer, response.length)
        found = {name.lower(): value for name, value in response.getheaders()}
        if not response.isclosed():
            self.close()
        return response.status, found, answer
