"""The drainer as a child of `edge up`."""

import select
import signal
import sys
from pathlib import Path

import msgspec

from edge import logs
from edge.disk import RealDisk
from edge.drain.drainer import Drainer
from edge.drain.slots import InUse
from edge.layout import Layout
from edge.metrics import Board
from edge.notation import Retention, Share
from edge.process import EXIT_TRY_AGAIN, EXIT_UNUSABLE, accept_signals, read_spec, refuse_signals, say_ready
from edge.spool.budget import Pressure


class DrainSpec(msgspec.Struct):
    data: str
    urls: list[str]
    board_fd: int
    board_rows: int
    row: int
    lifeline_fd: int
    retain: Retention
    share: Share


def main(arguments: list[str]) -> int:
    spec, ready_fd = read_spec(DrainSpec, arguments)
    logs.set_up("drainer")
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    accept_signals()

    def should_stop() -> bool:
        orphaned = bool(select.select([spec.lifeline_fd], [], [], 0)[0])
        return stopping or orphaned

    rows = Board(spec.board_fd, spec.board_rows).rows

    def is_scarce() -> bool:
        return rows[-1].get("edge_disk_pressure") >= Pressure.HIGH

    layout = Layout(Path(spec.data))
    try:
        drainer = Drainer(RealDisk(), layout, spec.urls, rows[spec.row], spec.retain, is_scarce, spec.share)
    except InUse as error:
        print(f"edge: {error}", file=sys.stderr)
        return EXIT_TRY_AGAIN
    except OSError as error:
        print(f"edge: {spec.data} cannot be used by the drainer: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    say_ready(ready_fd)
    status = drainer.run(should_stop)
    refuse_signals()
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
