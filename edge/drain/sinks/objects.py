"""`s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`: one immutable object per batch.

    PREFIX/slot-00/000000000042-9f31c0aa17be5d02/000000000048-000000012345.ndjson.zst

The key says which bytes of which segment the events come from. An object is put whole, and only where there is none of that key
(If-None-Match), so an attempt whose answer was lost finds what it put, with the size it has to have. The first time a segment
is met, its keys are listed: after a crash the store itself tells what was shipped. No event is there twice, none is missing.

Objects hold events, not segments: a segment's records are requests, whose events have no uuid and no time before they are
expanded, and a segment of a worker that died may be worth shipping before it is whole.

Options of the URL:

    format=ndjson.zst|parquet
    shape=event|captured         of the lines; Parquet has columns instead
    every=10s                    shortest time between two objects of a slot
    endpoint=URL                 a store with the same protocol (s3 and az)
    region=NAME                  (s3)

Credentials, and all else, come from the environment: `AWS_*`, `GOOGLE_*`, `AZURE_*`, as the object_store library reads them.
"""

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import xxhash
import zstandard

from edge.drain.event import Event
from edge.drain.shapes import SHAPES, row_line
from edge.drain.sink import READ_BYTES, Batch, Paused, Refusal, Retryable, Sink, SinkUrl
from edge.drain.sinks.parquet import ParquetEncoder, linger_of, require_duckdb
from edge.segment.name import SegmentName

if TYPE_CHECKING:
    from obstore.store import ObjectStore

EVERY: Final = "10s"
TIMEOUT: Final = "30s"
CONNECT_TIMEOUT: Final = "5s"

_FORMATS: Final = ("ndjson.zst", "parquet")
_KEY: Final = re.compile(r"(\d+)-(\d+)\.(?:ndjson\.zst|parquet)")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_REDIRECT: Final = "redirect without LOCATION"
_BUSY: Final = frozenset({408, 409, 425, 429})
_OPTIONS: Final = {
    "s3": ("format", "shape", "every", "endpoint", "region"),
    "gs": ("format", "shape", "every"),
    "az": ("format", "shape", "every", "endpoint"),
}
_NO_SEGMENT: Final = SegmentName(0, 0)
_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


class ObjectSink:
    read_bytes = READ_BYTES
    by_range = True

    def __init__(self, store: "ObjectStore", prefix: str, shape: str, file_format: str, linger_s: float) -> None:
        self.linger_s = linger_s
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""
        self._line = SHAPES[shape]
        self._format = file_format
        self._encoder = ParquetEncoder()
        self._published: dict[tuple[int, SegmentName], dict[int, int]] = {}
        """Where the objects that an earlier process put begin and end, of the newest segment of each slot."""

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        if (slot, name) not in self._published:
            found = self._list(f"{self._prefix}slot-{slot:02d}/{name}")
            self._published = {key: ends for key, ends in self._published.items() if key[0] != slot}
            self._published[slot, name] = found
        return self._published[slot, name].get(start)

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def ship(self, batch: Batch) -> int:
        published = self._published.get((batch.slot, batch.name), {})
        # What was published may reach further: a power cut can take back frames that were shipped and never acknowledged.
        if not batch.events or published.get(batch.start, 0) >= batch.end:
            return 0
        key = f"{self._prefix}slot-{batch.slot:02d}/{batch.name}/{batch.start:012d}-{batch.end:012d}.{self._format}"
        data = self._encode(batch.events)
        self._put(key, data)
        return len(data)

    def probe(self) -> str:
        """By a listing, as after every start, of a segment there never is. Whether objects may be put only a batch tells."""
        self._list(f"{self._prefix}slot-00/{_NO_SEGMENT}")
        return "objects can be listed; whether they may be put only a batch tells"

    def close(self) -> None:
        self._encoder.close()

    def _encode(self, events: list[Event]) -> bytes:
        if self._format == "parquet":
            try:
                return self._encoder.encode([row_line(event) for event in events])
            except OSError as error:
                raise Retryable(f"parquet: {error}") from error
        lines = b"".join([self._line(event) + b"\n" for event in events])
        return zstandard.ZstdCompressor(write_checksum=True).compress(lines)

    def _list(self, prefix: str) -> dict[int, int]:
        import obstore
        from obstore.exceptions import BaseError

        ends: dict[int, int] = {}
        try:
            for found in obstore.list(self._store, prefix):
                for each in found:
                    match = _KEY.fullmatch(each["path"].rpartition("/")[2])
                    if match and each["size"]:
                        ends[int(match[1])] = max(ends.get(int(match[1]), 0), int(match[2]))
        except (BaseError, OSError) as error:
            raise refusal_of(error) from error
        return ends

    def _put(self, key: str, data: bytes) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            # In one request: parts would not be create-if-absent.
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # An attempt before this one, whose answer was lost.
            pass
        except (BaseError, OSError) as error:
            raise refusal_of(error) from error
        try:
            size = obstore.head(self._store, key)["size"]
        except FileNotFoundError as error:
            # The bucket is there, so somebody else is putting the same key or took the object away.
            raise Retryable(f"expected an object at {key}, found none") from error
        except (BaseError, OSError) as error:
            raise refusal_of(error) from error
        if size != len(data):
            raise Paused(f"expected {len(data)} bytes at {key}, found {size}: another program wrote that object")


