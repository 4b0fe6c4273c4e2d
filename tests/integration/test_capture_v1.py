"""The official libraries over capture v1, unmodified, against a running edge: what they are told is what comes out."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.integration.capture_v1_driver import BURST, EXPLICIT_TIME, EXPLICIT_UUID, NESTED
from tests.integration.client_libraries import install_node_packages
from tests.integration.edge_process import EdgeProcess, Event, environment
from tests.integration.sdk import assert_contains, assert_each_once, by_name, corrected, instant
from tests.server.running import wait_until

DRIVER = Path(__file__).with_name("capture_v1_driver.py")
NODE = Path(__file__).with_name("node_v1")
V1 = {"POSTHOG_CAPTURE_MODE": "v1"}
ROUTE = "i/v1/analytics/events"

# Name of the call in the driver: name of the event, distinct_id (None: the library makes one), properties, lane.
CALLS: dict[str, tuple[str, str | None, dict[str, Any], str]] = {
    "set": ("$set", "ada", {"$set": {"email": "ada@example.com"}}, "main"),
    "capture": ("signed up", "ada", {"plan": "pro", "$session_id": "s-1"}, "main"),
    "alias": ("$create_alias", "anon-1", {"distinct_id": "anon-1", "alias": "ada"}, "main"),
    "group_identify": ("$groupidentify", None, {"$group_type": "company", "$group_key": "acme"}, "main"),
    "exception": ("$exception", "ada", {"$exception_level": "error"}, "exceptions"),
    "explicit": ("explicit", "ada", NESTED, "main"),
    "options": (
        "options",
        "ada",
        {"$ignore_sent_at": True, "$cookieless_mode": True, "$product_tour_id": "tour"},
        "main",
    ),
    "anonymous": ("nobody in particular", None, {"$process_person_profile": False}, "main"),
    "placeholder": ("no person", "anonymous", {"$process_person_profile": False}, "main"),
    "historical": ("long ago", "ada", {}, "historical"),
    **{f"burst-{n}": ("burst", f"user-{n % 7}", {"n": n}, "main") for n in range(BURST)},
}


def requests(edge: EdgeProcess, route: str, status: int = 200) -> int:
    """Requests on a route that were answered so."""
    wanted = f'http_requests_total{{method="POST",path="{route}",status="{status}"}} '
    found = [line for line in edge.metrics().splitlines() if line.startswith(wanted)]
    return int(found[0].removeprefix(wanted)) if found else 0


def assert_library(event: Event, name: str, number: str) -> None:
    """The edge says which library sent the event: over capture v1 the library itself does not."""
    assert_contains(event["properties"], {"$lib": name, "$lib_version": number})
    assert not {"options", "session_id", "window_id"} & event.keys()


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", "zstd"])
def test_python_every_call_is_delivered_once_or_reported(edge: EdgeProcess, compression: str) -> None:
    done = subprocess.run(
        [sys.executable, DRIVER, edge.url, compression],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment() | V1,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    calls = dict(report["calls"])
    refused = calls.pop("refused")
    # The one event that is not delivered is the one that the library says is not.
    [[_, drops]] = report["errors"]
    assert drops == [[refused, "distinct_id_too_large"]]
    assert requests(edge, ROUTE) >= 2
    assert not requests(edge, "batch")
    assert (f'edge_slow_path_total{{layer="{compression}"}}' in edge.metrics()) == (compression != "none")

    events = edge.events_when_stopped(len(CALLS), within_s=20)
    delivered = {event["uuid"]: event for event in events}
    assert calls.keys() == CALLS.keys()
    assert len(events) == len(delivered) == len(CALLS)
    assert delivered.keys() == set(calls.values())
    for name, uuid in calls.items():
        event = delivered[uuid]
        expected, distinct_id, properties, lane = CALLS[name]
        assert_contains(event, {"event": expected, "token": "phc_python_v1", "lane": lane, "ip": "127.0.0.1"})
        assert event["distinct_id"] == distinct_id if distinct_id else event["distinct_id"]
        assert_contains(event["properties"], properties)
        assert_library(event, "posthog-python", version("posthog"))
    explicit = delivered[EXPLICIT_UUID]
    assert instant(explicit["timestamp"]) == corrected(explicit, EXPLICIT_TIME)
    assert instant(delivered[calls["options"]]["timestamp"]) == EXPLICIT_TIME


@pytest.fixture(scope="module")
def node_driver(program: Callable[[str], str]) -> Path:
    """The driver beside the pinned library, installed once into the repository's cache."""
    return install_node_packages(program("npm"), NODE) / "driver.mjs"


# Name: distinct_id, properties, lane.
EXPECTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "$identify": ("ada", {"$set": {"email": "ada@example.com"}}, "main"),
    "signed up": ("ada", {"plan": "pro", "$session_id": "s-1"}, "main"),
    "personless": ("ada", {"$process_person_profile": False}, "main"),
    "explicit": (
        "ada",
        {
            "text": 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back',
            "half": "cut \ufffd here",
            "nul": "a\0b",
        },
        "main",
    ),
    "no person": ("undefined", {"$process_person_profile": False}, "main"),
    "long ago": ("ada", {}, "historical"),
}


@pytest.mark.parametrize("encoding", ["plain", "gzip"])
def test_node_every_call_is_delivered_once_or_reported(
    edge: EdgeProcess, program: Callable[[str], str], node_driver: Path, encoding: str
) -> None:
    command: list[str | Path] = [program("node"), node_driver, edge.url, encoding]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment() | V1)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    refused = "0191f5c0-7c1a-7b5e-9d2f-0123456789ac"
    [[_, drops]] = report["errors"]
    assert drops == [{"uuid": refused, "details": "distinct_id_too_large"}]
    assert requests(edge, ROUTE) >= 2
    count = len(EXPECTED) + 1 + BURST
    edge.wait_for_events(count, within_s=20)
    # Events of language models take the older route, in this library.
    wait_until(lambda: requests(edge, "batch") + requests(edge, "i/v0/ai/batch") == 1, "a request on the older route")
    events = edge.events_when_stopped(count, within_s=20)
    assert len(events) == count
    assert_each_once(events)
    number = json.loads((NODE / "package.json").read_text())["dependencies"]["posthog-node"]
    for name, (distinct_id, properties, lane) in EXPECTED.items():
        event = by_name(events, name)
        assert_contains(event, {"distinct_id": distinct_id, "token": "phc_node_v1", "lane": lane, "ip": "127.0.0.1"})
        assert_contains(event["properties"], properties)
        assert_library(event, "posthog-node", number)
    assert by_name(events, "$ai_generation")["lane"] == "ai"
    burst = sorted((event for event in events if event["event"] == "burst"), key=lambda event: event["properties"]["n"])
    assert [event["properties"]["n"] for event in burst] == list(range(BURST))
    explicit = by_name(events, "explicit")
    assert instant(explicit["timestamp"]) == corrected(explicit, datetime(2024, 2, 29, 18, 0, 15, 123000, tzinfo=UTC))
