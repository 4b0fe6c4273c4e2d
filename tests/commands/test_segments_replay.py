import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cli import main
from edge.commands import segments_replay
from edge.drain import resend
from tests.downstream import Call, Downstream, Reply
from tests.drain.spools import Slot


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    with Downstream() as running:
        yield running


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    made = Slot(tmp_path / "data")
    made.commit("a", "b")
    made.seal()
    made.commit("c")
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["segments", "replay", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def names(downstream: Downstream) -> list[str]:
    return [event["event"] for call in downstream.calls for event in call.events]


def in_quarantine(slot: Slot) -> int:
    return len(list(slot.layout.quarantine.glob("*/*.json")))


def refused(slot: Slot, downstream: Downstream, *bad: str) -> None:
    """Drain once with a downstream that refuses these."""

    def rule(call: Call) -> Reply:
        return Reply(400, body=b"{}") if any(event["event"] in bad for event in call.events) else Reply()

    downstream.rule = rule
    logging.disable(logging.CRITICAL)
    try:
        assert main(["drain", "--once", "--data", str(slot.layout.data), "--to", downstream.url]) == 65
    finally:
        logging.disable(logging.NOTSET)
    downstream.rule = lambda call: Reply()
    downstream.calls.clear()


def test_nothing_is_sent_without_yes(slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--data", slot.layout.data, "--to", downstream.url)
    assert (status, out) == (0, f"{downstream.url}: 3 events would be sent; --yes sends them\n")
    assert downstream.requests == 0


def test_segments_are_sent_again_with_the_same_ids(
    slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "--data", slot.layout.data, "--to", downstream.url, "--yes")
    assert (status, out) == (0, f"{downstream.url}: 3 events sent, 0 refused, 0 left\n")
    run(capsys, "--data", slot.layout.data, "--to", downstream.url, "--yes")
    assert names(downstream) == list("abcabc")
    assert len(downstream.merged) == 3
    assert downstream.duplicates == 3


def test_only_what_is_selected_is_sent(slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--event", "b", "--event", "c", "--token", "phc_x", "--since", "2025-01-01T00:00:00Z")
    status, out, _ = run(capsys, slot.files[0], "--to", downstream.url, "--yes", "--json", *words)
    assert status == 0
    found = json.loads(out)
    assert (found["sent"], found["refused"], found["left"], found["done"]) == (1, 0, 0, True)
    assert names(downstream) == ["b"]


def test_a_file_sink_writes_what_is_replayed_beside_what_is_there(
    slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run(capsys, "--data", slot.layout.data, "--to", f"file:{tmp_path}/out", "--yes")[0] == 0
    lines = [line for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == 6


def test_the_quarantine_is_sent_to_the_sink_that_refused_it_and_emptied(
    slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_replay, "EVENTS_MAX", 1)
    refused(slot, downstream, "a", "c")
    assert in_quarantine(slot) == 2
    status, out, _ = run(capsys, "--data", slot.layout.data, "--quarantine")
    assert (status, out) == (0, f"{downstream.url}: 2 events would be sent; --yes sends them\n")
    assert in_quarantine(slot) == 2
    assert run(capsys, "--data", slot.layout.data, "--quarantine", "--yes", "--event", "a")[0] == 0
    assert (names(downstream), in_quarantine(slot)) == (["a"], 1)
    assert run(capsys, "--data", slot.layout.data, "--quarantine", "--yes")[0] == 0
    assert (names(downstream), in_quarantine(slot)) == (["a", "c"], 0)
    assert len(downstream.merged) == 3


def test_what_is_refused_again_stays_and_says_why(
    slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(slot, downstream, "a", "c")
    downstream.rule = lambda call: Reply(400 if any(event["event"] == "a" for event in call.events) else 200)
    status, out, error = run(capsys, "--data", slot.layout.data, "--quarantine", "--yes")
    assert status == 65
    assert "1 events sent, 1 refused, 0 left" in out
    assert "status 400" in error
    assert in_quarantine(slot) == 1


def test_a_sink_that_takes_nothing_leaves_everything(
    slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "ATTEMPTS", 1)
    refused(slot, downstream, "a")
    for answer in (401, 503):
        downstream.rule = lambda call, answer=answer: Reply(answer)  # type: ignore[misc]
        status, out, error = run(capsys, "--data", slot.layout.data, "--quarantine", "--yes")
        assert status == 69
        assert "0 events sent, 0 refused, 1 left" in out
        assert f"status {answer}" in error
        assert in_quarantine(slot) == 1


def test_a_file_in_quarantine_that_is_none_is_told_and_the_others_are_sent(
    slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(slot, downstream, "a", "c")
    [folder] = slot.layout.quarantine.iterdir()
    sorted(folder.iterdir())[0].write_text("{")
    status, out, error = run(capsys, "--data", slot.layout.data, "--quarantine", "--yes")
    assert status == 65
    assert "1 events sent" in out
    assert str(folder) in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--to: expected the URL of a sink, or --quarantine"),
        (("--to", "mail:x"), "--to: expected a sink URL"),
        (("--to", "null:", "--since", "soon"), "--since, --until: expected a time such as"),
        (("--quarantine", "--sink", "nobody"), "--sink: expected one of none, found nobody"),
        (("--quarantine", "some.zst"), "--quarantine: expected no FILE beside it"),
    ],
)
def test_what_cannot_be_meant_is_a_matter_of_configuration(
    slot: Slot, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    status, _, error = run(capsys, "--data", slot.layout.data, *words)
    assert status == 78
    assert message in error


def test_a_sink_whose_url_held_a_secret_has_to_be_named_again(
    slot: Slot, downstream: Downstream, capsys: pytest.CaptureFixture[str]
) -> None:
    (slot.layout.quarantine / "kafka-1").mkdir(parents=True)
    status, _, error = run(capsys, "--data", slot.layout.data, "--quarantine")
    assert status == 78
    assert "--to: expected the URL of kafka-1" in error
