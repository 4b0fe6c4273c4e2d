import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge import __version__
from edge.cli import VERBS, main
from edge.commands.segments import VERBS as SEGMENT_VERBS
from edge.config import DRAIN, SERVE, TOP, UP, Option
from tests.drain.spools import Slot
from tests.server.running import PATIENCE_S, edge, environment, running, wait_until

EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
POST = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)

DATA = tuple(option for option in SERVE if option.name == "data")
OPTIONS: dict[str, tuple[Option, ...]] = {
    "up": UP,
    "serve": SERVE,
    "drain": DRAIN,
    "config show": UP,
    "send": DATA,
    "check": UP,
    "status": DATA,
    "top": TOP,
    "tail": DATA,
    "segments ls": DATA,
    "segments cat": DATA,
    "segments verify": DATA,
}


def helped(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", OPTIONS)
def test_the_help_of_a_verb_names_every_option_with_its_variable(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(words, capsys)
    for option in OPTIONS[words]:
        assert f"{option.flag} {option.metavar}" in text
        assert f"[{option.variable}]" in text
    assert "[EDGE_CONFIG]" in text


READING = (
    *("check", "config show", "projects check", "send", "sql", "status", "tail", "top", "version"),
    *(f"segments {verb}" for verb in SEGMENT_VERBS),
)


@pytest.mark.parametrize("words", READING)
def test_verbs_that_read_have_json(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json" in helped(words, capsys)


def test_the_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped("", capsys)
    for verb, sentence in VERBS.items():
        assert re.search(rf"\b{verb} {re.escape(sentence)}", text)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"edge {__version__}\n"


USAGE = {
    "nothing": [],
    "unknown verb": ["fly"],
    "unknown flag": ["serve", "--fly"],
    "flag without its value": ["serve", "--listen"],
    "unknown word": ["status", "here"],
    "segments of what": ["segments"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: edge" in capsys.readouterr().err


CONFIGURATION = {
    "value": (
        ["serve", "--workers", "none"],
        "edge serve: --workers: expected a whole number above zero, found 'none'",
    ),
    "sink": (["up", "--to", "fax:1"], "edge up: --to: expected a sink URL that begins with file:"),
    "sink's option": (
        ["drain", "--data", ".", "--to", "null:?speed=2"],
        "edge drain: --to: null: expected the options",
    ),
    "same sink twice": (
        ["up", "--to", "null:", "--to", "null:?shape=captured"],
        "edge up: --to: expected different destinations, found null: and null:?shape=captured",
    ),
    "too many sinks": (
        ["up", *(word for number in range(9) for word in ("--to", f"file:/tmp/{number}"))],
        "edge up: --to: expected at most 8 sinks, found 9",
    ),
    "URL": (["send", "ftp://127.0.0.1"], "edge send: expected a URL such as http://127.0.0.1:8000"),
    "URL with a space": (
        ["send", "http://a b:80"],
        "edge send: expected a URL such as http://127.0.0.1:8000, found 'http:",
    ),
    "URL without a name": (["send", "http://é..com"], "edge send: expected a URL such as http://127.0.0.1:8000"),
    "port of a URL": (["send", "http://127.0.0.1:99999"], "edge send: Port out of range 0-65535"),
    "file": (["status", "--config", "nowhere.toml"], "edge status: cannot read nowhere.toml: No such file"),
    **{
        f"data folder of {words}": (
            [*words.split(), "--data", "nowhere"],
            f"edge {words.split()[0]}: --data: there is no",
        )
        for words in ("drain", "drain --once", "status", "tail", "segments ls", "segments cat", "segments verify")
    },
}


@pytest.mark.parametrize(("words", "told"), CONFIGURATION.values(), ids=CONFIGURATION)
def test_a_setting_that_cannot_be_used_is_status_78(words: list[str], told: str, tmp_path: Path) -> None:
    done = edge(*words, cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith(told)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_program_runs_as_a_module_with_the_status_of_its_verb(tmp_path: Path) -> None:
    done = edge("status", "--data", tmp_path / "nowhere")
    assert done.returncode == 78
    assert done.stdout == ""
    assert edge("version").returncode == 0


def test_a_variable_sets_what_no_flag_does(tmp_path: Path) -> None:
    done = edge("status", env={"EDGE_DATA": str(tmp_path)})
    assert done.returncode == 0
    assert done.stdout.startswith(f"data {tmp_path}\n")


# --- standard streams

PRINTING = [
    *("status", "tail --no-follow", "segments ls", "segments cat", "segments stat", "segments verify"),
    *("version", "schema clickhouse", "config show", "config init", "config schema"),
]
"""Words of verbs that print a little, and go on no further."""


def redirected(words: str, streams: str, data: Path) -> "subprocess.CompletedProcess[str]":
    """A verb run by a shell that has opened or closed some of its standard streams."""
    script = f'exec "$0" -m edge {words} {streams}'
    command = ["sh", "-c", script, sys.executable]
    env = environment({"EDGE_DATA": str(data)})
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


@pytest.mark.parametrize("words", [*PRINTING, "--help", "--version"])
@pytest.mark.parametrize(
    ("streams", "why"),
    [
        (">&-", "standard output is closed"),
        (">/dev/full", "standard output cannot be written: No space left on device"),
    ],
    ids=["closed", "full"],
)
def test_a_verb_that_cannot_print_is_status_74(words: str, streams: str, why: str, tmp_path: Path) -> None:
    Slot(tmp_path).commit("e")
    done = redirected(words, streams, tmp_path)
    assert (done.returncode, done.stderr) == (74, f"edge {words.split()[0]}: {why}\n")
    assert redirected(words, f"{streams} 2>&-", tmp_path).returncode == 74


@pytest.mark.parametrize("words", PRINTING)
def test_a_verb_that_prints_needs_no_other_stream(words: str, tmp_path: Path) -> None:
    Slot(tmp_path).commit("e")
    done = redirected(words, "<&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize("streams", ["exec <&-", "exec 2>&-", "exec <&- 2>&-"])
def test_a_server_needs_no_standard_streams(streams: str, tmp_path: Path) -> None:
    with running(tmp_path, verb="up", shell=streams) as server:
        assert server.ask(POST).status == 200
        server.signal(signal.SIGHUP)
        wait_until(lambda: server.get_admin("/_readiness").status == 200, "it goes on")
        assert server.ask(POST).status == 200
        assert server.stop() == 0
        assert len(list((server.data / "events").iterdir())) > 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port: int = chosen.getsockname()[1]
        return port


@pytest.mark.parametrize(("sink", "status"), [("null:", 0), ("stdout:", 1)])
def test_a_server_without_standard_output_serves_and_delivers_nothing_there(
    sink: str, status: int, tmp_path: Path
) -> None:
    """What a sink wrote to a descriptor that is somebody else's by now would be taken for delivered."""
    data = tmp_path / "data"
    port = free_port()
    words = f"up --listen 127.0.0.1:{port} --admin 127.0.0.1:0 --workers 1 --to {sink} --data {data}"
    command = ["sh", "-c", f'exec "$0" -m edge {words} >&-', sys.executable]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stderr is not None
            while '"accepting"' not in (line := process.stderr.readline()):
                assert line
            assert edge("send", f"http://127.0.0.1:{port}", "--data", data).returncode == 0
            while sink == "stdout:" and "standard output: [Errno 9]" not in (line := process.stderr.readline()):
                assert line
        finally:
            process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status
    assert "Traceback" not in error
    assert any((data / "spool" / "slot-00").glob("*.zst")) == (sink == "stdout:")


def test_a_server_that_cannot_say_where_it_listens_ends_in_order(tmp_path: Path) -> None:
    words = f"up --listen 127.0.0.1:0 --admin 127.0.0.1:0 --workers 1 --data {tmp_path}"
    done = redirected(words, ">/dev/full", tmp_path)
    assert done.returncode == 74
    *logged, last = done.stderr.splitlines()
    assert last == "edge up: standard output cannot be written: No space left on device"
    assert "stopped, every accepted record is sealed" in logged[-1]
    assert "Traceback" not in done.stderr
