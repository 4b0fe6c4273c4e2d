"""Requests that are not capture's, forwarded: an HTTP client to the upstreams, with limits and nothing held but a few pieces.

Bodies stream both ways, a piece at a time, and wait where the other side does not take them. A request has one task, which
ends with it, with its client, or at a timeout; the connection's side of it is a `Taker`. What an upstream does not finish
the taker cuts off too: an incomplete answer must not look like a complete one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from traceback import clear_frames
from typing import Final, Protocol

import aiohttp
from yarl import URL

from edge.metrics import UPSTREAM_STATUSES, Row
from edge.wire.forward import Order, Upstream, UpstreamSettings, is_asset, parse_upstream
from edge.wire.rejections import Reason

log = logging.getLogger(__name__)

HELD_BYTES_MAX: Final = 64 * 1024
"""Of a request's body, before the client is asked to wait."""
_KEEP_ALIVE_S: Final = 4.0
"""Below what servers keep: nginx 75 s, gunicorn and Node 5 s. A request sent into a closing connection is lost."""
_HEAD_FIELD_BYTES_MAX: Final = 64 * 1024
_HEAD_FIELDS_MAX: Final = 256
_ADDED_BY_THE_LIBRARY: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Taker(Protocol):
    """The client's side of one forwarded request. Called in this order: `want_body`, `head`, `piece`, one of the last three."""

    def want_body(self) -> None:
        """The upstream is there and takes the body."""

    def pause_body(self) -> None: ...

    def resume_body(self) -> None: ...

    def head(self, status: int, reason: str, fields: Sequence[tuple[bytes, bytes]]) -> None: ...

    def piece(self, data: bytes) -> None: ...

    def end(self) -> None:
        """The answer is complete."""

    def refuse(self, reason: Reason) -> None:
        """There is no answer; nothing of one was given."""

    def cut(self) -> None:
        """The rest of the answer will not come."""


