import re
from typing import Any

import pytest

from edge.drain.expand import expand
from tests.drain.expanding import UUID, event_of, expanded, record, with_id


class TestUuid:
    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(UUID, id="hyphenated"),
            pytest.param(UUID.upper(), id="upper case"),
            pytest.param(UUID.replace("-", ""), id="hex"),
            pytest.param("{" + UUID + "}", id="braced"),
            pytest.param("urn:uuid:" + UUID, id="urn"),
        ],
    )
    def test_the_clients_uuid_is_kept_in_one_spelling(self, text: str) -> None:
        assert event_of(with_id(uuid=text)).uuid == UUID

    @pytest.mark.parametrize("text", ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
    def test_any_version_and_variant_is_kept(self, text: str) -> None:
        assert event_of(with_id(uuid=text)).uuid == text

    @pytest.mark.parametrize(
        "value",
        [
            None, "", "x", 7, {}, UUID[:-1], UUID + "0", "{" + UUID, UUID + "}", UUID.replace("-", "", 1),
            UUID.replace("0", "g"), UUID + "\n", "\u0660" * 32,
        ],
    )  # fmt: skip
    def test_any_other_is_replaced_by_version_7_of_the_event_time(self, value: object) -> None:
        event = event_of(with_id(uuid=value, timestamp="2025-07-01T10:59:58.123456Z"))
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event.uuid)
        assert int(event.uuid.replace("-", "")[:12], 16) == event.timestamp_us // 1000
        assert event.uuid == event_of(with_id(timestamp="2025-07-01T10:59:58.123456Z")).uuid

    def test_a_made_uuid_never_changes(self) -> None:
        """Downstream recognises what was sent twice by it, also when another version of this program sent it first."""
        events = expand(record([with_id(), with_id()])).events
        assert [event.uuid for event in events] == [
            "0197c5a4-c7fb-76e5-ba0a-fb385bc53ba7",
            "0197c5a4-c7fb-78bb-bd26-b65b684cbf71",
        ]

    def test_made_uuids_differ_by_place_and_by_record(self) -> None:
        batches = [expand(record([with_id()] * 100, record_id=f"5c0d2e88b1f09a37-{n:x}")).events for n in range(20)]
        assert len({event.uuid for events in batches for event in events}) == 2000

    def test_a_dropped_neighbour_does_not_change_the_uuid(self) -> None:
        assert expanded([with_id(), with_id()]).events[1].uuid == expanded([None, with_id()]).events[0].uuid

    def test_before_1970_the_time_in_it_is_zero(self) -> None:
        event = event_of(with_id(timestamp="1969-12-31T00:00:00Z"))
        assert event.uuid.startswith("00000000-0000-7")
        assert event.timestamp_us < 0


class TestLane:
    @pytest.mark.parametrize(
        ("name", "lane"),
        [
            ("$pageview", "main"),
            ("$$client_ingestion_warning", "warnings"),
            ("$exception", "exceptions"),
            ("$$heatmap", "heatmaps"),
            ("$ai_generation", "ai"),
            ("$ai", "main"),
            ("ai_generation", "main"),
        ],
    )
    def test_the_name_decides_then_the_historical_flag(self, name: str, lane: str) -> None:
        event = {"event": name, "distinct_id": "u"}
        assert event_of(event).lane == lane
        historical = event_of({"batch": [event], "historical_migration": True})
        assert historical.lane == ("historical" if lane == "main" else lane)
        assert historical.historical is True

    @pytest.mark.parametrize(
        ("flag", "historical"),
        [(True, True), ("true", True), (False, False), (None, False), ("yes", False), (1, False), ("false", False)],
    )
    def test_only_true_makes_a_batch_historical(self, flag: object, historical: bool) -> None:
        assert event_of({"batch": [with_id()], "historical_migration": flag}).historical is historical

    @pytest.mark.parametrize("wrap", [lambda event: event, lambda event: [event]], ids=["single", "list"])
    def test_only_a_batch_can_be_historical(self, wrap: Any) -> None:
        event = event_of(wrap(with_id(historical_migration=True)))
        assert (event.historical, event.lane) == (False, "main")
