"""Do the tests notice? Plants one known fault after the other in a copy of the source and runs the tests that have to catch it.

`make mutants`, or `python -m tests.mutants [NAME...]`. Prints which test caught each; the exit status is 1 when one survives.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parent.parent
COPIED: Final = ("edge", "tests", "docs", "pyproject.toml", "README.md")
SUITE: Final = ("tests/segment", "tests/spool", "tests/drain", "tests/test_checkpoints.py", "tests/test_disk.py")
TIMEOUT_S: Final = 600


class Mutant(msgspec.Struct, frozen=True):
    """A fault: in which file, what is there, and what is planted in its place."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]


MUTANTS: Final = (
    Mutant(
        "acknowledge before the sync",
        "edge/spool/writer.py",
        (("        segment.sync()\n        if fresh:", "        if fresh:"),),
    ),
    Mutant(
        "no sync of the directory of a new segment",
        "edge/spool/writer.py",
        (("        if fresh:\n            segment.sync_creation()\n", ""),),
    ),
    Mutant(
        "a failed sync is tried again",
        "edge/spool/open_segment.py",
        (
            ("        if self._sync_failed:\n", "        if False:\n"),
            (
                "            self._disk.sync(self._fd)\n        except",
                (
                    "            try:\n                self._disk.sync(self._fd)\n            except OSError:\n"
                    "                self._disk.sync(self._fd)\n        except"
                ),
            ),
        ),
    ),
    Mutant(
        "checkpoint before the sink has confirmed",
        "edge/drain/shipper.py",
        (
            (
                "        chunk = reader.read(self._sink.already(reader.slot, *begins))\n",
                (
                    "        chunk = reader.read(self._sink.already(reader.slot, *begins))\n"
                    "        if chunk is not None:\n"
                    "            self._checkpoint.slots[chunk.slot] = Position(str(chunk.name), chunk.end)\n"
                    "            self._dirty_since_s = self._dirty_since_s or self._clock()\n"
                    "            self.save()\n"
                ),
            ),
        ),
    ),
    Mutant(
        "delete before the checkpoint is stable",
        "edge/drain/shipper.py",
        (
            ('= dict(self._checkpoint.slots)\n        """The pos', '= self._checkpoint.slots\n        """The pos'),
            ("        self.durable = slots\n", "        self.durable = self._checkpoint.slots\n"),
        ),
    ),
    Mutant(
        "quarantine without a sync",
        "edge/drain/quarantine.py",
        (("                self._disk.sync(fd)\n", ""),),
    ),
    Mutant(
        "append to a segment that met an error",
        "edge/spool/writer.py",
        (
            (
                "        if self._segment is not None:\n            self._abandon(self._segment)\n        self._refused(group)",
                "        self._refused(group)",
            ),
        ),
    ),
    Mutant(
        "no cut after a write that failed",
        "edge/spool/open_segment.py",
        (("            self._cut_failed = True\n            self._disk.truncate(self._fd, self.size)\n", ""),),
    ),
    Mutant(
        "a segment is sealed with its room",
        "edge/spool/open_segment.py",
        (
            (
                "self.room > self.size and not self._cut_failed:\n            self._disk.truncate(",
                "False:\n            print(",
            ),
        ),
    ),
    Mutant(
        "no header before the room that is left",
        "edge/spool/open_segment.py",
        (("        if left >= ROOM_HEADER_BYTES:\n", "        if left < 0:\n"),),
    ),
    Mutant(
        "a large frame is written over itself",
        "edge/spool/open_segment.py",
        (("                at += len(run)\n", ""),),
    ),
    Mutant(
        "what was written last is kept until there is something else to write",
        "edge/spool/disk_thread.py",
        (("            del task, job, done\n", ""),),
    ),
    Mutant(
        "a spare is offered before it is synced",
        "edge/spool/spare.py",
        (("            disk.sync(fd)\n", ""),),
    ),
    Mutant(
        "a spare that could not be made is left behind",
        "edge/spool/spare.py",
        (
            (
                "    except OSError:\n        discard(disk, spare)\n        raise\n",
                "    except OSError:\n        raise\n",
            ),
        ),
    ),
    Mutant(
        "another spare is wanted while the last one has its name",
        "edge/spool/writer.py",
        (
            (
                "        spare = None if self._spares is None else self._spares.take()\n",
                (
                    "        spare = None if self._spares is None else self._spares.take()\n"
                    "        if self._spares is not None:\n            self._spares.want(self._next_room)\n"
                ),
            ),
        ),
    ),
    Mutant(
        "a segment ends with its room though there is none for the next",
        "edge/spool/writer.py",
        (("return segment.outgrown and self._spares is not None and self._spares.ready", "return segment.outgrown"),),
    ),
    Mutant(
        "a segment does not end with its room",
        "edge/spool/writer.py",
        ((" or self._has_better_room(self._segment):", ":"),),
    ),
    Mutant(
        "recovery takes room for a torn tail",
        "edge/spool/recover.py",
        (('return b"" if is_room(tail) else tail', "return tail"),),
    ),
    Mutant(
        "recovery leaves a spare",
        "edge/spool/recover.py",
        (("    if SPARE_NAME in names:\n", "    if False:\n"),),
    ),
    Mutant(
        "room of a suspect segment is damage",
        "edge/drain/reader.py",
        ((" and not unused:", ":"),),
    ),
    Mutant(
        "the drainer reads the room",
        "edge/drain/reader.py",
        (("            file_end = written_end(self._pread, at, file_end)\n", ""),),
    ),
    Mutant(
        "where room begins the drainer looks for more",
        "edge/drain/reader.py",
        (("            if is_room(self._pread(ROOM_HEADER_BYTES, at)):\n", "            if False:\n"),),
    ),
    Mutant(
        "no salt in the checksum",
        "edge/segment/frame.py",
        (("xxh3_64(head[_HASHED_FROM:_HASH_AT], seed)", "xxh3_64(head[_HASHED_FROM:_HASH_AT], 0)"),),
    ),
    Mutant(
        "no checksum of a frame",
        "edge/segment/scan.py",
        (("seed) != header.checksum:", "seed) == -1:"),),
    ),
    Mutant(
        "no check of a frame's length",
        "edge/segment/frame.py",
        (("        if zstandard.frame_content_size(frame) != header.raw_bytes:\n", "        if False:\n"),),
    ),
    Mutant(
        "the tail behind the last whole frame is kept",
        "edge/spool/recover.py",
        (("cut_and_sync(disk, path, end if end < len(data) else None)", "cut_and_sync(disk, path, None)"),),
    ),
    Mutant(
        "a recovered segment is sealed without a sync",
        "edge/spool/recover.py",
        (("            disk.truncate(fd, end)\n        disk.sync(fd)\n", "            disk.truncate(fd, end)\n"),),
    ),
    Mutant(
        "a suspect segment is trusted",
        "edge/spool/recover.py",
        (
            (
                "        if state is State.SUSPECT:\n            write_durably",
                "        if False:\n            write_durably",
            ),
        ),
    ),
    Mutant(
        "a counter is used again",
        "edge/spool/recover.py",
        (("            names.append(position.name)\n", "            names.append(SegmentName(0, 0))\n"),),
    ),
    Mutant(
        "the tail of an open segment is read past its last whole frame",
        "edge/drain/reader.py",
        (("            if not finished or rest == 0:\n", "            if rest == 0:\n"),),
    ),
    Mutant(
        "a segment that was passed over keeps its place",
        "edge/spool/mend.py",
        (("    if file.state is not State.BAD or slot is None:\n", "    if True:\n"),),
    ),
    Mutant(
        "what is kept aside is not synced",
        "edge/disk.py",
        (("        write_all(disk, fd, data, 0)\n        disk.sync(fd)\n", "        write_all(disk, fd, data, 0)\n"),),
    ),
    Mutant(
        "a rename is not made durable",
        "edge/disk.py",
        (
            (
                '    disk.rename(temporary, f"{directory}/{file_name}")\n    disk.sync_directory(directory)\n',
                '    disk.rename(temporary, f"{directory}/{file_name}")\n',
            ),
        ),
    ),
    Mutant(
        "records that lost their sync are forgotten",
        "edge/spool/writer.py",
        (("        self._owed += retained\n        self._abandon(segment)\n", "        self._abandon(segment)\n"),),
    ),
    Mutant(
        "a full budget is ignored",
        "edge/spool/writer.py",
        (("        if self.failing or self.full:\n", "        if self.failing:\n"),),
    ),
)


