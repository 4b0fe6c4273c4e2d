"""The floor: the least a Python server can do. uvloop, a Protocol, and one ready-made answer per request.

It finds out where a request ends and nothing else. A capture edge is measured as a multiple of this, because both pay
alike for the kernel, for the loop and for the machine of the day.

    python -m bench.floor PORT
"""

import asyncio
import sys
from typing import Final, cast

import uvloop

ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"Content-Length: 12\r\n\r\n"
    b'{"status":1}'
)


class FloorProtocol(asyncio.Protocol):
    """Answers every request when its last byte has arrived. One without Content-Length has no body."""

    def __init__(self) -> None:
        self._pieces = b""
        self._usual_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        # As long as the request before and alone: taken for a whole one unread, or looking for the end would become a
        # part of the floor (0.5 us of it). A piece that long by chance would show as an error, never as a better figure.
        if len(data) == self._usual_bytes and not self._pieces:
            self._transport.write(ANSWER)
        else:
            self._pieces = self._answer(self._pieces + data)

    def _answer(self, data: bytes) -> bytes:
        """Answer every complete request in `data` and return the bytes that are left."""
        while data:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                break
            length_at = data.find(b"\r\nContent-Length:", 0, head_end)
            request_bytes = head_end + 4
            if length_at >= 0:
                request_bytes += int(data[length_at + 17 : data.index(b"\r\n", length_at + 2)])
            if len(data) < request_bytes:
                break
            self._usual_bytes = request_bytes
            self._transport.write(ANSWER)
            data = data[request_bytes:]
        return data


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until cancelled; 0 picks a free port. Prints the address when it listens."""
    server = await asyncio.get_running_loop().create_server(FloorProtocol, "127.0.0.1", port, backlog=1024)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
