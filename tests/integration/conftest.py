"""What the integration tests share: a running edge, and the programs of the machine they need. Nothing is skipped."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.chromium import Browser, PageServer
from tests.integration.client_libraries import install_node_packages
from tests.integration.edge_process import EdgeProcess
from tests.integration.tally import Line, Tally

TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of one process beside others: its figures go to the one that prints."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["tally"] = msgspec.to_builtins(session.config.stash[TALLY].lines)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    lines = msgspec.convert(getattr(node, "workeroutput", {}).get("tally", []), list[Line])
    node.config.stash[TALLY].lines += lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash[TALLY].table()
    if lines:
        terminalreporter.section("events per client")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test of a client leaves its figures, for the end of the run."""
    return request.config.stash[TALLY]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProcess]:
    """`edge up` with its defaults, accepting. A test may stop it; what still runs at the end is ended."""
    with EdgeProcess(tmp_path) as process:
        process.start()
        yield process


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of a program of this machine; a machine without it fails the test and says what to install."""

    def find(name: str) -> str:
        path = shutil.which(name)
        assert path is not None, (
            f"expected `{name}` on this machine: install it with `apt-get install {PACKAGES[name]}`"
        )
        return path

    return find


@pytest.fixture(scope="session")
def node_packages(program: Callable[[str], str]) -> Path:
    """A folder with the npm packages the tests use in `node_modules`, and the drivers."""
    program("node")
    return install_node_packages(program("npm"))


@pytest.fixture
def browser(tmp_path: Path, program: Callable[[str], str], node_packages: Path) -> Iterator[Browser]:
    """Chromium as if just installed, and the pages of the tests on another origin than any edge."""
    with (
        PageServer(node_packages / "node_modules") as pages,
        Browser(program("chromium"), program("chromedriver"), tmp_path / "profile", pages) as browser,
    ):
        yield browser


PACKAGES = {
    "curl": "curl",
    "jq": "jq",
    "gzip": "gzip",
    "node": "nodejs",
    "npm": "npm",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "cc": "gcc",
    "openssl": "openssl",
}
