import argparse
import ast
import socket
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.config import (
    ALL,
    DRAIN,
    SERVE,
    UP,
    ConfigError,
    Option,
    Setting,
    add_options,
    duration_between,
    load,
    resolve,
    unknown_variables,
)
from edge.notation import (
    Address,
    Retention,
    Share,
)
from edge.server.admission import ServerSettings
from edge.spool.writer import SpoolSettings
from edge.wire.request import Limits

EDGE = Path(edge.__file__).parent


def loaded(*words: str, options: tuple[Option, ...] = SERVE, environ: dict[str, str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser, options)
    return load(options, parser.parse_args(words), environ or {}, ALL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "edge.toml"


# --- where a value comes from


def test_the_stronger_source_counts(file: Path) -> None:
    file.write_text("headers_max = 3\npipeline_max = 3\nconnections_max = 3\n")
    environ = {"EDGE_HEADERS_MAX": "2", "EDGE_PIPELINE_MAX": "2", "EDGE_CONFIG": str(file)}
    found = loaded("--headers-max", "1", environ=environ)
    assert (found["headers_max"], found["pipeline_max"], found["connections_max"]) == (1, 2, 3)
    assert loaded()["headers_max"] == 100


def test_the_file_named_by_the_flag_is_read_before_the_variables(file: Path, tmp_path: Path) -> None:
    file.write_text("headers_max = 3\n")
    other = tmp_path / "other.toml"
    other.write_text("headers_max = 4\n")
    environ = {"EDGE_CONFIG": str(other)}
    assert loaded("--config", str(file), environ=environ)["headers_max"] == 3
    assert loaded(environ=environ)["headers_max"] == 4


def test_a_file_serves_several_verbs(file: Path) -> None:
    file.write_text('to = ["null:", "stdout:"]\nheaders_max = 3\ndata = "d"\n')
    assert loaded("--config", str(file))["headers_max"] == 3
    assert loaded("--config", str(file), options=DRAIN) == {
        "data": "d",
        "to": ["null:", "stdout:"],
        "retain": Retention(),
        "share": Share(0, 1),
        "drain_admin": None,
    }


def test_values_of_a_file_have_their_toml_types_or_are_text(file: Path) -> None:
    file.write_text(
        'body_bytes_max = 1024\nheader_timeout = 2.5\nidle_timeout = "1h"\nreplay_body_bytes_max = "1MiB"\n'
    )
    found = loaded("--config", str(file))
    assert (found["body_bytes_max"], found["replay_body_bytes_max"]) == (1024, 2**20)
    assert (found["header_timeout"], found["idle_timeout"]) == (2.5, 3600.0)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("data = 5", "data in FILE: expected text, found 5"),
        ("data = true", "data in FILE: expected text, found True"),
        ("to = [1]", "to in FILE: expected text, found 1"),
        ('to = [["null:"]]', r"to in FILE: expected text, found \['null:'\]"),
        ("listen = 8000", "listen in FILE: expected HOST:PORT, found 8000"),
        ("workers = true", "workers in FILE: expected a whole number above zero, found True"),
        ('workers = ["1"]', "workers in FILE: expected one value, found a list of 1"),
    ],
)
def test_a_value_of_another_type_is_told(line: str, told: str, file: Path) -> None:
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=f"^{told.replace('FILE', str(file))}$"):
        loaded("--config", str(file), options=UP)


def test_numbers_of_a_file_need_no_notation_of_their_own(file: Path) -> None:
    file.write_text("workers = 5.0\nheader_timeout = 1e-7\nbody_timeout = 1e10\nskew_correction = 30\n")
    found = loaded("--config", str(file))
    assert (found["workers"], found["header_timeout"], found["body_timeout"]) == (5, 1e-7, 1e10)
    assert found["skew_correction"] == 30_000_000


def test_it_is_known_where_a_value_comes_from(file: Path) -> None:
    file.write_text('headers_max = 3\npipeline_max = 3\nconnections_max = 3\nto = ["null:", "stdout:"]\n')
    environ = {"EDGE_HEADERS_MAX": "2", "EDGE_PIPELINE_MAX": "2", "EDGE_CONFIG": str(file)}
    parser = argparse.ArgumentParser()
    add_options(parser, UP)
    found = resolve(UP, parser.parse_args(["--headers-max", "1"]), environ, ALL)
    assert found["headers_max"] == Setting(["1"], 1, "flag", "--headers-max")
    assert found["pipeline_max"] == Setting(["2"], 2, "variable", "EDGE_PIPELINE_MAX")
    assert found["connections_max"] == Setting([3], 3, "file", str(file))
    assert found["to"] == Setting(["null:", "stdout:"], ["null:", "stdout:"], "file", str(file))
    assert found["body_bytes_max"] == Setting(["20MiB"], 20 << 20, "default")
    assert found["upstream"] == Setting([], None, "default")


