"""FastAPI on uvicorn with uvloop and httptools."""

import sys

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from bench.peers.job import PATHS, REFUSED, STATUS, accept

app = FastAPI()


async def capture(request: Request) -> dict[str, int]:
    body = await request.body()
    if not accept(body, request.query_params):
        raise HTTPException(400, REFUSED)
    return STATUS


for path in PATHS:
    app.api_route(path, methods=["GET", "POST"])(capture)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, backlog=1024)
