"""A request while it arrives at its connection's own parser: what is held of it, its bounds, and how it is refused early.

httptools finds the messages; here are the rules it does not know: sizes, expectations, what to do with a body that nobody will
store. A request that is refused early has its body read and thrown away, up to once more its limit, so that the client sees the
answer and the connection stays usable.
"""

import logging
from typing import TYPE_CHECKING, Final, Protocol

import httptools

from edge.server.admission import Head, body_bytes_max, judge_head
from edge.server.body import ArrivingBody, body_size
from edge.server.exchange import Exchange
from edge.server.forwarding import Client, Forwarding
from edge.server.heads import KEPT, Headers, Ordinary, by_lower_name
from edge.server.heavy import Body
from edge.server.progress import Progress
from edge.wire.forward import Order, hides_capture, is_sdk_path, origin_form, request_fields
from edge.wire.quiet import Quiet, quiet_answer
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.responses import cors_headers, render
from edge.wire.routes import OTHER, Kind, Route, authority, find_route
from edge.wire.v1 import V1Answer, request_id_header

if TYPE_CHECKING:
    from edge.server.upstream import Forwarder

log = logging.getLogger(__name__)

IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
"""What of a request is arriving at a connection; `IDLE` between two of them."""

_METHOD_NAMES: Final = {b"POST": "POST", b"GET": "GET", b"OPTIONS": "OPTIONS", b"HEAD": "HEAD", b"CONNECT": "CONNECT"}

_SEVERAL_HOSTS: Final = b""


class Source(Client, Protocol):
    """What an arriving request asks of its connection."""

    state: int
    """`IDLE`, `HEAD` or `BODY`."""
    timed: int
    """The state that the deadline was set for."""
    deadline_s: float
    lingering: bool
    """No request is taken any more; what still comes is thrown away."""
    parting: bool
    """The client said of a request that it is its last one."""
    peer: str
    trusted: bool

    def set_deadline(self) -> None:
        """That of the state."""

    def invite_body(self) -> None:
        """The client waits for a word before it sends the body."""

    def uninvite_body(self) -> None:
        """The body is coming, or need not."""

    def store(self, exchange: Exchange, query: bytes, headers: Headers, body: bytes | Body) -> None:
        """A request for capture is complete."""

    def bound_pipeline(self) -> None:
        """One more request waits for its answer."""


