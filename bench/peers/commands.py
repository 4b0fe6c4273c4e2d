"""The peers: how each is started, what it can be asked, and what the machine must have for it."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from bench.servers import ROOT, Command

FOLDER: Final = Path(__file__).parent
CACHE: Final = ROOT / ".cache" / "bench"
NODE_MODULES: Final = CACHE / "node" / "node_modules"
DURABLE_FLOOR: Final = "durable-c"
"""Answers what is synced, and does nothing else: what `fsync` mode could cost at the least. Its file does not grow."""
LZSTRING_IN_PYTHON: Final = "lzstring is Python code: tens of milliseconds a request, shown with starlette only"


class Missing(Exception):
    """A peer cannot be started here, and why."""


@dataclass(frozen=True)
class Peer:
    """One server to compare with."""

    command: Command
    validates: bool
    """Whether it looks into the events, as `edge` does; what it does not check it cannot be beaten at."""
    versions: Mapping[str, str] = field(default_factory=dict)
    leaves_out: Mapping[str, str] = field(default_factory=dict)
    """Payloads it is not measured with, and why."""
    path: str = ""
    """Where every request goes instead of to the payload's own path."""
    payload: str = ""
    """What it is asked instead of the payload that the others are asked."""


def find(name: str) -> Peer:
    """The peer called `name`, one of `PEERS`. Raises `Missing`."""
    return PEERS[name](name)


def external(text: str, paths: Mapping[str, str]) -> Peer:
    """A server named on the command line, `NAME=COMMAND`; `{port}` and `{data}` stand for what `bench.servers` gives it.

    Raises `ValueError` for another form.
    """
    name, _, command = text.partition("=")
    arguments = tuple(shlex.split(command))
    if not name or not arguments:
        raise ValueError(f"expected NAME=COMMAND, found {text}")
    return Peer(Command(name, arguments, Path.cwd()), validates=True, path=paths.get(name, ""))


def _python(module: str, packages: tuple[str, ...]) -> Callable[[str], Peer]:
    def make(name: str) -> Peer:
        versions = {package: _installed(package) for package in (*packages, "lzstring")}
        command = _command(name, sys.executable, "-m", f"bench.peers.{module}", "{port}")
        leaves_out = {} if name == "starlette" else {"G": LZSTRING_IN_PYTHON}
        return Peer(command, validates=True, versions=versions, leaves_out=leaves_out)

    return make


def _fastify(name: str) -> Peer:
    node = _program("node")
    package = NODE_MODULES / "fastify" / "package.json"
    if not package.is_file():
        raise Missing("expected its packages in .cache/bench/node, where `make bench` installs them")
    command = _command(name, node, str(FOLDER / "fastify_peer.cjs"), "{port}")
    environment = dict(command.environment) | {"NODE_PATH": str(NODE_MODULES)}
    versions = {"node": _says(node, "--version"), "fastify": json.loads(package.read_text())["version"]}
    return Peer(replace(command, environment=environment), validates=True, versions=versions)


def _nginx(name: str) -> Peer:
    nginx = _program("nginx")
    command = _command(name, sys.executable, "-m", "bench.peers.nginx_peer", "{port}")
    return Peer(command, validates=False, versions={"nginx": _says(nginx, "-v")})


def _floor_in_c(*arguments: str) -> Callable[[str], Peer]:
    return lambda name: Peer(_command(name, _compiled_floor(), "{port}", *arguments), validates=False)


def _compiled_floor() -> str:
    compiler = _program("cc")
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "floor-c"
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(FOLDER / "floor.c")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Missing(f"{compiler} does not compile it: {done.stderr.strip()}")
    return str(program)


PEERS: Final[dict[str, Callable[[str], Peer]]] = {
    "floor-c": _floor_in_c(),
    DURABLE_FLOOR: _floor_in_c("{data}", str(64 * 1024 * 1024)),
    "nginx": _nginx,
    "fastify": _fastify,
    "granian": _python("granian_peer", ("granian",)),
    "aiohttp": _python("aiohttp_peer", ("aiohttp", "uvloop")),
    "starlette": _python("starlette_peer", ("uvicorn", "starlette")),
    "fastapi": _python("fastapi_peer", ("uvicorn", "fastapi")),
}


def _command(name: str, *arguments: str) -> Command:
    return Command(name, arguments, environment={"BENCH_DATA": "{data}"})


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"expected the program {name}, found none")
    return found


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise Missing(f"expected the package {package}, which the extra [bench] installs, found none") from error


def _says(*command: str) -> str:
    """The version in what a program says about itself: the last word of it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = (done.stdout or done.stderr).split()
    return words[-1].rpartition("/")[2] if words else "unknown"
