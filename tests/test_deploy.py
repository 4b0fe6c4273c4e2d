"""What users deploy from `deploy/`, as far as it shows without a container engine. The tier test runs the balancers' files."""

import re
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from edge.cli import main
from edge.config import ALL, SERVE, UP
from edge.drain.sinks.table import make_sink
from edge.exposition import parse_exposition
from edge.metrics import METRICS
from edge.notation import Address
from edge.process import EXIT_CONFIG
from edge.server import supervisor
from edge.server.admin import AdminServer, Check, Probes
from tests.server.running import edge, running

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


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit's service, each with its values."""
    _, _, service = (DEPLOY / "edge.service").read_text().partition("[Service]\n")
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Z]\w+)=(.*)$", service.partition("[Install]")[0], re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_what_there_is_and_gives_it_its_time(tmp_path: Path) -> None:
    service = unit()
    known = {option.variable for option in ALL}
    assert {each.partition("=")[0] for each in service["Environment"]} <= known
    [check], [start] = service["ExecStartPre"], service["ExecStart"]
    for command, verb in ((check, "check"), (start, "up")):
        program, *words = command.split()
        assert (program, words[0]) == ("/opt/edge/bin/edge", verb)
        # Refused for its file alone, which is read after the command line.
        missing = str(tmp_path / "edge.toml")
        assert "/etc/edge.toml" in words
        done = edge(*[missing if word == "/etc/edge.toml" else word for word in words])
        assert done.returncode == EXIT_CONFIG
        assert f"cannot read {missing}" in done.stdout + done.stderr
    assert service["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert service["Type"] == ["notify"]
    assert float(service["TimeoutStartSec"][0]) > supervisor.START_S
    assert float(service["TimeoutStopSec"][0]) > 2 * supervisor.KILL_S
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def rules() -> dict[str, promql_parser.Expr]:
    """The alerts' expressions by their names."""
    [group] = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"]
    return {rule["alert"]: promql_parser.parse(rule["expr"]) for rule in group["rules"]}


def nodes(expression: promql_parser.Expr) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(expression, pre_visit=found.append)
    return found


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every metric there is: of those an edge shows as it starts, and of those it may show later."""
    with running(tmp_path_factory.mktemp("alerts"), verb="up") as server:
        shown = parse_exposition(server.get_admin("/metrics").body.decode())
    found: dict[str, set[str]] = {name: set() for name in shown.metrics}
    found |= {metric.name: set(metric.labels) for metric in METRICS}
    for name, family in shown.samples.items():
        found.setdefault(name, set()).update(label for labels in family for label, _ in labels)
    return found


def test_every_alert_asks_for_metrics_and_labels_there_are(exposed: dict[str, set[str]]) -> None:
    scraped = {"instance", "job"}
    exposed = exposed | {"up": set()}
    asked: set[str] = set()
    for alert, expression in rules().items():
        found = nodes(expression)
        selectors = {str(node.name): node for node in found if isinstance(node, promql_parser.VectorSelector)}
        assert selectors, alert
        labels = scraped.union(*(exposed[name] for name in selectors))
        for name, selector in selectors.items():
            assert {matcher.name for matcher in selector.matchers.matchers} <= exposed[name] | scraped, alert
        for node in found:
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
                assert set(node.modifier.labels) <= labels, alert
        asked |= selectors.keys()
    # What the table of what to do begins with, and is a number, somebody is told of.
    told = re.findall(
        r"^\| `(edge_\w+)`",
        (DEPLOY.parent / "docs" / "operations.md").read_text().partition("## What to do when")[2],
        re.MULTILINE,
    )
    assert set(told) <= asked


def test_alerts_say_what_of_which_edge() -> None:
    [group] = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]


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