def run_suite(folder: Path, *chosen: str) -> tuple[int, str]:
    """Exit status and output of the tests of a copy, the whole suite unless some are chosen, up to the first that fails."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--basetemp={folder / 'tmp'}", *(chosen or SUITE)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, done.stdout + done.stderr


def planted(mutant: Mutant, folder: Path) -> None:
    """Change the copy. Raises `ValueError` where the source is not as it was: the fault has to be planted elsewhere."""
    path = folder / mutant.file
    text = path.read_text()
    for before, after in mutant.edits:
        if text.count(before) != 1:
            raise ValueError(
                f"{mutant.name}: expected once in {mutant.file}, found {text.count(before)} times:\n{before}"
            )
        text = text.replace(before, after)
    path.write_text(text)


def copy_source(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, folder / name)


def verdict(mutant: Mutant | None) -> str:
    """The test that caught the fault, empty when none did. Without a fault: empty is right."""
    with tempfile.TemporaryDirectory(prefix="edge-mutant-") as scratch:
        folder = Path(scratch)
        copy_source(folder)
        if mutant is not None:
            planted(mutant, folder)
        unsteady: list[str] = []
        while True:
            status, output = run_suite(folder, *SUITE, *(f"--deselect={test}" for test in unsteady))
            caught = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output, re.MULTILINE)
            if status == 0:
                return ""
            if status != 1 or caught is None:
                raise RuntimeError(f"expected a test to fail, found exit status {status}:\n{output[-3000:]}")
            # A busy machine fails tests too: what fails once only has caught nothing.
            if run_suite(folder, caught[1])[0] == 1:
                return caught[1]
            unsteady.append(caught[1])


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if not chosen or set(names) - {mutant.name for mutant in chosen}:
        print("expected names of these:", *(mutant.name for mutant in MUTANTS), sep="\n  ", file=sys.stderr)
        return 2
    started_s = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound, *found = pool.map(verdict, [None, *chosen])
    if sound:
        print(f"without any fault {sound} fails: nothing was proved", file=sys.stderr)
        return 1
    for mutant, test in zip(chosen, found, strict=True):
        print(f"{'caught  ' if test else 'SURVIVES'}  {mutant.name:45} {test}")
    survivors = found.count("")
    print(f"{len(found) - survivors} of {len(found)} caught, in {time.monotonic() - started_s:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
