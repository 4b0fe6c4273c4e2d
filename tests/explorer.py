"""Explore what crashes leave: lives of a spool on a disk in memory, the states a kill or a power cut makes of any moment, and
what recovery, the next writer and the drainer make of those.

A life is the real writer, shipper, checkpoint and retirement, driven at random on a `FaultyDisk` that writes down the disk
before its calls. A judgement of one state asks: does the start succeed; is everything acknowledged there or delivered, and
nothing that was never issued; does a second recovery change nothing; does a recovery that is cut itself end the same; does the
drainer deliver what is there from its checkpoint on, and what the next writer adds.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from edge.checkpoints import CheckpointFile, Position
from edge.disk import Disk
from edge.drain.event import Event
from edge.drain.retire import retire
from edge.drain.shipper import CHECKPOINT_S, Shipper
from edge.drain.sink import Batch, Retryable
from edge.layout import Layout
from edge.metrics import ROW_SLOTS, Row
from edge.segment.frame import ROOM_MAGIC, SEGMENT_HEADER_BYTES, is_room
from edge.segment.name import SegmentName, State, parse_name
from edge.segment.record import RecordIds, encode_record
from edge.segment.scan import Damage, scan
from edge.spool.open_segment import OpenSegment
from edge.spool.recover import next_counter, open_slot, recover_slot
from edge.spool.writer import Durability, SpoolSettings, SpoolWriter
from tests.fakes import EIO, ENOSPC, FakeClock, Fault, FaultyDisk, MemoryDisk, RecordingWaiter, until
from tests.segments import pair
from tests.spares import SmallSpares

SINK: Final = "memory"
MOMENTS_SHARE: Final = 0.4
"""Of the calls of a life, those before which the disk is written down."""
FAULTS: Final = (Fault(EIO), Fault(ENOSPC), Fault(short=0), Fault(short=40))
FAULTY_CALLS: Final = ("create", "pwrite", "sync", "sync", "sync_directory", "rename", "unlink", "truncate")


class _Unlisted(type(Path())):  # type: ignore[misc]
    """A path of a `MemoryDisk`: of the real one it is an empty folder."""

    def iterdir(self) -> Iterator[Path]:
        return iter(())


class MemoryLayout(Layout):
    """The layout of a folder on a `MemoryDisk`."""

    def __init__(self) -> None:
        super().__init__(_Unlisted("/data"))

    def slots(self) -> list[int]:
        return [0]


LAYOUT: Final = MemoryLayout()
SLOT: Final = str(LAYOUT.slot(0))
CHECKPOINTS: Final = str(LAYOUT.checkpoints)


class NamingSink:
    """Downstream: the names of the events it confirmed, in order. Now and then it refuses."""

    linger_s = 0.0
    read_bytes = 4 * 1024 * 1024
    by_range = False

    def __init__(self, random: Random | None = None) -> None:
        self.names: list[str] = []
        self._random = random

    def already(self, slot: int, name: SegmentName, start: int) -> int | None:
        return None

    def cut(self, events: list[Event]) -> list[list[Event]]:
        return [events]

    def probe(self) -> str:
        raise AssertionError("not asked by whoever ships")

    def close(self) -> None:
        return

    def ship(self, batch: Batch) -> int:
        if self._random is not None and self._random.random() < 0.1:
            raise Retryable("not now")
        self.names += [event.event for event in batch.events]
        return len(batch.events)


class Moment(msgspec.Struct):
    """What could be found at one moment of a life."""

    disk: MemoryDisk
    acknowledged: list[str]
    durable: list[str]
    """Of those, what the mode promises to survive a power cut."""
    delivered: list[str]


class Life(msgspec.Struct):
    """One random life of a slot, in both senses."""

    durability: Durability
    moments: list[Moment]
    issued: set[str]
    faults: int
    refused: int
    """Records whose clients were told to send again."""


def new_row() -> Row:
    return Row(memoryview(bytearray(ROW_SLOTS * 8)).cast("q"))


def live(seed: int, durability: Durability) -> Life:
    """The life of this seed; a third of them meet faults of the disk."""
    return asyncio.run(_live(Random(seed), durability))


async def _live(random: Random, durability: Durability) -> Life:
    inner = MemoryDisk()
    inner.makedirs(SLOT)
    inner.makedirs(CHECKPOINTS)
    inner.settle()
    clock = FakeClock()
    life = Life(durability, [], set(), 0, 0)
    acknowledged: list[str] = []
    safe = 0
    sink = NamingSink(random)
    luck = Random(random.getrandbits(64))
    """Of its own: the disk's thread draws from it."""

    def note() -> None:
        told = list(acknowledged)
        durable = told if durability is Durability.FSYNC else told[:safe]
        life.moments.append(Moment(inner.after_kill(), told, durable, list(sink.names)))

    disk = FaultyDisk(inner, lambda: note() if luck.random() < MOMENTS_SHARE else None)
    faulty = random.random() < 0.34
    incarnations = Random(random.getrandbits(64))
    row = new_row()
    settings = SpoolSettings(durability, segment_bytes_max=random.choice((600, 2000, 10**6)))
    spare_bytes = random.choice((0, 500, 3000))
    faults: list[BaseException] = []
    writer = SpoolWriter(
        asyncio.get_running_loop(),
        disk,
        SLOT,
        0,
        next_counter(disk, LAYOUT, 0),
        lambda: incarnations.getrandbits(64),
        settings,
        clock.clock,
        row,
        faults.append,
        SmallSpares(disk, SLOT, spare_bytes) if spare_bytes and durability is Durability.FSYNC else None,
    )
    shipper = Shipper(disk, LAYOUT, SINK, SINK, sink, row, 0, lambda: clock.monotonic_s)
    ids = RecordIds(random.getrandbits(64))
    waiters: list[RecordingWaiter] = []

    def append(size: int) -> None:
        name = f"e{len(life.issued)}"
        life.issued.add(name)

        def told(how: str) -> None:
            if how == "stored":
                acknowledged.append(name)
            else:
                life.refused += 1

        waiter = RecordingWaiter(told)
        waiters.append(waiter)
        filler = random.randbytes(size).hex()
        body = f'{{"event":"{name}","distinct_id":"d","f":"{filler}"}}'.encode()
        writer.append(encode_record(ids, clock.wall_us, "phc_x", "e", "203.0.113.7", body), 1, clock.wall_us, waiter)

    async def told() -> None:
        await until(lambda: all(waiter.told for waiter in waiters))
        waiters.clear()

    def ship() -> None:
        try:
            shipper.step()
            if random.random() < 0.3:
                shipper.save()
            if random.random() < 0.5:
                retire(disk, LAYOUT, {0: [shipper.durable.get(0)]})
        except OSError:
            # As the drainer does: it tries again later.
            return

    for _ in range(random.randint(4, 14)):
        if faulty and random.random() < 0.3:
            disk.fail_next(random.choice(FAULTY_CALLS), random.choice(FAULTS))
        action = random.random()
        if action < 0.55:
            for _ in range(random.choice((1, 1, 2, 5))):
                append(random.choice((0, 10, 200, 700)))
            if random.random() < 0.8:
                await told()
            else:
                await asyncio.sleep(0)
        elif action < 0.75:
            clock.advance(random.choice((0.2, 1.1, 1.1, CHECKPOINT_S, 61.0)))
            before_tick = len(acknowledged)
            writer.tick()
            await told()
            await _idle(writer)
            if not (writer._unsynced or writer._owed):
                safe = max(safe, before_tick)
        else:
            for _ in range(random.choice((1, 2, 4))):
                ship()
    await told()
    disk.heal()
    clock.advance(1.1)
    if random.random() < 0.7:
        await writer.close()
    else:
        await _idle(writer)
        writer._thread.close()
    note()
    life.faults = len(disk.failed)
    assert faults == []
    return life


