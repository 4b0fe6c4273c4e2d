"""What the integration tests share: a running edge, and the programs of the machine they need. Nothing is skipped."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.edge_process import EdgeProcess


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


PACKAGES = {"curl": "curl", "jq": "jq", "gzip": "gzip", "node": "nodejs", "npm": "npm"}
