"""What of the benchmarks needs programs beside Python: peers node with npm, nginx and a C compiler, counting valgrind."""

import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import payloads, stages
from bench.peers import commands
from bench.servers import ROOT, Command, Failed, running
from tests.bench.peers.test_commands import CORE, answers_every_workload, refuses_what_is_no_event
from tests.integration.shared import installing


def test_fastify_does_what_the_other_peers_do(program: Callable[[str], str], tmp_path: Path) -> None:
    program("node")
    program("npm")
    with installing("bench/node"):
        subprocess.run(["make", ".cache/bench/node/stamp"], cwd=ROOT, check=True)
    peer = commands.find("fastify")
    assert set(peer.versions) == {"node", "fastify"}
    answers_every_workload(peer, tmp_path / "good")
    refuses_what_is_no_event(peer, tmp_path / "bad")


def test_nginx_takes_every_workload(program: Callable[[str], str], tmp_path: Path) -> None:
    program("nginx")
    answers_every_workload(commands.find("nginx"), tmp_path)


def test_floor_c_answers_when_the_last_byte_is_there(program: Callable[[str], str], tmp_path: Path) -> None:
    program("cc")
    peer = commands.find("floor-c")
    answers_every_workload(peer, tmp_path / "good")
    with running(peer.command, tmp_path / "cut", {CORE}) as server:
        whole = payloads.build("E", variants=1)
        assert server.sample(whole, 2, 0.02).requests >= 2
        cut = payloads.Payload("cut", "", 1, (whole.requests[0] + b"x",))
        with pytest.raises(Failed, match="errors"):
            server.sample(cut, 1, 0.02)


def test_durable_c_answers_what_it_has_synced(program: Callable[[str], str], tmp_path: Path) -> None:
    program("cc")
    peer = commands.find("durable-c")
    answers_every_workload(peer, tmp_path / "good")
    payload = payloads.build("A", variants=1)
    (request,) = payload.requests
    with (
        running(peer.command, tmp_path / "kept", {CORE}) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.sendall(request)
        assert client.recv(4096).endswith(b'{"status":1}')
        assert server.data.stat().st_size == 64 * 1024 * 1024
        assert server.data.read_bytes().rstrip(b"\0") == request
    # A pipe takes what is written and cannot be synced.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = Command("pipe", (*(each.replace("{data}", str(pipe)) for each in peer.command.arguments[:-1]), "0"))
    with running(command, tmp_path / "lost", {CORE}) as server, pytest.raises(Failed, match="fdatasync: Invalid"):
        server.sample(payload, 1, 0.02)
    assert os.read(reader, 65536) == request
    os.close(reader)


def test_callgrinds_own_output_is_read_whole(program: Callable[[str], str], tmp_path: Path) -> None:
    command = [program("valgrind"), "--tool=callgrind", f"--callgrind-out-file={tmp_path}/profile", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    assert collected is not None
    costs = stages.self_costs(tmp_path / "profile")
    assert costs.total() == int(collected[1])
    assert {Path(path).name for path, _ in costs} >= {"true", "libc.so.6"}
