import argparse
import functools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge.commands.config import schema, template, toml
from edge.config import ALL, ConfigError, Option, load
from edge.notation import ADDRESS, NETWORKS, SHARE, UPSTREAM, Notation
from tests.server.running import edge, environment

KEYS = {option.key: option for option in ALL}


def shown(*words: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = edge("config", "show", *words, env=env, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def values(*words: str | Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Every setting's value, as `--json` has it."""
    lines = shown(*words, "--json", env=env).splitlines()
    return {found["key"]: found["value"] for found in map(json.loads, lines)}


def loaded(path: Path | None, options: tuple[Option, ...] = ALL) -> dict[str, Any]:
    """What verbs get out of a file, without flags and variables."""
    arguments = argparse.Namespace(config=path and str(path), **{option.key: None for option in options})
    return load(options, arguments, {}, ALL)


# --- show


def test_what_is_shown_has_the_same_effect_as_a_file(tmp_path: Path) -> None:
    odd = 'a "b" \\ é 🦔 \x7f\t\n#'
    first = tmp_path / "first.toml"
    first.write_text('header_timeout = 2.5\nbody_bytes_max = 1024\nretain = "1h, 10GiB"\nto = "null:"\nshare = "2/3"\n')
    words = ("--config", first, "--data", odd, "--workers", "007", "--to", "null:?shape=captured", "--to", "stdout:")
    env = {"EDGE_DRAIN_ADMIN": "h:2", "EDGE_IDLE_TIMEOUT": "0.25", "EDGE_HEADERS_MAX": "12"}
    again = tmp_path / "again.toml"
    again.write_text(shown(*words, env=env))
    # In the file alone; the tests' own variables are among what was shown.
    assert loaded(again) == loaded(first) | {
        "data": odd,
        "workers": 7,
        "to": ["null:?shape=captured", "stdout:"],
        "drain_admin": ADDRESS.parse("h:2"),
        "idle_timeout": 0.25,
        "headers_max": 12,
        "reserve_bytes": 64 * 1024,
    }
    assert values("--config", again) == values(*words, env=env)


def test_a_value_is_shown_as_it_is_written() -> None:
    lines = shown("--workers", "3", "--body-bytes-max", "1GiB", "--reserve-bytes", "1024").splitlines()
    assert {"workers = 3", 'body_bytes_max = "1GiB"', "reserve_bytes = 1024", 'share = "1/1"'} <= {*lines}


def test_every_setting_is_shown_once() -> None:
    lines = shown().splitlines()
    assert [line.lstrip("# ").split()[0].rstrip(":") for line in lines] == list(KEYS)
    assert list(values()) == list(KEYS)


def test_a_setting_without_a_value_is_a_comment_that_tells_what_holds() -> None:
    lines = shown().splitlines()
    for option in ALL:
        if not option.default:
            assert f"# {option.key}: {option.otherwise}" in lines
    assert values()["upstream"] is None
    assert "# to: file:DATA/events  # variable EDGE_TO" in shown("--origin", env={"EDGE_TO": " "})


ORIGINS = {
    "listen": ("flag", "--listen", '"h:1"'),
    "headers_max": ("variable", "EDGE_HEADERS_MAX", "2"),
    "share": ("variable", "EDGE_SHARE", '"1/2"'),
    "drain_admin": ("file", "FILE", '"h:3"'),
    "pipeline_max": ("file", "FILE", "4"),
    "connections_max": ("default", None, "10000"),
}


@pytest.mark.parametrize("by_flag", [True, False], ids=["--config", "EDGE_CONFIG"])
def test_the_origin_of_every_value_is_told(by_flag: bool, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('drain_admin = "h:3"\npipeline_max = 4\nheaders_max = 5\nlisten = "h:5"\n')
    env = {"EDGE_HEADERS_MAX": "2", "EDGE_SHARE": "1/2", "EDGE_LISTEN": "h:6"}
    words = ["--listen", "h:1", *(["--config", str(file)] if by_flag else [])]
    env |= {} if by_flag else {"EDGE_CONFIG": str(file)}
    lines = shown(*words, "--origin", env=env).splitlines()
    objects = {found["key"]: found for found in map(json.loads, shown(*words, "--json", env=env).splitlines())}
    assert all("  # " in line for line in lines)
    for key, (origin, place, value) in ORIGINS.items():
        name = str(file) if place == "FILE" else place
        assert f"{key} = {value}  # {origin} {name or ''}".rstrip() in lines
        assert objects[key] == {"key": key, "value": json.loads(value), "origin": origin, "name": name}
    assert tomllib.loads("\n".join(lines))["pipeline_max"] == 4


def test_a_file_of_any_name_stands_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a\nworkers = 2"
    file.write_text("headers_max = 5\n")
    text = shown("--config", file, "--origin")
    assert f"headers_max = 5  # file {json.dumps(str(file))}\n" in text
    assert tomllib.loads(text)["headers_max"] == 5


SECRET_URLS = {
    "kafka://h:1?rdkafka.sasl.password=s3cret&topics=main": "kafka://h:1?rdkafka.sasl.password=***&topics=main",
    "clickhouse+http://user:s3cret@h:1/db.t": "clickhouse+http://***@h:1/db.t",
}


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_secrets_are_not_shown(source: str, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(f"to = {toml(list(SECRET_URLS))}\n" if source == "file" else "")
    words = [word for url in SECRET_URLS for word in ("--to", url)] if source == "flag" else []
    env = {"EDGE_TO": " ".join(SECRET_URLS)} if source == "variable" else {}
    for flags in ((), ("--origin",), ("--json",)):
        text = shown("--config", file, *words, *flags, env=env)
        assert "s3cret" not in text
        if "--json" not in flags:
            assert tomllib.loads(text)["to"] == list(SECRET_URLS.values())
            assert "\n# *** is a secret that is not shown: put it in before this is read.\nto = " in text
    assert values("--config", file, *words, env=env)["to"] == list(SECRET_URLS.values())


def test_where_a_secret_is_to_be_found_is_shown() -> None:
    url = "kafka://h:1?rdkafka.sasl.password=env:KAFKA_PASSWORD"
    text = shown("--to", url)
    assert tomllib.loads(text)["to"] == [url]
    assert "***" not in text


WRONG: dict[str, tuple[list[str], dict[str, str], str]] = {
    "flag": (["--workers", "0"], {}, ""),
    "variable": ([], {"EDGE_IDLE_TIMEOUT": "soon"}, ""),
    "file": ([], {}, 'body_bytes_max = "lots"'),
    "file's key": ([], {}, "header_max = 1"),
    "file's type": ([], {}, "data = true"),
    "no TOML": ([], {}, "data = "),
    "secret": (["--upstream", "http://user:s3cret@h"], {}, ""),
}


@pytest.mark.parametrize(("words", "env", "text"), WRONG.values(), ids=WRONG)
def test_a_value_that_cannot_be_used_is_refused_as_edge_up_does(
    words: list[str], env: dict[str, str], text: str, tmp_path: Path
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(text)
    words = [*words, "--config", str(file)]
    done = edge("config", "show", *words, env=env)
    up = edge("up", *words, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (up.returncode, up.stdout) == (78, "")
    assert done.stderr.removeprefix("edge config: ") == up.stderr.removeprefix("edge up: ") != ""
    assert "s3cret" not in done.stderr


def test_what_only_the_drainer_reads_is_looked_at_too() -> None:
    done = edge("config", "show", env={"EDGE_SHARE": "3/2"})
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "edge config: EDGE_SHARE: expected which of how many, such as 1/2, found '3/2'\n"


def test_a_variable_that_nothing_reads_is_told_beside_the_settings() -> None:
    done = edge("config", "show", env={"EDGE_WORKER": "2"})
    assert (done.returncode, done.stderr) == (
        0,
        "edge config: nothing reads EDGE_WORKER, did you mean EDGE_WORKERS?\n",
    )
    assert tomllib.loads(done.stdout)["share"] == "1/1"


def test_what_toml_cannot_hold_is_refused() -> None:
    script = "EDGE_DATA=$(printf 'a\\377') exec \"$0\" -m edge config show"
    done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "edge config: EDGE_DATA: expected UTF-8, as TOML is, found 'a\\udcff'\n"


def test_nothing_is_made_of_what_is_shown(tmp_path: Path) -> None:
    shown("--to", "file:somewhere", "--data", "nowhere", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- init


def taken_in() -> str:
    """The template with every setting in force."""
    lines = template().splitlines(keepends=True)
    return "".join(line.removeprefix("#") if line[:2] not in ("# ", "#\n") else line for line in lines)


def test_a_new_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    done = edge("config", "init", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tomllib.loads(file.read_text()) == {}
    assert loaded(file) == loaded(None)
    assert edge("config", "init").stdout == file.read_text()


def test_a_new_file_explains_every_setting_and_has_its_default(tmp_path: Path) -> None:
    prose = " ".join(line[2:] for line in template().splitlines() if line.startswith("# "))
    for option in ALL:
        assert f"{option.help} (default: {option.otherwise or option.default}) [{option.variable}]" in prose
    file = tmp_path / "edge.toml"
    file.write_text(taken_in())
    found = loaded(file)
    assert list(tomllib.loads(taken_in())) == list(KEYS)
    assert {key: found[key] for key in KEYS if KEYS[key].default} == {
        key: value for key, value in loaded(None).items() if KEYS[key].default
    }
    assert None not in found.values()
    assert len(found["to"]) == 2


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text("workers = 2\n")
    done = edge("config", "init", file)
    assert done.returncode == 78
    assert done.stderr == f"edge config: expected no file at {file}, found one, which is not overwritten\n"
    assert file.read_text() == "workers = 2\n"


def test_a_file_that_cannot_be_written_is_told_and_not_left_behind(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "edge.toml"
    done = edge("config", "init", file)
    assert (done.returncode, done.stderr) == (74, f"edge config: cannot write {file}: No such file or directory\n")
    file = tmp_path / "edge.toml"
    script = 'ulimit -f 1; exec "$0" -m edge config init "$1"'
    command = ["sh", "-c", script, sys.executable, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (74, f"edge config: cannot write {file}: File too large\n")
    assert list(tmp_path.iterdir()) == []


# --- schema

SCHEMA = schema()


def takes_schema(key: str, value: Any) -> bool:
    return bool(Draft202012Validator(SCHEMA).is_valid({key: value}))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schema") / "edge.toml"


def takes_edge(key: str, text: str, scratch: Path) -> bool:
    """Whether the program takes a value, given as it stands in a file."""
    scratch.write_bytes(f"{key} = {text}\n".encode())
    try:
        loaded(scratch, (KEYS[key],))
    except ConfigError:
        return False
    return True


def test_the_schema_is_one_and_is_printed() -> None:
    done = edge("config", "schema")
    assert (done.returncode, json.loads(done.stdout)) == (0, SCHEMA)
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_patterns_are_what_every_validator_reads() -> None:
    """ECMAScript's expressions, as JSON Schema has them, refuse an escape that needs none, and have no groups of Python's."""
    for option in ALL:
        assert {*re.findall(r"\\(.)", option.notation.pattern)} <= {"s", "x", ".", "[", "]"}
        assert {*re.findall(r"\(\?(.)", option.notation.pattern)} <= {":"}


def test_the_schema_explains_every_setting_and_knows_no_other() -> None:
    assert list(SCHEMA["properties"]) == list(KEYS)
    for key, found in SCHEMA["properties"].items():
        option = KEYS[key]
        assert found["description"].startswith(option.help)
        assert option.otherwise in found["description"]
        for value in (*found.get("examples", []), *([found["default"]] if "default" in found else [])):
            assert takes_schema(key, value)
        assert ("default" in found) == (bool(option.default) and key != "workers")
    assert SCHEMA["properties"]["headers_max"]["default"] == 100
    assert SCHEMA["properties"]["durability"]["enum"] == ["fsync", "page"]
    assert not takes_schema("header_max", 1)


def test_what_is_shown_and_what_is_begun_with_fit_the_schema() -> None:
    for text in (shown("--to", "null:"), template(), taken_in()):
        Draft202012Validator(SCHEMA).validate(tomllib.loads(text))


_NO_TEXT = ["true", "1.5", "5", "[]", '["x"]', "{a = 1}", "2024-01-01", "inf", '""']
VALUES: dict[str, tuple[list[str], list[str]]] = {
    # What is taken and what is not, as TOML.
    "body_bytes_max": (
        ['"64MiB"', '" 64 mib "', '"2kB"', '"1b"', '"007"', "1", "5.0", "999999999999999"],
        ['"0"', '"0MiB"', '"1G"', '"1.5MiB"', '"-1"', '"٣"', '"1000000000000000"', "1000000000000000"]
        + ["0", "-1", "1.5", "true", "[1]", "[]", "{a = 1}", "2024-01-01", '""', "inf", '"1\u212aB"'],
    ),
    "idle_timeout": (
        ['"5s"', '"250ms"', '"1.5m"', '"00.5 h"', '"5"', "5", "0.25", "1e-7", "1e14"],
        ['"0s"', '"0.0"', '"1d"', '".5s"', '"1e3"', '"-1s"', '"5S"', "0", "-0.5", "1e15", "1e-16"]
        + ["true", "[1]", "inf", "-inf", '""', "12:30:00"],
    ),
    "headers_max": (
        ['"1"', '" 12 "', "1", "12.0"],
        ['"0"', '"1.0"', '"1B"', '"²"', "0", "-1", "1.5", "true", "[1]", "[1, 2]", '""'],
    ),
    "events_max": (
        ['"500"', '" 0999 "', '"1000"', "500", "100000.0", "999999999999999"],
        ['"499"', '"99"', '"1"', '"-500"', '"500B"', "499", "1", "0", "500.5", "1000000000000000", "true", '""'],
    ),
    "listen": (
        ['"127.0.0.1:8000"', '" h:0 "', '"[::1]:65535"', '"h:00080"'],
        ['"8000"', '":8000"', '"::1"', '"h:65536"', '"h:99999"', '"h:100000"', '"[::1:1"', '"a b:1"', *_NO_TEXT],
    ),
    "durability": (['"fsync"', '"page"'], ['"Fsync"', '"fsync "', '"none"', *_NO_TEXT]),
    "skew_correction": (
        ['"always"', '" off "', '"30s"', "30", "0.5"],
        ['"never"', '"0s"', '"always,off"', "0", "true", "[]", '""'],
    ),
    "retain": (
        ['"none"', '" none "', '"90m"', '"10GiB"', '"1h, 500 MB"', '"500MB,1h"', '"1b"'],
        ['"10"', '"1h,2h"', '"1GB,2GB"', '"1h,"', '"0s"', '"0GiB"', '"1h,none"', '"1h,1GiB,1h"', *_NO_TEXT],
    ),
    "share": (['"1/1"', '" 2/4 "', '"0001/9999"'], ['"1"', '"0/1"', '"1/0"', '"1/10000"', '"-1/2"', *_NO_TEXT]),
    "trusted_proxies": (
        ['""', '"10.0.0.0/8"', '" 10.0.0.1 , ::1/128,"', '"1.2.3.4/255.0.0.0"', '"fe80::1%eth0"'],
        ['"everybody"', '"10.0.0.0/8;::1"', '"10.0.0.0/x"', '"h/8"']
        # Neither may take for ever to say so.
        + [f'"{"    ," * 64};"', f'"{"::1%a    ," * 64};"', *(text for text in _NO_TEXT if text != '""')],
    ),
    "upstream": (
        ['"http://h"', '"HTTPS://h:1/x@y"', '" http://[::1]:80/ "'],
        ['"h:80"', '"ftp://h"', '"http://"', '"http://u:p@h"', '"http://h?x"', '"http://h/#x"', '"http://h h"']
        + ['"http://é"', *_NO_TEXT],
    ),
    "data": (['"x"', '" "', '"é"'], [*_NO_TEXT]),
    "to": (
        ["[]", '["null:"]', '["null:", "stdout:"]', '"null:"'],
        ['""', '[""]', "[1]", '["null:", 1]', '[["null:"]]', "1", "true", "{a = 1}"],
    ),
}
LOOSER = {
    "share": ['"2/1"', '"9999/9998"'],
    "trusted_proxies": ['"10.0.0.0/33"', '"1.2.3"', '"abc"', '"1:::2"'],
    "upstream": ['"http://h:99999"', '"http://[::1"', '"http://h:x"'],
}
"""What the schema takes and the program does not: numbers that do not go together, what only looks like networks or a URL."""


@pytest.mark.parametrize("key", VALUES)
def test_the_schema_takes_what_the_program_takes(key: str, scratch: Path) -> None:
    good, bad = VALUES[key]
    for text in (*good, *bad):
        value = tomllib.loads(f"x = {text}")["x"]
        expected = text in good
        assert (takes_edge(key, text, scratch), takes_schema(key, value)) == (expected, expected), text


@pytest.mark.parametrize("key", LOOSER)
def test_what_only_the_program_refuses_is_known(key: str, scratch: Path) -> None:
    for text in LOOSER[key]:
        assert (takes_edge(key, text, scratch), takes_schema(key, json.loads(text))) == (False, True), text


def kinds() -> dict[int, Option]:
    """An option of every notation, the one that is tried above."""
    return {id(option.notation): option for option in ALL if option.key in VALUES}


def test_every_notation_is_tried() -> None:
    assert {id(option.notation) for option in ALL} == kinds().keys() | {id(KEYS["data"].notation)}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False), st.integers(10**15 - 2, 10**15 + 2))


LOOSE: dict[int, st.SearchStrategy[Any]] = {
    id(SHARE): st.lists(st.integers(1, 9999), min_size=2, max_size=2).map(
        lambda pair: "/".join(map(str, sorted(pair)))
    ),
    id(NETWORKS): st.lists(st.ip_addresses().map(str) | st.ip_addresses(v=4).map("{}/8".format)).map(" , ".join),
    id(UPSTREAM): st.builds(
        "{}://{}:{}/{}".format, st.sampled_from(["http", "Https"]), st.sampled_from("ab"), st.integers(1, 65535), TEXTS
    ),
}
"""What is taken where the schema takes more, made without its patterns."""


@functools.cache
def near(notation: Notation) -> st.SearchStrategy[Any]:
    """Texts that are taken, and some that nearly are."""
    if not notation.pattern:
        return st.sampled_from([*notation.choices, "x"])
    text = st.from_regex(notation.pattern, fullmatch=True, alphabet=st.characters(min_codepoint=32, max_codepoint=126))
    cut = st.tuples(text, st.integers(0, 20)).map(lambda found: found[0][: found[1]] + found[0][found[1] + 1 :])
    return st.one_of(text, cut, st.tuples(text, st.sampled_from("0 .,:/%@bsm\n-")).map("".join))


@pytest.mark.parametrize("option", kinds().values(), ids=lambda option: option.key)
@given(data=st.data())
def test_schema_and_program_agree_on_any_value(option: Option, data: st.DataObject, scratch: Path) -> None:
    own = LOOSE.get(id(option.notation), st.nothing())
    value = data.draw(st.one_of(near(option.notation), own, TEXTS, NUMBERS, st.booleans()))
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        written = "inf" if value > 0 else "-inf"
    else:
        written = toml(value)
        assert tomllib.loads(f"x = {written}")["x"] == value
    taken = takes_edge(option.key, written, scratch)
    assert taken <= takes_schema(option.key, value)
    if id(option.notation) not in LOOSE:
        assert taken == takes_schema(option.key, value)


@pytest.mark.parametrize("option", kinds().values(), ids=lambda option: option.key)
@pytest.mark.parametrize(
    "text", [" " * 500, " ," * 60, "1%a ," * 60, "0" * 500, "1 " * 60, "1h , " * 60, "1%" + "% " * 60 + "/"]
)
def test_no_text_takes_a_pattern_for_ever(option: Option, text: str) -> None:
    """An editor that checks a file as it is typed has no patience either."""
    assert not takes_schema(option.key, text + "\0") or not option.notation.pattern


@given(st.recursive(st.one_of(TEXTS, st.integers()), st.lists))
def test_texts_and_lists_are_written_as_toml_reads_them(value: Any) -> None:
    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}
