"""Every request of the corpus, however its bytes arrive, to a real process; what is delivered of it, from its files."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from edge.wire.encoding import DECODERS
from tests.corpus.cases import Case, as_expected, expected_event, load_cases, load_rows
from tests.server.running import PATIENCE_S, Answer, Client, Closed, Server, environment, running

ROOT: Final = Path(__file__).parent.parent.parent
CASES: Final = load_cases()
ROWS: Final = load_rows()

FLAGS: Final = (
    *("--body-bytes-max", "8KiB", "--replay-body-bytes-max", "16KiB", "--decoded-bytes-max", "1MiB"),
    *("--lz64-bytes-max", "8KiB", "--durability", "page"),
)
"""Limits so low that a request above them can be sent byte by byte."""

_BANNER: Final = b"GET / HTTP/1.1\r\nHost: edge.example\r\n\r\n"
_MARK: Final = b'{"api_key":"phc_mark","event":"%b","distinct_id":"m"}'


def mark(name: str) -> bytes:
    """A request whose event says that what follows it belongs to `name`."""
    body = _MARK % name.encode()
    return b"POST /batch/ HTTP/1.1\r\nHost: edge.example\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def whole(client: Client, case: Case, name: str) -> Answer:
    assert client.ask(mark(name)).status == 200
    return client.ask(case.sent, head=case.method == "HEAD")


def byte_by_byte(client: Client, case: Case, name: str) -> Answer:
    assert client.ask(mark(name)).status == 200
    client.send_bytewise(case.sent)
    return client.answer(head=case.method == "HEAD")


def pipelined(client: Client, case: Case, name: str) -> Answer:
    client.send(mark(name) + case.sent)
    assert client.answer().status == 200
    return client.answer(head=case.method == "HEAD")


DELIVERIES: Final = {"whole": whole, "byte by byte": byte_by_byte, "pipelined": pipelined}

WAYS: Final = {
    "on the loop": (),
    "in the decoder": ("--inline-bytes-max", "1B"),
}
"""Where bodies are decoded: more flags."""


class Played(msgspec.Struct):
    """What became of a case in one delivery."""

    answer: Answer | None = None
    fault: str = ""
    """Why there is no answer, or what was wrong behind it."""
    events: list[dict[str, Any]] = []


class Corpus(msgspec.Struct):
    """All cases in all deliveries, by `case/delivery`, and what was counted of them."""

    runs: dict[str, Played]
    metrics: dict[str, float]
    decoded: bool
    """By the decoder."""


@pytest.fixture(scope="module", params=WAYS)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    flags = WAYS[request.param]
    with running(folder, *FLAGS, *flags) as server:
        runs = {
            name: play(server, case, delivery, name)
            for number, case in enumerate(CASES)
            for delivery in DELIVERIES
            for name in [f"{number}/{delivery}"]
        }
        metrics = server.metrics()
        assert server.stop() == 0
    command = [sys.executable, "-m", "edge", "drain", "--once", "--data", str(folder / "data")]
    drained = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE_S, env=environment())
    assert drained.returncode == 0, drained.stderr
    name = ""
    for file in sorted((folder / "data" / "events").glob("*.ndjson")):
        for line in file.read_bytes().splitlines():
            event = json.loads(line)
            if event["token"] == "phc_mark":
                name = event["event"]
            else:
                runs[name].events.append(event)
    return Corpus(runs, metrics, bool(flags))


def play(server: Server, case: Case, delivery: str, name: str) -> Played:
    """A case that fails must not take the others with it."""
    played = Played()
    with server.connect() as client:
        try:
            played.answer = DELIVERIES[delivery](client, case, name)
            # The next request is understood: nothing of this one is left over.
            assert client.ask(_BANNER).body == b"capture"
        except (Closed, AssertionError, OSError) as error:
            played.fault = repr(error)
    return played


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.id for case in CASES])
def test_a_request_of_the_corpus(corpus: Corpus, number: int) -> None:
    case = CASES[number]
    expected = [expected_event(text) for text in case.events]
    outcomes = {delivery: corpus.runs[f"{number}/{delivery}"] for delivery in DELIVERIES}
    answers = []
    for outcome in outcomes.values():
        answer = outcome.answer
        assert answer is not None, outcome.fault
        assert (answer.status, answer.body, outcome.fault) == (case.status, case.body_expected(answer.body), "")
        assert case.shows.items() <= answer.headers.items()
        assert not {*case.lacks} & {*answer.headers}
        assert len(outcome.events) == len(expected), outcome.events
        assert [as_expected(*pair) for pair in zip(outcome.events, expected, strict=True)] == expected
        answers.append(answer.lasting)
    assert answers == answers[:1] * len(DELIVERIES)


@pytest.mark.parametrize("layer", [*DECODERS, "form", "repair"])
def test_every_slow_path_is_counted(corpus: Corpus, layer: str) -> None:
    assert corpus.metrics[f'edge_slow_path_total{{layer="{layer}"}}'] >= len(DELIVERIES)


def test_only_what_is_too_much_for_the_loop_goes_to_the_decoder(corpus: Corpus) -> None:
    handed_over = corpus.metrics["edge_heavy_requests_total"]
    assert handed_over > len(CASES) if corpus.decoded else 0 < handed_over < 30
    assert corpus.metrics["edge_decoder_failures_total"] == 0


def test_ids_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_every_promise_has_a_case_and_every_case_keeps_one() -> None:
    promised = {f"{section}/{row}" for section, rows in ROWS.promised.items() for row in rows}
    kept = {row for case in CASES for row in case.rows}
    assert promised - kept == set(), "promised without a case"
    assert kept - promised == set(), "cases of what nobody promised"
    assert [case.id for case in CASES if not case.rows] == []


@pytest.mark.parametrize("row", ROWS.tested)
def test_what_a_case_cannot_show_has_its_test(row: str) -> None:
    path, _, name = ROWS.tested[row].partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert name.rpartition("::")[2] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
