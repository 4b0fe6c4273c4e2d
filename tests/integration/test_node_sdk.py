"""The official Node library, unmodified, against a running edge: nothing is lost, doubled or changed."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client_libraries import NODE_SOURCES
from tests.integration.edge_process import EdgeProcess, Event, environment
from tests.integration.sdk import assert_contains, assert_each_once, assert_within, by_name, corrected, instant

BURST = 500
EXPLICIT_TIME = datetime(2024, 2, 29, 18, 0, 15, 123000, tzinfo=UTC)

# Name: distinct_id, properties, other members, lane.
EXPECTED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "$identify": ("ada", {"$set": {"email": "ada@example.com", "plan": "pro"}}, {}, "main"),
    "signed up": ("ada", {"plan": "pro", "seats": 3}, {}, "main"),
    "upgraded": ("ada", {"$groups": {"company": "acme"}}, {}, "main"),
    "$create_alias": ("ada", {"distinct_id": "ada", "alias": "anon-1"}, {}, "main"),
    "$groupidentify": (
        "$company_acme",
        {"$group_type": "company", "$group_key": "acme", "$group_set": {"name": "Acme", "employees": 11}},
        {},
        "main",
    ),
    "$exception": ("ada", {"cart": "c-1"}, {}, "exceptions"),
    "explicit": (
        "ada",
        {
            "text": 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back',
            "list": [1, 2.5, None, True, {"deep": [["x"], {}]}],
            "größe": {"日本": "é"},
            # Half an emoji is no Unicode text: JavaScript sends it, nothing downstream could read it.
            "half": "cut \ufffd here",
            "nul": "a\0b",
        },
        {"uuid": "0191f5c0-7c1a-7b5e-9d2f-0123456789ab"},
        "main",
    ),
}


@pytest.mark.parametrize("encoding", ["plain", "gzip"])
def test_every_call_is_delivered_once_as_it_was_made(
    edge: EdgeProcess, program: Callable[[str], str], node_packages: Path, encoding: str
) -> None:
    node = program("node")
    done = subprocess.run(
        [node, node_packages / "driver.mjs", edge.url, encoding],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    assert done.returncode == 0, f"{_version(node)}: {done.stderr}"
    report = json.loads(done.stdout)
    assert report["errors"] == []
    assert ('edge_slow_path_total{layer="gzip"}' in edge.metrics()) == (encoding == "gzip")

    events = edge.events_when_stopped(len(EXPECTED) + BURST, within_s=5)
    assert len(events) == len(EXPECTED) + BURST
    assert_each_once(events)
    for name, expected in EXPECTED.items():
        _assert_as_called(by_name(events, name), expected)
    burst = sorted((event for event in events if event["event"] == "burst"), key=lambda event: event["properties"]["n"])
    assert [event["properties"]["n"] for event in burst] == list(range(BURST))
    for number, event in enumerate(burst):
        _assert_as_called(event, (f"user-{number % 7}", {"n": number}, {}, "main"))
    for event in events:
        if event["event"] != "explicit":
            assert_within(event, report["before"] / 1000, report["after"] / 1000)
    explicit = by_name(events, "explicit")
    assert instant(explicit["timestamp"]) == corrected(explicit, EXPLICIT_TIME)
    thrown = by_name(events, "$exception")["properties"]["$exception_list"][0]
    assert (thrown["type"], thrown["value"]) == ("RangeError", "the cart is empty 🛒")


def _assert_as_called(event: Event, expected: tuple[str, dict[str, Any], dict[str, Any], str]) -> None:
    distinct_id, properties, members, lane = expected
    envelope = {"distinct_id": distinct_id, "token": "phc_node_sdk", "lane": lane, "ip": "127.0.0.1"}
    assert_contains(event, {**envelope, **members})
    version = json.loads((NODE_SOURCES / "package.json").read_text())["dependencies"]["posthog-node"]
    assert_contains(event["properties"], {**properties, "$lib": "posthog-node", "$lib_version": version})


def _version(node: str) -> str:
    return "node " + subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
