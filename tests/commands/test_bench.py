from pathlib import Path

from tests.server.running import edge, running


def test_any_server_is_put_under_load(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        url = f"http://{server.address[0]}:{server.address[1]}"
        for words in (["load", url], ["open", url, "--rate", "200"]):
            done = edge("bench", *words, "--seconds", "0.3", "--connections", "4")
            assert done.returncode == 0, done.stderr
            assert "answered" in done.stdout


def test_help_names_what_there_is() -> None:
    done = edge("bench", "--help")
    assert done.returncode == 0
    assert {"load", "open", "compare", "latency"} <= set(done.stdout.replace(",", " ").replace(".", " ").split())


def test_a_name_there_is_not_is_told() -> None:
    done = edge("bench", "nonsense")
    assert done.returncode == 2
    assert "compare" in done.stderr
