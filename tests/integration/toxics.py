"""A TCP proxy that spoils what passes through it, connection by connection, as networks do."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

import msgspec

_PIECE = 16 * 1024


class Toxic(msgspec.Struct, frozen=True):
    """What happens to one connection. Nothing, as it stands."""

    name: str = "none"
    latency_s: float = 0.0
    """Added to every answer, up to half as much again."""
    bytes_per_s: float = 0.0
    """Of requests; 0 for as fast as it goes."""
    slice_bytes: int = 0
    """Requests arrive in pieces of so many bytes."""
    reset_after_bytes: int = -1
    """The connection is reset when so many bytes of requests have passed."""
    lose_answer: bool = False
    """The request passes, and the connection ends before its answer does."""
    silent: bool = False
    """The request passes, and nothing is heard any more."""


class ToxicProxy:
    """Listens on a port of its own. `choose` says what is to happen to each new connection; existing ones keep theirs."""

    def __init__(self, target_port: int, choose: Callable[[], Toxic] = Toxic) -> None:
        self.choose = choose
        self.applied: Counter[str] = Counter()
        """How often a toxic had its effect, by name."""
        self._target_port = target_port
        self._rng = random.Random(7)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self.cut()

    def cut(self) -> None:
        """End every connection, so that the next requests meet what is chosen now."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self.choose()), daemon=True).start()

    def _serve(self, client: socket.socket, toxic: Toxic) -> None:
        with client:
            try:
                target = socket.create_connection(("127.0.0.1", self._target_port), timeout=60)
            except OSError:
                return
            with target, self._registered(client, target):
                answers = threading.Thread(target=self._answers, args=(target, client, toxic), daemon=True)
                answers.start()
                with contextlib.suppress(OSError):
                    self._requests(client, target, toxic)
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
                answers.join()

    @contextlib.contextmanager
    def _registered(self, *sockets: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.update(sockets)
        try:
            yield
        finally:
            with self._lock:
                self._open.difference_update(sockets)

    def _requests(self, client: socket.socket, target: socket.socket, toxic: Toxic) -> None:
        passed = 0
        while data := client.recv(toxic.slice_bytes or _PIECE):
            passed += len(data)
            if 0 <= toxic.reset_after_bytes < passed:
                self.applied[toxic.name] += 1
                # Closed with nothing lingering: the peer sees a reset, not an end.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return
            if toxic.bytes_per_s:
                self.applied[toxic.name] += 1
                time.sleep(len(data) / toxic.bytes_per_s)
            if toxic.slice_bytes:
                self.applied[toxic.name] += 1
                time.sleep(0.0005)
            target.sendall(data)

    def _answers(self, target: socket.socket, client: socket.socket, toxic: Toxic) -> None:
        with contextlib.suppress(OSError):
            while data := target.recv(_PIECE):
                if toxic.lose_answer:
                    self.applied[toxic.name] += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if toxic.silent:
                    self.applied[toxic.name] += 1
                    continue
                if toxic.latency_s:
                    self.applied[toxic.name] += 1
                    time.sleep(toxic.latency_s * (1 + self._rng.random() / 2))
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
