"""One client connection: HTTP bytes in, answers out in the order of the requests.

httptools finds the messages; this file keeps the rules it does not know: sizes, deadlines, the order of answers, what to do
with a body nobody will store. A request that is refused early has its body read and thrown away, up to once more its limit,
so that the client sees the answer and the connection stays usable.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

import httptools

from edge.server import capturing
from edge.server.admission import Head, body_bytes_max, judge_head
from edge.server.body import ArrivingBody, body_size
from edge.server.exchange import Exchange
from edge.server.forwarding import Forwarding
from edge.server.heads import KEPT, Familiar, Headers, by_lower_name
from edge.server.heavy import Body
from edge.server.service import Service
from edge.wire.client_ip import forwarded_ip
from edge.wire.forward import Order, hides_capture, is_sdk_path, origin_form, request_fields
from edge.wire.quiet import Quiet, quiet_answer
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.request import Request
from edge.wire.responses import CONTINUE, cors_headers, render
from edge.wire.routes import OTHER, Kind, Route, find_route
from edge.wire.v1 import V1Answer, request_id_header

if TYPE_CHECKING:
    from edge.server.upstream import Forwarder

log = logging.getLogger(__name__)

_METHOD_NAMES: Final = {b"POST": "POST", b"GET": "GET", b"OPTIONS": "OPTIONS", b"HEAD": "HEAD", b"CONNECT": "CONNECT"}

LINGER_BYTES_MAX: Final = 64 * 1024
LINGER_S: Final = 1.0
"""How much, and how long, is still read after a last answer, so that the client gets to see it before the reset."""

CHUNK_OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Chunk sizes, extensions and trailers of a body; on top of eight times its bytes, which one-byte chunks need."""

_LARGE_PACKET_BYTES: Final = 64 * 1024
"""Behind such a one there is more already, which the transport would read at once, many times over."""

_SEVERAL_HOSTS: Final = b""

_NO_PARSER: Final = httptools.HttpRequestParser(object())
"""Of a connection that has sent ordinary requests only."""

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2

# What keeps an answer from being written at once, as bits: for those in `_PAUSED` reading is paused.
_PIPELINE_FULL: Final = 1
_CLIENT_NOT_READING: Final = 2
_UPSTREAM_NOT_TAKING: Final = 16
_DECODING: Final = 32
_OTHERS_FIRST: Final = 64
_PAUSED: Final = _PIPELINE_FULL | _CLIENT_NOT_READING | _UPSTREAM_NOT_TAKING | _DECODING | _OTHERS_FIRST
_CONTINUE_DUE: Final = 4
_GONE: Final = 8