class Arrival:
    """One connection's requests, one after the other. The parser calls this back, and this the connection."""

    __slots__ = (
        "_arriving",
        "_body",
        "_body_bytes_max",
        "_connection",
        "_counted_bytes",
        "_discarded",
        "_fields",
        "_headers",
        "_keep_alive",
        "_method",
        "_parser",
        "_progress",
        "_query",
        "_replaying",
        "_route",
        "_service",
        "_upgrading",
        "_url",
        "cut",
        "forwarding",
        "on_body",
        "refused",
    )

    def __init__(self, connection: Source) -> None:
        service = connection.service
        self._connection = connection
        self._service = service
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
        self.cut = service.head_packet_bytes_max
        """The most that `feed` is to get at once."""
        self.refused = False
        """The request has its answer; the rest of it is thrown away."""
        self.forwarding: Forwarding | None = None
        """Whose body is arriving."""
        self._progress = Progress()
        self._counted_bytes = 0
        """Of its body, held and counted among what is in flight."""
        self._discarded = 0
        self._upgrading = False
        self._replaying = False
        # The parser calls this one without a Python frame. Sizes are judged when the head, or a packet, is complete.
        self.on_body = self._body.pieces.append
        self._parser = httptools.HttpRequestParser(self)

    @property
    def named(self) -> bool:
        """Something of the request's target is there."""
        return bool(self._url)

    @property
    def chunked(self) -> bool:
        """The body's length is not known."""
        return b"content-length" not in self._headers

    def feed(self, data: bytes) -> bytes:
        """Go on with what the connection got. Returns what is left of it behind an offer to change protocols."""
        connection = self._connection
        if connection.state == IDLE:
            self._progress.begin(data)
            if not connection.hindered:
                connection.deadline_s = self._service.idle_deadline_s
        elif connection.state == HEAD:
            self._progress.go_on(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            log.error("a request met a fault of ours", exc_info=error.__context__ or error)
            self._refuse_faulted()
        except httptools.HttpParserError as error:
            self.refuse_and_close(Reason.BAD_REQUEST, str(error))
        if connection.state != IDLE and not connection.lingering:
            self._unfinished(data)
        return b""

    def leave(self) -> None:
        """The connection is gone: what is held goes as well. The parser and this would keep each other."""
        self._forget_body()
        self.forwarding = None
        del self._parser, self.on_body

    # --- bounds

    def _unfinished(self, data: bytes) -> None:
        """A request goes on in the next packet: bound what is held of it, and how long it may take."""
        connection = self._connection
        settings = self._service.settings
        head_bytes_max = settings.target_bytes_max + settings.header_bytes_max
        progress = self._progress
        if connection.state == BODY:
            progress.count_body(len(data), more=bool(self._body.pieces))
            self._bound_body(head_bytes_max)
        else:
            progress.count_head(data, self._parser.get_method() + b" " + self._url if self._url else b"")
            if progress.bytes > head_bytes_max or len(self._fields) > settings.headers_max:
                long_target = len(self._url) > settings.target_bytes_max
                self.refuse_and_close(Reason.URI_TOO_LONG if long_target else Reason.HEADERS_TOO_LARGE)
        if connection.state != connection.timed and not connection.lingering:
            # Absolute from here on: a byte now and then does not move it.
            connection.set_deadline()

    def _bound_body(self, head_bytes_max: int) -> None:
        service = self._service
        if self.forwarding is not None:
            self._pass_on(self.forwarding, self._body.take_pieces())
        elif self.refused:
            self._discarded += len(self._body.take_pieces())
            if self._discarded > 2 * self._body_bytes_max:
                self._connection.end()
        else:
            held = self._body.gather()
            service.inflight_bytes += held - self._counted_bytes
            self._counted_bytes = held
            if held > self._body_bytes_max:
                self._refuse_held(Reason.BODY_TOO_LARGE, self._body_limit())
            elif held and (overload := service.overload(0)) is not None:
                self._refuse_held(overload)
            elif held:
                self._connection.uninvite_body()
        self._bound_trailers()
        if self._progress.is_mostly_framing(self._discarded + self._counted_bytes, head_bytes_max):
            self.refuse_and_close(Reason.BODY_TOO_LARGE, "Found too little body in too many chunks.")
        length = self._headers.get(b"content-length")
        # The next request's head then begins a packet. The end of a chunked body only the parser knows.
        self.cut = int(length) - self._discarded - self._counted_bytes if length else service.head_packet_bytes_max

    def _bound_trailers(self) -> None:
        """Count those that have come, and forget them."""
        if self._fields:
            self._progress.count_trailers(self._fields)
            self._forget_arriving()
            if self._progress.has_long_trailers:
                self.refuse_and_close(Reason.HEADERS_TOO_LARGE)

    # --- the parser's side, in wire order

    def on_message_begin(self) -> None:
        # Empty lines in front of a request are none of it.
        self._connection.state = HEAD

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
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
        connection = self._connection
        connection.state = BODY
        self._progress.begin_body(self._service.head_packet_bytes_max)
        if self._replaying:
            return
        self._headers = self._arriving
        fields = self._fields
        self._forget_arriving()
        parser = self._parser
        self._keep_alive = parser.should_keep_alive()
        connection.parting = not self._keep_alive
        self._method = _METHOD_NAMES.get(parser.get_method(), "other")
        self._route, self._query = find_route(self._url)
        if not connection.lingering:
            self._judge_head(fields)

    def _judge_head(self, fields: list[tuple[bytes, bytes]]) -> None:
        settings = self._service.settings
        headers = self._headers
        route = self._route
        version = self._parser.get_http_version()
        self._upgrading = self._parser.should_upgrade()
        self._body_bytes_max = body_bytes_max(route, settings)
        if version == "1.0":
            self._keep_alive = False
            # RFC 9110 section 10.1.1: it is ignored there.
            self._headers = headers = {name: value for name, value in headers.items() if name != b"expect"}
        head = Head(version, self._method, self._url, route, headers, len(fields), self._progress.head_bytes(self._url))
        refusal = judge_head(head, settings)
        if refusal is not None:
            if refusal.closes:
                self.refuse_and_close(refusal.reason, refusal.found)
            else:
                self._refuse(refusal.reason, refusal.found, allowed=refusal.allowed)
            return
        if named := authority(self._url):
            # RFC 9112 section 3.2.2: it counts instead of the header.
            self._headers = headers = {**headers, b"host": named}
            fields = [(name, named if name.lower() == b"host" else value) for name, value in fields]
        if route is None:
            self._judge_elsewhere(fields)
        elif self._method != "OPTIONS":
            self._admit(headers, route)

    def _judge_elsewhere(self, fields: list[tuple[bytes, bytes]]) -> None:
        """A path of another service: forwarded, answered quietly, or not found."""
        target = origin_form(self._url)
        path = target.partition(b"?")[0]
        forwarder = self._service.forwarder
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
        elif (overload := self._service.overload(announced, replay=route.replay)) is not None:
            self._refuse(overload)
        elif expect is not None:
            if expect.strip().lower() != b"100-continue":
                self._refuse(Reason.EXPECTATION)
            elif announced or b"transfer-encoding" in headers:
                self._connection.invite_body()

    def on_message_complete(self) -> None:
        if self._upgrading:
            # An offer to change protocols, which is declined by answering; the parser stops here without the body.
            return
        connection = self._connection
        self._bound_trailers()
        self._url = b""
        connection.state = IDLE
        if self.forwarding is not None:
            self._complete_forwarded(self.forwarding, self._body.take_pieces())
            return
        body = self._body.whole(self._service.light.text_bytes_max)
        self._forget_request()
        if self.refused or connection.lingering or body_size(body) > self._body_bytes_max:
            self._end_refused()
            return
        self._body_bytes_max = self._service.settings.body_bytes_max
        method = self._method
        exchange = Exchange(connection, self._route, method, self._headers.get(b"origin", b""))
        connection.queue.append(exchange)
        if not self._keep_alive:
            connection.end()
        if method == "HEAD":
            exchange.special = exchange.head = True
        if method == "OPTIONS":
            exchange.answer_preflight(self._headers)
            connection.flush()
        elif exchange.route.kind is Kind.CAPTURE:
            connection.store(exchange, self._query, self._headers, body)
        elif exchange.route.kind is Kind.CAPTURE_V1:
            exchange.v1 = V1Answer(request_id_header(self._headers))
            exchange.special = True
            connection.store(exchange, self._query, self._headers, body)
        else:
            exchange.answer_page()
            connection.flush()
        connection.bound_pipeline()

    def _end_refused(self) -> None:
        """A request that was refused before its end is complete, or turns out too large only now."""
        connection = self._connection
        if not self.refused and not connection.lingering:
            self._refuse(Reason.BODY_TOO_LARGE, self._body_limit())
        self.refused = False
        self._body_bytes_max = self._service.settings.body_bytes_max
        if not self._keep_alive and not connection.lingering:
            connection.end()
        connection.flush()

    # --- refusing

    def refuse_and_close(self, reason: Reason, found: str = "") -> None:
        """Answer, then close: where the next message begins is not known, or not worth finding out."""
        connection = self._connection
        if connection.lingering:
            return
        self._forget_body()
        if self.forwarding is not None:
            forwarding = self.forwarding
            self.forwarding = None
            connection.lingering = True
            detail = REFUSALS[reason].detail
            forwarding.give_up(reason, f"{detail} {found}" if found else detail)
            connection.flush()
            return
        if self.refused:
            # It has its answer.
            connection.end()
            return
        if connection.state != BODY:
            # Of its head only so much is known. The rest may be on its way, even if nothing came: to close at once would be a
            # reset, which takes the answer with it.
            connection.state = HEAD
            self._headers = self._arriving
            self._method = _METHOD_NAMES.get(self._parser.get_method(), "other") if self._url else "other"
            self._route = None
        self._keep_alive = False
        connection.lingering = True
        self._refuse(reason, found)

    def refuse_unread(self, ordinary: Ordinary | None) -> None:
        """Answer for a packet that met a fault of ours before the parser got it."""
        self._method = "POST"
        if ordinary is not None:
            self._method, self._route = ordinary[:2]
            self._headers = by_lower_name(ordinary[4])
        self._connection.state = BODY
        self.refuse_and_close(Reason.INTERNAL)

    def _refuse(self, reason: Reason, found: str = "", *, allowed: str = "") -> None:
        """Answer now, throw the body away as it comes, keep the connection."""
        connection = self._connection
        self.refused = True
        connection.uninvite_body()
        detail = REFUSALS[reason].detail
        exchange = Exchange(connection, self._route, self._method, self._headers.get(b"origin", b""))
        exchange.head = self._method == "HEAD"
        exchange.close = not self._keep_alive
        if self._route is not None and self._route.kind is Kind.CAPTURE_V1:
            exchange.v1 = V1Answer(request_id_header(self._headers))
        connection.queue.append(exchange)
        exchange.refuse(reason, f"{detail} {found}" if found else detail, allowed=allowed)
        self._keep_alive = not exchange.close
        connection.flush()

    def _refuse_held(self, reason: Reason, found: str = "") -> None:
        """The same for a body of which a part is held."""
        self._discarded = self._body.gathered_bytes
        self._forget_body()
        self._refuse(reason, found)

    def _refuse_announced(self, announced: int, *, expected: bool) -> None:
        """A body that would be too large. `expected`: the client waits for a word before it sends it."""
        if expected or announced > 2 * self._body_bytes_max:
            # It may or may not send the body now; only a new connection is certain.
            self.refuse_and_close(Reason.BODY_TOO_LARGE, self._body_limit())
        else:
            self._refuse(Reason.BODY_TOO_LARGE, self._body_limit())

    def _refuse_faulted(self) -> None:
        """A callback raised, so the parser is of no more use."""
        connection = self._connection
        if connection.state == IDLE and connection.queue and connection.queue[-1].response is None:
            # It was complete, and has a place for an answer that nobody would give.
            last = connection.queue.pop()
            if type(last) is Forwarding:
                last.lose()
            connection.state = BODY
        self.refuse_and_close(Reason.INTERNAL)

    def _body_limit(self) -> str:
        return f"Expected at most {self._body_bytes_max} bytes."

    def _answer_quietly(self, quiet: Quiet) -> None:
        """Answer now; a body is thrown away as it comes."""
        connection = self._connection
        service = self._service
        self.refused = True
        exchange = Exchange(connection, None, self._method, self._headers.get(b"origin", b""))
        connection.queue.append(exchange)
        exchange.close = not self._keep_alive or connection.close_behind(exchange)
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
        connection.flush()

    # --- forwarding

    def _forward(self, forwarder: "Forwarder", target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """Begin with the head; the body is passed on as it comes."""
        connection = self._connection
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
        sent = request_fields(fields, authority=authority, peer=connection.peer, trusted=connection.trusted)
        has_body = length > 0 or b"transfer-encoding" in headers
        self.forwarding = forwarding = Forwarding(
            connection,
            forwarder,
            Order(self._parser.get_method().decode(), target, sent, has_body),
            origin=headers.get(b"origin", b""),
            http_1_0=self._parser.get_http_version() == "1.0",
            close=not self._keep_alive,
            continue_due=expect is not None and has_body,
        )
        connection.queue.append(forwarding)
        connection.flush()

    def _pass_on(self, forwarding: Forwarding, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > self._body_bytes_max:
            self.refuse_and_close(Reason.BODY_TOO_LARGE, self._body_limit())
        else:
            forwarding.take(data)

    def _complete_forwarded(self, forwarding: Forwarding, data: bytes) -> None:
        connection = self._connection
        self._pass_on(forwarding, data)
        self._forget_request()
        self._body_bytes_max = self._service.settings.body_bytes_max
        if self.forwarding is forwarding:
            self.forwarding = None
            forwarding.complete()
        if not self._keep_alive and not connection.lingering:
            connection.end()
        connection.bound_pipeline()

    def close_behind(self) -> bool:
        """Let the request whose body is passed on or thrown away be the last one; whether there is such a one."""
        arriving = self.refused or self.forwarding is not None
        if arriving:
            self._keep_alive = False
        return arriving

    def throw_away(self) -> None:
        """What was forwarded has its whole answer: nobody takes the rest of the body."""
        self.forwarding = None
        self.refused = True

    # --- forgetting

    def _forget_body(self) -> None:
        self._body.clear()
        self._service.inflight_bytes -= self._counted_bytes
        self._counted_bytes = 0

    def _forget_arriving(self) -> None:
        self._arriving = {}
        self._fields = []

    def _forget_request(self) -> None:
        """A request is complete: what was noted of its way here."""
        connection = self._connection
        if self._progress.bytes and not connection.hindered:
            connection.deadline_s = self._service.idle_deadline_s
        connection.timed = IDLE
        self._progress.reset()
        self.cut = self._service.head_packet_bytes_max
        self._discarded = 0
        connection.uninvite_body()
        self._forget_body()
        # Trailers of a chunked body are no headers of the next request.
        self._forget_arriving()

    # --- an offered upgrade

    def _ignore_upgrade(self, rest: bytes) -> bytes:
        """Read on as if no other protocol had been offered: a fresh parser is told the body's framing. Returns `rest`, which it
        is to get next."""
        self._upgrading = False
        connection = self._connection
        if connection.lingering:
            return rest
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
        if connection.state == BODY and not self.chunked:
            self.cut = int(headers[b"content-length"])
        if not rest and connection.state == BODY:
            self._unfinished(b"")
        return rest
