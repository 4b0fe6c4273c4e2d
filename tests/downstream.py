"""A capture service of the tests' own: real sockets, answers as it is told, remembers every event it took.

It takes an event when it means to answer 2xx, whether or not the answer arrives: that is what makes duplicates.
"""

import gzip
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import msgspec

Event = dict[str, Any]


class Call(msgspec.Struct):
    """A request as it arrived. `events` is empty where the body was no batch."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """The JSON, out of its gzip."""
    events: list[Event]
    size: int
    """Bytes on the wire."""
    method: str = "POST"


class Reply(msgspec.Struct):
    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b'{"status":"Ok"}'
    hang_up: bool = False
    """Close the connection instead of answering."""
    gate: threading.Event | None = None
    """Answer only when it is set."""


TAKE = Reply()


class Downstream:
    """`rule` says what to answer, and may be changed at any time."""

    def __init__(
        self,
        rule: Callable[[Call], Reply] = lambda call: TAKE,
        *,
        keep_calls: bool = True,
        certificate: Path | None = None,
    ) -> None:
        self.rule = rule
        self.calls: list[Call] = []
        self.questions: list[Call] = []
        """Requests that bring no events."""
        self.requests = 0
        self.answers: Counter[int] = Counter()
        """By status, 0 for a connection closed instead."""
        self.taken: Counter[tuple[str, str, str, str]] = Counter()
        """How often each (uuid, event, timestamp, distinct_id) was taken."""
        self.order: dict[tuple[str, str], list[str]] = {}
        """Uuids by (token, distinct_id), in the order in which they were first taken."""
        self._keep_calls = keep_calls
        self._lock = threading.Lock()
        downstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                downstream._answer(self)

            def do_OPTIONS(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.path, headers, None, [], 0, "OPTIONS")
                downstream.questions.append(call)
                downstream._send(self, downstream.rule(call))

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away is what the tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"posthog+{self._scheme}://127.0.0.1:{self.port}"

    @property
    def merged(self) -> set[tuple[str, str, str, str]]:
        """What is left when duplicates are merged as PostHog does."""
        return set(self.taken)

    @property
    def duplicates(self) -> int:
        return self.taken.total() - len(self.taken)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        text = gzip.decompress(data) if headers.get("content-encoding") == "gzip" else data
        body = json.loads(text)
        events = body if isinstance(body, list) else body.get("batch", [])
        call = Call(handler.path, headers, body, events, len(data))
        reply = self.rule(call)
        with self._lock:
            self.requests += 1
            if self._keep_calls:
                self.calls.append(call)
            self.answers[0 if reply.hang_up else reply.status] += 1
            if reply.status < 300:
                self._take(body, events)
        self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.gate is not None:
            reply.gate.wait(60)
        if reply.hang_up:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body)

    def _take(self, body: Any, events: list[Event]) -> None:
        for event in events:
            key = event["uuid"], event["event"], event["timestamp"], event["distinct_id"]
            if key not in self.taken:
                token = body["api_key"] if isinstance(body, dict) else event["token"]
                self.order.setdefault((token, event["distinct_id"]), []).append(event["uuid"])
            self.taken[key] += 1
