"""What the newest libraries do when the server refuses, sheds, or goes away between the commit and the answer.

A proxy spoils the first answers; what arrives is what the edge behind it was sent. Where a library gives up by its own
rules, that is what is shown: each of those events was sent once, and nothing else is missing.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.answering_proxy import AnsweringProxy, Spoiled
from tests.integration.chromium import ARRIVE_S, Browser
from tests.integration.client_libraries import POSTHOG_JS, Call, installed_version, run_posthog_node, run_posthog_python
from tests.integration.edge_process import EdgeProcess, Event
from tests.integration.tally import Tally

TIMES: Final = 2
"""How many answers are spoiled: within the patience of each library."""

EVENTS: Final = 250
"""More than the two batches that are refused, and the library may give up."""
PAGE_EVENTS: Final = 20


@pytest.mark.parametrize("spoiled", Spoiled, ids=str)
def test_posthog_python(edge: EdgeProcess, tally: Tally, spoiled: Spoiled) -> None:
    """`Consumer._send` in posthog/consumer.py tries again after 408, 429, 5xx and faults of the network; 413 is final."""
    gives_up = spoiled is Spoiled.TOO_LARGE
    calls: list[Call] = [
        ("capture", {"event": "visited", "distinct_id": "ada", "properties": {"n": n}}) for n in range(EVENTS)
    ]
    with AnsweringProxy(edge.host, edge.port, spoiled, TIMES) as proxy:
        report = run_posthog_python("7.91.1", proxy.url, "phc_python", calls)
    # It tells the application what it gave up, and nothing of what it repaired.
    assert len(report["errors"]) == (TIMES if gives_up else 0)
    assert all("413" in error for error in report["errors"])
    edge.stop()
    check(f"posthog-python {report['version']}", edge.events(), set(map(str, range(EVENTS))), proxy, gives_up, tally)


@pytest.mark.parametrize("spoiled", Spoiled, ids=str)
def test_posthog_node(
    edge: EdgeProcess, tally: Tally, program: Callable[[str], str], node_packages: Path, spoiled: Spoiled
) -> None:
    """`_flushRoute` in @posthog/core halves its batches at a 413, down to one event, and keeps what it could not send."""
    version = installed_version(node_packages, "posthog-node")
    calls: list[Call] = [
        ("capture", {"event": "visited", "distinctId": "ada", "properties": {"n": n}}) for n in range(EVENTS)
    ]
    with AnsweringProxy(edge.host, edge.port, spoiled, TIMES) as proxy:
        report = run_posthog_node(program("node"), node_packages, "posthog-node", proxy.url, "phc_node", calls)
    assert report == {"errors": []}
    edge.stop()
    check(f"posthog-node {version}", edge.events(), set(map(str, range(EVENTS))), proxy, False, tally)
    if spoiled is Spoiled.TOO_LARGE:
        first, second, third, *_ = (len(delivery.events()) for delivery in proxy.deliveries)
        assert (second, third) == (first // 2, first // 2 // 2)


@pytest.mark.parametrize("spoiled", Spoiled, ids=str)
def test_posthog_js(edge: EdgeProcess, tally: Tally, browser: Browser, node_packages: Path, spoiled: Spoiled) -> None:
    """`retriableRequest` in posthog-js/lib/src/retry-queue.js: 400 to 499 are final, 413 and 429 among them."""
    version = installed_version(node_packages, "posthog-js")
    gives_up = spoiled in (Spoiled.TOO_LARGE, Spoiled.RATE_LIMITED)
    names = {*map(str, range(PAGE_EVENTS)), "$pageview", "$identify"}
    with AnsweringProxy(edge.host, edge.port, spoiled, TIMES) as proxy:
        query = [("script", POSTHOG_JS["posthog-js"]), ("host", proxy.url), ("token", "phc_js")]
        browser.visit("posthog.html", [*query, ("events", str(PAGE_EVENTS))])
        proxy.wait_until(lambda: len(proxy.spoiled()) == TIMES, "the spoiled answers", ARRIVE_S)
        lost = refused(proxy) if gives_up else set()
        edge.wait_until(lambda events: names - lost <= {*map(name_of, events)}, "all it does not give up", ARRIVE_S)
        # A page that is left sends all it still has: what comes not with it, or before, never comes.
        browser.visit("left.html")
        edge.wait_until(lambda events: "$pageleave" in {*map(name_of, events)}, "the last event of the page", ARRIVE_S)
    edge.stop()
    check(f"posthog-js {version}", edge.events(), names | {"$pageleave"}, proxy, gives_up, tally)


def check(
    client: str, events: list[Event], names: set[str], proxy: AnsweringProxy, gives_up: bool, tally: Tally
) -> None:
    """`events` is what arrived of `names`, each captured once."""
    deliveries = proxy.deliveries
    assert len(proxy.spoiled()) == TIMES
    lost = refused(proxy) if gives_up else set()
    tried = Counter(name_of(event) for delivery in deliveries for event in delivery.events())
    assert {tried[name] for name in lost} <= {1}
    # Whatever is sent again is the same event.
    assert len({(name_of(event), event["uuid"]) for delivery in deliveries for event in delivery.events()}) == len(
        names
    )

    merged = {event["uuid"]: event for event in events}
    again = len(events) - len(merged)
    what = f"{again} delivered again, merged by uuid" if again else "given up by the library" if gives_up else ""
    line = tally.count(f"{client}, {TIMES} times {proxy.what}", names, map(name_of, merged.values()), what)
    assert line.twice == 0
    assert names - {name_of(event) for event in events} == lost
    # Only what was committed and not answered is there twice.
    assert (again > 0) == (proxy.what is Spoiled.CLOSED)
    assert bool(lost) == gives_up


def refused(proxy: AnsweringProxy) -> set[str]:
    return {name_of(event) for delivery in proxy.spoiled() for event in delivery.events()}


def name_of(event: dict[str, Any]) -> str:
    return str(event["properties"]["n"]) if event["event"] == "visited" else event["event"]
