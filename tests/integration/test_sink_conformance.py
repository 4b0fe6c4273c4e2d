"""One suite, every sink: what the drainer promises holds whatever it ships to, and whatever becomes of that.

Segments, checkpoints, quarantine and destinations are real; only the shipper's clock is turned by hand, so that nobody waits.

"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.checkpoints import Totals, load_all
from edge.disk import RealDisk
from edge.drain.quarantine import list_quarantined, load
from edge.drain.shipper import Shipper
from edge.drain.sink import Retryable
from edge.layout import Layout
from edge.metrics import Board
from tests.drain.spools import Slot
from tests.integration.clickhouse import ClickHouse
from tests.integration.kafka_broker import KafkaBroker
from tests.integration.shared import free_port
from tests.integration.sinks_under_test import KINDS, LARGE_CHARS, POISON, UnderTest, under_test
from tests.integration.tcp_proxy import TcpProxy
from tests.object_store import ObjectStore

SHIPPED_S = 240.0
FAILURES_MAX = 200


@pytest.fixture(scope="module")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaBroker, TcpProxy]]:
    """Its clients know only the proxy's address."""
    port = free_port()
    with TcpProxy(("127.0.0.1", port)) as proxy:
        settings = [f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"]
        with KafkaBroker(tmp_path_factory.mktemp("broker"), port=port, settings=settings) as broker:
            yield broker, proxy


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectStore]:
    with ObjectStore() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        store.create("bucket")
        yield store


@pytest.fixture(scope="module")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    with ClickHouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(params=KINDS)
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnderTest]:
    with under_test(request.param, tmp_path, request) as found:
        yield found


class Journey:
    """A spool on its way into a destination, by one process after the other."""

    def __init__(self, data: Path, destination: UnderTest) -> None:
        self.slots = [Slot(data, 0), Slot(data, 1)]
        self._data = data
        self._destination = destination
        self._now_s = 1000.0
        Layout(data).checkpoints.mkdir()
        self._id, self.shipper = self._start()

    def _start(self) -> tuple[str, Shipper]:
        sink_id, sink = self._destination.sink()
        row = Board.create(1).rows[0]
        return sink_id, Shipper(RealDisk(), Layout(self._data), sink_id, "under test", sink, row, 0, self._clock)

    def _clock(self) -> float:
        return self._now_s

    def crash(self) -> None:
        """The process is gone, and what it did not make durable with it."""
        self.shipper.close()
        _, self.shipper = self._start()

    def commit(self, *names: str) -> None:
        for slot in self.slots:
            slot.commit(*[f"{slot.slot}-{name}" for name in names])

    def seal(self) -> None:
        for slot in self.slots:
            slot.seal()

    def step(self) -> bool:
        if self.shipper.wait_s:
            # Nothing else takes time, so a checkpoint is only written where a test says so, or after a refusal.
            self._now_s += 4000.0
        return self.shipper.step(linger=False)

    def until_refused(self) -> None:
        deadline = time.monotonic() + SHIPPED_S
        while not self.shipper.failures:
            assert self.step(), "expected the destination not to take it"
            assert time.monotonic() < deadline

    def finish(self) -> None:
        deadline = time.monotonic() + SHIPPED_S
        while self.step():
            assert time.monotonic() < deadline, "it is not shipped to its end"
            assert self.shipper.failures < FAILURES_MAX, "it is refused for ever"
        self.shipper.save()

    @property
    def totals(self) -> Totals:
        return load_all(RealDisk(), str(Layout(self._data).checkpoints))[self._id].totals

    @property
    def quarantined(self) -> list[str]:
        folder = str(Layout(self._data).quarantine / self._id)
        return sorted(load(RealDisk(), folder, name).event for name in list_quarantined(RealDisk(), folder))

    def check(self, *, doubled: bool = False, without: tuple[str, ...] = ()) -> None:
        """Everything written is there, nothing else, in order, and the counters say so."""
        delivered = self._destination.delivered()
        merged = {each.uuid: each for each in delivered}
        written = [name for slot in self.slots for name in slot.written if name not in without]
        assert Counter(each.event for each in merged.values()) == Counter(written)
        if self._destination.once or not doubled:
            assert len(delivered) == len(merged), "something is there twice"
        if self._destination.ordered:
            # Duplicates come later than what they double.
            first = list(dict.fromkeys(delivered))
            for slot in self.slots:
                found = [each.event for each in first if each.distinct_id == f"slot-{slot.slot}"]
                assert found == [name for name in slot.written if name not in without]
        totals = self.totals
        assert totals.imbalance == 0
        assert totals.accepted == totals.shipped + totals.quarantined
        assert totals.shipped == len(written)
        assert totals.quarantined == len(without) == len(self.quarantined)

    def close(self) -> None:
        self.shipper.close()