def test_several_sinks_are_given_by_repeating_or_by_blanks() -> None:
    assert loaded("--to", "null:", "--to", "stdout:", options=DRAIN)["to"] == ["null:", "stdout:"]
    assert loaded(options=DRAIN, environ={"EDGE_TO": "null: stdout:"})["to"] == ["null:", "stdout:"]
    assert loaded(options=DRAIN)["to"] == []


@pytest.mark.parametrize("option", SERVE, ids=lambda option: option.name)
def test_every_option_is_a_flag_a_variable_and_a_key(option: Option, file: Path) -> None:
    samples = {
        "HOST:PORT": "127.0.0.1:1",
        "SIZE": "12KiB",
        "TIME": "90s",
        "N": "1200",
        "CIDR,...": "192.0.2.0/24",
        "DIR": "somewhere",
        "FILE": "some.toml",
        "fsync|page": "page",
        "always|off|TIME": "off",
        "URL": "http://upstream.example:1/x",
    }
    sample = samples[option.metavar]
    file.write_text(f'{option.key} = "{sample}"\n')
    expected = option.notation.parse(sample)
    assert not option.default or expected != option.notation.parse(option.default)
    assert loaded(option.flag, sample)[option.key] == expected
    assert loaded(environ={option.variable: sample})[option.key] == expected
    assert loaded("--config", str(file))[option.key] == expected


# --- what is wrong with it


