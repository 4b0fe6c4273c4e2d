"""aiohttp's server on uvloop. It undoes a Content-Encoding by itself."""

import sys

import uvloop
from aiohttp import web

from bench.peers.job import PATHS, REFUSED, STATUS, accept


async def capture(request: web.Request) -> web.Response:
    if accept(await request.read(), request.query):
        return web.json_response(STATUS)
    return web.json_response(REFUSED, status=400)


app = web.Application(client_max_size=20 * 1024 * 1024)
app.add_routes([web.route("*", path, capture) for path in PATHS])

if __name__ == "__main__":
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=1024, loop=loop)
