import json
import platform
import re
from importlib.metadata import version

import pytest

from edge import __version__
from edge.cli import main


def test_it_tells_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"edge {__version__}"
    assert lines[1].startswith(f"Python {platform.python_version()} on Linux")
    assert f"httptools {version('httptools')}" in lines
    assert all(re.fullmatch(r"[\w.]+ [\d.]+", line) for line in lines[2:])


def test_programs_are_told_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] == platform.platform()
    main(["version"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"edge {found['edge']}"
    assert lines[1] == f"Python {found['python']} on {found['platform']}"
    assert lines[2:] == [f"{name} {number}" for name, number in found["libraries"].items()]


def test_it_is_the_version_of_the_package() -> None:
    assert version("capture-edge") == __version__
