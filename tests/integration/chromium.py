"""A headless Chromium, and the pages it visits: served from here, on another origin than the edge."""

import json
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

PAGES: Final = Path(__file__).with_name("pages")
READY_S: Final = 30.0
"""For a page to run its scripts."""
ARRIVE_S: Final = 60.0
"""For what a page captured to be delivered: libraries collect for seconds, and wait for seconds before they try again."""

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_TYPES: Final = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript"}

APPLICATION: Final = {
    "supportedCompression": ["gzip-js"],
    "sessionRecording": {"endpoint": "/s/", "version": "v2", "recorderVersion": "v2"},
    "analytics": {"endpoint": "/i/v0/e/"},
    "capturePageleave": True,
    "hasFeatureFlags": False,
    "featureFlags": {},
    "surveys": False,
    "heatmaps": False,
    "capturePerformance": False,
    "autocaptureExceptions": False,
    "autocapture_opt_out": False,
    "isAuthenticated": False,
    "siteApps": [],
    "config": {"enable_collect_everything": True},
    "editorParams": {},
    "toolbarParams": {},
}
"""The project's settings, in one answer for all the versions of all the calls that ask for them."""


class PageServer:
    """`http://localhost:PORT`, with the pages of the tests, the files of npm packages below `/packages/`, and the settings."""

    def __init__(self, packages: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.startswith("/application/"):
                    return self._answer(json.dumps(APPLICATION).encode(), "application/json")
                below = packages if path.startswith("/packages/") else PAGES
                file = below / path.removeprefix("/packages").lstrip("/")
                if not file.is_file():
                    return self._answer(b"", "text/plain", HTTPStatus.NOT_FOUND)
                return self._answer(file.read_bytes(), _TYPES.get(file.suffix, "application/octet-stream"))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.do_GET()

            def _answer(self, body: bytes, content_type: str, status: HTTPStatus = HTTPStatus.OK) -> None:
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name it is called with
                """Quiet: what matters is what arrives at the edge."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Browser:
    """Chromium with a profile nobody used before, from entering to leaving."""

    def __init__(self, chromium: str, chromedriver: str, profile: Path, pages: PageServer) -> None:
        self._options = webdriver.ChromeOptions()
        self._options.binary_location = chromium
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            self._options.add_argument(flag)
        self._service = Service(chromedriver)
        self._pages = pages

    def __enter__(self) -> Self:
        self._driver = webdriver.Chrome(options=self._options, service=self._service)
        return self

    def __exit__(self, *exception: object) -> None:
        self._driver.quit()

    def visit(self, page: str, query: Sequence[tuple[str, str]] = ()) -> None:
        """Leave where we are for a page of ours, and wait until it has done what it does at its start."""
        self._driver.get(f"{self._pages.url}/{page}?{urlencode(query)}")
        WebDriverWait(self._driver, READY_S).until(lambda driver: driver.title != "loading")

    def click(self, element_id: str) -> None:
        self._driver.find_element(By.ID, element_id).click()

    def run(self, script: str) -> Any:
        """What `script` returns."""
        return self._driver.execute_script(script)
