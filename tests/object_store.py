"""An S3 server of the tests' own: moto's, in a process of its own."""

import re
import subprocess
import sys
import threading
from http.client import HTTPConnection
from typing import Final, Self
from urllib.parse import quote
from xml.etree import ElementTree as ET

import obstore
from obstore.store import S3Store

_KEYS: Final = "{http://s3.amazonaws.com/doc/2006-03-01/}Key"


class ObjectStore:
    """It keeps its objects as long as it lives."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        """Answered, ours included until `reset`."""
        self._process: subprocess.Popen[str] | None = None
        self._log: threading.Thread | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        assert self.port, "the object store did not start"
        self._log = threading.Thread(target=self._count)
        self._log.start()
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        assert self._log is not None
        self._process.kill()
        self._process.wait()
        self._log.join()
        self._process.stderr.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of it needs."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def reset(self) -> None:
        self._request("POST", "/moto-api/reset")

    def create(self, bucket: str) -> None:
        self._request("PUT", f"/{bucket}")

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """In their order, up to a thousand."""
        answer = self._request("GET", f"/{bucket}?list-type=2&prefix={quote(prefix, safe='')}")
        return [each.text or "" for each in ET.fromstring(answer).iter(_KEYS)]

    def get(self, bucket: str, key: str) -> bytes:
        return bytes(obstore.get(self._client(bucket), key).bytes())

    def put(self, bucket: str, key: str, data: bytes) -> None:
        obstore.put(self._client(bucket), key, data)

    def _client(self, bucket: str) -> S3Store:
        keys = {"access_key_id": "test", "secret_access_key": "test"}
        return S3Store(bucket, endpoint=self.url, region="us-east-1", client_options={"allow_http": True}, **keys)  # type: ignore[arg-type]

    def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status < 300, f"{method} {path}: {response.status} {answer[:300]!r}"
        return answer

    def _count(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.requests += '" 2' in line
