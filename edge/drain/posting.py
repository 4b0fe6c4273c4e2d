"""One HTTP connection to a destination, kept between requests, for the sinks that post what they ship."""

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from edge.drain.sink import Paused, Retryable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TIMEOUT_S: Final = 30.0
"""For each connect, read and write. Longer than downstream takes for anything; an answer that comes later counts as none."""
EXCHANGE_S: Final = 120.0
"""For a request and its whole answer, once connected: who takes or gives a byte now and then is not there either. A large
request has the time that `BYTES_PER_S_MIN` takes besides."""
BYTES_PER_S_MIN: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 64 * 1024
"""Read of an answer; who says more is not asked anything else on that connection."""
RETRY_AFTER_S_MAX: Final = 3600.0
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


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait, 0 where nothing usable is said (RFC 9110 10.2.3: seconds or a date). Header names in lower case."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and value.isascii():
        return min(float(value[:9]), RETRY_AFTER_S_MAX)
    try:
        until_s = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, until_s - time.time()), RETRY_AFTER_S_MAX)


class Poster:
    """Used by one thread."""

    def __init__(self, host: str, port: int, *, secure: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, seconds."""
        self._host = host
        self._port = port
        self._secure = secure
        self._deadline = _Deadline(clock)
        self._connection: http.client.HTTPConnection | None = None

    def post(self, target: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers by lower-case name, body. Raises `Retryable` for no answer, `Paused` for a bad certificate."""
        with self._judging():
            kept = self._connection is not None
            try:
                return self._exchange("POST", target, data, headers, EXCHANGE_S)
            except ConnectionError:
                if not kept:
                    raise
                # A kept connection may have been closed at any time before; a new one says whether anybody is there.
                self.close()
                return self._exchange("POST", target, data, headers, EXCHANGE_S)

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], within_s: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """The same of a request without a body, on a new connection, and about within that time."""
        with self._judging():
            self.close()
            return self._exchange(method, target, b"", headers, within_s)

    def reach(self, within_s: float) -> None:
        """Connect, and nothing else, about within that time. Raises as `post` does."""
        with self._judging():
            self.close()
            self._connection = self._connect(within_s)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """What an error means. No connection that met one is used again."""
        try:
            yield
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

    def _connect(self, within_s: float) -> http.client.HTTPConnection:
        timeout_s = min(TIMEOUT_S, within_s)
        if self._secure:
            context = ssl.create_default_context()
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout_s, context=context
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        # It would connect by itself, without the deadline, after an answer that ended the connection.
        made.auto_open = 0
        made.connect()
        made.sock = _Timed(made.sock, self._deadline)
        return made

    def _exchange(
        self, method: str, target: str, data: bytes, headers: Mapping[str, str], within_s: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._connection is None or self._connection.sock is None:
            self._connection = self._connect(within_s)
        self._deadline.begin(within_s + len(data) / BYTES_PER_S_MIN)
        self._connection.request(method, target, data, headers)
        response = self._connection.getresponse()
        answer = response.read(ANSWER_BYTES_MAX)
        if response.length and len(answer) < ANSWER_BYTES_MAX:
            raise http.client.IncompleteRead(answer, response.length)
        found = {name.lower(): value for name, value in response.getheaders()}
        if not response.isclosed():
            self.close()
        return response.status, found, answer


class _Deadline:
    """Of one exchange after the other."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._exchange_s = self._until_s = 0.0

    def begin(self, exchange_s: float) -> None:
        self._exchange_s = exchange_s
        self._until_s = self._clock() + exchange_s

    def bound(self, connected: socket.socket) -> None:
        """The next call on the socket ends by then. Raises `TimeoutError` when it is too late for one."""
        left_s = self._until_s - self._clock()
        if left_s <= 0.0:
            raise TimeoutError(f"the exchange was not over within {self._exchange_s:.0f} s")
        connected.settimeout(min(TIMEOUT_S, left_s))


class _Timed:
    """What http.client asks of a connected socket, bounded by a deadline: a timeout of a socket begins anew with every byte."""

    def __init__(self, connected: socket.socket, deadline: _Deadline) -> None:
        self._socket = connected
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._deadline.bound(self._socket)
            left = left[self._socket.send(left) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", mode
        return io.BufferedReader(_Incoming(self._socket, self._deadline))

    def close(self) -> None:
        self._socket.close()


class _Incoming(io.RawIOBase):
    """The bytes that arrive. Keeps the socket open until it is closed itself, as a socket's own file does."""

    def __init__(self, connected: socket.socket, deadline: _Deadline) -> None:
        self._socket = connected
        self._deadline = deadline
        self._file = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._deadline.bound(self._socket)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
