import json
import subprocess
import sys
from pathlib import Path

from edge.wire.projects import hash_key
from tests.server.running import edge, environment


def hashed(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "projects", "hash"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, env=environment())


def test_the_hash_of_a_key_is_what_the_file_wants(tmp_path: Path) -> None:
    done = hashed(" phx_secret\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, hash_key("phx_secret") + "\n", "")
    file = tmp_path / "projects.toml"
    file.write_text(f'[[personal_key]]\nhash = "{done.stdout.strip()}"\n')
    assert edge("projects", "check", file).returncode == 0


def test_what_is_no_personal_key_is_not_hashed() -> None:
    for text in ("", "\n", "phc_project\n", "é\n"):
        done = hashed(text)
        assert (done.returncode, done.stdout) == (1, "")
        assert "expected a personal key" in done.stderr


def test_a_file_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "projects.toml"
    file.write_text('mode = "enforce"\n[[project]]\nid = 1\nkeys = ["phc_a", "phc_b"]\n')
    done = edge("projects", "check", file)
    assert done.returncode == 0
    assert done.stdout == "mode enforce: 1 projects with 2 keys, 0 personal keys, 0 rules for missing keys\n"
    done = edge("projects", "check", file, "--json")
    found = {"mode": "enforce", "projects": 1, "keys": 2, "personal_keys": 0, "injected": 0}
    assert (done.returncode, json.loads(done.stdout)) == (0, found)
    file.write_text('mode = "enforced"\n')
    done = edge("projects", "check", file)
    assert done.returncode == 78
    assert str(file) in done.stderr
    assert "Invalid enum value 'enforced'" in done.stderr
