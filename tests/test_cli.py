import re
from pathlib import Path

import pytest

from edge import __version__
from edge.cli import VERBS, main
from edge.config import DRAIN, SERVE, UP, Option
from tests.server.running import edge

DATA = tuple(option for option in SERVE if option.name == "data")
OPTIONS: dict[str, tuple[Option, ...]] = {
    "up": UP,
    "serve": SERVE,
    "drain": DRAIN,
    "send": DATA,
    "status": DATA,
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


@pytest.mark.parametrize("words", ["send", "status", "segments ls", "segments verify"])
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
    "port of a URL": (["send", "http://127.0.0.1:99999"], "edge send: Port out of range 0-65535"),
    "file": (["status", "--config", "nowhere.toml"], "edge status: cannot read nowhere.toml: No such file"),
    **{
        f"data folder of {words}": (
            [*words.split(), "--data", "nowhere"],
            f"edge {words.split()[0]}: --data: there is no",
        )
        for words in ("drain", "drain --once", "status", "segments ls", "segments cat", "segments verify")
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