async def _idle(writer: SpoolWriter) -> None:
    """The disk's thread has done what it was given, and what that led to."""
    for _ in range(3):
        turn: list[OSError | None] = []
        writer._thread.submit(lambda: None, turn.append)
        await until(lambda turn=turn: bool(turn))  # type: ignore[misc]


def states(moment: Moment, random: Random, cuts: int, seen: Counter[str]) -> Iterator[tuple[MemoryDisk, bool]]:
    """The state after a kill, and `cuts` states after a power cut; whether it was one."""
    yield moment.disk.after_kill(), False
    yield moment.disk.after_power_loss(), True
    for _ in range(cuts - 1):
        yield moment.disk.after_power_loss(random, seen), True


def judge(life: Life, moment: Moment, state: MemoryDisk, power: bool, random: Random, seen: Counter[str]) -> None:
    """Raises `AssertionError` when a promise is broken. `seen` counts what recovery met."""
    issued = life.issued
    if random.random() < 0.2:
        state, cut = _interrupted_recovery(state, random, seen)
        power = power or cut
    seen["segments with room"] += sum(ROOM_MAGIC in data for data in state.tree().values())
    opened = open_slot(state, LAYOUT, 0)
    assert opened is not None, "the slot is locked"
    lock, found = opened
    seen["torn tails repaired"] += found.torn_bytes > 0
    seen["segments recovered"] += found.segments
    seen["damaged ranges skipped"] += found.damaged_bytes > 0
    assert found.unread == 0, "a segment was given up"
    names = names_in(state, seen, sound=not life.faults)
    expected = moment.durable if power else moment.acknowledged
    delivered = set(moment.delivered)
    lost = [name for name in expected if name not in names and name not in delivered]
    assert not lost, f"lost {lost} of {len(expected)}"
    assert names.keys() <= issued, f"invented {names.keys() - issued}"
    if any(name not in names for name in expected):
        # Delivered, and deleted since: never before that was known for good.
        assert CheckpointFile(state, CHECKPOINTS, SINK).load() is not None, "deleted without a checkpoint"
    if life.durability is Durability.FSYNC:
        doubled = [name for name, count in names.items() if count > 1]
        assert not doubled, f"doubled {doubled}"
    before = state.tree()
    again = recover_slot(state, LAYOUT, 0)
    assert (again.segments, again.records, again.torn_bytes) == (0, 0, 0), "a second recovery found something"
    assert state.tree() == before, "a second recovery changed something"
    if random.random() < 0.2:
        _drain(state, names, expected, delivered, issued, seen)
    state.close(lock)


