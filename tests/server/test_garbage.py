"""In a process of its own, whose collector nobody else has set up."""

import subprocess
import sys
from typing import Final

import pytest

START: Final = """
import gc
import weakref
from edge.metrics import Board
from edge.server import garbage
row = Board.create(1).rows[0]
kept = garbage.Garbage(row)

class Node:
    pass

def cycles(count):
    for _ in range(count):
        node = Node()
        node.itself = node

def nodes():
    return sum(type(each) is Node for each in gc.get_objects())

def pauses():
    kept.tick(0.0, 0)
    start = garbage.Histogram(row, "edge_gc_pause_seconds")._start
    return sum(row.slots[start : start + 17])
"""

CASES: Final = {
    "young garbage goes by itself": """
cycles(100_000)
assert nodes() < 20_000, nodes()
assert pauses() > 10
""",
    "what survives is looked at no more": """
living = [Node() for _ in range(100_000)]
kept.tick(1.0, 0)
assert gc.get_freeze_count() > 100_000
before = gc.get_stats()[2]["collections"]
cycles(1_000_000)
assert gc.get_stats()[2]["collections"] == before
""",
    "garbage that was set aside goes when there is much of it": """
garbage.UNACCOUNTED_MAX = 1000
living = [Node() for _ in range(5000)]
for node in living:
    node.itself = node
gc.freeze()
first = weakref.ref(living[0])
del living, node
kept.tick(garbage.LOOK_S / 2, 0)
assert first() is not None
kept.tick(2 * garbage.LOOK_S, 0)
assert first() is None
kept.tick(2 * garbage.LOOK_S + 1, 0)
""",
    "what connections account for is left alone": """
garbage.UNACCOUNTED_MAX = 1000
living = [Node() for _ in range(5000)]
gc.freeze()
before = gc.get_stats()[2]["collections"]
kept.tick(2 * garbage.LOOK_S, 5000)
assert gc.get_stats()[2]["collections"] == before
""",
    "nothing goes from object to object to count them": """
def walk():
    raise AssertionError
gc.get_freeze_count = gc.get_objects = walk
kept.tick(2 * garbage.LOOK_S, 5000)
""",
    "what stays after a full collection is accounted for from then on": """
garbage.UNACCOUNTED_MAX = 1000
living = [Node() for _ in range(5000)]
gc.freeze()
kept.tick(2 * garbage.LOOK_S, 0)
before = gc.get_stats()[2]["collections"]
kept.tick(4 * garbage.LOOK_S, 0)
assert gc.get_stats()[2]["collections"] == before
""",
    "the collector is given back": """
kept.close()
assert gc.get_freeze_count() == 0
assert not gc.callbacks
""",
}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_collections(text: str) -> None:
    done = subprocess.run([sys.executable, "-c", START + text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
