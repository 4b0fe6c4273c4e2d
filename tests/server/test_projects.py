"""The project registry over real sockets: answers by mode, changes of the file, files nobody can use."""

import json
import os
import signal
from pathlib import Path

import pytest

from edge.metrics import Board
from edge.server.projects import RETRY_S, Projects, load_projects, read_elsewhere, read_here
from edge.wire.projects import ProjectsError, hash_key
from tests.server.running import Answer, Server, command_line, descendants, edge, running, wait_until
from tests.server.test_capture_v1 import request as v1_request
from tests.wire.test_v1 import batch, event

PERSONAL = "phx_secret"


def write(path: Path, mode: str, *keys: str, more: str = "") -> None:
    """Put the file in place whole, as an operator should."""
    listed = json.dumps(list(keys or ("phc_known",)))
    text = f'mode = "{mode}"\n[[project]]\nid = 1\nkeys = {listed}\n'
    text += f'[[personal_key]]\nhash = "{hash_key(PERSONAL)}"\n{more}'
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def ask(server: Server, key: str = "", *, target: str = "/e/", host: str = "edge", bearer: str = "") -> Answer:
    body = json.dumps({"event": "e", "distinct_id": "d", **({"api_key": key} if key else {})}).encode()
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    head = f"POST {target} HTTP/1.1\r\nHost: {host}\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
    return server.ask(head.encode() + body)


def refusal(answer: Answer) -> tuple[int, object, object]:
    decoded = answer.json()
    assert list(decoded) == ["type", "code", "detail", "attr"]
    return answer.status, decoded["code"], decoded["attr"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "projects.toml"


def test_an_unknown_key_is_refused_when_enforcing(tmp_path: Path, file: Path) -> None:
    write(file, "enforce")
    with running(tmp_path, "--projects", str(file)) as server:
        assert ask(server, "phc_known").status == 200
        answer = ask(server, "phc_other")
        assert answer.json() == {
            "type": "authentication_error",
            "code": "invalid_api_key",
            "detail": "Project API key invalid. You can find your project API key in PostHog project settings.",
            "attr": None,
        }
        assert answer.status == 401
        assert [record.token for record in server.records()] == ["phc_known"]
        assert server.metrics()['edge_rejected_requests_total{cause="unknown_key"}'] == 1


def test_a_personal_key_is_filed_under_the_project_it_names(tmp_path: Path, file: Path) -> None:
    write(file, "enforce")
    with running(tmp_path, "--projects", str(file)) as server:
        assert ask(server, bearer=PERSONAL, target="/e/?project_id=1").status == 200
        assert refusal(ask(server, bearer=PERSONAL, target="/e/?project_id=one")) == (
            400,
            "invalid_project",
            "project_id",
        )
        assert refusal(ask(server, bearer=PERSONAL)) == (401, "invalid_api_key", None)
        assert refusal(ask(server, bearer="phx_other", target="/e/?project_id=1")) == (
            401,
            "invalid_personal_api_key",
            None,
        )
        assert [record.token for record in server.records()] == ["phc_known"]
        stored = b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())
        assert PERSONAL.encode() not in stored
        assert PERSONAL not in server.log_text()


def test_capture_v1_asks_the_registry_too(tmp_path: Path, file: Path) -> None:
    write(file, "enforce")
    with running(tmp_path, "--projects", str(file)) as server:
        assert server.ask(v1_request(batch(event()), Authorization="Bearer phc_known")).status == 200
        answer = server.ask(v1_request(batch(event()), Authorization="Bearer phc_other"))
        assert (answer.status, answer.json()["error"]) == (401, "invalid_api_token")


def test_a_dry_run_refuses_nothing_and_counts_what_it_would(tmp_path: Path, file: Path) -> None:
    write(file, "dry_run")
    with running(tmp_path, "--projects", str(file)) as server:
        assert ask(server, "phc_known").status == 200
        assert ask(server, "phc_other").status == 200
        assert ask(server, "phc_other", target="/e/?project_id=one").status == 200
        assert len(server.records()) == 3
        found = server.metrics()
        assert found['edge_projects_dry_run_total{cause="unknown_key"}'] == 1
        assert found['edge_projects_dry_run_total{cause="bad_project"}'] == 1


def test_a_missing_key_is_filled_in_by_host(tmp_path: Path, file: Path) -> None:
    write(file, "off", more='[[inject]]\nhost = "events.example.com"\nkey = "phc_injected"\n')
    with running(tmp_path, "--projects", str(file)) as server:
        assert ask(server, host="events.example.com").status == 200
        assert ask(server, "phc_other", host="events.example.com").status == 200
        assert refusal(ask(server)) == (401, "missing_api_key", None)
        assert [record.token for record in server.records()] == ["phc_injected", "phc_other"]


def loads(server: Server, outcome: str) -> float:
    return server.metrics().get(f'edge_projects_loads_total{{outcome="{outcome}"}}', 0)


def test_a_changed_file_is_in_force_without_a_restart(tmp_path: Path, file: Path) -> None:
    write(file, "enforce", "phc_one")
    with running(tmp_path, "--projects", str(file)) as server:
        assert (ask(server, "phc_one").status, ask(server, "phc_two").status) == (200, 401)
        write(file, "enforce", "phc_two")
        wait_until(lambda: loads(server, "ok") == 2, "the file is read again")
        assert (ask(server, "phc_one").status, ask(server, "phc_two").status) == (401, 200)
        # In place, of the same size.
        file.write_text(file.read_text().replace("phc_two", "phc_six"))
        wait_until(lambda: ask(server, "phc_six").status == 200, "the file is read again")
        write(file, "off")
        wait_until(lambda: ask(server, "phc_one").status == 200, "the file is read again")


