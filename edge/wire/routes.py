"""Path → endpoint: every path the public port answers, a table.

Every path exists with and without the trailing slash and is never redirected: a redirect loses the body in some clients.
"""

import re
from enum import Enum
from typing import Final

import msgspec


class Kind(Enum):
    """What answers a path."""

    CAPTURE = "capture"
    CAPTURE_V1 = "capture_v1"
    BANNER = "banner"
    LIVENESS = "liveness"
    READINESS = "readiness"
    ROBOTS = "robots"


class Route(msgspec.Struct, frozen=True):
    """One endpoint. `name` is the metric label and, for capture routes, the record's `path`."""

    name: str
    kind: Kind
    methods: frozenset[str]
    replay: bool = False
    """Session replay: bodies are large and have a limit of their own."""
    mixpanel: bool = False
    """Mixpanel's libraries send here, and some of them take nothing but `1` for a success."""
    plain_capture: bool = False
    """Takes events, with nothing special about it: nearly all requests."""


_CAPTURE_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_V1_METHODS: Final = frozenset({"POST", "OPTIONS"})
_PAGE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

MIXPANEL_PATHS: Final = ("track", "engage", "groups", "import")
CAPTURE_PATHS: Final = ("e", "capture", *MIXPANEL_PATHS, "i/v0/e", "batch", "i/v0/ai/batch", "s")
_SPECIAL: Final = {"s", *MIXPANEL_PATHS}
V1_PATHS: Final = ("i/v1/analytics/events", "i/v1/ai/events")

_PAGES: Final = {
    "": Kind.BANNER,
    "_liveness": Kind.LIVENESS,
    "_readiness": Kind.READINESS,
    "robots.txt": Kind.ROBOTS,
}

_NAMED: Final = [
    *(
        Route(name, Kind.CAPTURE, _CAPTURE_METHODS, name == "s", name in MIXPANEL_PATHS, name not in _SPECIAL)
        for name in CAPTURE_PATHS
    ),
    *(Route(name, Kind.CAPTURE_V1, _V1_METHODS) for name in V1_PATHS),
    *(Route(name or "/", kind, _PAGE_METHODS) for name, kind in _PAGES.items()),
]

OTHER: Final = "other"
"""Metric label of every path that is no route: a scanner must not grow the set of series."""


def _spellings(route: Route) -> list[bytes]:
    path = b"/" + route.name.strip("/").encode()
    return [path] if path == b"/" else [path, path + b"/"]


ROUTES: Final[dict[bytes, Route]] = {path: route for route in _NAMED for path in _spellings(route)}
PLAIN_ROUTES: Final = {path: route for path, route in ROUTES.items() if route.plain_capture}
ROUTE_NAMES: Final = (*(route.name for route in _NAMED), OTHER)


def find_route(target: bytes) -> tuple[Route | None, bytes]:
    """The route of a request target, and its query. Absolute form (RFC 9112 section 3.2.2) counts by its path."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/"):
        rest = behind_scheme(path)
        path = b"/" + rest.partition(b"/")[2] if rest else b""
    return ROUTES.get(path), query


def authority(target: bytes) -> bytes:
    """The host, with its port, that a request target in absolute form names; empty for any other form."""
    if target.startswith(b"/"):
        return b""
    return re.split(rb"[/?#]", behind_scheme(target), maxsplit=1)[0].rpartition(b"@")[2]


def behind_scheme(target: bytes) -> bytes:
    """What follows `http://` or `https://` in a request target; empty where neither begins it."""
    scheme, _, rest = target.partition(b"://")
    return rest if scheme.lower() in (b"http", b"https") else b""


def allow(route: Route) -> str:
    """The `Allow` header of a 405."""
    return ", ".join(sorted(route.methods))
