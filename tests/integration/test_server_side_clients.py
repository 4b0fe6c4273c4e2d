"""Client libraries for servers, several generations, unmodified, each with events of its own: every one is delivered once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.client_libraries import (
    Call,
    install_python_package,
    installed_version,
    run_driver,
    run_posthog_node,
    run_posthog_python,
)
from tests.integration.edge_process import EdgeProcess, Event
from tests.integration.sdk import HALF_AN_EMOJI, MENDED, NESTED, TEXT, assert_contains, instant
from tests.integration.tally import Tally

EVENTS: Final = 230
"""Captured in a loop: more than two batches of every library."""

LONG_AGO_S: Final = 1_700_000_000

MIXPANEL_EXTRA: Final = ("$identify", "$groupidentify", "long ago")

POSTHOG_PYTHON: Final = ("7.91.1", "6.9.3", "3.25.0", "2.5.0")
POSTHOG_NODE: Final = ("posthog-node", "posthog-node-4", "posthog-node-2")


def properties_of(number: int) -> dict[str, Any]:
    return {"n": number, "plan": ("free", "pro")[number % 2], "text": TEXT, "list": NESTED, "größe": number / 8}


@pytest.mark.parametrize("version", POSTHOG_PYTHON)
def test_posthog_python(edge: EdgeProcess, tally: Tally, version: str) -> None:
    token = f"phc_python_{version}"
    calls: list[Call] = [
        ("capture", {"event": "visited", "distinct_id": f"user-{n % 7}", "properties": properties_of(n)})
        for n in range(EVENTS)
    ]
    calls += [
        ("set", {"distinct_id": "ada", "properties": {"email": "ada@example.com"}}),
        ("alias", {"previous_id": "anon-1", "distinct_id": "ada"}),
        ("group_identify", {"group_type": "company", "group_key": "acme", "properties": {"employees": 11}}),
        # Version 7 writes null, all before write what is no JSON.
        ("capture", {"event": "odd", "distinct_id": "ada", "properties": {"rate": float("nan")}}),
    ]
    report = run_posthog_python(version, edge.url, token, calls)
    assert report == {"version": version, "errors": []}

    events = edge.events_when_stopped(len(calls), within_s=20)
    check_visits(events, f"posthog-python {version}", tally, extra=("$set", "$create_alias", "$groupidentify", "odd"))
    assert {event["token"] for event in events} == {token}
    for event in events:
        assert_contains(event["properties"], {"$lib": "posthog-python", "$lib_version": version})
    special = {event["event"]: event for event in events if event["event"] != "visited"}
    assert_contains(special["$set"], {"distinct_id": "ada", "$set": {"email": "ada@example.com"}})
    assert_contains(special["$create_alias"]["properties"], {"distinct_id": "anon-1", "alias": "ada"})
    group = {"$group_type": "company", "$group_key": "acme", "$group_set": {"employees": 11}}
    assert_contains(special["$groupidentify"]["properties"], group)
    assert_contains(special["odd"]["properties"], {"rate": None})


@pytest.mark.parametrize("package", POSTHOG_NODE)
def test_posthog_node(
    edge: EdgeProcess, tally: Tally, program: Callable[[str], str], node_packages: Path, package: str
) -> None:
    version = installed_version(node_packages, package)
    token = f"phc_node_{version}"
    calls: list[Call] = [
        ("capture", {"event": "visited", "distinctId": f"user-{n % 7}", "properties": properties_of(n)})
        for n in range(EVENTS)
    ]
    calls += [
        ("identify", {"distinctId": "ada", "properties": {"email": "ada@example.com"}}),
        ("alias", {"distinctId": "ada", "alias": "anon-1"}),
        ("groupIdentify", {"groupType": "company", "groupKey": "acme", "properties": {"employees": 11}}),
        ("capture", {"event": "odd", "distinctId": "ada", "properties": {"half": HALF_AN_EMOJI}}),
    ]
    report = run_posthog_node(program("node"), node_packages, package, edge.url, token, calls)
    assert report == {"errors": []}

    events = edge.events_when_stopped(len(calls), within_s=20)
    check_visits(
        events, f"posthog-node {version}", tally, extra=("$identify", "$create_alias", "$groupidentify", "odd")
    )
    assert {event["token"] for event in events} == {token}
    for event in events:
        assert_contains(event["properties"], {"$lib": "posthog-node", "$lib_version": version})
    special = {event["event"]: event for event in events if event["event"] != "visited"}
    # Version 2 has it beside the properties.
    assert {"email": "ada@example.com"} in (
        special["$identify"].get("$set"),
        special["$identify"]["properties"]["$set"],
    )
    assert_contains(special["$create_alias"]["properties"], {"distinct_id": "ada", "alias": "anon-1"})
    group = {"$group_type": "company", "$group_key": "acme", "$group_set": {"employees": 11}}
    assert_contains(special["$groupidentify"]["properties"], group)
    assert_contains(special["odd"]["properties"], {"half": MENDED})


def test_mixpanel_python(edge: EdgeProcess, tally: Tally) -> None:
    interpreter = install_python_package("mixpanel==5.4.1")
    work = mixpanel_work(edge.url, "mp_python")
    report = run_driver([interpreter, Path(__file__).with_name("mixpanel_driver.py")], work)
    assert report == {"version": "5.4.1"}
    events = edge.events_when_stopped(EVENTS + len(MIXPANEL_EXTRA), within_s=20)
    check_visits(events, "mixpanel-python 5.4.1", tally, extra=MIXPANEL_EXTRA)
    check_mixpanel(events, "mp_python", "python")
    insert_ids = {event["properties"]["$insert_id"] for event in events if event["event"] == "visited"}
    assert len(insert_ids) == EVENTS


def test_mixpanel_node(edge: EdgeProcess, tally: Tally, program: Callable[[str], str], node_packages: Path) -> None:
    version = installed_version(node_packages, "mixpanel")
    work = mixpanel_work(edge.url, "mp_node")
    report = run_driver([program("node"), node_packages / "mixpanel_driver.mjs"], work)
    assert report == {"errors": []}
    events = edge.events_when_stopped(EVENTS + len(MIXPANEL_EXTRA), within_s=20)
    check_visits(events, f"mixpanel-node {version}", tally, extra=MIXPANEL_EXTRA)
    check_mixpanel(events, "mp_node", "node")


def check_visits(events: list[Event], client: str, tally: Tally, extra: tuple[str, ...]) -> None:
    """Each event of the loop arrived once and unchanged, and so did one of each name in `extra`."""
    names = [str(event["properties"]["n"]) if event["event"] == "visited" else event["event"] for event in events]
    line = tally.count(client, {*map(str, range(EVENTS)), *extra}, names)
    assert (line.sent, line.twice) == (line.delivered, 0)
    assert len({event["uuid"] for event in events}) == len(events)
    for event in events:
        if event["event"] == "visited":
            number = event["properties"]["n"]
            assert event["distinct_id"] == f"user-{number % 7}"
            assert_contains(event["properties"], properties_of(number))


def mixpanel_work(host: str, token: str) -> dict[str, Any]:
    events = [(f"user-{n % 7}", "visited", properties_of(n)) for n in range(EVENTS)]
    return {
        "host": host,
        "token": token,
        "events": events,
        "people": [("ada", {"email": "ada@example.com"})],
        "groups": [("company", "acme", {"employees": 11})],
        "imports": [("ada", "long ago", LONG_AGO_S, {"plan": "pro"})],
    }


def check_mixpanel(events: list[Event], token: str, library: str) -> None:
    assert {event["token"] for event in events} == {token}
    special = {event["event"]: event for event in events if event["event"] != "visited"}
    assert_contains(special["$identify"], {"distinct_id": "ada", "$set": {"email": "ada@example.com"}})
    group = {"$group_type": "company", "$group_key": "acme", "$group_set": {"employees": 11}}
    assert_contains(special["$groupidentify"]["properties"], group)
    assert_contains(special["long ago"]["properties"], {"plan": "pro", "mp_lib": library})
    assert instant(special["long ago"]["timestamp"]).timestamp() == LONG_AGO_S
