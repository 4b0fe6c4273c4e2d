"""The peer on node, whose packages take npm."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.peers import commands
from bench.servers import ROOT
from tests.bench.peers.test_commands import answers_every_workload, refuses_what_is_no_event


def test_fastify_does_what_the_other_peers_do(program: Callable[[str], str], tmp_path: Path) -> None:
    program("node")
    program("npm")
    subprocess.run(["make", ".cache/bench/node/stamp"], cwd=ROOT, check=True)
    peer = commands.find("fastify")
    assert set(peer.versions) == {"node", "fastify"}
    answers_every_workload(peer, tmp_path / "good")
    refuses_what_is_no_event(peer, tmp_path / "bad")
