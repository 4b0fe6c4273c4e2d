"""Granian, whose HTTP side is written in Rust, by its own interface RSGI. One worker, uvloop."""

import sys
from typing import Any
from urllib.parse import parse_qsl

import orjson
from granian.constants import Interfaces, Loops
from granian.server import Server

from bench.peers.job import REFUSED, STATUS, accept

JSON = [("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    body = await protocol()
    if accept(body, dict(parse_qsl(scope.query_string))):
        protocol.response_bytes(200, JSON, orjson.dumps(STATUS))
    else:
        protocol.response_bytes(400, JSON, orjson.dumps(REFUSED))


if __name__ == "__main__":
    Server(
        "bench.peers.granian_peer:app",
        port=int(sys.argv[1]),
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
        websockets=False,
    ).serve()
