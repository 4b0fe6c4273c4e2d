"""An edge in front of an edge: what one accepted, the other delivers, event for event."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.integration.edge_process import EdgeProcess, Event


def capture(name: str, **members: Any) -> bytes:
    return json.dumps({"api_key": "phc_a", "event": name, "distinct_id": "u", **members}).encode()


REQUESTS: list[tuple[str, bytes, dict[str, str]]] = [
    ("/i/v0/e/", capture("plain", properties={"a": 1}), {}),
    ("/i/v0/e/", capture("timed", timestamp="2025-06-01T10:00:00.123456Z"), {}),
    ("/i/v0/e/", capture("skewed", timestamp="2025-06-01T10:00:00Z", sent_at="2025-06-01T10:00:05Z"), {}),
    ("/i/v0/e/", capture("offset", offset=90_000), {}),
    ("/i/v0/e/", capture("with uuid", uuid="0197A4C2-0000-7000-8000-00000000000A"), {}),
    ("/i/v0/e/", capture("address", properties={"$ip": "192.0.2.1"}), {"X-Forwarded-For": "198.51.100.9"}),
    ("/i/v0/e/", capture("forwarded"), {"X-Forwarded-For": "198.51.100.9"}),
    ("/i/v0/e/", capture("profile", **{"$set": {"a": 1}, "$set_once": {"b": 2}, "$groups": {"c": "d"}}), {}),
    ("/i/v0/e/", capture("no profile", **{"$process_person_profile": False}), {}),
    (
        "/i/v0/e/",
        b'{"api_key":"phc_a","event":"big","distinct_id":12,"properties":{"n":123456789012345678901234567890}}',
        {},
    ),
    ("/i/v0/e/", capture("umlaut \u00e4\u20ac\U0001f600", distinct_id="\u00fc"), {}),
    ("/i/v0/e/", capture("$exception", properties={"$exception_list": []}), {}),
    ("/i/v0/e/", capture("$ai_generation"), {}),
    ("/i/v0/e/", capture("other project", api_key="phc_b"), {}),
    ("/engage/", json.dumps({"token": "phc_a", "$distinct_id": "e", "$set": {"x": 1}}).encode(), {}),
    (
        "/batch/",
        gzip.compress(
            json.dumps(
                {
                    "api_key": "phc_a",
                    "historical_migration": True,
                    "batch": [
                        {"event": f"old {n}", "distinct_id": f"h{n % 3}", "timestamp": f"2024-01-0{n + 1}T00:00:00Z"}
                        for n in range(9)
                    ],
                }
            ).encode()
        ),
        {"Content-Encoding": "gzip"},
    ),
    (
        "/batch/",
        json.dumps({"api_key": "phc_b", "batch": [{"event": "no id"}, {"event": "id", "distinct_id": "i"}]}).encode(),
        {},
    ),
    (
        "/s/",
        json.dumps(
            [
                {
                    "event": "$snapshot",
                    "token": "phc_a",
                    "distinct_id": "r",
                    "properties": {"$session_id": "s-1", "$window_id": "w-1", "$snapshot_data": [{"type": n}]},
                }
                for n in range(3)
            ]
        ).encode(),
        {"User-Agent": "posthog-node/4.0"},
    ),
]


def test_what_one_edge_ships_the_next_one_delivers_unchanged(tmp_path: Path) -> None:
    with EdgeProcess(tmp_path / "far") as far, EdgeProcess(tmp_path / "near") as near:
        (tmp_path / "far").mkdir()
        (tmp_path / "near").mkdir()
        far.start("--workers", "1")
        near.start("--workers", "1", "--to", f"file:{near.data}/events", "--to", f"posthog+http://127.0.0.1:{far.port}")
        for path, body, headers in REQUESTS:
            assert near.request("POST", path, body, headers).status == 200, path
        count = 26
        expected = {event["uuid"]: event for event in near.wait_for_events(count, 20)}
        found = {event["uuid"]: event for event in far.wait_for_events(count, 20)}
        near.stop()
        far.stop()
        assert len(expected) == len(near.events()) == count
        assert len(found) == len(far.events()) == count
        assert found.keys() == expected.keys()
        for uuid, event in expected.items():
            assert comparable(found[uuid]) == comparable(event)
            assert found[uuid]["properties"].get("$ip", event["ip"]) == event["properties"].get("$ip", event["ip"])
        assert order(far.events()) == order(near.events())
        for sink in near.status()["sinks"]:
            assert sink["accepted"] == 29
            assert (sink["shipped"], sink["dropped"], sink["merged"]) == (count, {"no_distinct_id": 1}, 2)
            assert (sink["quarantined"], sink["unaccounted"], sink["waiting_events"]) == (0, 0, 0)
    lanes = {event["lane"] for event in expected.values()}
    assert lanes == {"main", "historical", "exceptions", "ai", "replay"}


def comparable(event: Event) -> Event:
    """All but what the second edge sees for itself: its peer and the time of the request."""
    properties = {key: value for key, value in event["properties"].items() if key != "$ip"}
    others = {key: value for key, value in event.items() if key not in ("now", "ip", "sent_at", "$ip")}
    return {**others, "properties": properties}


def order(events: list[Event]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for event in events:
        found.setdefault((event["token"], event["distinct_id"]), []).append(event["uuid"])
    return found