UPSTREAM_EXPECTED = "expected http://HOST[:PORT][/PREFIX] or https://HOST[:PORT][/PREFIX]"
WRONG = {
    "size": (("--body-bytes-max", "lots"), "--body-bytes-max: expected a size above zero such as 64MiB, found 'lots'"),
    "size of nothing": (("--body-bytes-max", "0"), "--body-bytes-max: expected a size above zero"),
    "duration": (("--idle-timeout", "soon"), "--idle-timeout: expected a duration above zero such as 5s, found 'soon'"),
    "count": (("--workers", "0"), "--workers: expected a whole number above zero, found '0'"),
    "address": (("--listen", "8000"), "--listen: expected HOST:PORT, found '8000'"),
    "port": (("--listen", "127.0.0.1:65536"), "--listen: expected HOST:PORT, found '127.0.0.1:65536'"),
    "choice": (("--durability", "none"), "--durability: expected one of fsync, page, found 'none'"),
    "network": (("--trusted-proxies", "everybody"), "--trusted-proxies: 'everybody' does not appear to be"),
    "empty": (("--data", ""), "--data: expected a value, found ''"),
    "secret": (
        ("--upstream", "http://user:p@ssword@h/"),
        f"--upstream: {UPSTREAM_EXPECTED}, without a user, a query or a fragment, found 'http://***@h/'",
    ),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_a_bad_value_is_told_with_its_option_and_what_was_expected(words: tuple[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(*words)
    assert str(raised.value).startswith(told)


def test_a_bad_value_is_told_with_the_variable_or_the_file_it_stands_in(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^EDGE_WORKERS: expected a whole number above zero, found 'x'$"):
        loaded(environ={"EDGE_WORKERS": "x"})
    file.write_text("workers = -1\n")
    with pytest.raises(ConfigError, match=f"^workers in {file}: expected a whole number above zero, found -1$"):
        loaded("--config", str(file))
    file.write_text("workers = [1, 2]\n")
    with pytest.raises(ConfigError, match=f"^workers in {file}: expected one value, found a list of 2$"):
        loaded("--config", str(file))


def test_a_key_nobody_knows_is_told_with_the_nearest_one(file: Path) -> None:
    file.write_text("header_max = 3\n")
    with pytest.raises(ConfigError, match="no setting is called 'header_max', did you mean 'headers_max'"):
        loaded("--config", str(file))
    file.write_text("zzz = 3\n")
    with pytest.raises(ConfigError, match=r"no setting is called 'zzz'$"):
        loaded("--config", str(file))


def test_the_drainers_admin_address_is_not_that_of_the_server_beside_it(file: Path) -> None:
    file.write_text('admin = "h:1"\ndrain_admin = "h:2"\n')
    environ = {"EDGE_CONFIG": str(file)}
    assert loaded(environ=environ)["admin"] == Address("h", 1)
    assert loaded(environ=environ, options=DRAIN)["drain_admin"] == Address("h", 2)
    environ |= {"EDGE_ADMIN": "h:3", "EDGE_DRAIN_ADMIN": "h:4"}
    assert loaded(environ=environ, options=DRAIN)["drain_admin"] == Address("h", 4)
    assert loaded("--admin", "h:5", environ=environ, options=DRAIN)["drain_admin"] == Address("h", 5)
    assert unknown_variables(environ, ALL) == []


def test_a_file_that_cannot_be_used_is_told(file: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {file}: No such file or directory"):
        loaded("--config", str(file))
    file.write_text("workers = \n")
    with pytest.raises(ConfigError, match=f"{file} is not TOML: .*line 1"):
        loaded("--config", str(file))
    file.write_bytes('data = "é"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{file} is not TOML: .*utf-8"):
        loaded("--config", str(file))
    with pytest.raises(ConfigError, match="Is a directory"):
        loaded("--config", str(file.parent))


def test_a_variable_nobody_reads_is_told_with_the_nearest_one() -> None:
    environ = {"EDGE_WORKER": "2", "EDGE_WORKERS": "2", "EDGE_CONFIG": "f", "EDGE_TO": "null:", "OTHER": "1"}
    assert unknown_variables(environ, ALL) == ["nothing reads EDGE_WORKER, did you mean EDGE_WORKERS?"]


# --- what the settings are for


def subscripts(module: str) -> set[str]:
    """The keys of `settings["..."]` in a module."""
    tree = ast.parse((EDGE / module).read_text())
    return {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "settings"
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    }


def test_every_option_is_read_by_its_verb() -> None:
    drain = subscripts("commands/drain.py")
    assert {option.key for option in SERVE} <= subscripts("commands/serve.py")
    assert {option.key for option in DRAIN} <= drain
    assert {option.key for option in UP} <= subscripts("commands/serve.py") | drain


@pytest.mark.parametrize(
    ("settings", "parts"),
    [(ServerSettings, ("server",)), (SpoolSettings, ("spool",)), (Limits, ("wire",))],
    ids=["server", "spool", "core"],
)
def test_every_setting_has_an_effect(settings: type[Any], parts: tuple[str, ...]) -> None:
    read = {
        node.attr
        for part in parts
        for path in (EDGE / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert set(settings.__struct_fields__) <= read


def test_the_defaults_are_those_of_the_parts_they_are_for() -> None:
    """But for the proxies: a program of this machine only, unless it is run as a service."""
    found = loaded()
    server = ServerSettings()
    for field in ServerSettings.__struct_fields__:
        key = field.removesuffix("_s")
        if field not in ("decoded", "v1_decoded", "trusted_proxies"):
            assert found[key] == getattr(server, field), field
    assert Limits(found["decoded_bytes_max"], found["lz64_bytes_max"], found["events_max"]) == server.decoded
    assert Limits(found["v1_decoded_bytes_max"], events_max=found["events_max"]) == server.v1_decoded
    spool = SpoolSettings()
    assert found["durability"] == spool.durability.value
    assert found["segment_bytes_max"] == spool.segment_bytes_max
    assert (found["segment_age_max"], found["sync_interval"]) == (spool.segment_age_max_s, spool.sync_interval_s)


def test_an_option_without_a_default_says_what_holds_and_has_an_example() -> None:
    for option in ALL:
        assert bool(option.default) != bool(option.example)
        assert option.default or option.otherwise


def test_no_option_is_declared_twice() -> None:
    assert len(ALL) == len({option.key for option in ALL})
    for options in (SERVE, DRAIN, UP):
        names = [option.name for option in options]
        assert len(names) == len(set(names))


def test_addresses_can_be_listened_on() -> None:
    found = loaded()
    for key in ("listen", "admin"):
        assert socket.getaddrinfo(found[key].host, found[key].port)


@pytest.mark.parametrize(("text", "seconds"), [("100ms", 0.1), ("2s", 2.0), ("1h", 3600.0)])
def test_a_time_between_two_is_taken_at_both_ends(text: str, seconds: float) -> None:
    assert duration_between("100ms", "1h", "2s")(text) == seconds


@pytest.mark.parametrize("text", ["99ms", "3601s", "0s", "-1s", "soon", ""])
def test_any_other_time_is_told_what_was_expected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        duration_between("100ms", "1h", "2s")(text)
    assert str(raised.value) == f"expected a time from 100ms to 1h such as 2s, found {text!r}"
