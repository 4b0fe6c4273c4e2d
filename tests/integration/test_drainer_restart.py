"""A drainer that died between publishing and its checkpoint, made by hand: its successor delivers nothing twice.

`edge serve` accepts and `edge drain --once` ships at known moments; files put back are those that a drainer killed in between
would have left.
"""

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.layout import LOCK_NAME
from tests.integration.edge_process import EDGE, EdgeProcess, environment


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[EdgeProcess]:
    """`edge serve` with one slot, so that there is one open segment at a time."""
    with EdgeProcess(tmp_path) as process:
        _serve(process)
        yield process


def _serve(edge: EdgeProcess) -> None:
    edge.start("--workers", "1", verb="serve")


def _send(edge: EdgeProcess, name: str) -> None:
    body = json.dumps({"api_key": "phc_drain", "event": name, "distinct_id": "u"}).encode()
    assert edge.request("POST", "/i/v0/e/", body).status == 200


def _delivered(edge: EdgeProcess) -> list[str]:
    return [event["event"] for event in edge.events()]


def test_a_batch_that_was_published_from_a_new_segment_is_not_shipped_again(serving: EdgeProcess) -> None:
    """The checkpoint stands at the end of a finished segment, the published batch at the beginning of the next one."""
    edge = serving
    _send(edge, "first segment")
    edge.stop()
    [finished] = [path for path in (edge.data / "spool" / "slot-00").iterdir() if path.name != LOCK_NAME]
    shutil.copy(finished, edge.data)
    edge.verb("drain", "--once")
    [checkpoint] = [path for path in (edge.data / "ckpt").glob("*.json") if ".prev" not in path.name]
    shutil.copy(checkpoint, edge.data)

    _serve(edge)
    _send(edge, "published")
    edge.verb("drain", "--once")
    _send(edge, "later")
    # Neither the checkpoint after the last batch nor the deletion of the finished segment took place.
    shutil.move(edge.data / checkpoint.name, checkpoint)
    shutil.move(edge.data / finished.name, finished)
    edge.verb("drain", "--once")
    assert _delivered(edge) == ["first segment", "published", "later"]


def test_a_batch_that_was_published_while_the_successor_waited_is_not_shipped_again(serving: EdgeProcess) -> None:
    """The predecessor holds the lock, publishes, and dies before its checkpoint."""
    edge = serving
    _send(edge, "published")
    edge.verb("drain", "--once")
    [published] = (edge.data / "events").glob("*.ndjson")
    shutil.move(published, edge.data)
    for checkpoint in (edge.data / "ckpt").glob("*.json"):
        checkpoint.unlink()

    with (edge.data / "ckpt" / ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        successor = subprocess.Popen([EDGE, "drain", "--once", "--data", edge.data], env=environment())
        # For the successor to have come to the lock: nothing outside it shows when it has.
        time.sleep(1.5)
        shutil.move(edge.data / published.name, published)
        _send(edge, "later")
    assert successor.wait(20) == 0
    assert _delivered(edge) == ["published", "later"]
