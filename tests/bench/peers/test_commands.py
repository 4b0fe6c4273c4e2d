"""Every peer that can be started here does the job: answers good requests, refuses bad ones, and writes what it took."""

import http.client
from pathlib import Path

import pytest

from bench import payloads
from bench.cpu import two_cores
from bench.peers import commands
from bench.peers.commands import DURABLE_FLOOR, PEERS, Missing, Peer, external
from bench.servers import running

CORE, _ = two_cores()


def answers_every_workload(peer: Peer, folder: Path) -> None:
    with running(peer.command, folder, {CORE}) as server:
        for payload in sorted(set(payloads.NAMES) - peer.leaves_out.keys() - {"mix"}):
            assert server.sample(payloads.build(payload, variants=3), 2, 0.02).requests >= 2
        assert server.data.exists() == (peer.command.label != "floor-c")


def refuses_what_is_no_event(peer: Peer, folder: Path) -> None:
    assert peer.validates
    with running(peer.command, folder, {CORE}) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for body, status in [
            (b'{"api_key":"k","event":"e","distinct_id":"d"}', 200),
            (b'{"api_key":"k","batch":[{"event":"e","distinct_id":"d"},{"event":"e"}]}', 400),
            (b'{"event":"e","distinct_id":"d"}', 400),
            (b"{", 400),
        ]:
            connection.request("POST", "/batch/", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, body
        connection.close()


# Those that need programs beside Python are in tests/integration/test_bench_peers.py.
@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("fastify", "nginx", "floor-c", DURABLE_FLOOR)])
def test_a_peer_answers_every_workload_and_refuses_what_is_no_event(name: str, tmp_path: Path) -> None:
    peer = commands.find(name)
    answers_every_workload(peer, tmp_path / "good")
    refuses_what_is_no_event(peer, tmp_path / "bad")


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name, program in [("nginx", "nginx"), ("fastify", "node"), ("floor-c", "cc"), (DURABLE_FLOOR, "cc")]:
        with pytest.raises(Missing, match=f"expected the program {program}"):
            commands.find(name)


def test_a_server_by_command_line_is_split_as_a_shell_would() -> None:
    peer = external("capture=run 'a b' {port}", {"capture": "/i/v0/e"})
    assert peer.command.label == "capture"
    assert peer.command.arguments == ("run", "a b", "{port}")
    assert (peer.path, peer.validates) == ("/i/v0/e", True)
