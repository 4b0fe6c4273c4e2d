import json
import subprocess
import sys

import pytest

from bench.instructions import LAST, PAYLOADS, allowed


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_counted_is_requests_that_are_stored(payload: str) -> None:
    # The driver itself checks that as many events were committed as were sent.
    subprocess.run([sys.executable, "-m", "bench", "instructions", "--payload", payload, "--turns", "3"], check=True)


@pytest.mark.parametrize("requests", ["1", "40"])
def test_a_turn_may_have_other_numbers_of_requests(requests: str) -> None:
    command = [sys.executable, "-m", "bench", "instructions", "--turn-requests", requests]
    subprocess.run([*command, "--turns", "3"], check=True)
    refused = subprocess.run([*command, "--record"], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "expected at least 1, and 32 where the figure is checked or recorded" in refused.stderr


def test_a_figure_bounds_the_next_one() -> None:
    last = {"3.11": {"A": 50_000}}
    assert allowed(last, "A", "3.11", None)[0] == pytest.approx(51_500)
    assert allowed(last, "A", "3.11", 51_000)[0] == 51_000
    assert allowed(last, "A", "3.12", 60_000) == (
        60_000,
        "no figure was recorded with Python 3.12: at most 60,000",
    )
    assert allowed(last, "F", "3.11", None)[0] is None


def test_the_last_figures_can_be_read() -> None:
    for figures in json.loads(LAST.read_text()).values():
        assert figures.keys() <= set(PAYLOADS)
        assert all(figure > 0 for figure in figures.values())
