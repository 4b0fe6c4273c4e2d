"""Client libraries as their users install them: versions pinned, installed once below `.cache`, run by a driver."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.integration.edge_process import environment
from tests.integration.shared import installing

Call = tuple[str, dict[str, Any]]
"""Name and arguments of a call to a library, as its documentation has them."""

# Package: script of a page. With all that records a session inside, which version 1.20 fetches.
POSTHOG_JS: Final = {
    "posthog-js": "posthog-js/dist/array.full.no-external.js",
    "posthog-js-1.258": "posthog-js-1.258/dist/array.full.no-external.js",
    "posthog-js-1.20": "posthog-js-1.20/dist/array.js",
}

NODE_SOURCES: Final = Path(__file__).with_name("node")
_NPM_FILES: Final = ("package.json", "package-lock.json")
_INSTALL_S: Final = 300
_RUN_S: Final = 120


def install_node_packages(npm: str, sources: Path = NODE_SOURCES) -> Path:
    """The folder that holds `node_modules` with the libraries of the sources' `package.json`, and the drivers beside it."""
    with installing(sources.name) as folder:
        folder.mkdir(exist_ok=True)
        complete = folder / "node_modules" / ".package-lock.json"
        wanted = {name: (sources / name).read_bytes() for name in _NPM_FILES}
        found = {name: (folder / name).read_bytes() for name in _NPM_FILES if (folder / name).exists()}
        if found != wanted or not complete.exists():
            for name, content in wanted.items():
                (folder / name).write_bytes(content)
            _install([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
        for driver in sources.glob("*.mjs"):
            if not (folder / driver.name).exists() or (folder / driver.name).read_bytes() != driver.read_bytes():
                shutil.copy(driver, folder)
        return folder


def install_python_package(requirement: str) -> Path:
    """The interpreter of a virtual environment that holds `requirement`, such as `posthog==2.5.0`, and nothing of ours."""
    with installing(f"python/{requirement.replace('==', '-')}") as folder:
        interpreter = folder / "bin" / "python"
        complete = folder / f"installed-by-{sys.version_info.major}.{sys.version_info.minor}"
        if not complete.exists():
            _install([sys.executable, "-m", "venv", "--clear", folder], folder.parent)
            pip: list[str | Path] = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _install([*pip, requirement], folder.parent)
            complete.touch()
        return interpreter


def _install(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S)
    assert done.returncode == 0, f"`{' '.join(map(str, command))}` failed:\n{done.stdout}{done.stderr}"


def installed_version(node_packages: Path, package: str) -> str:
    found: str = json.loads((node_packages / "node_modules" / package / "package.json").read_text())["version"]
    wanted = json.loads((NODE_SOURCES / "package.json").read_text())["dependencies"][package]
    assert found == wanted.rpartition("@")[2]
    return found


def run_posthog_python(version: str, host: str, token: str, calls: list[Call]) -> dict[str, Any]:
    """What the driver reports after the library was shut down, as is."""
    interpreter = install_python_package(f"posthog=={version}")
    driver = Path(__file__).with_name("posthog_driver.py")
    return run_driver([interpreter, driver], {"host": host, "token": token, "calls": calls})


def run_posthog_node(
    node: str, node_packages: Path, package: str, host: str, token: str, calls: list[Call]
) -> dict[str, Any]:
    """What the driver reports after the library was shut down, as is."""
    driver = node_packages / "posthog_driver.mjs"
    return run_driver([node, driver, package], {"host": host, "token": token, "calls": calls})


def run_driver(command: list[str | Path], work: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        command, input=json.dumps(work), capture_output=True, text=True, timeout=_RUN_S, env=environment()
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