def _interrupted_recovery(state: MemoryDisk, random: Random, seen: Counter[str]) -> tuple[MemoryDisk, bool]:
    """What is found after a recovery that was killed anywhere, or met a power cut; whether it was one."""
    moments: list[MemoryDisk] = []
    disk = FaultyDisk(state, lambda: moments.append(state.after_kill()))
    opened = open_slot(disk, LAYOUT, 0)
    assert opened is not None
    left = random.choice(moments)
    if opened[1].segments:
        seen["recoveries cut"] += 1
    if random.random() < 0.3:
        return left, False
    return left.after_power_loss(random), True


def names_in(disk: MemoryDisk, seen: Counter[str], *, sound: bool = True) -> Counter[str]:
    """The events in the slot's segments, which have to be sealed now. `sound`: no call to the disk had failed before."""
    found: Counter[str] = Counter()
    for file in disk.listdir(SLOT):
        parsed = parse_name(file)
        if parsed is None:
            continue
        name, state = parsed
        assert state is State.SEALED, f"{file} was left behind"
        data = disk.read(f"{SLOT}/{file}")
        # A segment whose first commit failed is sealed without one.
        end = SEGMENT_HEADER_BYTES
        for item in scan(data, name.incarnation):
            end = item.end
            if isinstance(item, Damage):
                seen["damaged ranges read over"] += 1
                continue
            for line in item.lines():
                found[_event(line)] += 1
        if not data:
            # Its sync had failed, and the disk refused to let its name say so: a second cut may leave nothing of it, and
            # whether that was anybody's is told by what is lost.
            seen["empty segments passed over"] += 1
            continue
        if end < len(data) and not sound and is_room(data[end:]):
            # The sync of its cut had failed; a kill before its name said so, the next start's sync, which then writes nothing
            # any more, and a second cut bring back the room. Readers know it.
            seen["room brought back"] += 1
            continue
        assert end == len(data), f"{file} ends in {len(data) - end} bytes that are no frame"
    return found


