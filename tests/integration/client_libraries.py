"""Client libraries as their users install them, each version pinned, installed once into the repository's cache."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

NODE_SOURCES: Final = Path(__file__).with_name("node")
CACHE: Final = Path(__file__).parents[2] / ".cache"
_NPM_FILES: Final = ("package.json", "package-lock.json")
_INSTALL_S: Final = 300


def install_node_packages(npm: str) -> Path:
    """The folder that holds `node_modules` with the libraries of `node/package.json`, and the drivers beside it."""
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    complete = folder / "node_modules" / ".package-lock.json"
    wanted = {name: (NODE_SOURCES / name).read_bytes() for name in _NPM_FILES}
    found = {name: (folder / name).read_bytes() for name in _NPM_FILES if (folder / name).exists()}
    if found != wanted or not complete.exists():
        for name, content in wanted.items():
            (folder / name).write_bytes(content)
        _install([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
    for driver in NODE_SOURCES.glob("*.mjs"):
        shutil.copy(driver, folder)
    return folder


def install_python_package(requirement: str) -> Path:
    """The interpreter of a virtual environment that holds `requirement`, such as `posthog==2.5.0`, and nothing of ours."""
    folder = CACHE / "python" / requirement.replace("==", "-")
    interpreter = folder / "bin" / "python"
    complete = folder / f"installed-by-{sys.version_info.major}.{sys.version_info.minor}"
    if not complete.exists():
        _install([sys.executable, "-m", "venv", "--clear", folder], CACHE)
        _install([interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement], CACHE)
        complete.touch()
    return interpreter


def _install(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S)
    assert done.returncode == 0, f"`{' '.join(map(str, command))}` failed:\n{done.stdout}{done.stderr}"