@pytest.fixture
def journey(destination: UnderTest, tmp_path: Path) -> Iterator[Journey]:
    found = Journey(tmp_path / "data", destination)
    yield found
    found.close()


def test_everything_arrives_once_and_in_order(journey: Journey) -> None:
    for segment in range(3):
        for frame in range(3):
            journey.commit(*[f"{segment}-{frame}-{event}" for event in range(20)])
            if frame == 1:
                journey.finish()
        journey.seal()
    journey.finish()
    journey.check()


def test_a_destination_that_is_gone_and_comes_back_costs_nothing(journey: Journey, destination: UnderTest) -> None:
    journey.commit("before")
    journey.finish()
    destination.fail()
    journey.commit("meanwhile", "more")
    journey.until_refused()
    failures = journey.shipper.failures
    journey.commit("later")
    journey.step()
    assert journey.shipper.failures > failures
    destination.heal()
    journey.finish()
    # What was on its way when it went away may have arrived.
    journey.check(doubled=not destination.recognises)


def test_answers_lost_after_the_commit_lose_nothing_and_doubles_merge(journey: Journey, destination: UnderTest) -> None:
    journey.commit("before")
    journey.finish()
    journey.commit("a", "b")
    with destination.losing():
        journey.until_refused()
    journey.commit("c")
    journey.finish()
    journey.check(doubled=not destination.recognises)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_crash_after_any_step_loses_nothing_and_doubles_merge(journey: Journey, steps: int) -> None:
    journey.commit("saved")
    journey.finish()
    for segment in range(2):
        journey.commit(f"{segment}-a", f"{segment}-b")
        journey.step()
        journey.commit(f"{segment}-c")
        for _ in range(steps):
            journey.step()
        journey.crash()
        journey.seal()
    journey.finish()
    journey.check(doubled=True)


def test_a_crash_while_the_answer_is_missing_loses_nothing_and_doubles_merge(
    journey: Journey, destination: UnderTest
) -> None:
    journey.commit("a", "b")
    with destination.losing():
        journey.until_refused()
    journey.crash()
    journey.commit("c")
    journey.finish()
    journey.check(doubled=True)


def test_an_event_that_is_never_taken_holds_up_no_other(journey: Journey, destination: UnderTest) -> None:
    journey.commit("a", "b")
    journey.slots[0].commit("0-c", POISON, "0-d")
    journey.commit("e")
    journey.finish()
    journey.check(doubled=True, without=(POISON,) if destination.refuses else ())


def test_an_event_that_is_too_large_holds_up_no_other(journey: Journey, destination: UnderTest) -> None:
    journey.commit("a", "b")
    large = {"event": "large", "distinct_id": "slot-0", "properties": {"text": "x" * LARGE_CHARS}}
    journey.slots[0].commit("large", body=json.dumps(large).encode())
    journey.commit("c")
    journey.finish()
    journey.check(doubled=True, without=("large",) if destination.limited else ())


def test_a_destination_that_is_asked_says_whether_it_is_there_and_is_sent_nothing(destination: UnderTest) -> None:
    _, sink = destination.sink()
    assert sink.probe()
    destination.fail()
    with pytest.raises(Retryable):
        sink.probe()
    destination.heal()
    deadline = time.monotonic() + SHIPPED_S
    while True:
        try:
            assert sink.probe()
        except Retryable:
            # It may take its time to be back.
            assert time.monotonic() < deadline
        else:
            break
    assert destination.delivered() == []
    sink.close()


def test_rows_of_more_months_than_clickhouse_takes_in_one_insert_are_offered_in_parts(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with under_test("clickhouse", tmp_path, request) as table:
        journey = Journey(tmp_path / "data", table)
        months = [f"{2000 + month // 12}-{month % 12 + 1:02d}-03T00:00:00Z" for month in range(150)]
        events = [{"event": at, "distinct_id": "slot-0", "timestamp": at} for at in months]
        journey.slots[0].commit("history", body=json.dumps(events).encode())
        journey.finish()
        assert sorted(each.event for each in table.delivered()) == sorted(months)
        assert (journey.totals.shipped, journey.totals.quarantined, journey.totals.imbalance) == (150, 0, 0)
        journey.close()
