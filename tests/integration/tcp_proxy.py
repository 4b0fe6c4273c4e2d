"""A TCP proxy in front of one server that can lose what the server answers."""

import socket
import threading
from typing import Final, Self

_RECEIVE_BYTES: Final = 65536


class TcpProxy:
    """Listens on `port` and copies bytes both ways, a thread for each, until `__exit__`."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost_bytes = 0
        """Answers that the server gave and nobody received."""
        self._losing = threading.Event()
        self._hanging_up = threading.Event()
        self._refusing = threading.Event()
        self._forgotten: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        # A blocked accept does not notice that its socket is closed, a shutdown it does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def lose_answers(self, *, hang_up: bool = False) -> None:
        """What clients send goes through, what the server answers does not; or it ends the connection."""
        if hang_up:
            self._hanging_up.set()
        self._losing.set()

    def forget_connections(self) -> None:
        """Those that are there carry no answer any more and stay open; new ones work."""
        with self._lock:
            self._forgotten |= self._open

    def refuse(self) -> None:
        """End every connection, new ones at once."""
        self._refusing.set()
        self.cut()

    def mend(self) -> None:
        """End the connections that lost something; new ones work."""
        for trouble in (self._losing, self._hanging_up, self._refusing):
            trouble.clear()
        self.cut()

    def cut(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # The other side was faster.
                    continue

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing.is_set():
                client.close()
                continue
            try:
                server = socket.create_connection(self._server, 20)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, target, answers in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._copy, args=(source, target, answers))
                self._threads.append(thread)
                thread.start()

    def _copy(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(_RECEIVE_BYTES):
                if answers and (self._losing.is_set() or source in self._forgotten):
                    self.lost_bytes += len(data)
                    if self._hanging_up.is_set():
                        break
                    continue
                target.sendall(data)
        except OSError:
            # Cut by the test or by either side; what was to be said to the other side is the same.
            pass
        finally:
            with self._lock:
                self._open.discard(source)
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            source.close()
