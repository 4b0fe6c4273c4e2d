"""ClickHouse's engine behind its HTTP interface, as far as inserts and the tests need that: not the server's own code.

Started by `clickhouse.py` with a Python that has chdb, as `clickhouse_front.py FOLDER PORT`; says `ready PORT` and serves until
killed. What a query is answered with, errors and their codes included, is the engine's.
"""

import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# Installed where this runs, not where it is checked.
import chdb.session  # type: ignore[import-not-found]
import zstandard
from chdb.state.sqlitelike import ChdbError  # type: ignore[import-not-found]

_HTTP_ONLY = {"query", "wait_end_of_query"}
_STATUS = {
    16: 404,
    60: 404,
    81: 404,
    516: 403,
    497: 403,
    26: 400,
    27: 400,
    38: 400,
    41: 400,
    62: 400,
    72: 400,
    117: 400,
    376: 400,
}


def main(folder: str, port: int) -> None:
    session: Any = chdb.session.Session(folder)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Encoding") == "zstd":
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            given = dict(parse_qsl(urlsplit(self.path).query))
            query = given["query"] if "query" in given else data.decode()
            settings = ", ".join(f"{name} = '{value}'" for name, value in given.items() if name not in _HTTP_ONLY)
            if insert := re.fullmatch(r"INSERT INTO (\S+) \((.+)\) FORMAT JSONEachRow", query) if not data else None:
                # The server's HTTP interface takes one without rows, the engine's own client does not.
                query = f"INSERT INTO {insert[1]} ({insert[2]}) SELECT {insert[2]} FROM {insert[1]} WHERE 0"
            elif "query" in given and settings:
                # The format comes last, and behind it the rows.
                query = query.replace(" FORMAT ", f" SETTINGS {settings} FORMAT ") + "\n" + data.decode()
            try:
                with lock:
                    answer = session.query(query, "JSONEachRow").bytes() or b""
                headers, status = {"X-ClickHouse-Summary": "{}"}, 200
            except ChdbError as error:
                answer = str(error).encode()
                found = re.match(r"Code: (\d+)", str(error))
                code = int(found[1]) if found else 1001
                headers, status = {"X-ClickHouse-Exception-Code": str(code)}, _STATUS.get(code, 500)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    print(f"ready {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
