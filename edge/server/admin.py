"""The admin port: probes and metrics, on a thread of the parent, so that they answer while a worker does not.

Off the hot path the standard library's server is enough.
"""

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer, TCPServer
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from edge.notation import Address

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 10
CLOSE_POLL_S: Final = 0.05
"""How long `close` may take."""


class Check(msgspec.Struct, frozen=True):
    """One thing a probe looks at, with a sentence for whoever is woken by it."""

    name: str
    passed: bool
    why: str


class Probes(msgspec.Struct, frozen=True):
    """What the admin port answers from; each is called per request, from several threads."""

    liveness: Callable[[], list[Check]]
    readiness: Callable[[], list[Check]]
    metrics: Callable[[], str]


_LIVENESS: Final = ("/_liveness", "/livez")
_READINESS: Final = ("/_readiness", "/readyz", "/healthz")


class AdminServer:
    """Listens from construction on; raises `OSError` when it cannot."""

    def __init__(self, address: Address, probes: Probes) -> None:
        class Handler(_Handler):
            timeout = REQUEST_TIMEOUT_S

            def __init__(self, request: object, client_address: object, server: BaseServer) -> None:
                self.probes = probes
                super().__init__(request, client_address, server)  # type: ignore[arg-type]

        self._server = _Server(address, Handler)
        self.address = Address(address.host, self._server.server_port)
        threading.Thread(
            target=self._server.serve_forever, args=(CLOSE_POLL_S,), name="edge-admin", daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Address, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), handler)

    def server_bind(self) -> None:
        # The base class also looks up the host's full name, which takes as long as the name server pleases.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("the admin port could not answer", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    probes: Probes

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        path = target.path.rstrip("/") or "/"
        if path in _LIVENESS:
            self._answer_checks(self.probes.liveness(), verbose="verbose" in target.query)
        elif path in _READINESS:
            self._answer_checks(self.probes.readiness(), verbose="verbose" in target.query)
        elif path == "/metrics":
            self._answer(200, self.probes.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self._answer(404, "expected /_liveness, /_readiness or /metrics\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer_checks(self, checks: list[Check], *, verbose: bool) -> None:
        status = 200 if all(check.passed for check in checks) else 503
        if verbose:
            self._answer(status, json.dumps(msgspec.to_builtins(checks), indent=2) + "\n", "application/json")
        else:
            failed = "; ".join(f"{check.name}: {check.why}" for check in checks if not check.passed)
            self._answer(status, (failed or "ok") + "\n")

    def _answer(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Probes come every second and are not worth a line each."""
