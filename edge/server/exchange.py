"""A request's place among its connection's answers, which leave in the order of the requests: what waits for a commit.

Most answers are ready-made and written as soon as the commit is there. The others, by what is noted here, are rendered then.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from edge.metrics import METHODS
from edge.server.heads import Headers
from edge.server.service import Service
from edge.wire.rejections import REFUSALS, Reason
from edge.wire.responses import cors_headers, render_preflight, render_refusal, render_text
from edge.wire.routes import OTHER, Kind
from edge.wire.v1 import V1Answer, error_body, error_headers

_ROBOTS: Final = "User-agent: *\nDisallow: /\n"


class Due(Protocol):
    """A place among a connection's answers."""

    response: bytes | memoryview | None
    """Complete, or its first piece; `None` while it is not there."""
    rest: Sequence[bytes | memoryview]
    special: bool
    close: bool
    """The last one."""


class Connection(Protocol):
    """What a request asks of the connection it came on."""

    service: Service
    transport: asyncio.Transport | None
    queue: list[Due]
    """Answers that are due, in order."""
    hindered: int
    """Not 0: an answer has to wait."""

    def flush(self) -> None:
        """Send the answers that are there."""

    def close_behind(self, due: Due) -> bool:
        """Take nothing more if the worker stops and nothing came behind this request: whether its answer is the last one."""

    def end(self) -> None:
        """Take no more requests, and close behind the last answer."""

    def await_decoder(self) -> None:
        """The decoder has the last request."""

    def go_on(self) -> None:
        """It has answered."""


class Exchange(msgspec.Struct, gc=False):
    """The waiter of one request's commit."""

    connection: Connection
    route: Any
    """The `Route`; `None` only for requests that are refused, which no reader of it meets."""
    method: str
    origin: bytes = b""
    response: bytes | memoryview | None = None
    rest: Sequence[bytes | memoryview] = ()
    """What follows it, in pieces."""
    special: bool = False
    """The answer is not the ready-made one: any of the following."""
    close: bool = False
    head: bool = False
    beacon: bool = False
    terse: bool = False
    v1: V1Answer | None = None
    """Of a request of capture v1, whose answers have a form of their own."""

    def stored(self) -> None:
        connection = self.connection
        service = connection.service
        if self.special or service.stopping:
            self.answer_specially(service)
        else:
            (service.posted if self.method == "POST" else service.got)(self.route.name)
            answer = service.answers.get(self.origin) or service.success(self.origin)
            queue = connection.queue
            if len(queue) == 1 and not connection.hindered:
                queue.clear()
                connection.transport.write(answer)  # type: ignore[union-attr]
                return
            self.response = answer
        connection.flush()

    def answer_specially(self, service: Service) -> None:
        assert self.route is not None
        self.close = self.close or self.connection.close_behind(self)
        service.count_answer(self.method, self.route.name, 204 if self.beacon else 200)
        if self.v1 is not None:
            self.response = service.v1_success(self.origin, self.v1, close=self.close)
            self.rest = self.v1.body[1:]
            return
        self.response = service.special_success(
            self.origin, close=self.close, head=self.head, beacon=self.beacon, terse=self.terse
        )

    def answer_preflight(self, headers: Headers) -> None:
        service = self.connection.service
        self.close = self.close or self.connection.close_behind(self)
        self.response = render_preflight(
            cors_headers(self.origin),
            service.date,
            headers.get(b"access-control-request-headers", b""),
            private_network=headers.get(b"access-control-request-private-network") == b"true",
            close=self.close,
        )
        service.count_answer(self.method, self.route.name if self.route else OTHER, 200)

    def answer_page(self) -> None:
        """What is asked for on a route that takes no events."""
        service = self.connection.service
        if self.route.kind is Kind.READINESS and (not service.ready or service.writer.refusing):
            self.refuse(Reason.STORAGE if service.ready else Reason.STOPPING, "not ready")
            return
        self.close = self.close or self.connection.close_behind(self)
        text = _ROBOTS if self.route.kind is Kind.ROBOTS else "capture"
        cors = cors_headers(self.origin)
        self.response = render_text(200, text, cors, service.date, close=self.close, head=self.head)
        service.count_answer(self.method, self.route.name, 200)

    def not_stored(self) -> None:
        self.refuse(Reason.STORAGE, REFUSALS[Reason.STORAGE].detail)
        self.connection.flush()

    def refuse(self, reason: Reason, detail: str, *, allowed: str = "") -> None:
        """Fill in an error answer."""
        service = self.connection.service
        self.close = self.close or self.connection.close_behind(self)
        service.count_refusal(
            reason, self.method if self.method in METHODS else "other", self.route.name if self.route else OTHER
        )
        self.response = render_refusal(
            reason,
            detail,
            cors_headers(self.origin),
            service.date,
            retry_after=service.retry_after(),
            allow=allowed,
            body=b"" if self.v1 is None else error_body(reason, detail),
            extra=b"" if self.v1 is None else self.v1.headers + error_headers(reason),
            close=self.close,
            head=self.head,
        )
