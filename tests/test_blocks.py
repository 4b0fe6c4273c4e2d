import asyncio
import gc
import mmap
import weakref

import pytest

from edge.blocks import BLOCK_BYTES, Blocks, let_go


class Held:
    """Something that can be told to be gone."""


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
    kinds = [[type(view.obj) for view in blocks.views()] for blocks in (known, unknown)]
    assert kinds == [[mmap.mmap, mmap.mmap, bytearray], [mmap.mmap, mmap.mmap, mmap.mmap]]


def test_more_than_was_expected_is_held_as_well() -> None:
    blocks = Blocks(10)
    data = b"0123456789" + b"x" * BLOCK_BYTES + b"y"
    blocks.append(data)
    assert b"".join(blocks.views()) == data


def test_one_is_let_go_in_each_turn_of_the_loop() -> None:
    async def turns() -> list[int]:
        held = [Held() for _ in range(4)]
        there = [weakref.ref(each) for each in held]
        let_go(held)
        del held
        counts = []
        for _ in range(5):
            await asyncio.sleep(0)
            counts.append(sum(ref() is not None for ref in there))
        return counts

    gc.disable()
    try:
        assert asyncio.run(turns()) == [2, 1, 0, 0, 0]
    finally:
        gc.enable()
