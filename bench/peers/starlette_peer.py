"""Starlette on uvicorn with uvloop and httptools."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.peers.job import PATHS, REFUSED, STATUS, accept


async def capture(request: Request) -> JSONResponse:
    body = await request.body()
    if accept(body, request.query_params):
        return JSONResponse(STATUS)
    return JSONResponse(REFUSED, 400)


app = Starlette(routes=[Route(path, capture, methods=["GET", "POST"]) for path in PATHS])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, backlog=1024)
