import asyncio
import io
import json
import logging
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

from edge.disk import Disk, RealDisk
from edge.layout import Layout
from edge.metrics import ROW_SLOTS, Row
from edge.segment.frame import FRAME_RAW_BYTES_MAX, Compressor
from edge.segment.name import SegmentName, State, parse_name
from edge.segment.record import RecordIds, encode_record
from edge.spool.group import PackedRecord
from edge.spool.recover import recover_slot
from edge.spool.writer import INLINE_BYTES_MAX, WAITED_RECORDS_MAX, Durability, SpoolSettings, SpoolWriter
from tests.fakes import (
    EIO,
    ENOSPC,
    Call,
    FakeClock,
    Fault,
    FaultyDisk,
    MemoryDisk,
    RecordingWaiter,
    until,
)
from tests.segments import found
from tests.spares import SmallSpares

LAYOUT = Layout(Path("/data"))
SLOT = str(LAYOUT.slot(0))
FSYNC, PAGE = Durability.FSYNC, Durability.PAGE
FIRST_COUNTER = 5

both_modes = pytest.mark.parametrize("durability", [FSYNC, PAGE], ids=["fsync", "page"])


class Scene:
    """A writer with everything it needs, inside a running loop."""

    def __init__(
        self,
        durability: Durability,
        before: Callable[["Scene"], None] = lambda _: None,
        segment_bytes_max: int = 64 * 1024 * 1024,
        wait_s: float = 0.001,
        room: int = 0,
        unsynced_bytes_max: int = 1024 * 1024,
    ) -> None:
        self.inner = MemoryDisk()
        self.inner.makedirs(SLOT)
        self.inner.settle()
        self.disk = FaultyDisk(self.inner, lambda: before(self))
        self.clock = FakeClock()
        self.row = Row(memoryview(bytearray(ROW_SLOTS * 8)).cast("q"))
        self.faults: list[BaseException] = []
        self.waiters: dict[bytes, RecordingWaiter] = {}
        self.stored: list[bytes] = []
        settings = SpoolSettings(
            durability, segment_bytes_max=segment_bytes_max, unsynced_bytes_max=unsynced_bytes_max, wait_s=wait_s
        )
        self.spares = SmallSpares(self.disk, SLOT, room)
        spares = self.spares if room else None
        self.writer = writer_on(self.disk, SLOT, settings, self.clock, self.row, self.faults, spares)

    def append(
        self, text: str, size: int = 0, then: Callable[[], None] = lambda: None, *, packed: bool = False
    ) -> RecordingWaiter:
        """A record whose line is the text, filled up to `size` with what does not compress well."""
        line = text.encode() + Random(text).randbytes(size).hex().encode()[: max(0, size - len(text) - 1)] + b"\n"

        def told(how: str) -> None:
            self.disk.calls.append(Call(how, text))
            if how == "stored":
                self.stored.append(line)
            then()

        waiter = self.waiters[line] = RecordingWaiter(told)
        if packed:
            frame = Compressor().compress(line)
            self.writer.append_packed(
                PackedRecord([memoryview(frame)], len(frame), len(line), 1, self.clock.wall_us, waiter)
            )
        else:
            self.writer.append(line, 1, self.clock.wall_us, waiter)
        return waiter

    async def told(self, *waiters: RecordingWaiter) -> list[list[str]]:
        """What each was told, once all were."""
        await until(lambda: all(waiter.told for waiter in waiters))
        return [waiter.told for waiter in waiters]

    async def quiet(self) -> None:
        """All were told, and nothing the disk was asked for is under way."""
        await until(lambda: all(waiter.told for waiter in self.waiters.values()))
        for _ in range(3):
            turn: list[OSError | None] = []
            self.writer._thread.submit(lambda: None, turn.append)
            await until(lambda turn=turn: bool(turn))  # type: ignore[misc]

    def files(self) -> dict[str, list[list[bytes]]]:
        return contents(self.inner)


def writer_on(
    disk: Disk,
    directory: str,
    settings: SpoolSettings,
    clock: FakeClock,
    row: Row,
    faults: list[BaseException],
    spares: SmallSpares | None = None,
) -> SpoolWriter:
    incarnations = Random(9)
    return SpoolWriter(
        asyncio.get_running_loop(),
        disk,
        directory,
        0,
        FIRST_COUNTER,
        lambda: incarnations.getrandbits(64),
        settings,
        clock.clock,
        row,
        faults.append,
        spares,
    )


def contents(disk: MemoryDisk) -> dict[str, list[list[bytes]]]:
    """Segments in order, `5.zst` for short, with their records by frame."""
    # At one moment: the disk's thread may rename a file between its listing and its reading.
    with disk._mutex:
        names = sorted((name, file) for file in disk.listdir(SLOT) if (name := parse_name(file)))
        return {
            f"{name.counter}{state.value}": found(disk.read(f"{SLOT}/{file}"), name) for (name, state), file in names
        }


def recovered(disk: MemoryDisk) -> Counter[bytes]:
    """Every record found after recovery, and how often."""
    recover_slot(disk, LAYOUT, 0)
    return Counter(line for frames in contents(disk).values() for frame in frames for line in frame)


def run(
    scenario: Callable[[Scene], Awaitable[None]], durability: Durability, expect_fault: bool = False, **options: Any
) -> Scene:
    """The scene after the scenario, which has closed its writer unless a fault was expected."""

    async def play() -> Scene:
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        before = set(threading.enumerate())
        scene = Scene(durability, **options)
        async with asyncio.timeout(10):
            await scenario(scene)
        assert unhandled == []
        if not expect_fault:
            assert scene.faults == []
            # One that another test left may end meanwhile.
            assert set(threading.enumerate()) <= before
            assert scene.inner.open_descriptors == []
        return scene

    return asyncio.run(play())


def calls_by(scene: Scene, *methods: str) -> list[str]:
    return scene.disk.methods(*methods)


