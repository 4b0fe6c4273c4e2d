"""One client connection: HTTP bytes in, answers out in the order of the requests.

httptools finds the messages; this file keeps the rules it does not know: sizes, deadlines, the order of answers, what to do
with a body nobody will store. A request that is refused early has its body read and thrown away, up to once more its limit,
so that the client sees the answer and the connection stays usable.
"""

import asyncio
import logging
from collections import deque
from typing import Final, cast

import httptools

from edge.server.service import Service
from edge.wire.capture import capture, empty_poll
from edge.wire.client_ip import forwarded_ip, is_trusted, normalise_ip
from edge.wire.rejections import REFUSALS, Reason, Rejected
from edge.wire.request import Request
from edge.wire.responses import CONTINUE, cors_headers, render_preflight, render_refusal, render_text
from edge.wire.routes import OTHER, ROUTES, Kind, Route, allow

log = logging.getLogger(__name__)

KEPT_HEADERS: Final = frozenset(
    {
        b"host",
        b"expect",
        b"origin",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"authorization",
        b"forwarded",
        b"x-forwarded-for",
        b"x-real-ip",
        b"user-agent",
        b"access-control-request-headers",
        b"access-control-request-private-network",
    }
)
_KEPT_LENGTHS: Final = frozenset(map(len, KEPT_HEADERS))
_METHODS: Final = frozenset({"POST", "GET", "OPTIONS", "HEAD"})

LINGER_BYTES_MAX: Final = 64 * 1024
LINGER_S: Final = 1.0
"""How much, and how long, is still read after a last answer, so that the client gets to see it before the reset."""

CHUNK_OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Chunk sizes, extensions and trailers of a body; on top of eight times its bytes, which one-byte chunks need."""

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2

# Why reading is paused.
_PIPELINE_FULL: Final = 1
_CLIENT_NOT_READING: Final = 2


class Exchange:
    """A request's place in the order of answers; waits for its commit."""

    __slots__ = (
        "beacon",
        "close",
        "connection",
        "events",
        "head",
        "method",
        "origin",
        "received_us",
        "response",
        "route",
    )

    def __init__(self, connection: "CaptureConnection", route: Route | None, method: str, origin: bytes) -> None:
        self.connection = connection
        self.route = route
        self.method = method
        self.origin = origin
        self.response: bytes | None = None
        self.close = False
        self.head = False
        self.beacon = False
        self.events = 0
        self.received_us = 0

    def stored(self, now_us: int) -> None:
        connection = self.connection
        service = connection.service
        slots = service.slots
        route = cast("Route", self.route)
        slots[service.ingested_slot] += self.events
        service.duration.observe(max(0, now_us - self.received_us))
        if self.close or self.head or self.beacon or service.stopping:
            self.close = self.close or service.stopping
            service.count_answer(self.method, route.name, 204 if self.beacon else 200)
            self.response = service.special_success(self.origin, close=self.close, head=self.head, beacon=self.beacon)
        else:
            slots[service.accepted_slots[self.method, route.name]] += 1
            self.response = service.success(self.origin)
        connection.flush()

    def not_stored(self) -> None:
        self.refuse(Reason.STORAGE, REFUSALS[Reason.STORAGE].detail)
        self.connection.flush()

    def refuse(self, reason: Reason, detail: str, *, allowed: str = "") -> None:
        """Fill in an error answer."""
        service = self.connection.service
        self.close = self.close or service.stopping
        service.count_refusal(reason, self.method or "other", self.route.name if self.route else OTHER)
        self.response = render_refusal(
            reason,
            detail,
            cors_headers(self.origin),
            service.date,
            retry_after=service.retry_after(),
            allow=allowed,
            close=self.close,
            head=self.head,
        )


