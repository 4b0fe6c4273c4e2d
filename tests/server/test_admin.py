import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from edge.notation import Address
from edge.server.admin import AdminServer, Check, Probes

FINE = Check("worker-0", True, "accepting")
BAD = Check("worker-1", False, "the disk refuses commits")


class State:
    """What the probes say, for a test to change."""

    def __init__(self) -> None:
        self.liveness = [FINE]
        self.readiness = [FINE]
        self.metrics = "# HELP a b\n"
        self.fault: Exception | None = None

    def read_metrics(self) -> str:
        if self.fault is not None:
            raise self.fault
        return self.metrics


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def admin(state: State) -> Iterator[AdminServer]:
    probes = Probes(lambda: state.liveness, lambda: state.readiness, state.read_metrics)
    server = AdminServer(Address("127.0.0.1", 0), probes)
    yield server
    server.close()


def ask(admin: AdminServer, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(admin.address.host, admin.address.port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, response.read().decode(), headers
    finally:
        connection.close()


LIVENESS = ("/_liveness", "/_liveness/", "/livez", "/livez?x=1")
READINESS = ("/_readiness", "/_readiness/", "/readyz", "/healthz")


@pytest.mark.parametrize("path", [*LIVENESS, *READINESS])
def test_all_is_well(admin: AdminServer, path: str) -> None:
    status, text, headers = ask(admin, path)
    assert (status, text) == (200, "ok\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", READINESS)
def test_what_is_not_ready_is_named(admin: AdminServer, state: State, path: str) -> None:
    state.readiness = [FINE, BAD]
    assert ask(admin, path)[:2] == (503, "worker-1: the disk refuses commits\n")
    assert ask(admin, "/livez")[0] == 200


@pytest.mark.parametrize("path", LIVENESS)
def test_what_is_stuck_is_named(admin: AdminServer, state: State, path: str) -> None:
    state.liveness = [BAD]
    assert ask(admin, path)[:2] == (503, "worker-1: the disk refuses commits\n")
    assert ask(admin, "/readyz")[0] == 200


@pytest.mark.parametrize("path", ["/_readiness?verbose", "/readyz?verbose=1", "/healthz/?verbose"])
def test_verbose_tells_every_check(admin: AdminServer, state: State, path: str) -> None:
    state.readiness = [FINE, BAD]
    status, text, headers = ask(admin, path)
    assert (status, headers["content-type"]) == (503, "application/json")
    assert json.loads(text) == [
        {"name": "worker-0", "passed": True, "why": "accepting"},
        {"name": "worker-1", "passed": False, "why": "the disk refuses commits"},
    ]


def test_metrics_are_the_text_format(admin: AdminServer, state: State) -> None:
    status, text, headers = ask(admin, "/metrics")
    assert (status, text) == (200, state.metrics)
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/e/", "/metrics/x", "/_livenes"])
def test_other_paths_are_not_there_and_say_what_is(admin: AdminServer, path: str) -> None:
    assert ask(admin, path)[:2] == (404, "expected /_liveness, /_readiness or /metrics\n")


def test_head_is_get_without_the_body(admin: AdminServer) -> None:
    status, text, headers = ask(admin, "/metrics", "HEAD")
    assert (status, text, headers["content-length"]) == (200, "", "11")


def test_several_requests_go_over_one_connection(admin: AdminServer) -> None:
    connection = http.client.HTTPConnection(admin.address.host, admin.address.port, timeout=20)
    for path in ("/livez", "/nothing", "/readyz"):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.read()
        assert not response.will_close
    connection.close()


def test_a_client_that_does_nothing_keeps_nobody_waiting(admin: AdminServer) -> None:
    with socket.create_connection((admin.address.host, admin.address.port)) as silent:
        silent.send(b"GET ")
        assert ask(admin, "/livez")[0] == 200


def test_a_probe_that_fails_is_logged_and_the_next_one_answered(
    admin: AdminServer, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    state.fault = RuntimeError("no board")
    with pytest.raises(http.client.RemoteDisconnected):
        ask(admin, "/metrics")
    assert ask(admin, "/livez")[0] == 200
    (record,) = caplog.records
    assert record.message == "the admin port could not answer"


def test_it_listens_on_ipv6_too(state: State) -> None:
    probes = Probes(lambda: state.liveness, lambda: state.readiness, lambda: state.metrics)
    server = AdminServer(Address("::1", 0), probes)
    try:
        assert ask(server, "/livez")[0] == 200
        assert str(server.address).startswith("[::1]:")
    finally:
        server.close()


def test_no_name_is_looked_up(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer would hold up the start."""

    def look_up(name: str = "") -> str:
        raise AssertionError(name)

    monkeypatch.setattr(socket, "getfqdn", look_up)
    probes = Probes(lambda: state.liveness, lambda: state.readiness, lambda: state.metrics)
    AdminServer(Address("127.0.0.1", 0), probes).close()


def test_a_port_in_use_is_an_error(admin: AdminServer, state: State) -> None:
    probes = Probes(lambda: state.liveness, lambda: state.readiness, lambda: state.metrics)
    with pytest.raises(OSError, match="in use"):
        AdminServer(admin.address, probes)