class TestCommit:
    @both_modes
    def test_a_record_that_comes_packed_keeps_its_place(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            lone = scene.append("lone", packed=True)
            assert scene.writer.pending_bytes > 0
            await scene.told(lone)
            await scene.told(scene.append("a"), scene.append("b", packed=True), scene.append("c"), scene.append("d"))
            assert scene.writer.pending_bytes == 0
            await scene.writer.close()

        scene = run(scenario, durability)
        assert scene.files() == {"5.zst": [[b"lone\n"], [b"a\n"], [b"b\n"], [b"c\n", b"d\n"]]}
        assert scene.row.get("capture_events_ingested_total") == 5

    @pytest.mark.parametrize(
        ("durability", "order"),
        [
            pytest.param(FSYNC, ["create", "pwrite", "pwrite", "sync", "sync_directory", "stored"], id="fsync"),
            pytest.param(PAGE, ["create", "pwrite", "pwrite", "stored"], id="page"),
        ],
    )
    def test_lone_record_commits_at_once_and_its_waiter_hears_last(
        self, durability: Durability, order: list[str]
    ) -> None:
        async def scenario(scene: Scene) -> None:
            waiter = scene.append("a")
            assert waiter.told == []
            assert scene.disk.calls == []
            await scene.told(waiter)
            assert [call.method for call in scene.disk.calls] == order
            assert scene.files() == {"5.open.zst": [[b"a\n"]]}
            await scene.writer.close()

        assert run(scenario, durability).files() == {"5.zst": [[b"a\n"]]}

    @both_modes
    def test_directory_is_synced_before_the_first_answer_of_every_segment_and_only_then(
        self, durability: Durability
    ) -> None:
        async def scenario(scene: Scene) -> None:
            for text in "abcd":
                await scene.told(scene.append(text))
                if text == "b":
                    scene.clock.advance(61)
            await scene.writer.close()

        scene = run(scenario, durability)
        assert scene.files() == {"5.zst": [[b"a\n"], [b"b\n"]], "6.zst": [[b"c\n"], [b"d\n"]]}
        if durability is FSYNC:
            assert calls_by(scene, "create", "sync", "rename", "sync_directory", "stored") == [
                *("create", "sync", "sync_directory", "stored", "sync", "stored"),
                *("sync", "rename", "sync_directory"),
                *("create", "sync", "sync_directory", "stored", "sync", "stored"),
                *("sync", "rename", "sync_directory"),
            ]

    @both_modes
    def test_records_of_one_turn_of_the_loop_are_one_frame(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(*[scene.append(text) for text in "abc"])
            await scene.writer.close()

        scene = run(scenario, durability)
        assert scene.files() == {"5.zst": [[b"a\n", b"b\n", b"c\n"]]}
        assert scene.row.get("edge_commits_total") == 1

    def test_what_arrives_during_a_commit_forms_the_next(self) -> None:
        async def scenario(scene: Scene) -> None:
            gate = scene.disk.hold("sync")
            first = scene.append("a")
            await until(gate.reached.is_set)
            second = scene.append("b")
            await asyncio.sleep(0)
            third = scene.append("c")
            for _ in range(20):
                await asyncio.sleep(0)
            assert [first.told, second.told, third.told] == [[], [], []]
            gate.opened.set()
            await scene.told(first, second, third)
            await scene.writer.close()

        scene = run(scenario, FSYNC)
        assert scene.files() == {"5.zst": [[b"a\n"], [b"b\n", b"c\n"]]}
        assert calls_by(scene, "sync", "stored")[:5] == ["sync", "stored", "sync", "stored", "stored"]

    @pytest.mark.parametrize(
        ("first", "frames"),
        [
            pytest.param("a", [[b"a\n"], [b"b\n"], [b"c\n"]], id="of one, the next begins at once"),
            pytest.param(
                "wxyz", [[b"w\n", b"x\n", b"y\n", b"z\n"], [b"b\n", b"c\n"]], id="of several, the next gathers first"
            ),
        ],
    )
    def test_what_answered_clients_send_joins_those_who_wait(self, first: str, frames: list[list[bytes]]) -> None:
        async def scenario(scene: Scene) -> None:
            ours, theirs = socket.socketpair()
            loop = asyncio.get_running_loop()
            answered: list[RecordingWaiter] = []

            def next_request() -> None:
                loop.remove_reader(ours)
                answered.append(scene.append("c"))

            with ours, theirs:
                loop.add_reader(ours, next_request)
                gate = scene.disk.hold("sync")
                for text in first[:-1]:
                    scene.append(text)
                scene.append(first[-1], then=lambda: theirs.sendall(b"c"))
                await until(gate.reached.is_set)
                scene.append("b")
                gate.opened.set()
                await until(lambda: bool(answered))
                await scene.told(*answered)
            await scene.writer.close()

        assert run(scenario, FSYNC).files() == {"5.zst": frames}

    def test_small_group_is_waited_for(self) -> None:
        async def scenario(scene: Scene) -> None:
            waiters = [scene.append(str(number)) for number in range(WAITED_RECORDS_MAX)]
            scene.writer.commit()
            assert [waiter.told for waiter in waiters] == [["stored"]] * WAITED_RECORDS_MAX
            scene.disk.fail_next("sync", Fault(EIO))
            refused = scene.append("refused")
            await scene.told(refused)
            assert refused.told == ["not stored"]
            await scene.writer.close()

        run(scenario, FSYNC, wait_s=10.0)

    @pytest.mark.parametrize("why", ["records", "bytes", "slow"])
    def test_larger_group_and_slow_disk_are_not_waited_for(self, why: str) -> None:
        call_s = 11.0 if why == "slow" else 0.0

        async def scenario(scene: Scene) -> None:
            nonlocal call_s
            await scene.told(scene.append("before"))
            call_s = 0.0
            gate = scene.disk.hold("sync")
            count = WAITED_RECORDS_MAX + 1 if why == "records" else 1
            size = INLINE_BYTES_MAX + 1 if why == "bytes" else 0
            waiters = [scene.append(str(number), size) for number in range(count)]
            scene.writer.commit()
            assert [waiter.told for waiter in waiters] == [[]] * count
            await until(gate.reached.is_set)
            gate.opened.set()
            await scene.told(*waiters)
            if why == "slow":
                # The disk is fast again.
                last = scene.append("last")
                scene.writer.commit()
                assert last.told == ["stored"]
            await scene.writer.close()

        run(scenario, FSYNC, before=lambda scene: scene.clock.advance(call_s), wait_s=10.0)

    @pytest.mark.parametrize(
        ("durability", "first", "turns"),
        [(FSYNC, "abc", 1), (FSYNC, "abcd", 4), (PAGE, "abcd", 1)],
        ids=["of three", "of four", "page"],
    )
    def test_behind_several_that_were_waited_for_the_next_gathers(
        self, durability: Durability, first: str, turns: int
    ) -> None:
        async def scenario(scene: Scene) -> None:
            for text in first:
                scene.append(text)
            scene.writer.commit()
            for _ in range(3):
                await asyncio.sleep(0)
            waiter = scene.append("next")
            passed = 0
            while not waiter.told:
                await asyncio.sleep(0)
                passed += 1
            assert passed == turns
            await scene.writer.close()

        run(scenario, durability, wait_s=10.0)

    def test_answer_that_brings_the_next_record_does_not_lose_it(self) -> None:
        """A pipelined request is read when the one before it is answered."""

        async def scenario(scene: Scene) -> None:
            later: list[RecordingWaiter] = []
            scene.append("a", then=lambda: later.append(scene.append("b")))
            await until(lambda: bool(later))
            await scene.told(*later)
            await scene.writer.close()

        for durability in (FSYNC, PAGE):
            assert run(scenario, durability).files() == {"5.zst": [[b"a\n"], [b"b\n"]]}

    @both_modes
    def test_large_group_is_split_into_frames_of_one_commit(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(*[scene.append(f"{number}:", FRAME_RAW_BYTES_MAX // 3) for number in range(7)])
            await scene.writer.close()

        scene = run(scenario, durability)
        assert [len(frame) for frame in scene.files()["5.zst"]] == [3, 3, 1]
        assert scene.row.get("edge_commits_total") == 1
        assert [line for frame in scene.files()["5.zst"] for line in frame] == list(scene.waiters)

    def test_large_group_is_not_written_on_the_loop(self) -> None:
        async def scenario(scene: Scene) -> None:
            gate = scene.disk.hold("pwrite")
            large = scene.append("large", INLINE_BYTES_MAX + 10)
            await until(gate.reached.is_set)
            small = scene.append("small")
            await asyncio.sleep(0)
            assert [large.told, small.told] == [[], []]
            gate.opened.set()
            await scene.told(large, small)
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert [len(frame) for frame in scene.files()["5.zst"]] == [1, 1]

    @both_modes
    def test_figures_add_up(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            waiters = [scene.append(text) for text in ("a", "bb")]
            assert scene.writer.pending_bytes == 2 + 3
            await scene.told(*waiters)
            assert scene.writer.pending_bytes == 0
            scene.disk.fail_next("pwrite", Fault(ENOSPC))
            await scene.told(scene.append("ccc"))
            await scene.told(scene.append("dddd"))
            assert scene.writer.pending_bytes == 0
            await scene.writer.close()

        scene = run(scenario, durability)
        assert scene.row.get("capture_events_received_total") == 4
        assert scene.row.get("capture_events_ingested_total") == 2
        assert scene.row.get("edge_commits_total") == 1
        assert scene.row.get("edge_segment_write_errors_total") == 1


class TestRoom:
    def test_segments_are_written_into_it_and_end_where_it_does(self) -> None:
        async def scenario(scene: Scene) -> None:
            for text in "abcdefg":
                await scene.told(scene.append(text, 400))
                (name,) = (name for name in scene.inner.listdir(SLOT) if name.endswith(State.OPEN.value))
                sizes.append(len(scene.inner.read(f"{SLOT}/{name}")))
            await scene.writer.close()

        sizes: list[int] = []
        scene = run(scenario, FSYNC, room=800)
        # The third one leaves it.
        assert [size == 800 for size in sizes] == [True, True, False, True, True, False, True]
        assert [len(frames) for frames in scene.files().values()] == [3, 3, 1]
        assert scene.row.get("edge_segment_sealed_total", "size") == 2
        assert scene.disk.methods("create") == ["create"] * 4
        # Nothing is left of what nobody used.
        assert len(scene.inner.tree()) == 3

    def test_without_room_for_another_the_segment_grows(self) -> None:
        async def scenario(scene: Scene) -> None:
            scene.spares.size = 2000
            for text in "abcde":
                scene.disk.fail_next("create", Fault(ENOSPC))
                await scene.told(scene.append(text, 400))
            assert list(scene.files()) == ["5.open.zst"]
            await scene.writer.close()

        scene = run(scenario, FSYNC, room=800)
        assert [len(frames) for frames in scene.files().values()] == [5]

    def test_what_is_wanted_follows_from_what_came(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a", 400_000))
            scene.clock.advance(61)
            await scene.told(scene.append("b", 1_600_000))
            scene.spares.size = 4 * 1024 * 1024
            scene.clock.advance(61)
            await scene.told(scene.append("c", 400))
            scene.clock.advance(61)
            await scene.told(scene.append("d", 400))
            await scene.writer.close()

        scene = run(scenario, FSYNC, room=700_000)
        first, second, third, fourth = scene.files().values()
        assert len(first) == len(second) == len(third) == len(fourth) == 1
        least = 1024 * 1024
        # One to begin with, and one behind each that is opened: by then something is known of those before it.
        assert scene.spares.wanted == [least, least, least, 4 * 700_000, least]

    def test_none_is_wanted_while_much_comes_fast(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a", 40_000_000))
            scene.clock.advance(1)
            for text in "bc":
                await scene.told(scene.append(text, 400))
            scene.clock.advance(61)
            await scene.told(scene.append("d", 400))
            await scene.writer.close()

        scene = run(scenario, FSYNC, segment_bytes_max=10_000_000, room=5_000_000)
        # The first has room, and so has the second, as it was made before; the fourth, in its time, would have again.
        assert [len(frames) for frames in scene.files().values()] == [1, 2, 1]
        assert len(scene.spares.wanted) == 3

    def test_one_that_waits_at_the_end_is_given_back(self) -> None:
        async def scenario(scene: Scene) -> None:
            assert scene.spares.ready
            await scene.writer.close()

        scene = run(scenario, FSYNC, room=800)
        assert scene.inner.tree() == {}
        assert scene.inner.open_descriptors == []


class TestRoll:
    @both_modes
    def test_segment_is_rolled_at_its_size(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            for text in "abcde":
                await scene.told(scene.append(text, 400))
            await scene.writer.close()

        scene = run(scenario, durability, segment_bytes_max=500)
        assert [len(frames) for frames in scene.files().values()] == [2, 2, 1]
        assert list(scene.files()) == ["5.zst", "6.zst", "7.zst"]
        assert scene.row.get("edge_segment_sealed_total", "size") == 2
        assert scene.row.get("edge_segment_sealed_total", "shutdown") == 1

    @both_modes
    def test_segment_is_rolled_at_its_age_by_the_next_commit(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.clock.advance(59)
            await scene.told(scene.append("b"))
            scene.clock.advance(1)
            await scene.told(scene.append("c"))
            await scene.writer.close()

        scene = run(scenario, durability)
        assert scene.files() == {"5.zst": [[b"a\n"], [b"b\n"]], "6.zst": [[b"c\n"]]}
        assert scene.row.get("edge_segment_sealed_total", "age") == 1

    @both_modes
    def test_idle_segment_is_sealed_by_the_tick_and_no_empty_one_follows(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            scene.writer.tick()
            await scene.told(scene.append("a"))
            scene.clock.advance(59)
            scene.writer.tick()
            await scene.quiet()
            assert list(scene.files()) == ["5.open.zst"]
            scene.clock.advance(2)
            scene.writer.tick()
            await scene.quiet()
            assert list(scene.files()) == ["5.zst"]
            scene.clock.advance(200)
            scene.writer.tick()
            await scene.quiet()
            await scene.writer.close()

        assert list(run(scenario, durability).files()) == ["5.zst"]

    def test_clock_that_jumps_does_not_reorder_segments(self) -> None:
        async def scenario(scene: Scene) -> None:
            for text in "abc":
                await scene.told(scene.append(text))
                scene.clock.advance(61)
                scene.clock.wall_us -= 10**13
            await scene.writer.close()

        assert list(run(scenario, FSYNC).files().values()) == [[[b"a\n"]], [[b"b\n"]], [[b"c\n"]]]


class TestFailedWrite:
    @both_modes
    @pytest.mark.parametrize(
        "faults",
        [
            pytest.param((Fault(ENOSPC),), id="full"),
            pytest.param((Fault(short=20), Fault(ENOSPC)), id="full in the middle"),
            pytest.param((Fault(short=20), Fault(short=0), Fault(short=0)), id="no progress"),
            pytest.param((Fault(EIO),), id="error"),
        ],
    )
    def test_waiters_hear_it_the_file_is_cut_back_and_a_new_segment_follows(
        self, durability: Durability, faults: tuple[Fault, ...]
    ) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            size = len(scene.inner.read(f"{SLOT}/{scene.inner.listdir(SLOT)[0]}"))
            scene.disk.fail_next("pwrite", *faults)
            told = await scene.told(scene.append("b"), scene.append("c"))
            assert told == [["not stored"], ["not stored"]]
            await scene.quiet()
            assert scene.files() == {"5.zst": [[b"a\n"]]}
            assert len(scene.inner.read(f"{SLOT}/{scene.inner.listdir(SLOT)[0]}")) == size
            scene.clock.advance(1.1)
            assert await scene.told(scene.append("d")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, durability)
        assert scene.files() == {"5.zst": [[b"a\n"]], "6.zst": [[b"d\n"]]}
        assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n", b"d\n"])

    @both_modes
    def test_short_write_is_continued(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            scene.disk.fail_next("pwrite", Fault(short=7), None, Fault(short=3), Fault(short=9))
            assert await scene.told(scene.append("a"), scene.append("b")) == [["stored"], ["stored"]]
            await scene.writer.close()

        assert run(scenario, durability).files() == {"5.zst": [[b"a\n", b"b\n"]]}

    @both_modes
    def test_commits_are_refused_for_a_second_without_touching_the_disk(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            scene.disk.fail_next("pwrite", None, Fault(ENOSPC))
            await scene.told(scene.append("a"))
            await scene.quiet()
            assert scene.writer.failing
            calls = len(scene.disk.methods("create", "pwrite", "sync"))
            scene.clock.advance(0.9)
            assert await scene.told(scene.append("b")) == [["not stored"]]
            assert len(scene.disk.methods("create", "pwrite", "sync")) == calls
            scene.clock.advance(0.2)
            assert not scene.writer.failing
            assert await scene.told(scene.append("c")) == [["stored"]]
            await scene.writer.close()

        run(scenario, durability)

    @both_modes
    def test_full_disk_leaves_no_heap_of_files_and_heals(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_always("pwrite", Fault(ENOSPC))
            for number in range(5):
                assert await scene.told(scene.append(f"refused {number}")) == [["not stored"]]
                scene.clock.advance(1.1)
            await scene.quiet()
            assert scene.files() == {"5.zst": [[b"a\n"]]}
            scene.disk.heal()
            assert await scene.told(scene.append("b")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, durability)
        assert list(scene.files().values()) == [[[b"a\n"]], [[b"b\n"]]]
        assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n", b"b\n"])

    def test_counter_of_a_segment_that_could_not_be_made_is_not_used_again(self) -> None:
        async def scenario(scene: Scene) -> None:
            scene.disk.fail_next("create", Fault(EIO))
            assert await scene.told(scene.append("a")) == [["not stored"]]
            scene.clock.advance(1.1)
            await scene.told(scene.append("b"))
            await scene.writer.close()

        assert run(scenario, FSYNC).files() == {"6.zst": [[b"b\n"]]}

    def test_acknowledged_records_of_a_segment_that_could_be_sealed_are_not_written_twice(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_next("pwrite", Fault(ENOSPC))
            await scene.told(scene.append("b"))
            await scene.quiet()
            scene.clock.advance(1.1)
            scene.writer.tick()
            await scene.told(scene.append("c"))
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert scene.files() == {"5.zst": [[b"a\n"]], "6.zst": [[b"c\n"]]}
        assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n", b"c\n"])


class TestLeftOpen:
    """A segment that is written no more and is still called open is all that the slot's readers wait for."""

    @both_modes
    def test_rename_that_fails_for_a_while_is_tried_again_and_refuses_nobody(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_always("rename", Fault(EIO))
            scene.clock.advance(61)
            for _ in range(3):
                scene.writer.tick()
                await scene.quiet()
            assert scene.files()["5.open.zst"] == [[b"a\n"]]
            assert await scene.told(scene.append("b")) == [["stored"]]
            await scene.quiet()
            assert scene.writer.unfinished == 1
            assert not scene.writer.refusing
            renames = calls_by(scene, "rename")
            scene.clock.advance(0.9)
            scene.writer.tick()
            await scene.quiet()
            assert calls_by(scene, "rename") == renames
            scene.disk.heal()
            errors = scene.row.get("edge_segment_write_errors_total")
            scene.clock.advance(0.2)
            scene.writer.tick()
            await scene.quiet()
            assert list(scene.files()) == ["5.suspect.zst", "6.open.zst"]
            assert scene.writer.unfinished == 0
            assert scene.row.get("edge_segment_write_errors_total") == errors > 1
            await scene.writer.close()

        scene = run(scenario, durability)
        assert recovered(scene.inner.after_power_loss()).keys() == {b"a\n", b"b\n"}

    @both_modes
    def test_segment_that_could_not_be_begun_nor_deleted_is_deleted_later(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            scene.disk.fail_next("pwrite", Fault(EIO))
            scene.disk.fail_always("unlink", Fault(EIO))
            assert await scene.told(scene.append("a")) == [["not stored"]]
            await scene.quiet()
            scene.clock.advance(1.1)
            scene.writer.tick()
            await scene.quiet()
            assert await scene.told(scene.append("b")) == [["stored"]]
            assert list(scene.files()) == ["5.open.zst", "6.open.zst"]
            assert scene.writer.unfinished == 1
            scene.disk.heal()
            scene.clock.advance(1.1)
            scene.writer.tick()
            await scene.quiet()
            assert list(scene.files()) == ["6.open.zst"]
            assert scene.writer.unfinished == 0
            await scene.writer.close()

        run(scenario, durability)

    @both_modes
    def test_last_seal_that_fails_is_tried_again_at_the_end(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_next("rename", *[Fault(EIO)] * 3)
            await scene.writer.close()

        scene = run(scenario, durability)
        assert "5.suspect.zst" in scene.files()
        assert not any(".open" in name for name in scene.files())

    def test_writer_that_is_never_idle_finds_the_time(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_next("rename", *[Fault(EIO)] * 3)
            scene.clock.advance(61)
            scene.writer.tick()
            await scene.quiet()
            gate = scene.disk.hold("sync")
            waiter = scene.append("b")
            await until(gate.reached.is_set)
            scene.writer.tick()
            gate.opened.set()
            await scene.told(waiter)
            await scene.quiet()
            assert list(scene.files()) == ["5.suspect.zst", "6.open.zst"]
            await scene.writer.close()

        run(scenario, FSYNC)


class TestHangingDisk:
    def test_waiters_are_told_once_and_what_was_under_way_may_still_be_stored(self) -> None:
        async def scenario(scene: Scene) -> None:
            gate = scene.disk.hold("sync")
            first = scene.append("a")
            await until(gate.reached.is_set)
            second = scene.append("b")
            scene.clock.advance(29)
            scene.writer.tick()
            assert [first.told, second.told] == [[], []]
            scene.clock.advance(2)
            scene.writer.tick()
            assert [first.told, second.told] == [[], []]
            scene.writer.tick()
            assert [first.told, second.told] == [["not stored"], ["not stored"]]
            assert scene.writer.failing
            scene.clock.advance(5)
            third = scene.append("c")
            scene.writer.tick()
            assert third.told == ["not stored"]
            assert scene.writer.failing
            gate.opened.set()
            await until(lambda: not scene.writer._busy)
            assert scene.writer.pending_bytes == 0
            scene.clock.advance(1.1)
            assert await scene.told(scene.append("d")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, FSYNC)
        assert scene.files() == {"5.zst": [[b"a\n"], [b"d\n"]]}
        assert all(len(waiter.told) == 1 for waiter in scene.waiters.values())
        assert scene.row.get("capture_events_ingested_total") == 1

    def test_page_mode_does_not_gather_more_than_a_hanging_sync_allows(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            gate = scene.disk.hold("sync")
            scene.clock.advance(1.1)
            scene.writer.tick()
            await until(gate.reached.is_set)
            assert await scene.told(scene.append("b")) == [["stored"]]
            scene.clock.advance(31)
            scene.writer.tick()
            scene.writer.tick()
            assert await scene.told(scene.append("c")) == [["not stored"]]
            gate.opened.set()
            await scene.quiet()
            scene.clock.advance(1.1)
            assert await scene.told(scene.append("d")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert recovered(scene.inner.after_power_loss()).keys() == {b"a\n", b"b\n", b"d\n"}


class TestFullBudget:
    @both_modes
    def test_commits_are_refused_without_touching_the_disk_until_there_is_room(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.writer.full = True
            assert scene.writer.refusing
            assert not scene.writer.failing
            calls = len(scene.disk.calls)
            assert await scene.told(scene.append("b")) == [["not stored"]]
            assert [call.method for call in scene.disk.calls[calls:]] == ["not stored"]
            scene.writer.full = False
            assert await scene.told(scene.append("c")) == [["stored"]]
            await scene.writer.close()

        assert run(scenario, durability).files() == {"5.zst": [[b"a\n"], [b"c\n"]]}

    def test_what_was_acknowledged_and_lost_its_sync_is_written_all_the_same(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.clock.advance(1.1)
            scene.disk.fail_next("sync", Fault(EIO))
            scene.writer.full = True
            scene.writer.tick()
            await scene.quiet()
            scene.clock.advance(1.1)
            scene.writer.tick()
            assert await scene.told(scene.append("b")) == [["not stored"]]
            await scene.quiet()
            assert scene.files()["6.open.zst"] == [[b"a\n"]]
            await scene.writer.close()

        assert recovered(run(scenario, PAGE).inner.after_power_loss()).keys() == {b"a\n"}


class TestFailedSyncInFsyncMode:
    @pytest.mark.parametrize(
        ("method", "left"),
        [
            pytest.param("sync", "5.suspect.zst", id="file"),
            pytest.param("sync_directory", "5.zst", id="directory"),
        ],
    )
    def test_waiters_hear_that_it_was_not_stored_and_a_new_segment_follows(self, method: str, left: str) -> None:
        async def scenario(scene: Scene) -> None:
            scene.disk.fail_next(method, Fault(EIO))
            assert await scene.told(scene.append("a")) == [["not stored"]]
            scene.clock.advance(1.1)
            assert await scene.told(scene.append("b")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, FSYNC)
        assert list(scene.files()) == [left, "6.zst"]
        assert recovered(scene.inner.after_power_loss())[b"b\n"] == 1

    def test_failed_sync_is_never_tried_again_on_its_segment(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_next("sync", Fault(EIO))
            await scene.told(scene.append("b"))
            scene.clock.advance(100)
            scene.writer.tick()
            await scene.told(scene.append("c"))
            await scene.writer.close()

        scene = run(scenario, FSYNC)
        synced = Counter(call.name.split("-")[0] for call in scene.disk.calls if call.method == "sync")
        assert synced == {"000000000005": 2, "000000000006": 2}
        assert scene.stored == [b"a\n", b"c\n"]
        assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n", b"c\n"])

    @pytest.mark.parametrize("method", ["sync", "rename", "sync_directory"])
    def test_roll_that_fails_costs_nothing_that_was_acknowledged(self, method: str) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.clock.advance(61)
            scene.disk.fail_next(method, Fault(EIO))
            scene.writer.tick()
            await scene.quiet()
            assert await scene.told(scene.append("b")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, FSYNC)
        assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n", b"b\n"])


class TestPageMode:
    def test_file_and_directory_are_synced_within_the_interval_and_only_when_there_is_something(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.writer.tick()
            scene.clock.advance(0.9)
            scene.writer.tick()
            await scene.quiet()
            assert calls_by(scene, "sync", "sync_directory") == []
            scene.clock.advance(0.2)
            scene.writer.tick()
            await scene.quiet()
            assert calls_by(scene, "sync", "sync_directory") == ["sync", "sync_directory"]
            assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n"])
            scene.clock.advance(5)
            scene.writer.tick()
            await scene.quiet()
            assert calls_by(scene, "sync") == ["sync"]
            await scene.writer.close()

        run(scenario, PAGE)

    @pytest.mark.parametrize("method", ["sync", "sync_directory"])
    def test_acknowledged_records_whose_sync_failed_are_written_again_and_synced(self, method: str) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"), scene.append("b"))
            await scene.told(scene.append("c"))
            scene.clock.advance(1.1)
            scene.disk.fail_next(method, Fault(EIO))
            scene.writer.tick()
            await until(lambda: len(scene.files()) == 2)
            await scene.quiet()
            assert scene.files()["6.open.zst"] == [[b"a\n", b"b\n"], [b"c\n"]]
            assert recovered(scene.inner.after_power_loss()).keys() == {b"a\n", b"b\n", b"c\n"}
            assert await scene.told(scene.append("d")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert all(waiter.told == ["stored"] for waiter in scene.waiters.values())
        assert recovered(scene.inner.after_power_loss()).keys() == {b"a\n", b"b\n", b"c\n", b"d\n"}

    def test_nothing_more_is_acknowledged_until_lost_records_are_on_stable_storage(self) -> None:
        """Otherwise a disk whose syncs fail would go on collecting answers, and memory."""

        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_always("sync", Fault(EIO))
            scene.clock.advance(1.1)
            scene.writer.tick()
            await scene.quiet()
            for number in range(5):
                await scene.quiet()
                assert await scene.told(scene.append(f"refused {number}")) == [["not stored"]]
                scene.clock.advance(1.1)
                scene.writer.tick()
            await scene.quiet()
            scene.disk.heal()
            scene.clock.advance(1.1)
            scene.writer.tick()
            await scene.quiet()
            assert recovered(scene.inner.after_power_loss())[b"a\n"] == 1
            assert await scene.told(scene.append("b")) == [["stored"]]
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert recovered(scene.inner.after_power_loss()).keys() >= {b"a\n", b"b\n"}

    @pytest.mark.parametrize("then", ["roll by tick", "roll by size", "second sync"])
    def test_slow_sync_that_fails_does_not_hurt_what_was_queued_behind_it(self, then: str) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a", 400))
            scene.clock.advance(1.1)
            gate = scene.disk.hold("sync")
            scene.disk.fail_next("sync", Fault(EIO))
            scene.writer.tick()
            await until(gate.reached.is_set)
            await scene.told(scene.append("b", 400))
            scene.clock.advance(60 if then == "roll by tick" else 1.1)
            if then != "roll by size":
                scene.writer.tick()
            await scene.told(scene.append("c", 400))
            gate.opened.set()
            await scene.quiet()
            await scene.writer.close()

        scene = run(scenario, PAGE, segment_bytes_max=700 if then == "roll by size" else 10**6)
        assert len(scene.stored) == 3
        assert recovered(scene.inner.after_power_loss()).keys() == set(scene.stored)
        first = [call for call in scene.disk.calls if call.method == "sync" and call.name.startswith("000000000005")]
        assert len(first) == 1

    def test_group_written_while_the_sync_of_its_segment_fails_is_not_lost(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.clock.advance(1.1)
            gate = scene.disk.hold("sync")
            scene.disk.fail_next("sync", Fault(EIO))
            scene.writer.tick()
            await until(gate.reached.is_set)
            large = scene.append("large", INLINE_BYTES_MAX + 10)
            await asyncio.sleep(0)
            gate.opened.set()
            await scene.told(large)
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert len(scene.stored) == 2
        assert recovered(scene.inner.after_power_loss()).keys() == set(scene.stored)

    @pytest.mark.parametrize("size", [600, INLINE_BYTES_MAX + 10])
    def test_much_is_synced_without_waiting_for_the_time(self, size: int) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a", 100))
            await scene.quiet()
            assert calls_by(scene, "sync") == []
            for number in range(2):
                await scene.told(scene.append(f"much {number}", size))
                await scene.quiet()
                assert len(calls_by(scene, "sync")) == number + 1
            await scene.told(scene.append("b", 100))
            await scene.quiet()
            assert len(calls_by(scene, "sync")) == 2
            assert recovered(scene.inner.after_power_loss()).keys() >= set(scene.stored[:3])
            scene.disk.fail_next("sync", Fault(EIO))
            await scene.told(scene.append("much", size))
            await scene.quiet()
            assert recovered(scene.inner.after_power_loss()).keys() == set(scene.stored)
            await scene.writer.close()

        run(scenario, PAGE, unsynced_bytes_max=300)

    def test_what_was_there_at_the_sync_before_the_last_is_not_kept_in_memory(self) -> None:
        async def scenario(scene: Scene) -> None:
            ends = [0]
            for number in range(4):
                await scene.told(scene.append(str(number), 100))
                assert scene.writer._segment is not None
                ends.append(scene.writer._segment.size)
                scene.clock.advance(1.1)
                scene.writer.tick()
                await scene.quiet()
                assert scene.disk.dropped == [(begin, end - begin) for begin, end in pairwise(ends[:-1])]
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert len(scene.disk.dropped) == 3

    @pytest.mark.parametrize("method", ["sync", "rename", "sync_directory"])
    def test_seal_that_fails_at_a_roll_loses_nothing(self, method: str) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.clock.advance(61)
            scene.disk.fail_next(method, Fault(EIO))
            await scene.told(scene.append("b"))
            await scene.quiet()
            await scene.writer.close()

        scene = run(scenario, PAGE)
        assert recovered(scene.inner.after_power_loss()).keys() == {b"a\n", b"b\n"}


class TestClose:
    @both_modes
    def test_what_was_appended_is_committed_and_sealed(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            waiters = [scene.append("a")]
            await asyncio.sleep(0)
            waiters.append(scene.append("b"))
            await scene.writer.close()
            assert [waiter.told for waiter in waiters] == [["stored"], ["stored"]]

        scene = run(scenario, durability)
        assert [*scene.files()] == ["5.zst"]
        assert recovered(scene.inner.after_power_loss()) == Counter([b"a\n", b"b\n"])

    @both_modes
    def test_writer_that_wrote_nothing_leaves_nothing(self, durability: Durability) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.writer.close()

        assert run(scenario, durability).files() == {}

    @both_modes
    @pytest.mark.parametrize("method", ["sync", "rename", "sync_directory"])
    def test_failing_last_seal_loses_nothing_and_leaves_no_segment_open(
        self, durability: Durability, method: str
    ) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_next(method, Fault(EIO))
            await scene.writer.close()

        scene = run(scenario, durability)
        assert not any(".open" in name for name in scene.files())
        assert recovered(scene.inner.after_power_loss()).keys() == {b"a\n"}

    @both_modes
    @pytest.mark.parametrize("method", ["create", "pwrite", "sync", "rename", "sync_directory"])
    def test_disk_that_stays_broken_does_not_keep_it_from_ending(
        self, durability: Durability, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.disk.fail_always(method, Fault(EIO))
            last = scene.append("b")
            await scene.writer.close()
            assert len(last.told) == 1

        with caplog.at_level(logging.ERROR):
            scene = run(scenario, durability)
        assert recovered(scene.inner.after_kill()).keys() >= ({b"a\n"} if method != "sync" else set())
        if durability is FSYNC:
            assert recovered(scene.inner.after_power_loss()).keys() >= set(scene.stored)

    def test_records_that_lost_their_sync_get_a_last_chance(self) -> None:
        async def scenario(scene: Scene) -> None:
            await scene.told(scene.append("a"))
            scene.clock.advance(1.1)
            scene.disk.fail_next("sync", Fault(EIO), Fault(EIO))
            scene.writer.tick()
            await scene.quiet()
            assert scene.writer.failing
            await scene.writer.close()

        assert recovered(run(scenario, PAGE).inner.after_power_loss()).keys() == {b"a\n"}


@both_modes
def test_programming_error_while_storing_is_a_fault_and_nobody_is_told(durability: Durability) -> None:
    async def scenario(scene: Scene) -> None:
        # Too large for its field in the frame header.
        scene.writer.append(
            b"x" * (INLINE_BYTES_MAX + 1) + b"\n", 2**40, 0, RecordingWaiter(lambda _: pytest.fail("told"))
        )
        await until(lambda: bool(scene.faults))
        scene.writer._thread.close()

    run(scenario, durability, expect_fault=True)


async def life(scene: Scene) -> None:
    """Commits of all kinds, rolls by size and age, syncs, a pause in which a failing disk heals, and the end."""

    async def heal() -> None:
        await scene.quiet()
        scene.clock.advance(1.1)
        scene.writer.tick()
        await scene.quiet()

    await scene.told(scene.append("lone"))
    await scene.told(*[scene.append(f"together {number}") for number in range(3)])
    await heal()
    scene.append("large", INLINE_BYTES_MAX + 100)
    scene.append("with the large one")
    scene.append("packed, with the large one", packed=True)
    await asyncio.sleep(0)
    scene.append("meanwhile")
    await heal()
    scene.append("after the roll by size")
    await heal()
    scene.clock.advance(61)
    scene.append("after the roll by age")
    await heal()
    scene.append("packed", packed=True)
    await heal()
    scene.append("last")
    await scene.writer.close()


FAULTS = [Fault(EIO), Fault(ENOSPC), Fault(short=0), Fault(short=1), Fault(short=60)]
ROOM = 700
in_every_way = pytest.mark.parametrize(
    ("durability", "room"), [(FSYNC, 0), (FSYNC, ROOM), (PAGE, 0)], ids=["fsync", "fsync with room", "page"]
)


@in_every_way
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_whichever_call_fails_what_was_acknowledged_is_found_and_everybody_is_told_once(
    durability: Durability, room: int, fault: Fault
) -> None:
    for n in count():

        async def scenario(scene: Scene, n: int = n) -> None:
            scene.disk.fail_nth(n, fault)
            await life(scene)

        scene = run(scenario, durability, segment_bytes_max=2000, room=room)
        assert all(len(waiter.told) == 1 for waiter in scene.waiters.values())
        assert len(scene.waiters) == 12
        for left in (scene.inner.after_kill(), scene.inner.after_power_loss(), scene.inner.after_power_loss(Random(n))):
            records = recovered(left)
            assert records.keys() >= set(scene.stored), (n, scene.disk.failed)
            assert records.keys() <= scene.waiters.keys()
        if not scene.disk.failed:
            assert scene.stored == list(scene.waiters)
            assert recovered(scene.inner) == Counter(scene.stored)
        if n >= len(scene.disk.calls):
            break
    assert n > 25


def snapshots(scene: Scene, power: bool) -> Iterator[tuple[list[bytes], MemoryDisk]]:
    stored = list(scene.stored)
    yield stored, scene.inner.after_kill()
    if power:
        yield stored, scene.inner.after_power_loss()
        yield stored, scene.inner.after_power_loss(Random(len(scene.disk.calls)))


@pytest.mark.parametrize("n", range(0, 60, 3))
@pytest.mark.parametrize("room", [0, ROOM])
def test_crash_at_any_call_loses_nothing_acknowledged_in_fsync_mode_whatever_failed_before(n: int, room: int) -> None:
    """Killed, or without power, with an earlier call failed."""
    left: list[tuple[list[bytes], MemoryDisk]] = []

    async def scenario(scene: Scene) -> None:
        scene.disk.fail_nth(n, Fault(EIO))
        await life(scene)

    scene = run(
        scenario, FSYNC, before=lambda scene: left.extend(snapshots(scene, True)), segment_bytes_max=2000, room=room
    )
    assert len(left) > 3 * 25
    for stored, disk in left:
        records = recovered(disk)
        assert records.keys() >= set(stored)
        assert records.keys() <= scene.waiters.keys()
        assert max(records.values(), default=1) == 1


def test_kill_at_any_call_loses_nothing_acknowledged_in_page_mode() -> None:
    left: list[tuple[list[bytes], MemoryDisk]] = []
    run(life, PAGE, before=lambda scene: left.extend(snapshots(scene, False)), segment_bytes_max=2000)
    assert len(left) > 25
    for stored, disk in left:
        assert recovered(disk).keys() >= set(stored)


def test_standard_tools_print_one_json_object_per_accepted_request_in_order(tmp_path: Path) -> None:
    data = [
        b'{"event":"a","properties":{"text":"\\u00e4\\n\xc3\xa4"}}',
        b'[{"event":"b"},\r\n{"event":"c"}]',
        b'{"batch":[' + b",".join(b'{"event":"%d"}' % number for number in range(3000)) + b"]}",
        b"  {}  ",
    ]

    async def write() -> None:
        faults: list[BaseException] = []
        row = Row(memoryview(bytearray(ROW_SLOTS * 8)).cast("q"))
        writer = writer_on(RealDisk(), str(tmp_path), SpoolSettings(), FakeClock(), row, faults)
        ids = RecordIds(1)
        for number, text in enumerate(data * 5):
            waiter = RecordingWaiter()
            writer.append(encode_record(ids, number, "phc_x", "e", "203.0.113.7", text), 1, number, waiter)
            if number % 3:
                await until(lambda waiter=waiter: bool(waiter.told))  # type: ignore[misc]
        await writer.close()
        assert faults == []

    asyncio.run(write())
    (path,) = tmp_path.iterdir()
    parsed = parse_name(path.name)
    assert parsed is not None
    assert parsed == (SegmentName(FIRST_COUNTER, parsed[0].incarnation), State.SEALED)
    subprocess.run(["zstd", "-t", "-q", path], check=True)
    printed = subprocess.run(["zstdcat", path], capture_output=True, check=True).stdout
    objects = [json.loads(line) for line in printed.decode().splitlines()]
    assert [found["id"] for found in objects] == [f"0000000000000001-{number}" for number in range(20)]
    assert [found["data"] for found in objects] == [json.loads(text) for text in data * 5]
    with (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes()), read_across_frames=True) as reader,
    ):
        assert reader.read() == printed