class CaptureConnection(asyncio.Protocol):
    """Parser callbacks in, ordered answers out."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_bytes_max",
        "_continue",
        "_discarded",
        "_fed",
        "_header_bytes",
        "_headers",
        "_headers_seen",
        "_keep_alive",
        "_lingered",
        "_lingering",
        "_method",
        "_parser",
        "_paused",
        "_peer",
        "_queue",
        "_refused",
        "_replaying",
        "_route",
        "_state",
        "_timed",
        "_transport",
        "_trusted",
        "_upgrading",
        "_url",
        "deadline_s",
        "service",
    )

    def __init__(self, service: Service) -> None:
        # for the connection
        self.service = service
        self.deadline_s = service.now_s + service.settings.idle_timeout_s
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._trusted = False
        self._paused = 0
        self._lingering = False
        self._lingered = 0
        self._state = _IDLE
        self._timed = _IDLE
        # for the request
        self._url = b""
        self._method = ""
        self._headers: dict[bytes, bytes] = {}
        self._headers_seen = 0
        self._header_bytes = 0
        self._route: Route | None = None
        self._keep_alive = True
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_bytes_max = 0
        self._discarded = 0
        self._fed = 0
        self._refused = False
        self._continue = False
        self._upgrading = False
        self._replaying = False

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self.service
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = normalise_ip(peer[0]) if isinstance(peer, tuple) else ""
        self._trusted = is_trusted(self._peer, service.trusted_proxies)
        service.connections.add(self)
        service.row.add("edge_connections_total", 1)
        if len(service.connections) > service.settings.connections_max:
            self._refuse_and_close(Reason.TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        # Requests that wait for their commit are stored all the same; only their answers have nowhere to go.
        self._transport = None
        self._forget_body()
        self.service.connections.discard(self)

    def eof_received(self) -> bool:
        """The client sends no more; what it sent is still answered."""
        if not self._queue:
            return False
        self._queue[-1].close = True
        self._lingering = True
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more requests from it."""
        self._pause(_CLIENT_NOT_READING)
        self.deadline_s = self.service.now_s + self.service.settings.write_timeout_s

    def resume_writing(self) -> None:
        self._resume(_CLIENT_NOT_READING)
        self.deadline_s = self.service.now_s + self.service.settings.idle_timeout_s

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES_MAX and not self._queue and self._transport is not None:
                self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            log.error("a request met a fault of ours", exc_info=error.__context__ or error)
            self._refuse_and_close(Reason.INTERNAL)
        except httptools.HttpParserError as error:
            if not self._lingering:
                self._refuse_and_close(Reason.BAD_REQUEST, str(error))
        if self._lingering:
            return
        if self._state == _IDLE:
            self.deadline_s = self.service.now_s + self.service.settings.idle_timeout_s
        else:
            self._unfinished(len(data))

    def _unfinished(self, fed: int) -> None:
        """A request goes on in the next packet: bound what the parser may hold of it, and how long it may take."""
        service = self.service
        settings = service.settings
        self._fed += fed
        if self._state == _HEAD and self._fed > settings.target_bytes_max + settings.header_bytes_max:
            self._refuse_and_close(Reason.HEADERS_TOO_LARGE)
        elif self._state == _BODY and self._fed > CHUNK_OVERHEAD_BYTES_MAX + 8 * (
            self._body_bytes + self._discarded
        ) + (settings.target_bytes_max + settings.header_bytes_max):
            self._refuse_and_close(Reason.BODY_TOO_LARGE)
        elif self._state != self._timed:
            # Absolute from here on: a byte now and then does not move it.
            self._timed = self._state
            self.deadline_s = service.now_s + (
                settings.header_timeout_s if self._state == _HEAD else settings.body_timeout_s
            )

    def expire(self) -> None:
        """The deadline has passed."""
        transport = self._transport
        if transport is None:
            return
        if self._paused & _CLIENT_NOT_READING:
            transport.abort()
        elif self._queue and (self._state == _IDLE or self._lingering):
            # Waiting for a commit, which has its own limits.
            self.deadline_s = self.service.now_s + self.service.settings.idle_timeout_s
        elif self._lingering:
            transport.abort()
        elif self._state != _IDLE:
            self._refuse_and_close(Reason.BODY_TIMEOUT)
        else:
            transport.close()

    def stop(self) -> bool:
        """The worker stops: whether the connection had nothing under way and was closed."""
        if self._state == _IDLE and not self._queue and self._transport is not None:
            self._transport.close()
            return True
        return False

    def refuse_unfinished(self) -> None:
        """The worker cannot wait longer for this client: what it has not sent whole is refused."""
        if self._state != _IDLE and not self._lingering:
            self._refuse_and_close(Reason.STOPPING)

    # --- the parser's side, in wire order

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        self._state = _HEAD
        self._url = b""
        self._headers = {}
        self._headers_seen = 0
        self._header_bytes = 0
        self._refused = False
        self._continue = False
        self._upgrading = False
        self._discarded = 0
        self._fed = 0

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._url += url
        if len(self._url) > self.service.settings.target_bytes_max:
            self._refuse_and_close(Reason.URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_seen += 1
        self._header_bytes += len(name) + len(value)
        if len(name) in _KEPT_LENGTHS:
            name = name.lower()
            if name in KEPT_HEADERS and self._state == _HEAD:  # not a trailer
                # The first of several counts, but a second Host is an error that on_headers_complete must see.
                if name in self._headers:
                    value = self._headers[name] if name != b"host" else b""
                self._headers[name] = value

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        service = self.service
        settings = service.settings
        headers = self._headers
        parser = self._parser
        self._method = method = parser.get_method().decode("latin-1")
        self._state = _BODY
        self._body_bytes = 0
        self._keep_alive = parser.should_keep_alive()
        self._upgrading = parser.should_upgrade()

        path = self._url.partition(b"?")[0]
        route = ROUTES.get(path)
        if route is None and not path.startswith(b"/"):
            route = ROUTES.get(_absolute_path(path))
        self._route = route
        self._body_bytes_max = (
            settings.replay_body_bytes_max if route is not None and route.replay else settings.body_bytes_max
        )
        if self._lingering:
            return

        version = parser.get_http_version()
        if self._headers_seen > settings.headers_max or self._header_bytes > settings.header_bytes_max:
            self._refuse_and_close(Reason.HEADERS_TOO_LARGE)
        elif version != "1.1":
            if version != "1.0":
                self._refuse_and_close(Reason.HTTP_VERSION)
            elif b"transfer-encoding" in headers:
                self._refuse_and_close(Reason.TRANSFER_ENCODING)
            self._keep_alive = False
        elif not headers.get(b"host"):
            self._refuse_and_close(Reason.BAD_REQUEST, "Expected exactly one Host header.")
        if self._lingering:
            return
        transfer_encoding = headers.get(b"transfer-encoding")
        if transfer_encoding is not None and transfer_encoding.strip().lower() != b"chunked":
            self._refuse_and_close(Reason.TRANSFER_ENCODING)
        elif method == "CONNECT":
            self._refuse_and_close(Reason.METHOD_NOT_ALLOWED)
        elif (route is None or route.kind is not Kind.CAPTURE) and len(self._url) > settings.other_target_bytes_max:
            self._refuse(Reason.URI_TOO_LONG)
        elif method == "OPTIONS":
            pass
        elif route is None:
            self._refuse(Reason.NOT_FOUND)
        elif method not in route.methods:
            self._refuse(Reason.METHOD_NOT_ALLOWED, allowed=allow(route))
        else:
            self._admit(headers)

    def _admit(self, headers: dict[bytes, bytes]) -> None:
        """Judge a body by what is said of it, before it is read."""
        announced = int(headers.get(b"content-length", b"0"))
        expect = headers.get(b"expect")
        if announced > self._body_bytes_max:
            if expect is not None or announced > 2 * self._body_bytes_max:
                # The client may or may not send the body now; only a new connection is certain.
                self._refuse_and_close(Reason.BODY_TOO_LARGE, self._body_limit())
            else:
                self._refuse(Reason.BODY_TOO_LARGE, self._body_limit())
        elif (overload := self.service.overload(announced)) is not None:
            self._refuse(overload)
        elif expect is not None:
            if expect.strip().lower() != b"100-continue":
                self._refuse(Reason.EXPECTATION)
            elif announced or b"transfer-encoding" in headers:
                self._continue = True
                self.flush()

    def on_body(self, body: bytes) -> None:
        size = len(body)
        if self._refused:
            self._discarded += size
            if self._discarded > 2 * self._body_bytes_max:
                self._linger()
            return
        self._continue = False
        self._body_bytes += size
        if self._body_bytes > self._body_bytes_max:
            self._refuse(Reason.BODY_TOO_LARGE, self._body_limit())
            self._discarded = self._body_bytes
            self._forget_body()
            return
        self._body.append(body)
        self.service.inflight_bytes += size

    def on_message_complete(self) -> None:
        if self._upgrading:
            # An offer to change protocols, which is declined by answering; the parser stops here without the body.
            return
        self._state = self._timed = _IDLE
        if self._refused or self._lingering:
            self._forget_body()
            if not self._keep_alive and not self._lingering and self._queue:
                self._queue[-1].close = True
            self.flush()
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._forget_body()
        exchange = Exchange(self, self._route, self._method, self._headers.get(b"origin", b""))
        if not self._keep_alive:
            exchange.close = True
            self._lingering = True
        exchange.head = self._method == "HEAD"
        self._queue.append(exchange)
        if self._method == "OPTIONS":
            self._answer_preflight(exchange)
        elif cast("Route", self._route).kind is Kind.CAPTURE:
            self._capture(exchange, body)
        else:
            self._answer_page(exchange)
        if len(self._queue) >= self.service.settings.pipeline_max:
            self._pause(_PIPELINE_FULL)

    # --- answering

    def _capture(self, exchange: Exchange, body: bytes) -> None:
        service = self.service
        headers = self._headers
        route = cast("Route", self._route)
        url = self._url
        path, _, query = url.partition(b"?")
        request = Request(
            self._method,
            url,
            path,
            query,
            body,
            headers.get(b"content-type", b""),
            headers.get(b"content-encoding", b""),
            headers.get(b"authorization", b""),
            headers.get(b"user-agent", b""),
            self._client_ip(headers) if self._trusted else self._peer,
            service.wall_us(),
        )
        if body:
            service.body_bytes.observe(len(body))
        try:
            captured = capture(request, route, service.settings.decoded, service.record_ids())
        except Rejected as rejected:
            if rejected.reason is Reason.NO_DATA and empty_poll(request):
                exchange.response = service.special_success(
                    exchange.origin, close=exchange.close, head=exchange.head, beacon=False
                )
                service.count_answer(self._method, route.name, 200)
            else:
                exchange.refuse(rejected.reason, rejected.detail)
            self.flush()
            return
        for layer in captured.layers:
            service.row.add("edge_slow_path_total", 1, layer)
        exchange.events = captured.events
        exchange.beacon = captured.beacon
        exchange.received_us = request.received_us
        service.slots[service.received_slot] += captured.events
        service.batch_events.observe(captured.events)
        service.writer.append(captured.record, captured.events, request.received_us, exchange)

    def _client_ip(self, headers: dict[bytes, bytes]) -> str:
        found = forwarded_ip(
            headers.get(b"x-forwarded-for", b""), headers.get(b"forwarded", b""), headers.get(b"x-real-ip", b"")
        )
        return found or self._peer

    def _answer_preflight(self, exchange: Exchange) -> None:
        service = self.service
        exchange.response = render_preflight(
            cors_headers(exchange.origin),
            service.date,
            self._headers.get(b"access-control-request-headers", b""),
            private_network=self._headers.get(b"access-control-request-private-network") == b"true",
            close=exchange.close,
        )
        service.count_answer("OPTIONS", exchange.route.name if exchange.route else OTHER, 200)
        self.flush()

    def _answer_page(self, exchange: Exchange) -> None:
        service = self.service
        route = cast("Route", exchange.route)
        if route.kind is Kind.READINESS and (service.stopping or service.writer.failing):
            exchange.refuse(Reason.STOPPING if service.stopping else Reason.STORAGE, "not ready")
        else:
            text = {Kind.ROBOTS: "User-agent: *\nDisallow: /\n"}.get(route.kind, "capture")
            exchange.response = render_text(
                200, text, cors_headers(exchange.origin), service.date, close=exchange.close, head=exchange.head
            )
            service.count_answer(self._method, route.name, 200)
        self.flush()

    def _body_limit(self) -> str:
        return f"Expected at most {self._body_bytes_max} bytes."

    def _refuse(self, reason: Reason, found: str = "", *, allowed: str = "") -> None:
        """Answer now, throw the body away as it comes, keep the connection."""
        self._refused = True
        self._continue = False
        detail = REFUSALS[reason].detail
        exchange = Exchange(self, self._route, self._known_method(), self._headers.get(b"origin", b""))
        exchange.head = self._method == "HEAD"
        exchange.close = not self._keep_alive
        self._queue.append(exchange)
        exchange.refuse(reason, f"{detail} {found}" if found else detail, allowed=allowed)
        if exchange.close:
            self._lingering = True
        self.flush()

    def _refuse_and_close(self, reason: Reason, found: str = "") -> None:
        """Answer, then close: where the next message begins is not known, or not worth finding out."""
        if self._lingering:
            return
        self._keep_alive = False
        self._forget_body()
        self._refuse(reason, found)

    def _known_method(self) -> str:
        return self._method if self._method in _METHODS else "other"

    def flush(self) -> None:
        """Send the answers that are due, in the order of their requests."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        queue = self._queue
        close = False
        while queue and (response := queue[0].response) is not None:
            close = queue.popleft().close
            transport.write(response)
        if close:
            self._linger()
        elif self._continue and not queue:
            self._continue = False
            transport.write(CONTINUE)
        if self._paused and len(queue) < self.service.settings.pipeline_max // 2:
            self._resume(_PIPELINE_FULL)

    def _linger(self) -> None:
        """The last answer is written: say so, and read on for a moment so that it is not lost to a reset."""
        transport = self._transport
        self._lingering = True
        if transport is None or transport.is_closing():
            return
        if self._state == _IDLE or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self.deadline_s = self.service.now_s + LINGER_S

    def _pause(self, why: int) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused |= why

    def _resume(self, why: int) -> None:
        was, self._paused = self._paused, self._paused & ~why
        if was and not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _forget_body(self) -> None:
        if self._body:
            self.service.inflight_bytes -= sum(map(len, self._body))
            self._body = []

    # --- an offered upgrade

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read on as if no other protocol had been offered: a fresh parser is told the body's framing, then gets the body."""
        self._upgrading = False
        if self._lingering:
            return
        headers = self._headers
        framing = b""
        if b"transfer-encoding" in headers:
            framing = b"transfer-encoding: chunked\r\n"
        elif b"content-length" in headers:
            framing = b"content-length: " + headers[b"content-length"] + b"\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._replaying = True
        seen = self._headers_seen, self._header_bytes
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._replaying = False
        self._headers_seen, self._header_bytes = seen
        if rest:
            self.data_received(rest)


def _absolute_path(target: bytes) -> bytes:
    """The path of an absolute-form target (RFC 9112 section 3.2.2), empty when it is none."""
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https"):
        return b""
    return b"/" + rest.partition(b"/")[2]
