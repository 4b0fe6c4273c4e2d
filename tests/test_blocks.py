import mmap
import threading
import weakref
from typing import Final

import pytest

from edge.blocks import BLOCK_BYTES, Blocks, give_back

EVERYTHING: Final = 1_000_000


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("step", [100_000, BLOCK_BYTES, 5 * BLOCK_BYTES])
def test_what_was_put_in_comes_out_in_order(size: int, known: bool, step: int) -> None:
    data = bytes(at % 251 for at in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    blocks = Blocks(size if known else 0)
    for at in range(0, size, step):
        blocks.append(data[at : at + step])
        assert blocks.size == min(size, at + step)
    assert b"".join(blocks.views()) == data
    assert all(len(view) == BLOCK_BYTES for view in blocks.views()[:-1])


def test_what_is_received_goes_where_there_is_room() -> None:
    blocks = Blocks(5)
    for piece in (b"ab", b"cde"):
        room = blocks.room()
        assert len(room) >= len(piece)
        room[: len(piece)] = piece
        blocks.took(len(piece))
    assert b"".join(blocks.views()) == b"abcde"


def test_a_block_is_a_mapping_of_its_own_and_a_few_bytes_are_none() -> None:
    known, unknown = Blocks(2 * BLOCK_BYTES + 10), Blocks()
    for blocks in (known, unknown):
        blocks.append(bytes(2 * BLOCK_BYTES + 10))
    mappings = [[isinstance(view.obj, mmap.mmap) for view in blocks.views()] for blocks in (known, unknown)]
    assert mappings == [[True, True, False], [True, True, True]]


def test_more_than_was_expected_is_held_as_well() -> None:
    blocks = Blocks(10)
    data = b"0123456789" + b"x" * BLOCK_BYTES + b"y"
    blocks.append(data)
    assert b"".join(blocks.views()) == data


def filled(count: int) -> tuple[list[memoryview], list["weakref.ref[object]"]]:
    """The views of so many blocks, and what tells whether the system has them back; nothing else waits."""
    give_back(EVERYTHING)
    blocks = Blocks()
    blocks.append(bytes(count * BLOCK_BYTES))
    views = blocks.views()
    return views, [weakref.ref(view.obj) for view in views]


def mapped(blocks: list["weakref.ref[object]"]) -> int:
    return sum(block() is not None for block in blocks)


def test_what_nobody_has_goes_back_a_few_at_a_time() -> None:
    views, blocks = filled(20)
    kept = views[-1][:10]
    del views
    assert mapped(blocks) == 20
    counts = []
    for _ in range(4):
        give_back()
        counts.append(mapped(blocks))
    assert counts == [12, 4, 1, 1]
    assert bytes(kept) == bytes(10)
    del kept
    give_back()
    assert mapped(blocks) == 0


def test_whatever_thread_lets_go_of_it_gives_nothing_back() -> None:
    views, blocks = filled(3)
    thread = threading.Thread(target=views.clear)
    thread.start()
    thread.join()
    assert mapped(blocks) == 3
    give_back()
    assert mapped(blocks) == 0


def test_those_that_wait_are_never_more_than_were_in_use() -> None:
    give_back(EVERYTHING)
    all_blocks: list[weakref.ref[object]] = []
    for _ in range(20):
        blocks = Blocks()
        blocks.append(bytes(10 * BLOCK_BYTES))
        all_blocks += [weakref.ref(view.obj) for view in blocks.views()]
        assert mapped(all_blocks) <= 20
    del blocks
    give_back(EVERYTHING)
    assert mapped(all_blocks) == 0
