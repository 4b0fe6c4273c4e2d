import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge.disk import RealDisk
from edge.drain.drainer import Drainer
from edge.layout import Layout
from edge.metrics import Board
from edge.segment.name import SegmentName, State
from tests.downstream import Downstream, Reply
from tests.drain.spools import Slot
from tests.drain.test_posting import CERTIFICATE
from tests.server.running import edge, environment, running, wait_until
from tests.upstreams import unused_port

FREE = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
EVENT = b'{"api_key":"phc_x","event":"e","distinct_id":"d"}'
POST = b"POST /e/ HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)
BAD_ADDRESS = "192.0.2.1:8000"
"""Of documents (RFC 5737), and no machine's."""


def check(
    data: Path, *words: str | Path, status: int = 0, env: Mapping[str, str] | None = None
) -> list[tuple[str, str, str]]:
    """Name, outcome and sentence of every check; programs and people are told the same."""
    common = ("check", "--data", data, *([] if "--listen" in words else FREE), *words)
    done = edge(*common, "--json", env=env)
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert (done.returncode, found["exit_status"]) == (status, status), done.stdout
    assert done.stdout.count('"FAILED"') == 0 if status == 0 else '"FAILED"' in done.stdout
    return [(each["name"], each["outcome"], each["why"]) for each in found["checks"]]


def those(found: list[tuple[str, str, str]], outcome: str) -> dict[str, str]:
    return {name: why for name, each, why in found if each == outcome}


def folder(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def test_settings_that_would_run_are_ok_in_the_order_in_which_they_are_needed(tmp_path: Path) -> None:
    found = check(tmp_path / "data", "--to", "null:")
    assert [(name, outcome) for name, outcome, _ in found] == [
        *(("settings", "ok"), ("data", "ok"), ("disk", "ok"), ("checkpoints", "ok")),
        *(("listen", "ok"), ("admin", "ok"), ("open files", "ok"), ("sink null:", "ok")),
    ]
    assert those(found, "ok")["data"] == f"{tmp_path}/data is not there yet, and can be made"
    assert folder(tmp_path) == []


def test_people_are_told_a_line_for_each(tmp_path: Path) -> None:
    env = {"EDGE_LISTN": "1"}
    done = edge("check", "--data", tmp_path, *FREE, "--to", "null:", "--to", "fax:1", env=env)
    assert (done.returncode, done.stderr) == (69, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "ok      settings: all of them can be used"
    assert lines[1] == "note    variables: nothing reads EDGE_LISTN, did you mean EDGE_LISTEN?"
    assert lines[-2] == "ok      sink null:: it takes everything and keeps nothing"
    assert lines[-1].startswith("FAILED  sink fax:1: --to: expected a sink URL that begins with file:, ")


def test_the_default_sink_is_made_as_a_start_makes_it_and_nothing_else(tmp_path: Path) -> None:
    found = check(tmp_path / "data")
    assert those(found, "ok")[f"sink file:{tmp_path}/data/events"] == f"{tmp_path}/data/events can be written"
    assert folder(tmp_path) == ["data", "data/events"]


# --- settings, projects


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--workers", "none"], "--workers: expected a whole number above zero, found 'none'"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml: No such file or directory"),
        (["--assets-upstream", "http://h"], "--assets-upstream: expected --upstream with it, found none"),
        (
            ["--drainers", "2", "--to", "stdout:"],
            "--drainers: expected 1 with --to stdout:, where lines would mix, found 2",
        ),
        ([word for _ in range(9) for word in ("--to", "null:")], "--to: expected at most 8 sinks, found 9"),
    ],
    ids=["value", "file", "upstream", "lines", "sinks"],
)
def test_a_setting_that_cannot_be_used_is_all_that_is_told(tmp_path: Path, words: list[str], why: str) -> None:
    found = check(tmp_path / "data", *words, status=78, env={"EDGE_LISTN": "1"})
    assert found[0] == ("settings", "FAILED", why)
    assert [name for name, *_ in found[1:]] == ["variables"]
    assert folder(tmp_path) == []