class Forwarder:
    """One worker's client. To be made inside the running loop."""

    def __init__(self, settings: UpstreamSettings, row: Row) -> None:
        self.settings = settings
        main = parse_upstream(settings.upstream)
        assets = parse_upstream(settings.assets_upstream) if settings.assets_upstream else main
        self._upstreams = {"main": main, "assets": assets}
        self._under_way = {"main": 0, "assets": 0}
        self._failing = {"main": "", "assets": ""}
        """The cause last told, empty while it answers."""
        self._row = row
        self._transfers: set[Transfer] = set()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_ADDED_BY_THE_LIBRARY,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
            ),
            max_line_size=_HEAD_FIELD_BYTES_MAX,
            max_field_size=_HEAD_FIELD_BYTES_MAX,
            max_headers=_HEAD_FIELDS_MAX,
        )

    def place(self, target: bytes) -> tuple[str, Upstream]:
        """Which upstream a target is one of, with its label in the metrics."""
        name = "assets" if is_asset(target) else "main"
        return name, self._upstreams[name]

    def prepare(self, order: Order, taker: Taker) -> "Transfer":
        """A transfer that has not begun; it keeps what comes of the body until then."""
        name, upstream = self.place(order.target)
        return Transfer(self, name, upstream, order, taker)

    def start(self, transfer: "Transfer") -> bool:
        """Begin it; false when as many as allowed are under way."""
        if self._under_way[transfer.name] >= self.settings.requests_max:
            self.count_failure(transfer.name, "busy")
            return False
        self._change(transfer.name, 1)
        self._transfers.add(transfer)
        transfer.start()
        return True

    def ended(self, transfer: "Transfer") -> None:
        """Make room for the next. May be called again."""
        if transfer in self._transfers:
            self._transfers.discard(transfer)
            self._change(transfer.name, -1)

    def _change(self, name: str, by: int) -> None:
        self._under_way[name] += by
        self._row.set("edge_upstream_requests", sum(self._under_way.values()))

    def count_answer(self, name: str, status: int) -> None:
        if self._failing[name]:
            self._failing[name] = ""
            log.info("upstream %s answers again", self._upstreams[name].origin)
        status_class = f"{status // 100}xx"
        self._row.add(
            "edge_upstream_answers_total", 1, name, status_class if status_class in UPSTREAM_STATUSES else "other"
        )

    def tell_failure(self, name: str, cause: str, error: Exception) -> None:
        """A line when it begins to fail, and when it fails in another way: not one for each request."""
        if self._failing[name] != cause:
            self._failing[name] = cause
            log.warning("upstream %s fails (%s): %s", self._upstreams[name].origin, cause, str(error))

    def count_failure(self, name: str, cause: str) -> None:
        self._row.add("edge_upstream_failures_total", 1, name, cause)

    async def close(self) -> None:
        """End what is under way and close all connections."""
        tasks = [transfer.task for transfer in self._transfers if transfer.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.session.close()


class Transfer:
    """One request on its way, body in and answer out."""

    def __init__(self, forwarder: Forwarder, name: str, upstream: Upstream, order: Order, taker: Taker) -> None:
        self._forwarder = forwarder
        self.name = name
        self._upstream = upstream
        self._order = order
        self._taker = taker
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._body_complete = not order.has_body
        self._body_paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._answered = False
        self._patience = asyncio.timeout(None)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(self._done)

    # --- the client's side

    def take(self, data: bytes) -> None:
        """A piece of the body has come."""
        if data:
            self._held.append(data)
            self._held_bytes += len(data)
            self._arrived.set()
            if self._held_bytes > HELD_BYTES_MAX and not self._body_paused:
                self._body_paused = True
                self._taker.pause_body()

    def complete(self) -> None:
        """The body is complete."""
        self._body_complete = True
        self._arrived.set()

    def pause(self) -> None:
        """The client does not take its answer."""
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self._held.clear()
        if self.task is not None:
            self.task.cancel()

    # --- the upstream's side

    async def _run(self) -> None:
        try:
            async with self._patience:
                await self._exchange()
        except asyncio.CancelledError:
            self._forwarder.count_failure(self.name, "client_gone")
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._fail(error)
            # They have the answer, and that the error.
            clear_frames(error.__traceback__)

    async def _exchange(self) -> None:
        order = self._order
        url = URL(self._upstream.origin + self._upstream.prefix + order.target.decode("utf-8"), encoded=True)
        response = await self._forwarder.session.request(
            order.method,
            url,
            headers=order.fields,
            data=self._body() if order.has_body else None,
            allow_redirects=False,
        )
        try:
            if response.status < 200:
                raise aiohttp.ClientPayloadError("expected no change of protocol")
            self._answered = True
            self._forwarder.count_answer(self.name, response.status)
            self._taker.head(response.status, response.reason or "", response.raw_headers)
            while True:
                await self._writable.wait()
                piece = await response.content.readany()
                if not piece:
                    break
                self._taker.piece(piece)
        finally:
            # Back to the pool where its end was reached, closed where not.
            response.release()
        # Before the client knows, which may have the next one ready.
        self._forwarder.ended(self)
        self._taker.end()

    async def _body(self) -> AsyncIterator[bytes]:
        """What has come of the body, again and again. The time the upstream takes for a piece is bounded."""
        loop = asyncio.get_running_loop()
        if not self._held and not self._body_complete:
            self._taker.want_body()
        while True:
            if self._held:
                piece = b"".join(self._held)
                self._held.clear()
                self._held_bytes = 0
                if self._body_paused:
                    self._body_paused = False
                    self._taker.resume_body()
                self._patience.reschedule(loop.time() + self._forwarder.settings.read_timeout_s)
                yield piece
                self._patience.reschedule(None)
            elif self._body_complete:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _fail(self, error: Exception) -> None:
        cause, reason = _cause(error)
        if self._answered:
            cause = "cut"
        self._forwarder.tell_failure(self.name, cause, error)
        self._forwarder.count_failure(self.name, cause)
        self._forwarder.ended(self)
        if self._answered:
            self._taker.cut()
        else:
            self._taker.refuse(reason)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._forwarder.ended(self)
        # They have the error it was cancelled by, and that has all of this.
        self.task = None
        del self._patience
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a fault of ours", exc_info=error)
            if self._answered:
                self._taker.cut()
            else:
                self._taker.refuse(Reason.INTERNAL)


def _cause(error: Exception) -> tuple[str, Reason]:
    """The metrics' label, and what the client is told."""
    if isinstance(error, TimeoutError):
        return "timeout", Reason.UPSTREAM_TIMEOUT
    if isinstance(error, aiohttp.ClientConnectorError):
        return "unreachable", Reason.UPSTREAM_UNREACHABLE
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientOSError, OSError)):
        return "disconnected", Reason.UPSTREAM_DISCONNECTED
    return "malformed", Reason.UPSTREAM_MALFORMED
