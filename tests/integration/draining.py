"""`edge drain` as a process of its own, and what a downstream of the tests' own got of what was promised."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from edge.disk import RealDisk
from edge.drain.quarantine import Quarantined, list_quarantined, load
from edge.layout import Layout
from tests.downstream import Downstream
from tests.integration.edge_process import EDGE, Event, environment
from tests.integration.load import Ledger, Reconciliation


class DrainProcess:
    """One `edge drain` on a data folder that somebody else may be writing."""

    def __init__(self, data: Path, *options: str) -> None:
        self._log = (data.parent / "drain.log").open("ab")
        command: list[str | Path] = [EDGE, "drain", "--data", data, *options]
        self.process = subprocess.Popen(command, stderr=self._log, stdout=subprocess.DEVNULL, env=environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._log.close()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait(self, within_s: float) -> int:
        return self.process.wait(within_s)


def delivered_events(downstream: Downstream) -> Iterator[Event]:
    """What is left after duplicates are merged by (uuid, event, timestamp, distinct_id), as a ledger knows it."""
    for uuid, name, _, distinct_id in downstream.merged:
        yield {"uuid": uuid, "event": name, "distinct_id": distinct_id, "properties": _place(uuid)}


def quarantined(data: Path) -> list[Quarantined]:
    """Everything in quarantine, of all sinks."""
    folder = Layout(data).quarantine
    if not folder.is_dir():
        return []
    disk = RealDisk()
    return [
        load(disk, str(sink), name) for sink in sorted(folder.iterdir()) for name in list_quarantined(disk, str(sink))
    ]


def reconcile(ledger: Ledger, downstream: Downstream, data: Path) -> Reconciliation:
    """What was promised against what was delivered or is in quarantine."""
    aside = [
        {"uuid": each.uuid, "distinct_id": each.distinct_id, "properties": _place(each.uuid)}
        for each in quarantined(data)
    ]
    return ledger.reconcile([*delivered_events(downstream), *aside])


def _place(uuid: str) -> dict[str, int]:
    """A ledger's uuid says which request the event was in, and where."""
    return {"request": int(uuid[:8], 16), "index": int(uuid[9:13], 16)}
