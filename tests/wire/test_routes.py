import pytest

from edge.wire.routes import (
    CAPTURE_PATHS,
    MIXPANEL_PATHS,
    OTHER,
    ROUTE_NAMES,
    ROUTES,
    Kind,
    allow,
    authority,
    find_route,
)


@pytest.mark.parametrize("path", CAPTURE_PATHS)
@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "with a slash"])
def test_a_capture_path_is_one_with_and_without_its_slash(path: str, slash: str) -> None:
    route, query = find_route(f"/{path}{slash}?ip=1&_=2".encode())
    assert route is not None
    assert (route.name, route.kind, query) == (path, Kind.CAPTURE, b"ip=1&_=2")
    assert route.methods == {"GET", "HEAD", "POST", "OPTIONS"}


def test_only_what_needs_nothing_special_is_plain() -> None:
    assert {route.name for route in ROUTES.values() if route.replay} == {"s"}
    assert {route.name for route in ROUTES.values() if route.mixpanel} == {*MIXPANEL_PATHS}
    assert {route.name for route in ROUTES.values() if route.plain_capture} == {*CAPTURE_PATHS} - {"s", *MIXPANEL_PATHS}


TARGETS = {
    "banner": (b"/", Kind.BANNER, b""),
    "banner with a query": (b"/?a=1", Kind.BANNER, b"a=1"),
    "liveness": (b"/_liveness", Kind.LIVENESS, b""),
    "readiness with a slash": (b"/_readiness/", Kind.READINESS, b""),
    "robots": (b"/robots.txt", Kind.ROBOTS, b""),
    "a second question mark belongs to the query": (b"/e?data=a?b", Kind.CAPTURE, b"data=a?b"),
    "absolute form": (b"http://edge.example/e/?a=1", Kind.CAPTURE, b"a=1"),
    "absolute form over TLS, in capitals": (b"HTTPS://edge.example:443/batch", Kind.CAPTURE, b""),
    "absolute form without a path": (b"http://edge.example", Kind.BANNER, b""),
    "absolute form without a path, with a query": (b"http://edge.example?a=1", Kind.BANNER, b"a=1"),
    "absolute form with a URL in the query": (b"http://edge.example/e?u=http://x/", Kind.CAPTURE, b"u=http://x/"),
}


@pytest.mark.parametrize(("target", "kind", "query"), TARGETS.values(), ids=TARGETS)
def test_a_target_is_a_path_and_a_query(target: bytes, kind: Kind, query: bytes) -> None:
    route, found = find_route(target)
    assert route is not None
    assert (route.kind, found) == (kind, query)


AUTHORITIES = {
    "origin form": (b"/e/?u=http://x/", b""),
    "absolute form": (b"http://edge.example/e/", b"edge.example"),
    "absolute form in capitals, with a port": (b"HTTPS://Edge.example:443?a=1", b"Edge.example:443"),
    "absolute form with a user": (b"http://a:b@edge.example#c", b"edge.example"),
    "absolute form of IPv6": (b"http://[::1]:80/e", b"[::1]:80"),
    "other scheme": (b"ftp://edge.example/e/", b""),
    "asterisk": (b"*", b""),
    "authority": (b"edge.example:443", b""),
}


@pytest.mark.parametrize(("target", "host"), AUTHORITIES.values(), ids=AUTHORITIES)
def test_only_absolute_form_names_a_host(target: bytes, host: bytes) -> None:
    assert authority(target) == host


NOWHERE = {
    "unknown": b"/decide",
    "in capitals": b"/E/",
    "two slashes before": b"//e/",
    "two slashes behind": b"/e//",
    "prefix": b"/capture-it",
    "escaped": b"/%65/",
    "asterisk": b"*",
    "authority": b"edge.example:443",
    "other scheme": b"ftp://edge.example/e/",
    "path without its slash": b"e/",
    "empty": b"",
}


@pytest.mark.parametrize("target", NOWHERE.values(), ids=NOWHERE)
def test_everything_else_leads_nowhere(target: bytes) -> None:
    assert find_route(target)[0] is None


def test_the_metric_labels_are_the_routes_and_one_for_the_rest() -> None:
    assert set(ROUTE_NAMES) == {route.name for route in ROUTES.values()} | {OTHER}
    assert len(set(ROUTE_NAMES)) == len(ROUTE_NAMES)


def test_allow_lists_the_methods_in_a_fixed_order() -> None:
    assert allow(ROUTES[b"/e"]) == "GET, HEAD, OPTIONS, POST"
    assert allow(ROUTES[b"/"]) == "GET, HEAD, OPTIONS"
