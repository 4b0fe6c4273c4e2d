"""Client libraries for browsers in headless Chromium, on pages of another origin: every event is delivered once."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.chromium import ARRIVE_S, Browser
from tests.integration.client_libraries import POSTHOG_JS, installed_version
from tests.integration.edge_process import EdgeProcess, Event
from tests.integration.sdk import MENDED, NESTED, TEXT, assert_contains, by_name
from tests.integration.tally import Tally

EVENTS: Final = 40
"""Captured in a loop when the page is loaded."""

META, FULL_SNAPSHOT = 4, 2
"""Types of the pieces of a recording which one starts with."""


@pytest.mark.parametrize("package", POSTHOG_JS)
def test_posthog_js(edge: EdgeProcess, tally: Tally, browser: Browser, node_packages: Path, package: str) -> None:
    version = installed_version(node_packages, package)
    old = package == "posthog-js-1.20"
    token = f"phc_js_{version}"
    query = [
        ("script", POSTHOG_JS[package]),
        ("host", edge.url),
        ("token", token),
        ("events", str(EVENTS)),
        ("replay", ""),
    ]
    browser.visit("posthog.html", [*query, ("old", "")] if old else query)
    # All pieces of the settings are there, and autocapture is on, when the first events have arrived.
    wait_for_names(edge, {"visited"})
    browser.click("buy")
    wait_for_names(edge, {"$autocapture"})
    wait_for_lane(edge, "replay")
    # What is captured now has no time to be sent but while the page is left.
    browser.run("posthog.capture('last words', {n: 1})")
    browser.visit("left.html")
    captured = browser.run("return JSON.parse(sessionStorage.captured)")
    names = [name for name, _, _ in captured if name != "$snapshot"]
    assert Counter(names) == Counter(
        ["visited"] * EVENTS + ["$identify", "$pageview", "$autocapture", "last words", "$pageleave"]
    )
    wait_for_names(edge, {"last words", "$pageleave"})
    if package == "posthog-js-1.258":
        # The only one of them that says when it sends a beacon.
        assert 'status="204"' in edge.metrics()
    edge.stop()
    events = [event for event in edge.events() if event["lane"] == "main"]
    replay = [event for event in edge.events() if event["lane"] == "replay"]

    key: Callable[[Event], str] = (
        (lambda event: event["properties"]["$insert_id"]) if old else (lambda event: event["uuid"])
    )
    sent = [uuid for name, uuid, _ in captured if name != "$snapshot"]
    line = tally.count(f"posthog-js {version}", sent, map(key, events))
    assert (line.sent, line.delivered, line.twice) == (len(names), len(names), 0)
    assert Counter(event["event"] for event in events) == Counter(names)
    check_visits(events)
    for event in events:
        assert_contains(event, {"token": token, "ip": "127.0.0.1"})
        assert_contains(event["properties"], {"$lib": "web", "$lib_version": version})
        if event["event"] not in ("visited", "$identify"):
            assert event["distinct_id"] == "ada"
    assert {"email": "ada@example.com"} in (
        by_name(events, "$identify").get("$set"),
        properties(events, "$identify").get("$set"),
    )
    assert_contains(properties(events, "$autocapture"), {"$event_type": "click"})
    assert properties(events, "$autocapture")["$elements"][0]["tag_name"] == "button"

    pieces = [piece for _, _, pieces in captured for piece in pieces]
    items = [item for event in replay for item in event["properties"]["$snapshot_items"]]
    found = [f"{item['timestamp']} {item['type']}" for item in items]
    line = tally.count(f"posthog-js {version}, pieces of the recording", numbered(pieces), numbered(found))
    assert (line.sent, line.twice) == (line.delivered, 0)
    assert {META, FULL_SNAPSHOT} <= {item["type"] for item in items}
    assert {event["properties"]["$session_id"] for event in replay} == {
        event["properties"]["$session_id"] for event in events
    }


def test_posthog_js_lite(edge: EdgeProcess, tally: Tally, browser: Browser, node_packages: Path) -> None:
    version = installed_version(node_packages, "posthog-js-lite")
    browser.visit("posthog_lite.html", [("host", edge.url), ("token", "phc_lite"), ("events", str(EVENTS))])
    events = edge.events_when_stopped(EVENTS + 1, within_s=ARRIVE_S)
    line = tally.count(
        f"posthog-js-lite {version}", {*map(str, range(EVENTS)), "$identify"}, map(visit_or_name, events)
    )
    assert (line.sent, line.twice) == (line.delivered, 0)
    check_visits(events)
    assert {event["token"] for event in events} == {"phc_lite"}
    for event in events:
        assert_contains(event["properties"], {"$lib": "js", "$lib_version": version})


def test_mixpanel_browser(edge: EdgeProcess, tally: Tally, browser: Browser, node_packages: Path) -> None:
    version = installed_version(node_packages, "mixpanel-browser")
    browser.visit("mixpanel.html", [("host", edge.url), ("token", "mp_browser"), ("events", str(EVENTS))])
    wait_for_names(edge, {"visited", "$identify", "$mp_web_page_view"})
    edge.wait_until(lambda events: any("$set_once" in event for event in events), "the visitor's origin", ARRIVE_S)
    browser.run("mixpanel.track('last words', {n: 1})")
    browser.visit("left.html")
    wait_for_names(edge, {"last words"})
    edge.stop()
    events = edge.events()
    # The library says by itself who was identified, and keeps where the visitor came from.
    profile = {"$identify with $set", "$identify with $set_once"}
    sent = {*map(str, range(EVENTS)), "$mp_web_page_view", "last words", "$identify", *profile}

    def name_of(event: Event) -> str:
        changed = [f"{event['event']} with {change}" for change in ("$set", "$set_once") if change in event]
        return changed[0] if changed else visit_or_name(event)

    # At the end of a page the library sends what waits when the page is hidden and again when it is left, with the same
    # $insert_id: its server is to merge them.
    again = {(event["properties"]["$insert_id"], event["event"]) for event in events if name_of(event) not in profile}
    assert len(again) == EVENTS + 3
    merged = list({event["properties"].get("$insert_id", event["uuid"]): event for event in events}.values())
    remark = f"{len(events) - len(merged)} sent again by the library, merged by $insert_id"
    line = tally.count(f"mixpanel-browser {version}", sent, map(name_of, merged), remark)
    assert (line.sent, line.twice) == (line.delivered, 0)
    check_visits(merged)
    assert {event["token"] for event in events} == {"mp_browser"}
    [change] = [event for event in events if "$set" in event]
    assert change["distinct_id"] == "ada"
    assert_contains(change["$set"], {"email": "ada@example.com"})


def check_visits(events: list[Event]) -> None:
    visits = sorted(
        (event["properties"] for event in events if event["event"] == "visited"), key=lambda each: each["n"]
    )
    assert [visit["n"] for visit in visits] == list(range(EVENTS))
    for visit in visits:
        assert_contains(visit, {"text": TEXT, "list": NESTED, "half": MENDED})


def visit_or_name(event: Event) -> str:
    return str(event["properties"]["n"]) if event["event"] == "visited" else event["event"]


def properties(events: list[Event], name: str) -> dict[str, Any]:
    found: dict[str, Any] = by_name(events, name)["properties"]
    return found


def numbered(names: Iterable[str]) -> list[str]:
    """Equal names told apart: the first, the second."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} #{seen[name]}")
    return found


def wait_for_names(edge: EdgeProcess, names: set[str]) -> None:
    edge.wait_until(lambda events: names <= {event["event"] for event in events}, f"events called {names}", ARRIVE_S)


def wait_for_lane(edge: EdgeProcess, lane: str) -> None:
    edge.wait_until(lambda events: lane in {event["lane"] for event in events}, f"an event for {lane}", ARRIVE_S)
