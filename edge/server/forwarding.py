"""A forwarded request's place in the order of answers: what the transfer brings is written when its turn has come.

It begins when every answer before its own is sent, so a connection has one request at an upstream at a time, and what comes
behind it on the connection waits. Its own errors have the edge's form; an answer that breaks off ends the connection.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from edge.metrics import METHODS
from edge.server.exchange import Connection, Due
from edge.wire.forward import Framing, Order, answer_head, is_sdk_path
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.responses import CONTINUE, cors_headers, render_refusal
from edge.wire.routes import OTHER

if TYPE_CHECKING:
    from edge.server.upstream import Forwarder, Transfer

_LAST_CHUNK: Final = b"0\r\n\r\n"


class Client(Connection, Protocol):
    """What a forwarded request asks of its connection besides."""

    def pause_body(self) -> None:
        """The upstream does not take what comes."""

    def resume_body(self) -> None: ...

    def throw_body_away(self, due: Due, *, at_once: bool) -> None:
        """The answer was complete before the request was; `at_once`: close without reading the rest."""

    def abort(self) -> None:
        """End the connection with a reset."""


class Forwarding:
    """One of a connection's queue, and what its transfer gives the answer to."""

    def __init__(
        self,
        connection: Client,
        forwarder: "Forwarder",
        order: Order,
        *,
        origin: bytes,
        http_1_0: bool,
        close: bool,
        continue_due: bool,
    ) -> None:
        self.response: bytes | memoryview | None = None
        """Set when nothing more is to come; empty where the answer is already written."""
        self.rest: Sequence[bytes | memoryview] = ()
        self.close = close
        self.special = True
        self._connection = connection
        self._forwarder = forwarder
        self._order = order
        self._origin = origin
        self._http_1_0 = http_1_0
        self._continue_due = continue_due
        self._body_complete = not order.has_body
        self._framing: Framing | None = None
        self._begun = False
        self._transfer: Transfer | None = forwarder.prepare(order, self)
        """Until it is over: each has the other, and a collection that would find them does not come."""

    # --- the connection's side

    def begin(self) -> None:
        """Its turn has come. May be called again."""
        if not self._begun and self._transfer is not None:
            self._begun = True
            if not self._forwarder.start(self._transfer):
                self._refuse(Reason.UPSTREAM_BUSY, REFUSALS[Reason.UPSTREAM_BUSY].detail)
                self._forget_transfer()

    def take(self, data: bytes) -> None:
        """The next bytes of the body."""
        if self._transfer is not None:
            self._transfer.take(data)

    def complete(self) -> None:
        """The body is complete."""
        self._body_complete = True
        self._continue_due = False
        if self._transfer is not None:
            self._transfer.complete()

    def pause(self) -> None:
        if self._transfer is not None:
            self._transfer.pause()

    def resume(self) -> None:
        if self._transfer is not None:
            self._transfer.resume()

    def lose(self) -> None:
        """Nobody is there to take the answer."""
        self._cancel()
        if self.response is None:
            self.response = b""
            self.close = True
            if self._framing is Framing.CLOSE:
                # As where the upstream cuts it.
                self._connection.abort()

    def give_up(self, reason: Reason, detail: str) -> None:
        """End it for a reason of the edge's or the client's, and the connection with it."""
        self._cancel()
        self.close = True
        if self._framing is None:
            self._refuse(reason, detail)
        else:
            self.cut()

    # --- the upstream's side

    def want_body(self) -> None:
        if self._continue_due:
            self._continue_due = False
            self._write(CONTINUE)

    def pause_body(self) -> None:
        self._connection.pause_body()

    def resume_body(self) -> None:
        self._connection.resume_body()

    def head(self, status: int, reason: str, fields: Sequence[tuple[bytes, bytes]]) -> None:
        connection = self._connection
        # Not having been told to send its body the client may or may not do so: the next request's start is not known.
        self.close = self.close or self._continue_due or connection.close_behind(self)
        path = self._order.target.partition(b"?")[0]
        head, self._framing = answer_head(
            status,
            reason,
            fields,
            method=self._order.method,
            http_1_0=self._http_1_0,
            close=self.close,
            cors=cors_headers(self._origin) if is_sdk_path(path) else b"",
            date=connection.service.date,
        )
        self.close = self.close or self._framing is Framing.CLOSE
        self._write(head)

    def piece(self, data: bytes) -> None:
        if self._framing is Framing.CHUNKED:
            transport = self._connection.transport
            if transport is not None:
                transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        elif self._framing is not Framing.EMPTY:
            self._write(data)

    def end(self) -> None:
        if self._framing is Framing.CHUNKED:
            self._write(_LAST_CHUNK)
        self.response = b""
        self._over()

    def refuse(self, reason: Reason) -> None:
        self._refuse(reason, REFUSALS[reason].detail)
        self._over()

    def cut(self) -> None:
        self.response = b""
        self.close = True
        # A reset, so that HTTP/1.0 clients too see that something is missing.
        self._connection.abort()

    def _refuse(self, reason: Reason, detail: str) -> None:
        connection = self._connection
        service = connection.service
        method = self._order.method
        self.close = self.close or self._continue_due or connection.close_behind(self)
        service.count_refusal(reason, method if method in METHODS else "other", OTHER)
        self.response = render_refusal(
            reason,
            detail,
            cors_headers(self._origin),
            service.date,
            retry_after=service.retry_after(),
            close=self.close,
            head=method == "HEAD",
        )

    def _cancel(self) -> None:
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None

    def _over(self) -> None:
        self._forget_transfer()
        self._connection.flush()

    def _forget_transfer(self) -> None:
        self._transfer = None
        self._connection.resume_body()
        if not self._body_complete:
            # The rest of it need not come, or its end is not waited for.
            at_once = self._continue_due or self._framing is Framing.CLOSE
            self._connection.throw_body_away(self, at_once=at_once)

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is not None:
            transport.write(data)