def refusal_of(error: Exception) -> Refusal:
    """What an error of the store means for the batch. No single event is ever at fault."""
    from obstore.exceptions import GenericError

    # What follows is the same once more, for those who debug the library.
    why = " ".join(str(error).partition("\n\nDebug source:")[0].split())
    if not isinstance(error, GenericError):
        # NotFound, which is the bucket, Unauthenticated, PermissionDenied, InvalidPath, …
        return Paused(why)
    match = _STATUS.search(why)
    status = int(match[1]) if match else 0
    if "<Code>RequestTimeout</Code>" in why:
        # Amazon's word for a connection that broke off, with status 400.
        return Retryable(why)
    return Paused(why) if (300 <= status < 500 and status not in _BUSY) or _REDIRECT in why else Retryable(why)


def make(url: SinkUrl) -> tuple[str, Sink]:
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'{url.scheme}: expected the package obstore: pip install "capture-edge[s3]" ({error})'
        ) from error
    for name in url.options:
        if name not in _OPTIONS[url.scheme]:
            raise ValueError(f"{url.scheme}: expected the options {', '.join(_OPTIONS[url.scheme])}, found {name!r}")
    chosen = {name: value for name, value in url.options.items() if name in ("format", "shape")}
    options = SinkUrl(url.scheme, url.target, chosen).take(format=_FORMATS, shape=tuple(SHAPES))
    bucket, _, prefix = url.target.removeprefix("//").partition("/")
    if not url.target.startswith("//") or not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{url.scheme}: expected a bucket, as in {url.scheme}://BUCKET/PREFIX, found {url.target!r}")
    prefix = prefix.strip("/")
    if options["format"] == "parquet":
        require_duckdb(url.scheme)
        if "shape" in url.options:
            raise ValueError(f"{url.scheme}: expected no shape with format=parquet, which has columns")
    linger_s = linger_of(url, EVERY)
    endpoint = url.options.get("endpoint", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"{url.scheme}: expected endpoint to be a URL, found {endpoint!r}")
    store = _store(url.scheme, bucket, endpoint, url.options.get("region", ""))
    address = f"{url.scheme}://{bucket}/{prefix} {endpoint}"
    sink = ObjectSink(store, prefix, options["shape"], options["format"], linger_s)
    return f"{url.scheme}-{xxhash.xxh3_64_hexdigest(address.encode())}", sink


def _store(scheme: str, bucket: str, endpoint: str, region: str) -> "ObjectStore":
    """Connects to nobody. Raises `ValueError`."""
    from obstore import store
    from obstore.exceptions import BaseError

    given = [endpoint, *(os.environ.get(name, "") for name in _ENDPOINTS[scheme])]
    plain = next((each for each in given if each), "").startswith("http://")
    client: Any = {"timeout": TIMEOUT, "connect_timeout": CONNECT_TIMEOUT, "allow_http": plain}
    # When to try again is the drainer's to decide.
    retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=30)}
    config = {name: value for name, value in (("endpoint", endpoint), ("region", region)) if value}
    classes: dict[str, Any] = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
    try:
        found: ObjectStore = classes[scheme](bucket, client_options=client, retry_config=retry, **config)
    except (BaseError, ValueError) as error:
        raise ValueError(f"{scheme}: {str(error).partition(chr(10))[0]}") from error
    return found