def test_settings_come_from_where_those_of_a_start_come_from(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text('to = ["null:?shape=captured"]\nprojects = "nowhere.toml"\n')
    found = check(tmp_path / "data", "--config", tmp_path / "edge.toml", env={"EDGE_PROJECTS": ""}, status=78)
    assert found[0][2] == "EDGE_PROJECTS: expected a value, found ''"
    found = check(tmp_path / "data", env={"EDGE_CONFIG": str(tmp_path / "edge.toml")}, status=78)
    assert "sink null:?shape=captured" in those(found, "ok")
    assert "nowhere.toml: No such file" in those(found, "FAILED")["projects"]


def test_a_registry_of_projects_is_read(tmp_path: Path) -> None:
    file = tmp_path / "projects.toml"
    file.write_text('mode = "enforce"\n[[project]]\nid = 1\nkeys = ["phc_a", "phc_b"]\n')
    found = check(tmp_path / "data", "--to", "null:", "--projects", file)
    assert those(found, "ok")["projects"].startswith("mode enforce: 1 projects with 2 keys")
    file.write_text('mode = "enforced"\n')
    found = check(tmp_path / "data", "--to", "null:", "--projects", file, status=78)
    assert "Invalid enum value 'enforced'" in those(found, "FAILED")["projects"]
    # All else is looked at.
    assert "sink null:" in those(found, "ok")


# --- data folder


@pytest.mark.parametrize("data", ["file", "file/data", "/proc", "/proc/nowhere/data"])
def test_a_data_folder_that_cannot_be_written_is_status_74(tmp_path: Path, data: str) -> None:
    (tmp_path / "file").touch()
    found = check(tmp_path / data, "--to", "null:", "--listen", BAD_ADDRESS, status=74)
    assert those(found, "FAILED")["data"].startswith(f"{tmp_path / data} cannot be written: ")
    assert folder(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("share", "outcome", "why"),
    [
        (0.5, "ok", "available"),
        (0.8, "note", "it nears what it may grow to"),
        (0.92, "note", "session replays would be refused"),
        (1.0, "FAILED", "everything would be refused"),
    ],
)
def test_a_spool_that_nears_its_budget_is_told_and_a_full_one_fails(
    tmp_path: Path, share: float, outcome: str, why: str
) -> None:
    slot = Slot(tmp_path)
    slot.commit(*[f"event {number}" for number in range(2000)])
    slot.seal()
    size = slot.files[0].stat().st_size
    words = ("--to", "null:", "--spool-bytes-max", str(int(size / share)))
    found = check(tmp_path, *words, status=74 if outcome == "FAILED" else 0)
    assert those(found, outcome)["disk"].startswith(f"the spool has {size:,} of {int(size / share):,} bytes, ")
    assert those(found, outcome)["disk"].endswith(why)


# --- spool


def test_what_a_start_would_have_to_recover_and_what_is_set_aside_is_told(tmp_path: Path) -> None:
    left, sealed = Slot(tmp_path, 0), Slot(tmp_path, 1)
    left.commit("a")
    sealed.commit("b")
    sealed.seal()
    (sealed.directory / SegmentName(9, 9).file_name(State.BAD)).touch()
    (left.directory / SegmentName(9, 9).file_name(State.SUSPECT)).touch()
    for name in ("quarantine/null/5c0d2e88b1f09a37-31-0.json", "damaged/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    before = folder(tmp_path)
    found = check(tmp_path, "--to", "null:")
    notes = [(name, why) for name, outcome, why in found if outcome == "note"]
    assert notes == [
        ("slot 00", "2 segments, 2 of them to be recovered by the next start"),
        ("slot 01", "2 segments, 1 of them could not be read wholly"),
        ("set aside", f"{tmp_path}/quarantine/null has 1 events that were refused for good"),
        ("set aside", f"{tmp_path}/damaged has 1 files of what could not be read"),
    ]
    assert folder(tmp_path) == before


def test_a_slot_in_good_order_is_ok(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    slot.seal()
    assert those(check(tmp_path, "--to", "null:"), "ok")["slot 00"] == "1 segments"


def test_a_segment_or_a_slot_that_cannot_be_read_is_status_74_and_hides_no_other(tmp_path: Path) -> None:
    first, second, third = Slot(tmp_path, 0), Slot(tmp_path, 1), Slot(tmp_path, 2)
    for slot in (first, second, third):
        slot.commit("a")
        slot.seal()
    odd = first.directory / SegmentName(9, 9).file_name(State.SEALED)
    odd.symlink_to(odd)
    lock = second.directory / ".lock"
    lock.unlink()
    lock.symlink_to(lock)
    found = check(tmp_path, "--to", "null:", status=74)
    failed = those(found, "FAILED")
    assert failed["slot 00"].startswith(f"1 of 2 segments cannot be opened: {odd.name}: ")
    assert os.strerror(errno.ELOOP) in failed["slot 01"]
    assert those(found, "ok")["slot 02"] == "1 segments"


def test_a_checkpoint_that_cannot_be_read_is_status_74(tmp_path: Path) -> None:
    file = Layout(tmp_path).checkpoints / "null.json"
    file.parent.mkdir(parents=True)
    file.symlink_to(file)
    found = check(tmp_path, "--to", "null:", status=74)
    assert os.strerror(errno.ELOOP) in those(found, "FAILED")["checkpoints"]


def test_a_drainer_that_ships_is_told_and_not_disturbed(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.commit("a")
    drainer = Drainer(RealDisk(), Layout(tmp_path), ["null:"], Board.create(1).rows[0])
    found = check(tmp_path, "--to", "null:")
    assert those(found, "note")["checkpoints"] == f"of 0 sinks, in use by a drainer, process {os.getpid()}"
    assert drainer.run_once()


# --- addresses, open files


def test_an_address_that_is_no_address_of_the_machine_is_status_78(tmp_path: Path) -> None:
    found = check(tmp_path, "--to", "fax:1", "--listen", BAD_ADDRESS, "--admin", BAD_ADDRESS[:-1] + "1", status=78)
    failed = those(found, "FAILED")
    assert failed["listen"] == f"cannot listen on {BAD_ADDRESS}: {os.strerror(errno.EADDRNOTAVAIL)}"
    assert failed["admin"].startswith("cannot listen on 192.0.2.1:8001: ")
    assert "sink fax:1" in failed


def test_an_address_in_use_is_a_note(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = check(tmp_path, "--to", "null:", "--listen", address, "--admin", "127.0.0.1:0")
    assert those(found, "note") == {"listen": f"{address} is in use, perhaps by the edge that runs already"}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_one_address_for_both_ports_is_status_78(tmp_path: Path, host: str) -> None:
    port = unused_port()
    words = ("--listen", f"{host}:{port}", "--admin", f"127.0.0.1:{port}")
    found = check(tmp_path, "--to", "null:", *words, status=78)
    assert those(found, "FAILED")["admin"].startswith("expected another address than that of --listen, ")
    # As a start finds out.
    assert edge("serve", "--data", tmp_path, "--workers", "1", *words).returncode != 0


def test_too_few_open_files_are_a_note(tmp_path: Path) -> None:
    found = check(tmp_path, "--to", "null:", "--connections-max", str(10**14))
    assert those(found, "note")["open files"].startswith(f"--connections-max is {10**14}, and with ")


# --- beside a running edge


def test_it_runs_beside_an_edge_and_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path, verb="up") as server:
        assert server.ask(POST).status == 200
        wait_until(lambda: (server.data / "events").is_dir() and folder(server.data / "events"), "it is shipped")
        listen, admin = [f"{host}:{port}" for host, port in (server.address, server.admin)]
        found = check(server.data, "--listen", listen, "--admin", admin)
        pid = server.process.pid
        [worker] = server.workers()
        notes = those(found, "note")
        assert notes["data"] == f"{server.data} can be written, and is in use by process {pid}"
        assert notes["slot 00"].endswith(f"in use by process {worker}")
        assert "in use by a drainer, process " in notes["checkpoints"]
        assert {"listen", "admin"} <= notes.keys()
        assert server.ask(POST).status == 200
        assert server.workers() == [worker]
        assert server.stop() == 0
    assert len(folder(server.data / "events")) == 2


# --- upstreams and sinks


def test_a_sink_is_asked_and_sent_nothing(tmp_path: Path) -> None:
    Slot(tmp_path).commit("a")
    with Downstream() as downstream:
        found = check(tmp_path, "--to", downstream.url)
        assert "is answered 200" in those(found, "ok")[f"sink {downstream.url}"]
        downstream.rule = lambda call: Reply(503)
        found = check(tmp_path, "--to", downstream.url, "--to", "null:", status=69)
        assert those(found, "FAILED")[f"sink {downstream.url}"].startswith("takes nothing now: status 503")
        assert "sink null:" in those(found, "ok")
        downstream.rule = lambda call: Reply(301)
        found = check(tmp_path, "--to", downstream.url, status=69)
        assert those(found, "FAILED")[f"sink {downstream.url}"].startswith(
            "takes nothing until somebody acts: status 301"
        )
    assert downstream.calls == []


def test_another_edge_is_asked_and_has_nothing_of_it(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        found = check(tmp_path / "data2", "--to", f"posthog+{server.url}")
        assert "is answered" in those(found, "ok")[f"sink posthog+{server.url}"]
        assert server.records() == []
        assert not [name for name, value in server.metrics().items() if "rejected" in name and value]


def test_sinks_that_cannot_be_made_are_status_69_each_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    urls = (f"file:{tmp_path}/file/x", "null:?speed=2", "null:", "null:?shape=captured", "kafka://ada:s3cret@h")
    found = check(tmp_path / "data", *[word for url in urls for word in ("--to", url)], status=69)
    failed = those(found, "FAILED")
    assert failed[f"sink {urls[0]}"].startswith(f"file:{tmp_path}/file/x: File exists: ")
    assert failed["sink null:?speed=2"].startswith("--to: null: expected the options shape, found 'speed'")
    assert failed["sink null:?shape=captured"] == (
        "--to: expected different destinations, found null: and null:?shape=captured"
    )
    assert "sink kafka://***@h" in failed
    assert "s3cret" not in str(found)
    assert "sink null:" in those(found, "ok")


def test_offline_nobody_is_asked(tmp_path: Path) -> None:
    with Downstream() as downstream:
        upstream = f"http://127.0.0.1:{downstream.port}"
        found = check(tmp_path, "--offline", "--to", downstream.url, "--upstream", upstream)
        assert downstream.questions == []
    nobody = f"http://127.0.0.1:{unused_port()}"
    again = check(tmp_path, "--offline", "--to", f"posthog+{nobody}", "--upstream", nobody)
    told = [why for name, _, why in found + again if name.startswith(("sink", "upstream"))]
    assert told == ["it can be used, and was not asked"] * 4
    assert check(tmp_path, "--offline", "--to", "fax:1", status=69)


def test_upstreams_are_connected_to_and_their_certificates_looked_at(tmp_path: Path) -> None:
    with Downstream() as plain, Downstream(certificate=CERTIFICATE) as secure:
        main, assets = f"https://127.0.0.1:{secure.port}", f"http://127.0.0.1:{plain.port}/assets"
        words = ("--to", "null:", "--upstream", main, "--assets-upstream", assets)
        found = check(tmp_path, *words, status=69)
        assert those(found, "FAILED")[f"upstream {main}"].startswith("takes nothing until somebody acts: 127.0.0.1: ")
        assert those(found, "ok")[f"assets-upstream {assets}"] == "it can be connected to"
        found = check(tmp_path, *words, env={"SSL_CERT_FILE": str(CERTIFICATE)})
        assert those(found, "ok")[f"upstream {main}"] == "it can be connected to"
        assert plain.questions + secure.questions + plain.calls + secure.calls == []
    nobody = f"http://127.0.0.1:{unused_port()}"
    found = check(tmp_path, "--to", "null:", "--upstream", nobody, status=69)
    assert "refused" in those(found, "FAILED")[f"upstream {nobody}"]


def without(package: str, *words: str | Path) -> dict[str, Any]:
    """What is told where a package is not installed."""
    code = f"import sys; sys.modules[{package!r}] = None\nfrom edge.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "check", "--json", *FREE, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 69, done.stderr
    return {each["name"]: each["why"] for each in json.loads(done.stdout)["checks"] if each["outcome"] == "FAILED"}


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path) -> None:
    words = ("--data", tmp_path, "--offline", "--to")
    failed = without("aiohttp", *words, "null:", "--upstream", "http://h")
    assert failed == {"upstream http://h": "--upstream needs the package aiohttp: pip install 'capture-edge[proxy]'"}
    failed = without("confluent_kafka", *words, "kafka://h:1")
    assert 'pip install "capture-edge[kafka]"' in failed["sink kafka://h:1"]