class CaptureConnection(asyncio.Protocol):
    """Parser callbacks in, ordered answers out."""

    __slots__ = (
        "_arriving",
        "_behind",
        "_body",
        "_body_bytes_max",
        "_counted_bytes",
        "_cut",
        "_decoding",
        "_discarded",
        "_fed",
        "_fields",
        "_forwarding",
        "_headers",
        "_keep_alive",
        "_lingered",
        "_lingering",
        "_method",
        "_packet",
        "_parser",
        "_query",
        "_refused",
        "_replaying",
        "_route",
        "_state",
        "_timed",
        "_upgrading",
        "_url",
        "deadline_s",
        "familiar",
        "hindered",
        "on_body",
        "packet",
        "peer",
        "queue",
        "service",
        "transport",
        "trusted",
    )

    def __init__(self, service: Service) -> None:
        # for the connection
        self.service = service
        self.deadline_s = service.idle_deadline_s
        self.queue: list[Exchange | Forwarding] = []
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.trusted = False
        self.hindered = _GONE
        self.familiar: Familiar | None = None
        """How the head of the last ordinary request was read."""
        self.packet = b""
        """Waits for the end of the turn. Nothing else is under way then."""
        self._lingering = False
        self._lingered = 0
        self._state = _IDLE
        # for the request
        self._url = b""
        self._arriving: dict[bytes, bytes] = {}
        self._fields: list[tuple[bytes, bytes]] = []
        self._method = ""
        self._route: Route | None = None
        self._query = b""
        self._headers: Headers = {}
        self._keep_alive = True
        self._body = ArrivingBody()
        self._body_bytes_max = service.settings.body_bytes_max
        # for one that takes more than a packet, and put back when it is complete
        self._timed = _IDLE
        self._fed = 0
        self._packet = b""
        self._cut = service.head_packet_bytes_max
        self._counted_bytes = 0
        self._discarded = 0
        self._refused = False
        self._upgrading = False
        self._replaying = False
        self._forwarding: Forwarding | None = None
        """Whose body is arriving."""
        self._decoding = False
        """The decoder has the last request that was captured."""
        self._behind: list[Behind] = []
        """Complete requests behind one that is being decoded: of one connection they are stored in the order they came in."""
        # The parser calls this one without a Python frame. Sizes are judged when the head, or a packet, is complete.
        self.on_body = self._body.pieces.append
        self._parser = _NO_PARSER

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self.service
        self.transport = cast("asyncio.Transport", transport)
        self.hindered = 0
        peer = transport.get_extra_info("peername")
        self.peer, self.trusted = service.peer(peer[0] if isinstance(peer, tuple) else "")
        service.connections.add(self)
        service.connected += 1
        if len(service.connections) > service.settings.connections_max:
            self._refuse_and_close(Reason.TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        # Requests that wait for their commit are stored all the same; only their answers have nowhere to go.
        self.transport = None
        self.hindered |= _GONE
        # It knows this connection, and they would keep each other.
        self._parser = _NO_PARSER
        self._forget_body()
        self._lose_forwardings()
        self.queue.clear()
        self.service.connections.discard(self)

    def eof_received(self) -> bool:
        """The client sends no more; what it sent is still answered, but for what is forwarded.

        Most often it is gone altogether, which shows only when something is written to it, and an upstream is not kept at work
        for nobody.
        """
        self.service.turn.take()
        self._lose_forwardings()
        if not self.queue:
            return False
        self.end()
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more requests from it."""
        self._pause(_CLIENT_NOT_READING)
        self.deadline_s = self.service.now_s + self.service.settings.write_timeout_s
        if self.queue and type(first := self.queue[0]) is Forwarding:
            first.pause()

    def resume_writing(self) -> None:
        self._resume(_CLIENT_NOT_READING)
        self._set_deadline()
        if self.queue and type(first := self.queue[0]) is Forwarding:
            first.resume()

    def data_received(self, data: bytes) -> None:
        if self.packet:
            self.service.turn.take()
        if self._state != _IDLE or self._lingering:
            self.receive(data)
        else:
            self.packet = data
            self.service.turn.arrive(self)

    def capture(self, method: str, route: Route, query: bytes, headers: Headers, body: bytes) -> None:
        """Take a whole POST or GET of a kept connection that was read elsewhere."""
        exchange = Exchange(self, route, method, headers.get(b"origin", b""))
        self.queue.append(exchange)
        self._query = query
        self._headers = headers
        self._capture(exchange, body)
        self._bound_pipeline()

    def refuse_arrived(self, packet: bytes) -> None:
        """Reading `packet`, with which nothing was under way, met a fault of ours."""
        ordinary = self.service.ordinary.read(packet)
        self._method = "POST"
        if ordinary is not None:
            self._method, self._route = ordinary[:2]
            self._headers = by_lower_name(ordinary[4])
        self._state = _BODY
        self._refuse_and_close(Reason.INTERNAL)

    def receive(self, data: bytes) -> None:
        """What the connection's own parser reads."""
        large = len(data) >= _LARGE_PACKET_BYTES
        begin = 0
        while not self._lingering and len(data) - begin > self._cut:
            end = begin + self._cut
            self._feed(data[begin:end])
            begin = end
            if self._state == _BODY and not self._lingering and b"content-length" not in self._headers:
                # Chunks may be of a byte each, and thousands of them in every one of these pieces.
                self._pause(_OTHERS_FIRST)
                asyncio.get_running_loop().call_soon(self._read_on, data[begin:])
                return
        if begin:
            data = data[begin:]
        if not self._lingering:
            self._feed(data)
            if large and self._state == _BODY:
                self._pause(_OTHERS_FIRST)
                asyncio.get_running_loop().call_soon(self._resume, _OTHERS_FIRST)
            return
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES_MAX and not self.queue and self.transport is not None:
            self.transport.abort()

    def _read_on(self, data: bytes) -> None:
        self._resume(_OTHERS_FIRST)
        if self.transport is not None:
            self.receive(data)

    def _feed(self, data: bytes) -> None:
        if self._state == _IDLE:
            self._state = _HEAD
            if not self.hindered:
                self.deadline_s = self.service.idle_deadline_s
        elif self._state == _HEAD:
            # With the last bytes of the packet before, where the blank line may begin.
            self._packet = (b"   " + self._packet)[-3:] + data
        if self._parser is _NO_PARSER:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            log.error("a request met a fault of ours", exc_info=error.__context__ or error)
            self._refuse_faulted()
        except httptools.HttpParserError as error:
            self._refuse_and_close(Reason.BAD_REQUEST, str(error))
        if self._state != _IDLE and not self._lingering:
            self._unfinished(data)

    def _unfinished(self, data: bytes) -> None:
        """A request goes on in the next packet: bound what is held of it, and how long it may take."""
        settings = self.service.settings
        head_bytes_max = settings.target_bytes_max + settings.header_bytes_max
        if self._state == _BODY:
            self._fed += len(data)
            self._bound_body(head_bytes_max)
        elif self._fed or self._url or data.strip(b"\r\n"):
            if not self._fed:
                self._packet = data
                # The ends of other requests may stand before it.
                begin = data.rfind(self._parser.get_method() + b" " + self._url) if self._url else 0
                data = data[max(0, begin) :]
            self._fed += len(data)
            if self._fed > head_bytes_max:
                long_target = len(self._url) > settings.target_bytes_max
                self._refuse_and_close(Reason.URI_TOO_LONG if long_target else Reason.HEADERS_TOO_LARGE)
        else:
            # Empty lines in front of a request are none of it.
            self._state = _IDLE
        if self._state != self._timed and not self._lingering:
            # Absolute from here on: a byte now and then does not move it.
            self._set_deadline()

    def _bound_body(self, head_bytes_max: int) -> None:
        service = self.service
        if self._forwarding is not None:
            self._pass_on(self._forwarding, self._body.take_pieces())
        elif self._refused:
            self._discarded += len(self._body.take_pieces())
            if self._discarded > 2 * self._body_bytes_max:
                self.end()
        else:
            held = self._body.gather()
            service.inflight_bytes += held - self._counted_bytes
            self._counted_bytes = held
            if held > self._body_bytes_max:
                self._refuse_held(Reason.BODY_TOO_LARGE, self._body_limit())
            elif self._fed > head_bytes_max + CHUNK_OVERHEAD_BYTES_MAX + 8 * held:
                self._refuse_and_close(Reason.BODY_TOO_LARGE, "Found too little body in too many chunks.")
            elif held and (overload := service.overload(0)) is not None:
                self._refuse_held(overload)
            elif held:
                self.hindered &= ~_CONTINUE_DUE
        length = self._headers.get(b"content-length")
        # The next request's head then begins a packet. The end of a chunked body only the parser knows.
        self._cut = int(length) - self._discarded - self._counted_bytes if length else service.head_packet_bytes_max

    def _set_deadline(self) -> None:
        settings = self.service.settings
        self._timed = self._state
        if not self.hindered & _CLIENT_NOT_READING:
            # Else the deadline is that of the answers it does not take.
            timeouts_s = (settings.idle_timeout_s, settings.header_timeout_s, settings.body_timeout_s)
            self.deadline_s = self.service.now_s + timeouts_s[self._state]

    def expire(self) -> None:
        """The deadline has passed."""
        self.service.turn.take()
        transport = self.transport
        if transport is None:
            return
        if self.hindered & _CLIENT_NOT_READING:
            transport.abort()
        elif self.queue and (self._state == _IDLE or self._lingering):
            # Waiting for a commit, which has its own limits.
            self.deadline_s = self.service.idle_deadline_s
        elif self._lingering:
            transport.abort()
        elif self.hindered & (_UPSTREAM_NOT_TAKING | _DECODING):
            # An upstream's time has its own limit, and so has the decoder's.
            self.deadline_s = self.service.idle_deadline_s
        elif self._state == _IDLE or not self._url:
            self._close()
        else:
            self._refuse_and_close(Reason.REQUEST_TIMEOUT)

    def stop(self) -> bool:
        """The worker stops: whether the connection had nothing under way and was closed."""
        if self._state == _IDLE and not (self.queue or self.packet) and self.transport is not None:
            self._close()
            return True
        return False

    def refuse_unfinished(self) -> None:
        """The worker cannot wait longer for this client: what it has not sent whole is refused."""
        self.service.turn.take()
        if self._state != _IDLE and not self._lingering:
            self._refuse_and_close(Reason.STOPPING)
        elif self.queue and type(first := self.queue[0]) is Forwarding:
            self._give_up(first, Reason.STOPPING, REFUSALS[Reason.STOPPING].detail)

    # --- the parser's side, in wire order

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            self._state = _HEAD
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))
        key = name.lower()
        if key in KEPT:
            arriving = self._arriving
            if key not in arriving:
                # Of several with one name the first is read.
                arriving[key] = value
            elif key == b"host":
                arriving[key] = _SEVERAL_HOSTS

    def on_headers_complete(self) -> None:
        self._state = _BODY
        if self._replaying:
            return
        self._headers = self._arriving
        fields = self._fields
        self._forget_arriving()
        parser = self._parser
        self._keep_alive = parser.should_keep_alive()
        self._method = _METHOD_NAMES.get(parser.get_method(), "other")
        self._route, self._query = find_route(self._url)
        if not self._lingering:
            self._judge_head(fields)

    def _judge_head(self, fields: list[tuple[bytes, bytes]]) -> None:
        settings = self.service.settings
        size = 0
        if self._fed:
            # Up to the end of the blank line; three bytes of the packet count already.
            size = self._fed + self._packet.find(b"\r\n\r\n") + 4 - 3 - len(self._url)
        headers = self._headers
        route = self._route
        version = self._parser.get_http_version()
        self._upgrading = self._parser.should_upgrade()
        self._body_bytes_max = body_bytes_max(route, settings)
        if version == "1.0":
            self._keep_alive = False
        head = Head(version, self._method, self._url, route, headers, len(fields), size)
        refusal = judge_head(head, settings)
        if refusal is not None:
            if refusal.closes:
                self._refuse_and_close(refusal.reason, refusal.found)
            else:
                self._refuse(refusal.reason, refusal.found, allowed=refusal.allowed)
        elif route is None:
            self._judge_elsewhere(fields)
        elif self._method != "OPTIONS":
            self._admit(headers, route)

    def _judge_elsewhere(self, fields: list[tuple[bytes, bytes]]) -> None:
        """A path of another service: forwarded, answered quietly, or not found."""
        target = origin_form(self._url)
        path = target.partition(b"?")[0]
        forwarder = self.service.forwarder
        # Pages of any origin may call what libraries call; the rest is the upstream's to allow.
        if self._method == "OPTIONS" and (forwarder is None or not path or is_sdk_path(path)):
            return
        if forwarder is not None and path and self._parser.get_method() != b"TRACE" and not hides_capture(path):
            self._forward(forwarder, target, fields)
        elif forwarder is None and (quiet := quiet_answer(self._method, path, self._query)) is not None:
            self._answer_quietly(quiet)
        else:
            self._refuse(Reason.NOT_FOUND)

    def _admit(self, headers: Headers, route: Route) -> None:
        """Judge a body by what is said of it, before it is read."""
        announced = int(headers.get(b"content-length", b"0"))
        expect = headers.get(b"expect")
        if announced > self._body_bytes_max:
            self._refuse_announced(announced, expected=expect is not None)
        elif (overload := self.service.overload(announced, replay=route.replay)) is not None:
            self._refuse(overload)
        elif expect is not None:
            if expect.strip().lower() != b"100-continue":
                self._refuse(Reason.EXPECTATION)
            elif announced or b"transfer-encoding" in headers:
                self.hindered |= _CONTINUE_DUE
                self.flush()

    def _refuse_announced(self, announced: int, *, expected: bool) -> None:
        """A body that would be too large. `expected`: the client waits for a word before it sends it."""
        if expected or announced > 2 * self._body_bytes_max:
            # It may or may not send the body now; only a new connection is certain.
            self._refuse_and_close(Reason.BODY_TOO_LARGE, self._body_limit())
        else:
            self._refuse(Reason.BODY_TOO_LARGE, self._body_limit())

    def on_message_complete(self) -> None:
        if self._upgrading:
            # An offer to change protocols, which is declined by answering; the parser stops here without the body.
            return
        self._url = b""
        self._state = _IDLE
        if self._forwarding is not None:
            self._complete_forwarded(self._forwarding, self._body.take_pieces())
            return
        body = self._body.whole(self.service.light.text_bytes_max)
        self._forget_request()
        if self._refused or self._lingering or body_size(body) > self._body_bytes_max:
            self._end_refused()
            return
        self._body_bytes_max = self.service.settings.body_bytes_max
        method = self._method
        exchange = Exchange(self, self._route, method, self._headers.get(b"origin", b""))
        self.queue.append(exchange)
        if not self._keep_alive:
            self.end()
        if method == "HEAD":
            exchange.special = exchange.head = True
        if method == "OPTIONS":
            exchange.answer_preflight(self._headers)
            self.flush()
        elif exchange.route.kind is Kind.CAPTURE:
            self._capture(exchange, body)
        elif exchange.route.kind is Kind.CAPTURE_V1:
            exchange.v1 = V1Answer(request_id_header(self._headers))
            exchange.special = True
            self._capture(exchange, body)
        else:
            exchange.answer_page()
            self.flush()
        self._bound_pipeline()

    def _bound_pipeline(self) -> None:
        if len(self.queue) >= self.service.settings.pipeline_max:
            self._pause(_PIPELINE_FULL)

    def _end_refused(self) -> None:
        """A request that was refused before its end is complete, or turns out too large only now."""
        if not self._refused and not self._lingering:
            self._refuse(Reason.BODY_TOO_LARGE, self._body_limit())
        self._refused = False
        self._body_bytes_max = self.service.settings.body_bytes_max
        if not self._keep_alive and not self._lingering:
            self.end()
        self.flush()

    # --- answering

    def _capture(self, exchange: Exchange, body: bytes | Body) -> None:
        service = self.service
        received_us = service.wall_ns() // 1000
        headers = self._headers
        client_ip = forwarded_ip(headers) or self.peer if self.trusted else self.peer
        text, pieces = (b"", body) if isinstance(body, list) else (body, None)
        request = Request(exchange.method, self._query, text, headers, client_ip, received_us)
        if self._decoding:
            self._behind.append((exchange, request, pieces))
        else:
            capturing.take(exchange, request, pieces)

    def await_decoder(self) -> None:
        """The decoder has the last request: it is not known yet what becomes of it, nor of those behind it."""
        self._decoding = True
        self._pause(_DECODING)

    def go_on(self) -> None:
        """The decoder has answered: take what came behind, and read on."""
        self._decoding = False
        while self._behind and not self._decoding:
            capturing.take(*self._behind.pop(0))
        self.flush()
        if not self._decoding:
            self._resume(_DECODING)
            self._set_deadline()

    def _answer_quietly(self, quiet: Quiet) -> None:
        """Answer now; a body is thrown away as it comes."""
        service = self.service
        self._refused = True
        exchange = Exchange(self, None, self._method, self._headers.get(b"origin", b""))
        exchange.close = not self._keep_alive
        exchange.response = render(
            quiet.status,
            quiet.body,
            cors_headers(exchange.origin),
            service.date,
            content_type=quiet.content_type,
            close=exchange.close,
            head=self._method == "HEAD",
        )
        service.count_answer(self._method, OTHER, quiet.status)
        self.queue.append(exchange)
        self.flush()

    def _body_limit(self) -> str:
        return f"Expected at most {self._body_bytes_max} bytes."

    def _refuse(self, reason: Reason, found: str = "", *, allowed: str = "") -> None:
        """Answer now, throw the body away as it comes, keep the connection."""
        self._refused = True
        self.hindered &= ~_CONTINUE_DUE
        detail = REFUSALS[reason].detail
        exchange = Exchange(self, self._route, self._method, self._headers.get(b"origin", b""))
        exchange.head = self._method == "HEAD"
        exchange.close = not self._keep_alive
        if self._route is not None and self._route.kind is Kind.CAPTURE_V1:
            exchange.v1 = V1Answer(request_id_header(self._headers))
        self.queue.append(exchange)
        exchange.refuse(reason, f"{detail} {found}" if found else detail, allowed=allowed)
        self._keep_alive = not exchange.close
        self.flush()

    def _refuse_held(self, reason: Reason, found: str = "") -> None:
        """The same for a body of which a part is held."""
        self._discarded = self._body.gathered_bytes
        self._forget_body()
        self._refuse(reason, found)

    def _refuse_and_close(self, reason: Reason, found: str = "") -> None:
        """Answer, then close: where the next message begins is not known, or not worth finding out."""
        if self._lingering:
            return
        self._forget_body()
        if self._forwarding is not None:
            forwarding = self._forwarding
            self._forwarding = None
            self._lingering = True
            detail = REFUSALS[reason].detail
            self._give_up(forwarding, reason, f"{detail} {found}" if found else detail)
            return
        if self._refused:
            # It has its answer.
            self.end()
            return
        if self._state != _BODY:
            # Of its head only so much is known. The rest may be on its way, even if nothing came: to close at once would be a
            # reset, which takes the answer with it.
            self._state = _HEAD
            self._headers = self._arriving
            self._method = _METHOD_NAMES.get(self._parser.get_method(), "other") if self._url else "other"
            self._route = None
        self._keep_alive = False
        self._lingering = True
        self._refuse(reason, found)

    def _refuse_faulted(self) -> None:
        """A callback raised, so the parser is of no more use."""
        if self._state == _IDLE and self.queue and self.queue[-1].response is None:
            # It was complete, and has a place for an answer that nobody would give.
            last = self.queue.pop()
            if type(last) is Forwarding:
                last.lose()
            self._state = _BODY
        self._refuse_and_close(Reason.INTERNAL)

    def flush(self) -> None:
        """Send the answers that are due, in the order of their requests."""
        transport = self.transport
        if transport is None:
            return
        queue = self.queue
        close = False
        while queue:
            first = queue[0]
            if type(first) is Forwarding and first.response is None:
                first.begin()
            if (response := first.response) is None:
                break
            transport.write(response)
            if first.rest:
                # What is large goes out a piece in a turn of the loop.
                first.response, *first.rest = first.rest
                asyncio.get_running_loop().call_soon(self.flush)
                break
            close = queue.pop(0).close
        if close:
            if self._lingering or not self._refused:
                self._linger()
            # Else the rest of the body is read first.
        elif self.hindered & _CONTINUE_DUE and not queue:
            self.hindered &= ~_CONTINUE_DUE
            transport.write(CONTINUE)
        if self.hindered & _PIPELINE_FULL and len(queue) <= self.service.settings.pipeline_max // 2:
            self._resume(_PIPELINE_FULL)

    def ends_with(self, exchange: Exchange | Forwarding) -> bool:
        """Whether no request came after this one."""
        return bool(self.queue) and self.queue[-1] is exchange

    # --- forwarding

    def _forward(self, forwarder: "Forwarder", target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """Begin with the head; the body is passed on as it comes."""
        headers = self._headers
        self._body_bytes_max = forwarder.settings.body_bytes_max
        length = int(headers.get(b"content-length", b"0"))
        expect = headers.get(b"expect")
        if length > self._body_bytes_max:
            self._refuse_announced(length, expected=expect is not None)
            return
        if expect is not None and expect.strip().lower() != b"100-continue":
            self._refuse(Reason.EXPECTATION)
            return
        authority = forwarder.place(target)[1].authority
        sent = request_fields(fields, authority=authority, peer=self.peer, trusted=self.trusted)
        has_body = length > 0 or b"transfer-encoding" in headers
        self._forwarding = forwarding = Forwarding(
            self,
            forwarder,
            Order(self._parser.get_method().decode(), target, sent, has_body),
            origin=headers.get(b"origin", b""),
            http_1_0=self._parser.get_http_version() == "1.0",
            close=not self._keep_alive,
            continue_due=expect is not None and has_body,
        )
        self.queue.append(forwarding)
        self.flush()

    def _pass_on(self, forwarding: Forwarding, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > self._body_bytes_max:
            self._refuse_and_close(Reason.BODY_TOO_LARGE, self._body_limit())
        else:
            forwarding.take(data)

    def _complete_forwarded(self, forwarding: Forwarding, data: bytes) -> None:
        self._pass_on(forwarding, data)
        self._forget_request()
        self._body_bytes_max = self.service.settings.body_bytes_max
        if self._forwarding is forwarding:
            self._forwarding = None
            forwarding.complete()
        if not self._keep_alive and not self._lingering:
            self.end()
        self._bound_pipeline()

    def pause_body(self) -> None:
        """The upstream does not take what comes."""
        self._pause(_UPSTREAM_NOT_TAKING)

    def resume_body(self) -> None:
        if self.hindered & _UPSTREAM_NOT_TAKING:
            self._resume(_UPSTREAM_NOT_TAKING)
            self._set_deadline()

    def throw_body_away(self, forwarding: Forwarding, *, at_once: bool) -> None:
        """The answer was complete before the request was; `at_once`: close without reading the rest."""
        if self._forwarding is forwarding:
            self._forwarding = None
            self._refused = True
            self._lingering = self._lingering or at_once

    def abort(self) -> None:
        """End the connection with a reset."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None
            self.hindered |= _GONE

    def is_last(self, forwarding: Forwarding) -> bool:
        return self.service.stopping and self.ends_with(forwarding)

    def _lose_forwardings(self) -> None:
        self._forwarding = None
        for waiting in self.queue:
            if type(waiting) is Forwarding:
                waiting.lose()
        self.flush()

    def _give_up(self, forwarding: Forwarding, reason: Reason, detail: str) -> None:
        forwarding.give_up(reason, detail)
        self.flush()

    def end(self) -> None:
        """No request is taken any more; the connection closes when the answers that are due are sent."""
        self._lingering = True
        if self.queue:
            self.queue[-1].close = self.queue[-1].special = True
        else:
            self._linger()

    def _linger(self) -> None:
        """The last answer is written: say so, and read on for a moment so that it is not lost to a reset."""
        transport = self.transport
        self._lingering = True
        if transport is None:
            return
        if self._state == _IDLE or not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        self.deadline_s = self.service.now_s + LINGER_S

    def _close(self) -> None:
        """Close once what was written is sent. Nothing may be written to the transport from here on."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None
            self.hindered |= _GONE

    def _pause(self, why: int) -> None:
        if not self.hindered & _PAUSED and self.transport is not None:
            self.transport.pause_reading()
        self.hindered |= why

    def _resume(self, why: int) -> None:
        was = self.hindered
        self.hindered &= ~why
        if was & _PAUSED and not self.hindered & _PAUSED and self.transport is not None:
            self.transport.resume_reading()

    def _forget_body(self) -> None:
        self._body.clear()
        self.service.inflight_bytes -= self._counted_bytes
        self._counted_bytes = 0

    def _forget_arriving(self) -> None:
        self._arriving = {}
        self._fields = []

    def _forget_request(self) -> None:
        """A request is complete: what was noted of its way here."""
        if self._fed and not self.hindered:
            self.deadline_s = self.service.idle_deadline_s
        self._timed = _IDLE
        self._fed = 0
        self._packet = b""
        self._cut = self.service.head_packet_bytes_max
        self._discarded = 0
        self.hindered &= ~_CONTINUE_DUE
        self._forget_body()
        # Trailers of a chunked body are no headers of the next request.
        self._forget_arriving()

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
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._replaying = False
        if rest:
            self.receive(rest)
        elif self._state == _BODY:
            self._unfinished(b"")


Behind = tuple[Exchange, Request, Body | None]
"""A complete request, and its body where that is large."""
