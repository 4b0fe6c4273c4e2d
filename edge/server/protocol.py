"""One client connection: packets in, answers out in the order of their requests, and how it begins, waits and ends.

Nearly every packet is one ordinary request, and waits for the end of the turn of the loop (`server/turn.py`). What is not goes
to a parser of the connection's own (`server/arrival.py`), which few connections ever need.
"""

import asyncio
import socket
import struct
from typing import Final, cast

from edge.server import capturing
from edge.server.arrival import BODY, IDLE, Arrival
from edge.server.exchange import Due, Exchange
from edge.server.forwarding import Forwarding
from edge.server.heads import Familiar, Headers
from edge.server.heavy import Body
from edge.server.service import Service
from edge.server.turn import Turn
from edge.wire.client_ip import forwarded_ip
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.request import Request
from edge.wire.responses import CONTINUE
from edge.wire.routes import Route

LINGER_BYTES_MAX: Final = 64 * 1024
LINGER_S: Final = 1.0
"""How much, and how long, is still read after a last answer, so that the client gets to see it before the reset."""

_LARGE_PACKET_BYTES: Final = 64 * 1024
"""Behind such a one there is more already, which the transport would read at once, many times over."""

_HEADS_MAX: Final = 32
"""Of one connection in a turn of the loop. Requests that are answered at once never fill the pipeline: a packet has thousands
of 27 bytes, and each takes some twenty microseconds, for which everybody waits."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_AT_ONCE: Final = struct.pack("ii", 1, 0)

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
    """A client's connection, for the event loop."""

    __slots__ = (
        "_arrival",
        "_behind",
        "_closing",
        "_decoding",
        "_eof",
        "_lingered",
        "_unread",
        "deadline_s",
        "familiar",
        "hindered",
        "lingering",
        "packet",
        "parting",
        "peer",
        "queue",
        "service",
        "state",
        "timed",
        "transport",
        "trusted",
        "turn",
    )

    def __init__(self, service: Service, turn: Turn) -> None:
        self.service = service
        self.turn = turn
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.trusted = False
        # what comes in
        self.familiar: Familiar | None = None
        """How the head of the last ordinary request was read."""
        self.packet = b""
        """Waits for the end of the turn. Nothing else is under way then."""
        self._arrival: Arrival | None = None
        """Reads what is not ordinary; there from the first such request on."""
        self.state = IDLE
        """What of a request is arriving there."""
        self._unread = b""
        """Has come, and is read when others had their turn. Reading is paused as long."""
        # what goes out
        self.queue: list[Due] = []
        """Requests whose answers are due, in order."""
        self.hindered = _GONE
        """Why an answer is not written at once, or the client not read; 0 when neither."""
        self._decoding = False
        """The decoder has the last request that was captured."""
        self._behind: list[Behind] = []
        """Complete requests behind one that is being decoded: of one connection they are stored in the order they came in."""
        # how it ends
        self.deadline_s = service.idle_deadline_s
        self.timed = IDLE
        """The state that the deadline was set for."""
        self.lingering = False
        """No request is taken any more; what still comes is thrown away."""
        self.parting = False
        """The client said of a request that it is its last one."""
        self._eof = False
        """It sends no more."""
        self._lingered = 0
        self._closing: asyncio.Transport | None = None
        """Is closed when the client has taken what was written."""

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
            self._own_parser().refuse_and_close(Reason.TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        # Requests that wait for their commit are stored all the same; only their answers have nowhere to go.
        self.transport = self._closing = None
        self.hindered |= _GONE
        self._unread = b""
        if self.packet:
            # It may be for the connection's own parser, which would come to life again behind this.
            self.turn.take()
        self._lose_forwardings()
        if self._arrival is not None:
            # It knows this connection, and they would keep each other.
            self._arrival.leave()
            self._arrival = None
        self.queue.clear()
        self.service.connections.discard(self)

    def eof_received(self) -> bool:
        """The client sends no more; what it sent is still answered, but for what is forwarded.

        Most often it is gone altogether, which shows only when something is written to it, and an upstream is not kept at work
        for nobody.
        """
        self.turn.take()
        self._eof = True
        self._lose_forwardings()
        self.flush()
        if not self.queue:
            self._close()
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
        self.set_deadline()
        if self.queue and type(first := self.queue[0]) is Forwarding:
            first.resume()

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if self.packet:
            self.turn.take()
        if self.state != IDLE or self.lingering:
            self.receive(data)
        else:
            self.packet = data
            self.turn.arrive(self)

    def capture(self, method: str, route: Route, query: bytes, headers: Headers, body: bytes) -> None:
        """Take a whole POST or GET of a kept connection that was read elsewhere."""
        self.deadline_s = self.service.idle_deadline_s
        exchange = Exchange(self, route, method, headers.get(b"origin", b""))
        self.queue.append(exchange)
        self.store(exchange, query, headers, body)
        self.bound_pipeline()

    def refuse_arrived(self, packet: bytes) -> None:
        """Reading `packet`, with which nothing was under way, met a fault of ours."""
        self._own_parser().refuse_unread(self.service.ordinary.read(packet))

    def receive(self, data: bytes) -> None:
        """What the connection's own parser reads: some of it now, the rest in the turns of the loop that follow."""
        if self._unread:
            # It came before this did.
            self._unread += data
            return
        large = len(data) >= _LARGE_PACKET_BYTES
        arrival = self._own_parser()
        worked = False
        while data and not self.lingering:
            end = arrival.cut
            # A body whose length is known is little work. Heads are much, and chunks, which may be of a byte each.
            if self.state != BODY or arrival.chunked:
                if worked:
                    break
                worked = True
                end = _end_of_piece(data, end)
            data = arrival.feed(data[:end]) + data[end:]
        if self.lingering:
            self._throw_away(len(data))
            data = b""
        self._unread = data
        if large or data:
            self._let_others_first()

    def _let_others_first(self) -> None:
        """Read on in the next turn of the loop."""
        if not self.hindered & _OTHERS_FIRST:
            self._pause(_OTHERS_FIRST)
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        self.hindered &= ~_OTHERS_FIRST
        if self.hindered & _PAUSED:
            # Whoever ends that reads on.
            return
        data, self._unread = self._unread, b""
        if data:
            self.receive(data)
        if not self.hindered & _PAUSED and self.transport is not None:
            self.transport.resume_reading()

    def _throw_away(self, size: int) -> None:
        self._lingered += size
        if self._lingered > LINGER_BYTES_MAX and not self.queue:
            self._let_go()

    def _own_parser(self) -> Arrival:
        if self._arrival is None:
            self._arrival = Arrival(self)
        return self._arrival

    def store(self, exchange: Exchange, query: bytes, headers: Headers, body: bytes | Body) -> None:
        """A request for capture is complete."""
        service = self.service
        received_us = service.wall_ns() // 1000
        client_ip = forwarded_ip(headers) or self.peer if self.trusted else self.peer
        text, pieces = (b"", body) if isinstance(body, list) else (body, None)
        request = Request(exchange.method, query, text, headers, client_ip, received_us)
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
            self.set_deadline()

    # --- what goes out

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
                if self.hindered & _CLIENT_NOT_READING:
                    first.pause()
                first.begin()
            if (response := first.response) is None:
                break
            transport.write(response)
            if first.rest:
                # What is large goes out a piece in a turn of the loop.
                first.response, *first.rest = first.rest
                asyncio.get_running_loop().call_soon(self.flush)
                break
            if close := queue.pop(0).close:
                # Nothing is written behind the last answer.
                break
        if close:
            if self.lingering or self._arrival is None or not self._arrival.refused:
                self._linger()
            # Else the rest of the body is read first.
        elif self.hindered & _CONTINUE_DUE and not queue:
            self.hindered &= ~_CONTINUE_DUE
            transport.write(CONTINUE)
        if self.hindered & _PIPELINE_FULL and len(queue) <= self.service.settings.pipeline_max // 2:
            self._resume(_PIPELINE_FULL)
            self.set_deadline()

    def invite_body(self) -> None:
        """The client waits for a word before it sends the body."""
        self.hindered |= _CONTINUE_DUE
        self.flush()

    def uninvite_body(self) -> None:
        """The body is coming, or need not."""
        self.hindered &= ~_CONTINUE_DUE

    def bound_pipeline(self) -> None:
        if len(self.queue) >= self.service.settings.pipeline_max:
            self._pause(_PIPELINE_FULL)

    def close_behind(self, due: Due) -> bool:
        """Take nothing more if the worker stops and nothing came behind this request: whether its answer is the last one."""
        queue = self.queue
        if not (self.service.stopping and queue and queue[-1] is due) or self.packet or self._unread:
            return False
        if self._arrival is None or not self._arrival.close_behind():
            self.lingering = True
        return True

    def _pause(self, why: int) -> None:
        if not self.hindered & _PAUSED and self.transport is not None:
            self.transport.pause_reading()
        self.hindered |= why

    def _resume(self, why: int) -> None:
        was = self.hindered
        self.hindered &= ~why
        if was & _PAUSED and not self.hindered & _PAUSED and self.transport is not None:
            if self._unread:
                self._let_others_first()
            else:
                self.transport.resume_reading()

    # --- what an upstream answers

    def pause_body(self) -> None:
        """The upstream does not take what comes."""
        self._pause(_UPSTREAM_NOT_TAKING)

    def resume_body(self) -> None:
        if self.hindered & _UPSTREAM_NOT_TAKING:
            self._resume(_UPSTREAM_NOT_TAKING)
            self.set_deadline()

    def throw_body_away(self, due: Due, *, at_once: bool) -> None:
        """The answer was complete before the request was; `at_once`: close without reading the rest."""
        if self._arrival is not None and self._arrival.forwarding is due:
            self._arrival.throw_away()
            self.lingering = self.lingering or at_once

    def abort(self) -> None:
        """End the connection with a reset."""
        if self.transport is not None and (connected := self.transport.get_extra_info("socket")) is not None:
            # Else the other side would take it for the end of what was written, as there is nothing unread.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._let_go()

    def _let_go(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            self.transport = None
            self.hindered |= _GONE
            self._unread = b""

    def _lose_forwardings(self) -> None:
        if self._arrival is not None:
            self._arrival.forwarding = None
        for waiting in self.queue:
            if type(waiting) is Forwarding:
                waiting.lose()

    # --- how it ends

    def set_deadline(self) -> None:
        settings = self.service.settings
        self.timed = self.state
        if self.transport is not None and not self.hindered & _CLIENT_NOT_READING:
            # Else the deadline is that of the answers it does not take.
            timeouts_s = (settings.idle_timeout_s, settings.header_timeout_s, settings.body_timeout_s)
            lingering = self.lingering and not self.queue
            self.deadline_s = self.service.now_s + (LINGER_S if lingering else timeouts_s[self.state])

    def expire(self) -> None:
        """The deadline has passed."""
        self.turn.take()
        transport = self.transport
        if transport is None:
            if self._closing is not None:
                self._closing.abort()
        elif self.hindered & _CLIENT_NOT_READING:
            transport.abort()
        elif (self.queue or self._unread) and (self.state == IDLE or self.lingering):
            # Waiting for a commit, which has its own limits, or for others to have their turn.
            self.deadline_s = self.service.idle_deadline_s
        elif self.lingering and transport.get_write_buffer_size():
            self.hindered |= _CLIENT_NOT_READING
            self.deadline_s = self.service.now_s + self.service.settings.write_timeout_s
        elif self.lingering:
            transport.abort()
        elif self.hindered & (_PIPELINE_FULL | _UPSTREAM_NOT_TAKING | _DECODING):
            # What it sends is not read. A commit's time has its own limit, and so have an upstream's and the decoder's.
            self.deadline_s = self.service.idle_deadline_s
        elif self.state == IDLE or not self._own_parser().named:
            self._close()
        else:
            self._own_parser().refuse_and_close(Reason.REQUEST_TIMEOUT)

    def stop(self) -> bool:
        """The worker stops: whether the connection had nothing under way and was closed."""
        busy = self.queue or self.packet or self._unread or self.lingering
        if self.state == IDLE and not busy and self.transport is not None:
            self._close()
            return True
        return False

    def refuse_unfinished(self) -> None:
        """The worker cannot wait longer for this client: what it has not sent whole is refused."""
        self.turn.take()
        if self.state != IDLE and not self.lingering:
            self._own_parser().refuse_and_close(Reason.STOPPING)
        elif self.queue and type(first := self.queue[0]) is Forwarding:
            first.give_up(Reason.STOPPING, REFUSALS[Reason.STOPPING].detail)
            self.flush()

    def end(self) -> None:
        """No request is taken any more; the connection closes when the answers that are due are sent."""
        self.lingering = True
        if self.queue:
            self.queue[-1].close = self.queue[-1].special = True
        else:
            self._linger()

    def _linger(self) -> None:
        """The last answer is written: say so, and read on for a moment so that it is not lost to a reset."""
        self.lingering = True
        # Nothing is written behind it.
        self._lose_forwardings()
        self.queue.clear()
        transport = self.transport
        if transport is None:
            return
        # Of most clients that want no other answer nothing more comes.
        done = self.parting and self.state == IDLE and not (self._lingered or self.hindered)
        if self._eof or done or not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        self.hindered = (self.hindered | _GONE) & ~_CONTINUE_DUE
        self.set_deadline()

    def _close(self) -> None:
        """Close once what was written is sent, for which the client has its time. Nothing may be written from here on."""
        if self.transport is not None:
            self.transport.close()
            self._closing, self.transport = self.transport, None
            self.hindered |= _GONE
            self._unread = b""
            self.deadline_s = self.service.now_s + self.service.settings.write_timeout_s


def _end_of_piece(data: bytes, bytes_max: int) -> int:
    """Where in `data` at most so many bytes end, and at most so many heads."""
    if data.count(_END_OF_HEAD, 0, bytes_max) <= _HEADS_MAX:
        return bytes_max
    piece = data[:bytes_max]
    return len(piece) - len(piece.split(_END_OF_HEAD, _HEADS_MAX)[-1])


Behind = tuple[Exchange, Request, Body | None]
"""A complete request, and its body where that is large."""
