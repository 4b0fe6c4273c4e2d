import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Server, edge, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("send")) as found:
        yield found


def test_it_shows_the_answer_and_what_was_stored(server: Server) -> None:
    done = edge("send", server.url, "--data", server.data, "--token", "phc_mine", "--event", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    answer, stored = done.stdout.splitlines()
    assert answer.startswith('200 {"status":1} in ')
    assert answer.endswith(" ms")
    record = json.loads(stored.removeprefix("stored "))
    assert (record["token"], record["path"], record["data"]["event"]) == ("phc_mine", "i/v0/e", "hello")
    assert record == json.loads(record_of(server, record["id"]))


def record_of(server: Server, record_id: str) -> str:
    lines = edge("segments", "cat", "--data", server.data).stdout.splitlines()
    (line,) = [line for line in lines if f'"id":"{record_id}"' in line]
    return line


def test_it_shows_programs_the_same(server: Server) -> None:
    done = edge("send", "--json", server.url, "--data", server.data, "--distinct-id", "ada")
    found = json.loads(done.stdout)
    assert (found["status"], found["answer"]) == (200, '{"status":1}')
    assert found["ms"] > 0
    assert found["stored"]["data"]["distinct_id"] == "ada"
    assert found["stored"]["data"]["uuid"] == found["uuid"]


def test_the_spool_may_be_on_another_machine(server: Server, tmp_path: Path) -> None:
    done = edge("send", server.url, "--data", tmp_path / "elsewhere")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == f"stored; its spool is not {tmp_path / 'elsewhere'} here, or cannot be read"
    assert json.loads(edge("send", "--json", server.url, "--data", tmp_path).stdout)["stored"] is None


REFUSED = {"a bad key": (["--token", "phx_personal"], "401 "), "no key": (["--token", ""], "401 ")}


@pytest.mark.parametrize(("words", "answer"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_shown_and_status_1(server: Server, words: list[str], answer: str) -> None:
    done = edge("send", server.url, "--data", server.data, *words)
    assert done.returncode == 1
    assert done.stdout.startswith(answer)
    assert len(done.stdout.splitlines()) == 1


def test_a_path_in_front_is_kept(server: Server) -> None:
    done = edge("send", server.url + "/ingest/", "--data", server.data)
    assert done.returncode == 1
    assert done.stdout.startswith("404 ")


def test_a_path_that_cannot_be_sent_is_status_78(server: Server) -> None:
    done = edge("send", server.url + "/é", "--data", server.data)
    assert done.returncode == 78
    assert done.stderr.startswith("edge send: expected a URL such as")


def test_nobody_there_is_status_69(server: Server) -> None:
    done = edge("send", "http://127.0.0.1:1", "--data", server.data)
    assert done.returncode == 69
    assert done.stderr.startswith("edge send: no answer from http://127.0.0.1:1: ")
    assert done.stdout == ""