def _event(line: bytes) -> str:
    return str(msgspec.json.decode(line)["data"]["event"])


def _drain(
    state: Disk, names: Counter[str], expected: list[str], delivered: set[str], issued: set[str], seen: Counter[str]
) -> None:
    """Ship from the checkpoint on, with a record of the next writer behind it."""
    counter = next_counter(state, LAYOUT, 0)
    segment = OpenSegment(state, SLOT, SegmentName(counter, 77), 0, 0)
    fresh = f'{{"id":"f-0","at":1,"token":"t","path":"e","ip":"1.1.1.1","data":{_FRESH}}}\n'.encode()
    frame = pair([fresh], 77)
    state.pwrite(state.open(f"{SLOT}/{segment.name.file_name(State.OPEN)}", write=True), frame, segment.size)
    segment.size += len(frame)
    segment.seal()
    sink = NamingSink()
    time = 0.0
    shipper = Shipper(state, LAYOUT, SINK, SINK, sink, new_row(), 0, lambda: time)
    stands = shipper.position(0)
    seen["checkpoints found"] += stands is not None
    seen["checkpoints beyond what is there"] += stands is not None and _is_stale(state, stands)
    # One in which nothing is shipped may have led past room at the end of a segment.
    while shipper.step() or shipper.step():
        pass
    shipped = set(sink.names)
    assert "fresh" in shipped, "what the next writer stored is not delivered"
    missing = [name for name in expected if name not in shipped and name not in delivered]
    assert not missing, f"not delivered: {missing}, checkpoint {stands}"
    assert shipped <= issued | {"fresh"}
    seen["delivered twice"] += bool(shipped & delivered)
    shipper.save()
    retire(state, LAYOUT, {0: [shipper.durable.get(0)]})
    shipper.close()


_FRESH: Final = '{"event":"fresh","distinct_id":"d"}'


def _is_stale(state: Disk, position: Position) -> bool:
    """The segment is not there, or is shorter than the position says."""
    path = f"{SLOT}/{position.name.file_name(State.SEALED)}"
    try:
        fd = state.open(path)
    except FileNotFoundError:
        return True
    try:
        return state.size(fd) < position.offset
    finally:
        state.close(fd)


class Explored(msgspec.Struct):
    """What was explored, for printing and for the check that it was not for nothing."""

    lives: int = 0
    states: int = 0
    power_cuts: int = 0
    acknowledged: int = 0
    refused: int = 0
    faults: int = 0
    seen: Counter[str] = msgspec.field(default_factory=Counter)


def explore(seed: int, durability: Durability, wanted: int, cuts: int = 5) -> Explored:
    """Lives from `seed` on until `wanted` states were judged. Raises `AssertionError` naming the life's seed."""
    total = Explored()
    while total.states < wanted:
        life = live(seed, durability)
        random = Random(seed)
        total.lives += 1
        total.faults += life.faults
        total.refused += life.refused
        total.acknowledged += len(life.moments[-1].acknowledged)
        for number, moment in enumerate(life.moments):
            for state, power in states(moment, random, cuts, total.seen):
                try:
                    judge(life, moment, state, power, random, total.seen)
                except Exception as error:
                    what = "power cut" if power else "kill"
                    raise AssertionError(
                        f"life {seed} ({durability.value}), moment {number}, {what}: {error}"
                    ) from error
                total.states += 1
                total.power_cuts += power
        seed += 1
    return total
