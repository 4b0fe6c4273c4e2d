"""A downstream that is slow, broken, picky, locked or gone: clients notice nothing, and everything arrives.

Scripted services and a spoiling proxy of the tests' own between them and a real edge. Each run prints its numbers, and fails
when what it is about did not happen.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.downstream import Call, Downstream, Reply
from tests.exposition import parse
from tests.integration.draining import quarantined, reconcile
from tests.integration.edge_process import EdgeProcess, Event
from tests.integration.load import Ledger
from tests.integration.scale import SOAK, scaled
from tests.integration.steady import Steady, p99_ms
from tests.integration.toxics import Toxic, ToxicProxy

WORKERS: Final = 2
PATIENCE_S: Final = scaled(120, 900)
"""Backlogs grow with the length of a run, and the downstream of the tests is slow."""
RSS_DRIFT_MAX: Final = 20 * 1024 * 1024
P99_RATIO_MAX: Final = 1.10
PIECE_EVENTS_MAX: Final = 1000

POISON_EVERY: Final = 131
"""One request in so many begins with an event that is refused, another one with an event that is too large."""


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(random.Random(time.time_ns()))


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProcess]:
    with EdgeProcess(tmp_path) as process:
        yield process


def until(reached: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, f"expected {what} within {within_s:.0f} s"
        time.sleep(0.05)


def start(edge: EdgeProcess, port: int, workers: int = WORKERS) -> None:
    edge.start("--workers", str(workers), "--to", f"posthog+http://127.0.0.1:{port}")


def metric(edge: EdgeProcess, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    family = parse(edge.metrics())[name]
    return sum(value for (_, found), value in family.samples.items() if labels.items() <= dict(found).items())


def sink_status(edge: EdgeProcess) -> dict[str, Any]:
    [sink] = edge.status()["sinks"]
    found: dict[str, Any] = sink
    return found


def assert_delivered(ledger: Ledger, downstream: Downstream, edge: EdgeProcess, aside: int = 0) -> None:
    """Everything acknowledged is downstream or in quarantine, once after merging, and the accounts agree."""
    found = reconcile(ledger, downstream, edge.data)
    assert not ledger.refusals
    assert not found.lost, f"{len(found.lost)} acknowledged events are lost, the first {found.lost[:5]}"
    assert not found.invented, f"{len(found.invented)} events were never sent, the first {found.invented[:5]}"
    assert not found.doubled, f"{len(found.doubled)} events are twice there after merging: {found.doubled[:5]}"
    sink = sink_status(edge)
    assert sink["accepted"] == ledger.acknowledged_events == sink["shipped"] + aside
    assert (sink["quarantined"], sink["unaccounted"], sink["waiting_events"], sink["trouble"]) == (aside, 0, 0, None)
    assert '"level":"critical"' not in edge.log.read_text()


def merge_all(ledger: Ledger, downstream: Downstream, aside: int = 0) -> None:
    until(
        lambda: len(downstream.merged) + aside >= ledger.acknowledged_events,
        f"{ledger.acknowledged_events - aside} events downstream",
    )


TOXICS: Final = (
    Toxic("latency", latency_s=scaled(1, 5) / 2),
    Toxic("bandwidth", bytes_per_s=100_000),
    Toxic("slices", slice_bytes=97),
    Toxic("reset at once", reset_after_bytes=0),
    Toxic("reset inside the request", reset_after_bytes=700),
    Toxic("answer lost", lose_answer=True),
    *((Toxic("silence", silent=True),) if SOAK else ()),
)


def _same(toxic: Toxic) -> Toxic:
    return toxic


def _applied(proxy: ToxicProxy, toxic: Toxic) -> bool:
    return proxy.applied[toxic.name] > 0


@pytest.mark.soak
def test_clients_notice_nothing_of_a_broken_network_and_everything_arrives_once(
    edge: EdgeProcess, ledger: Ledger, tmp_path: Path
) -> None:
    """An undisturbed edge runs beside it at the same time: whatever else the machine does, it does to both."""
    seconds = scaled(2, 60)
    busy = random.Random(5)

    def rule(call: Call) -> Reply:
        return Reply(503, {"Retry-After": "0"}) if busy.random() < 0.05 else Reply()

    (tmp_path / "beside").mkdir()
    calm_ledger = Ledger(random.Random(time.time_ns()))
    with (
        Downstream(rule, keep_calls=False) as downstream,
        Downstream(keep_calls=False) as calm_downstream,
        ToxicProxy(downstream.port) as proxy,
        EdgeProcess(tmp_path / "beside") as calm,
    ):
        start(edge, proxy.port)
        start(calm, calm_downstream.port)

        async def both(for_s: float) -> list[list[float]]:
            runs = [Steady(edge, ledger, 100), Steady(calm, calm_ledger, 100)]
            return await asyncio.gather(*(run.send(for_s) for run in runs))

        asyncio.run(both(1))
        rows = []
        disturbed: list[float] = []
        undisturbed: list[float] = []
        for toxic in TOXICS:
            proxy.choose = partial(_same, toxic)
            proxy.cut()
            taken, beside = asyncio.run(both(seconds))
            disturbed += taken
            undisturbed += beside
            until(partial(_applied, proxy, toxic), f"an effect of {toxic.name}")
            rows.append(f"{toxic.name} {p99_ms(taken):.1f} ms beside {p99_ms(beside):.1f} ms")
        proxy.choose = Toxic
        proxy.cut()
        merge_all(ledger, downstream)
        merge_all(calm_ledger, calm_downstream)
        calm.stop()
        edge.stop()
        disturbed.sort()
        undisturbed.sort()
        ratio = p99_ms(disturbed) / p99_ms(undisturbed)
        print(
            f"\n{ledger.acknowledged_events} events acknowledged, {len(downstream.merged)} delivered after"
            f" {downstream.duplicates} duplicates were merged, answers {dict(downstream.answers)}\n"
            f"p99 of the answers to clients: undisturbed {p99_ms(undisturbed):.1f} ms, disturbed"
            f" {p99_ms(disturbed):.1f} ms, ratio {ratio:.2f} (goal: at most {P99_RATIO_MAX:.2f}); {', '.join(rows)}"
        )
        assert_delivered(ledger, downstream, edge)
    # Without these, nothing was proved.
    assert downstream.duplicates > 0
    assert downstream.answers[503] > 0
    assert min(proxy.applied[toxic.name] for toxic in TOXICS) > 0
    if SOAK:
        assert ratio <= P99_RATIO_MAX


def is_poison(event: Event) -> bool:
    return bool(event["properties"]["request"] % POISON_EVERY == 50 and event["properties"]["index"] == 0)


def is_too_large(event: Event) -> bool:
    return bool(event["properties"]["request"] % POISON_EVERY == 100 and event["properties"]["index"] == 0)


@pytest.mark.soak
def test_exactly_the_poison_ends_in_quarantine_and_is_delivered_from_there_when_downstream_is_mended(
    edge: EdgeProcess, ledger: Ledger
) -> None:
    def picky(call: Call) -> Reply:
        if any(map(is_too_large, call.events)):
            return Reply(413)
        return Reply(400) if any(map(is_poison, call.events)) else Reply()

    with Downstream(lambda call: Reply(503), keep_calls=False) as downstream:
        start(edge, downstream.port)
        # Behind an outage, so that there is something to halve.
        steady = Steady(edge, ledger, 150)
        steady.run(scaled(4, 30))
        downstream.rule = picky
        steady.run(scaled(4, 120))
        bad = [number for number in range(ledger.issued_requests) if number % POISON_EVERY in (50, 100)]
        merge_all(ledger, downstream, len(bad))
        edge.stop()
        aside = quarantined(edge.data)
        refused = downstream.answers[400] + downstream.answers[413]
        splits = refused - len(bad)
        print(
            f"\n{ledger.acknowledged_events} events acknowledged, {len(downstream.merged)} delivered,"
            f" {len(aside)} quarantined, answers {dict(downstream.answers)}; {2 * splits / len(bad):.1f} requests more"
            f" for each bad event"
        )
        assert sorted(int(each.uuid[:8], 16) for each in aside) == bad
        assert {each.reason for each in aside} == {"refused", "too_large"}
        assert all(("413" in each.why) == (each.reason == "too_large") for each in aside)
        assert_delivered(ledger, downstream, edge, len(bad))
        # Halving a piece of n events is refused log2(n) times on the way to one of them.
        assert refused <= len(bad) * (1 + PIECE_EVENTS_MAX.bit_length())
        assert splits > 0

        downstream.rule = lambda call: Reply()
        edge.verb("segments", "replay", "--quarantine", "--yes")
        assert quarantined(edge.data) == []
        assert len(downstream.merged) == ledger.acknowledged_events
        sink = sink_status(edge)
        assert (sink["quarantined"], sink["in_quarantine"], sink["unaccounted"]) == (len(bad), 0, 0)
    assert len(bad) > 2


REFUSALS: Final = {
    "no key": ((401, 403, 404), 0),
    "redirected": ((301, 308), 0),
    "maintenance that calls itself a bad request": ((400,), 3),
    "everything is too large": ((413,), 3),
}
"""Statuses given to everything, and how many events may end in quarantine by that."""


@pytest.mark.parametrize(("statuses", "aside_max"), REFUSALS.values(), ids=REFUSALS)
def test_a_destination_that_refuses_everything_is_waited_for(
    edge: EdgeProcess, ledger: Ledger, statuses: tuple[int, ...], aside_max: int
) -> None:
    closed = random.Random(3)

    def refuse(call: Call) -> Reply:
        return Reply(closed.choice(statuses))

    with Downstream(keep_calls=False) as downstream:
        start(edge, downstream.port)
        steady = Steady(edge, ledger, 100)
        steady.run(0.5)
        downstream.rule = refuse
        steady.run(3)
        until(lambda: metric(edge, "edge_sink_paused") == 1, "the sink to be paused")
        trouble = sink_status(edge)["trouble"]
        assert trouble is not None
        assert str(statuses[0])[0] in trouble["why"]
        refused = sum(downstream.answers[status] for status in statuses)
        assert '"level":"error"' in edge.log.read_text()
        downstream.rule = lambda call: Reply()
        aside = len(quarantined(edge.data))
        assert aside <= aside_max
        merge_all(ledger, downstream, aside)
        until(lambda: metric(edge, "edge_sink_paused") == 0, "the sink to go on")
        edge.stop()
        print(f"\n{ledger.acknowledged_events} events acknowledged, {aside} quarantined, {refused} refusals")
        assert_delivered(ledger, downstream, edge, aside)
    assert refused > 1


def test_a_project_that_downstream_does_not_know_holds_up_nobody_else(edge: EdgeProcess) -> None:
    def rule(call: Call) -> Reply:
        return Reply(401) if call.body["api_key"] == "unknown" else Reply()

    def send(key: str, number: int) -> None:
        body = json.dumps({"api_key": key, "event": key, "distinct_id": f"u{number}"}).encode()
        assert edge.request("POST", "/i/v0/e/", body).status == 200

    with Downstream(rule, keep_calls=False) as downstream:
        # One slot: an event of another project has to come in the same one.
        start(edge, downstream.port, workers=1)
        for number in range(20):
            send("unknown" if number % 5 == 0 else "known", number)

        def settled() -> bool:
            # What nobody sends beside them there is nothing to compare with.
            send("known", 20 + len(more))
            more.append(len(more))
            time.sleep(0.2)
            return len(quarantined(edge.data)) == 4

        more: list[int] = []
        until(settled, "the unknown project to be set aside")
        until(lambda: len(downstream.merged) == 16 + len(more), "everybody else's to be shipped")
        edge.stop()
        assert {(each.token, each.reason) for each in quarantined(edge.data)} == {("unknown", "paused")}
        assert sink_status(edge)["unaccounted"] == 0
    assert downstream.answers[401] > 0


@pytest.mark.soak
def test_a_day_without_a_downstream_costs_disk_and_nothing_else(edge: EdgeProcess, ledger: Ledger) -> None:
    """A day at a hundredth in the soak: the load goes on all the time, before, meanwhile and while catching up."""
    outage_s = scaled(15, 864)
    with Downstream(keep_calls=False) as downstream, ToxicProxy(downstream.port) as proxy:
        start(edge, proxy.port)
        steady = Steady(edge, ledger, 150)
        steady.run(scaled(3, 60))
        merge_all(ledger, downstream)
        workers = edge.workers()
        before = {pid: rss_bytes(pid) for pid in workers}
        accepted = ledger.acknowledged_events
        # First it is refused, then nobody answers at all.
        downstream.rule = lambda call: Reply(503)
        began_s = time.monotonic()
        refused_s = scaled(3, 432)
        steady.run(refused_s)
        proxy.choose = lambda: Toxic("gone", reset_after_bytes=0)
        proxy.cut()
        steady.run(outage_s - refused_s)
        ingest_per_s = (ledger.acknowledged_events - accepted) / (time.monotonic() - began_s)
        backlog = ledger.acknowledged_events - len(downstream.merged)
        drift = max(rss_bytes(pid) - before[pid] for pid in workers)
        proxy.choose = Toxic
        downstream.rule = lambda call: Reply()
        delivered = len(downstream.merged)
        while len(downstream.merged) == delivered:
            steady.run(0.2)
        first_s = time.monotonic()
        while len(downstream.merged) < ledger.acknowledged_events - ingest_per_s:
            steady.run(0.5)
            assert time.monotonic() - first_s < outage_s + PATIENCE_S, "expected to catch up"
        caught_up_s = time.monotonic() - first_s
        catch_up_per_s = (len(downstream.merged) - delivered) / caught_up_s
        merge_all(ledger, downstream)
        assert edge.workers() == workers
        edge.stop()
        print(
            f"\n{outage_s} s without a downstream at {ingest_per_s:.0f} events/s: backlog of {backlog} events,"
            f" caught up in {caught_up_s:.1f} s at {catch_up_per_s:.0f} events/s,"
            f" {catch_up_per_s / ingest_per_s:.1f} times the rate of ingest"
            f" (goal, on cores that nobody else uses: at least 3);"
            f" worker memory {drift / 1024 / 1024:+.1f} MiB (goal: below 20)"
        )
        assert_delivered(ledger, downstream, edge)
    assert drift < RSS_DRIFT_MAX
    assert downstream.answers[503] > 0
    # Attempts are further and further apart: in a short outage most of them are early.
    assert proxy.applied["gone"] > 0
    assert backlog > 1000


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
