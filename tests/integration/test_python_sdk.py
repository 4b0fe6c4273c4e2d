"""The official Python library, unmodified, against a running edge: nothing is lost, doubled or changed."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.integration.edge_process import EdgeProcess, Event, environment
from tests.integration.python_driver import BURST, EXPLICIT_TIME, EXPLICIT_UUID, NESTED, TOKEN
from tests.integration.sdk import assert_contains, assert_within, corrected, instant

DRIVER = Path(__file__).with_name("python_driver.py")

# Name of the call in the driver: name, distinct_id (None: the library makes one), properties, other members, lane.
CALLS: dict[str, tuple[str, str | None, dict[str, Any], dict[str, Any], str]] = {
    "set": ("$set", "ada", {}, {"$set": {"email": "ada@example.com", "plan": "pro"}}, "main"),
    "set_once": ("$set_once", "ada", {}, {"$set_once": {"first_seen": "2024-01-01"}}, "main"),
    "capture": ("signed up", "ada", {"plan": "pro", "seats": 3}, {}, "main"),
    "groups": ("upgraded", "ada", {"$groups": {"company": "acme"}}, {}, "main"),
    "alias": ("$create_alias", "anon-1", {"distinct_id": "anon-1", "alias": "ada"}, {}, "main"),
    "group_identify": (
        "$groupidentify",
        None,
        {"$group_type": "company", "$group_key": "acme", "$group_set": {"name": "Acme", "employees": 11}},
        {},
        "main",
    ),
    "exception": ("$exception", "ada", {"cart": "c-1", "$exception_level": "error"}, {}, "exceptions"),
    "explicit": ("explicit", "ada", NESTED, {"uuid": EXPLICIT_UUID}, "main"),
    "anonymous": ("nobody in particular", None, {"$process_person_profile": False}, {}, "main"),
    **{f"burst-{n}": ("burst", f"user-{n % 7}", {"n": n}, {}, "main") for n in range(BURST)},
}


@pytest.mark.parametrize("encoding", ["plain", "gzip"])
def test_every_call_is_delivered_once_as_it_was_made(edge: EdgeProcess, encoding: str) -> None:
    assert int(version("posthog").partition(".")[0]) >= 7, f"expected posthog 7 or newer, found {version('posthog')}"
    done = subprocess.run(
        [sys.executable, DRIVER, edge.url, encoding], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["errors"] == []
    assert ('edge_slow_path_total{layer="gzip"}' in edge.metrics()) == (encoding == "gzip")

    events = edge.events_when_stopped(len(CALLS), within_s=5)
    delivered = {event["uuid"]: event for event in events}
    calls = {name: (uuid, before, after) for name, uuid, before, after in report["calls"]}
    assert calls.keys() == CALLS.keys()
    # As many events as different uuids, and those are the ones the library gave out: nothing lost, doubled or invented.
    assert len(events) == len(delivered) == len(CALLS)
    assert delivered.keys() == {uuid for uuid, _, _ in calls.values()}
    for name, (uuid, before, after) in calls.items():
        _assert_as_called(delivered[uuid], CALLS[name])
        if name != "explicit":
            assert_within(delivered[uuid], before, after)
    explicit = delivered[EXPLICIT_UUID]
    assert instant(explicit["timestamp"]) == corrected(explicit, EXPLICIT_TIME)
    [thrown] = delivered[calls["exception"][0]]["properties"]["$exception_list"]
    assert (thrown["type"], thrown["value"]) == ("ValueError", "the cart is empty 🛒")


def _assert_as_called(event: Event, expected: tuple[str, str | None, dict[str, Any], dict[str, Any], str]) -> None:
    name, distinct_id, properties, members, lane = expected
    assert_contains(event, {"event": name, "token": TOKEN, "lane": lane, "ip": "127.0.0.1", **members})
    assert event["distinct_id"] == distinct_id if distinct_id else event["distinct_id"]
    library = {"$lib": "posthog-python", "$lib_version": version("posthog")}
    assert_contains(event["properties"], {**properties, **library})
