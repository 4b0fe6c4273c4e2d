"""`bench ship` at its smallest, for whoever looks at what it prints."""

from pathlib import Path
from typing import Final

import pytest

from bench import ship

EVENTS: Final = 2000


def rows_of(capsys: pytest.CaptureFixture[str], folder: Path, *urls: str) -> list[str]:
    """The lines of its table for `EVENTS` single events to each of `urls`; the result is in `folder`."""
    sinks = [part for url in urls for part in ("--to", url)]
    run = ["--events", str(EVENTS), "--payload", "A", "--runs", "1"]
    assert ship.main([*run, "--data", str(folder / "data"), "--results", str(folder), *sinks]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("| A |")]