def broken(file: Path) -> None:
    file.write_text("mode = ")


def gone(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("spoil", [broken, gone, a_folder])
def test_the_last_good_file_stays_in_force_when_it_becomes_unreadable(
    tmp_path: Path, file: Path, spoil: object
) -> None:
    assert callable(spoil)
    write(file, "enforce", "phc_one")
    with running(tmp_path, "--projects", str(file)) as server:
        assert server.metrics()['edge_projects_stale{worker="0"}'] == 0
        spoil(file)
        wait_until(lambda: loads(server, "failed") == 1, "the file is found unusable")
        assert (ask(server, "phc_one").status, ask(server, "phc_two").status) == (200, 401)
        assert server.metrics()['edge_projects_stale{worker="0"}'] == 1
        assert "the last good file stays in force" in server.log_text()
        if file.is_dir():
            file.rmdir()
        write(file, "enforce", "phc_two")
        wait_until(lambda: loads(server, "ok") == 2, "the file is read again")
        assert (ask(server, "phc_one").status, ask(server, "phc_two").status) == (401, 200)
        assert server.metrics()['edge_projects_stale{worker="0"}'] == 0


def a_pipe(file: Path) -> str:
    """In the file's place; whoever reads it waits until somebody has written. What the file held."""
    text = file.read_text()
    file.unlink()
    os.mkfifo(file)
    return text


def readers(parent: int) -> list[int]:
    return [pid for pid in descendants(parent) if "edge.server.projects" in command_line(pid)]


def test_nobody_waits_for_a_file_that_takes_long_to_read(tmp_path: Path, file: Path) -> None:
    write(file, "enforce", "phc_one")
    with running(tmp_path, "--projects", str(file)) as server:
        text = a_pipe(file)
        wait_until(lambda: readers(server.process.pid), "the file is being read")
        assert (ask(server, "phc_one").status, ask(server, "phc_two").status) == (200, 401)
        assert loads(server, "ok") == 1
        file.write_text(text.replace("phc_one", "phc_two"))
        wait_until(lambda: loads(server, "ok") == 2, "the file is read again")
        assert (ask(server, "phc_one").status, ask(server, "phc_two").status) == (401, 200)
        assert server.stop() == 0


def test_a_reader_that_dies_changes_nothing_and_is_followed_by_another(file: Path) -> None:
    write(file, "enforce", "phc_one")
    row = Board.create(1).rows[0]
    now_s = 0.0
    projects = Projects(str(file), row, lambda: now_s)

    def keys() -> frozenset[str] | None:
        return projects.tick()[1]

    text = a_pipe(file)
    assert keys() == frozenset({"phc_one"})
    wait_until(lambda: readers(os.getpid()), "the file is being read")
    os.kill(readers(os.getpid())[0], signal.SIGKILL)
    wait_until(lambda: keys() and row.get("edge_projects_stale"), "the reader's death")
    assert row.get("edge_projects_loads_total", "failed") == 1
    now_s = RETRY_S - 1
    assert keys() == frozenset({"phc_one"})
    assert not readers(os.getpid())
    now_s = RETRY_S
    assert keys() == frozenset({"phc_one"})
    file.write_text(text.replace("phc_one", "phc_two"))
    wait_until(lambda: keys() == frozenset({"phc_two"}), "the file is read again")
    assert not row.get("edge_projects_stale")


def test_a_reader_finds_what_the_process_itself_would(file: Path) -> None:
    write(
        file, "dry_run", "phc_one", "phc_\u00e9", more='[[inject]]\nhost = "e.example"\npath = "/e"\nkey = "phc_one"\n'
    )
    assert read_elsewhere(str(file)) == read_here(str(file))
    write(file, "dry_run", "phc_one", "phc_two", more='[[inject]]\nhost = "e.example"\npath = "/e"\nkey = "phc_one"\n')
    found = read_elsewhere(str(file))
    assert found == read_here(str(file))
    assert found.registry is not None
    assert found.registry.injected == {("e.example", "e"): "phc_one"}
    assert found.registry.personal == {hash_key(PERSONAL): None}


def test_a_worker_that_never_saw_a_good_file_looks_no_key_up(tmp_path: Path, file: Path) -> None:
    """As after a crash while the file is broken: refusing everything would lose events, so nothing is refused."""
    write(file, "enforce", "phc_one")
    with running(tmp_path, "--projects", str(file)) as server:
        broken(file)
        [worker] = server.workers()
        os.kill(worker, 9)
        wait_until(lambda: server.workers() not in ([], [worker]), "another worker")
        wait_until(lambda: ask(server, "phc_two").status == 200, "it takes every key")
        assert "no key is looked up" in server.log_text()
        write(file, "enforce", "phc_one")
        wait_until(lambda: ask(server, "phc_two").status == 401, "the file is in force again")


UNUSABLE = {
    "missing": (None, "cannot read"),
    "no TOML": ("mode =", "not TOML"),
    "wrong": ('mode = "enforce"', "expected a [[project]]"),
}


@pytest.mark.parametrize(("text", "found"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_used_at_start_is_an_error_that_names_it(
    tmp_path: Path, file: Path, text: str | None, found: str
) -> None:
    if text is not None:
        file.write_text(text)
    done = edge("serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", tmp_path, "--projects", file)
    assert done.returncode == 78
    assert "edge serve: --projects: " in done.stderr
    assert str(file) in done.stderr
    assert found in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_of_more_than_its_limit_is_not_read(file: Path) -> None:
    with file.open("wb") as written:
        written.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(ProjectsError, match="expected at most 16777216 bytes"):
        load_projects(str(file))
