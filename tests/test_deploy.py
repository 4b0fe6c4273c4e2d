"""What users deploy from `deploy/`, as far as it shows without a container engine. The tier test runs the balancers' files."""

import re
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.cli import main
from edge.config import ALL, SERVE, UP
from edge.drain.sinks.table import make_sink
from edge.notation import Address
from edge.server.admin import AdminServer, Check, Probes
from tests.server.running import edge

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def edges(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in compose["services"].items() if service["image"] == "capture-edge"}


def test_every_edge_has_a_volume_of_its_own_and_settings_that_are_read(compose: dict[str, Any]) -> None:
    known = {option.variable: option for option in ALL}
    volumes = [volume for each in edges(compose).values() for volume in each["volumes"]]
    assert len({volume.partition(":")[0] for volume in volumes}) == len(edges(compose)) == 3
    assert {volume.partition(":")[0] for volume in volumes} <= compose["volumes"].keys()
    for each in edges(compose).values():
        assert each["volumes"][0].endswith(":" + each["environment"]["EDGE_DATA"])
        for name, value in each["environment"].items():
            known[name].notation.parse(value)
        make_sink(each["environment"]["EDGE_TO"])


def test_every_edge_is_asked_for_its_health_where_its_settings_say(compose: dict[str, Any]) -> None:
    with closing(
        AdminServer(Address("0.0.0.0", 0), Probes(list, lambda: [Check("disk", False, "full")], str))
    ) as admin:
        for each in edges(compose).values():
            kind, program, *words = each["healthcheck"]["test"]
            assert (kind, program) == ("CMD", "/opt/edge/bin/edge")
            there = each["environment"]["EDGE_ADMIN"].replace("8001", str(admin.address.port))
            assert edge(*words, env={**each["environment"], "EDGE_ADMIN": there}).stdout == "disk: full\n"


def test_the_order_to_stop_has_the_time_it_needs(compose: dict[str, Any]) -> None:
    for each in edges(compose).values():
        assert int(each["stop_grace_period"].removesuffix("s")) > 30


def test_the_broker_is_the_one_that_is_tested(compose: dict[str, Any]) -> None:
    pinned = re.search(
        r"<artifactId>kafka_2.13</artifactId>\s*<version>(.*)</version>", (DEPLOY / "kafka/pom.xml").read_text()
    )
    assert pinned is not None
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{pinned[1]}"
    assert f"kafka_2.13-{pinned[1]}.jar" in (DEPLOY / "kafka/libs.sha256").read_text()


@pytest.mark.parametrize("name", ["haproxy.cfg", "nginx.conf"])
def test_balancers_know_every_edge(name: str, compose: dict[str, Any]) -> None:
    found = re.findall(r"^\s*server (?:edge\d )?(edge\d):8000\b", (DEPLOY / name).read_text(), re.MULTILINE)
    assert found == list(edges(compose))


@pytest.mark.parametrize("name", ["haproxy.cfg", "nginx.conf"])
def test_balancers_close_idle_connections_before_the_edge_does(name: str) -> None:
    edge_s = next(float(option.default.removesuffix("s")) for option in SERVE if option.name == "idle-timeout")
    found = re.findall(r"(?:timeout http-keep-alive|keepalive_timeout) (\d+)s", (DEPLOY / name).read_text())
    assert found
    assert all(float(seconds) < edge_s for seconds in found)


def test_the_image_starts_a_verb_with_options_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    command = re.search(r"^CMD \[(.*)\]$", text, re.MULTILINE)
    assert command is not None
    verb, *words = re.findall(r'"([^"]*)"', command[1])
    flags = {option.flag for option in UP}
    assert verb == "up"
    assert {word for word in words if word.startswith("--")} <= flags
    copied = {
        name for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in source.split()
    }
    for name in copied:
        assert (DEPLOY.parent / name).exists(), name
    wheel = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= copied
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "--listen" in capsys.readouterr().out
