"""kill -9 of the drainer at random points while it ships to a service that is busy, picky and forgetful.

Wherever it dies, in the middle of a request, of halving, of setting an event aside or of its checkpoint: its successor ships
everything that was acknowledged, sets aside exactly the poison, and makes up nothing.
"""

import asyncio
import random
import time
from pathlib import Path
from typing import Final

import pytest

from tests.downstream import Call, Downstream, Reply
from tests.integration.draining import DrainProcess, quarantined, reconcile
from tests.integration.edge_process import EdgeProcess, Event
from tests.integration.load import Ledger, Load
from tests.integration.scale import scaled

CYCLES: Final = scaled(50, 500)
CONNECTIONS: Final = 2
POISON_EVERY: Final = 499
BACKLOG_EVENTS_MAX: Final = 200_000
"""Clients rest above it: a drainer that is killed again and again ships less than they send."""
FINISH_S: Final = 120.0


def is_poison(event: Event) -> bool:
    return bool(event["properties"]["request"] % POISON_EVERY == 7 and event["properties"]["index"] == 0)


@pytest.mark.soak
def test_every_acknowledged_event_survives_the_drainers_kills(tmp_path: Path) -> None:
    seed = time.time_ns()
    rng = random.Random(seed)
    trouble = random.Random(seed + 1)
    ledger = Ledger(rng)
    calm = False

    def rule(call: Call) -> Reply:
        if any(map(is_poison, call.events)):
            return Reply(400)
        if not calm:
            draw = trouble.random()
            if draw < 0.05:
                return Reply(503, {"Retry-After": "0"})
            if draw < 0.10:
                # Taken, and nobody hears of it.
                return Reply(200, hang_up=True)
        return Reply()

    started_s = time.monotonic()
    with Downstream(rule, keep_calls=False) as downstream, EdgeProcess(tmp_path) as edge:
        edge.start("--workers", "2", "--segment-bytes-max", "256KiB", verb="serve")
        kills, with_quarantine = asyncio.run(_kill(edge, ledger, downstream, rng))
        calm = True
        edge.stop()
        with DrainProcess(edge.data, "--to", downstream.url, "--once") as last:
            # All is shipped but for what is in quarantine.
            assert last.wait(FINISH_S) == 65, (tmp_path / "drain.log").read_text()[-3000:]
        found = reconcile(ledger, downstream, edge.data)
        aside = quarantined(edge.data)
        [sink] = edge.status()["sinks"]
        print(
            f"\n{kills} kills of the drainer in {time.monotonic() - started_s:.0f} s, seed {seed}\n"
            f"{ledger.acknowledged_events} events acknowledged, {len(downstream.merged)} delivered after"
            f" {downstream.duplicates} duplicates were merged, {len(aside)} quarantined,"
            f" {with_quarantine} kills with a quarantine ahead of the checkpoint\n"
            f"answers {dict(downstream.answers)}; accepted {sink['accepted']} = {sink['shipped']} shipped"
            f" + {sink['quarantined']} quarantined"
        )
        assert not found.lost, f"{len(found.lost)} acknowledged events are lost, the first {found.lost[:5]}"
        assert not found.invented, f"{len(found.invented)} events were never sent, the first {found.invented[:5]}"
        assert not found.doubled, f"{len(found.doubled)} events are twice there after merging: {found.doubled[:5]}"
        assert not found.halved, f"{len(found.halved)} requests are there in part"
        assert all(each.uuid[9:13] == "0000" and int(each.uuid[:8], 16) % POISON_EVERY == 7 for each in aside)
        assert not {each.uuid for each in aside} & {key[0] for key in downstream.merged}
        assert sink["unaccounted"] == sink["waiting_events"] == 0
        assert sink["accepted"] == sink["shipped"] + sink["quarantined"]
        assert sink["quarantined"] == len(aside) == sink["in_quarantine"]
        assert '"level":"critical"' not in (tmp_path / "drain.log").read_text()
    # Without these, nothing was proved.
    assert kills == CYCLES
    assert downstream.duplicates > 0
    assert aside
    assert min(downstream.answers[status] for status in (0, 200, 400, 503)) > 0


async def _kill(edge: EdgeProcess, ledger: Ledger, downstream: Downstream, rng: random.Random) -> tuple[int, int]:
    """The number of kills, and of those after which an event was in quarantine that no checkpoint knew."""
    load = Load(ledger, lambda: (edge.host, edge.port), rng)
    load.start(CONNECTIONS)
    load.resume()
    ahead = 0
    for _ in range(CYCLES):
        with DrainProcess(edge.data, "--to", downstream.url) as drain:
            # Some requests first, so that the kills fall into the work and not into the start.
            await _until_requests(downstream, downstream.requests + rng.randrange(1, 12))
            # About a quarter gets as far as a checkpoint.
            await asyncio.sleep(rng.random() * (2.2 if rng.random() < 0.5 else 0.1))
            drain.kill()
        sinks = (await asyncio.to_thread(edge.status))["sinks"]
        ahead += len(quarantined(edge.data)) > sum(sink["quarantined"] for sink in sinks)
        if sum(sink["waiting_events"] for sink in sinks) > BACKLOG_EVENTS_MAX:
            load.pause()
        else:
            load.resume()
        load.check()
    await load.finish()
    return CYCLES, ahead


async def _until_requests(downstream: Downstream, count: int) -> None:
    async with asyncio.timeout(30):
        while downstream.requests < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
