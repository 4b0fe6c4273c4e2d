import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge.drain.sink import split_url
from edge.drain.sinks.stdout import make
from tests.drain.spools import Slot


def drain(data: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge", "drain", "--once", "--data", str(data), "--to", "stdout:", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_events_are_lines_on_standard_output_and_nothing_else_is(tmp_path: Path) -> None:
    Slot(tmp_path).commit("a", "b")
    output, _ = (process := drain(tmp_path)).communicate(timeout=30)
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["a", "b"]
    assert process.returncode == 0


def test_a_reader_that_is_gone_is_a_failure_and_loses_nothing(tmp_path: Path) -> None:
    Slot(tmp_path).commit("a", "b")
    gone = drain(tmp_path)
    assert gone.stdout is not None
    gone.stdout.close()
    assert gone.stderr is not None
    gone.stderr.read()
    assert gone.wait(timeout=30) != 0
    gone.stderr.close()
    output, _ = drain(tmp_path).communicate(timeout=30)
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["a", "b"]


def test_nothing_stands_after_the_colon() -> None:
    with pytest.raises(ValueError, match="expected nothing after the colon, found 'x'"):
        make(split_url("stdout:x"))


def test_who_is_asked_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert make(split_url("stdout:"))[1].probe()
    assert capfd.readouterr().out == ""
