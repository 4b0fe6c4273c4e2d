"""What a benchmark found, in one form for all: JSON in `.cache/bench/results/NAME.json` to plot from, Markdown to read."""

import argparse
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final

from bench.servers import Sample

FOLDER: Final = Path(".cache/bench/results")
PACKAGES: Final = ("backports.zstd", "httptools", "isal", "msgspec", "orjson", "uvloop", "zstandard")
"""Those `edge` runs on; a benchmark names what else it used."""

Value = str | int | float | None
"""What a cell holds; None where nothing was measured."""


@dataclass(frozen=True)
class Environment:
    """What the figures were measured on. Figures of two environments are not comparable, ratios hardly."""

    date: str
    python: str
    kernel: str
    machine: str
    cpu: str
    cores: int
    filesystem: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows of named values, unrounded; `columns` gives their order and how each is written, as a format specification."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Value]]

    def markdown(self) -> str:
        """The table under its title; a missing value is an empty cell."""
        lines = [f"{self.title}\n", _line(self.columns)]
        text = {column for column in self.columns if any(isinstance(row.get(column), str) for row in self.rows)}
        lines.append(_line("---" if column in text else "---:" for column in self.columns))
        lines += [_line(_cell(row.get(column), spec) for column, spec in self.columns.items()) for row in self.rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class Goal:
    """A value that is to be at most `limit`, or at least that; `reached` is None where it was not measured."""

    what: str
    limit: float
    unit: str
    reached: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached >= self.limit if self.at_least else self.reached <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        head = f"goal: {self.what} {bound} {self.limit:.2f} {self.unit}: "
        if self.reached is None:
            return head + "not measured"
        return head + f"{'met' if self.met else 'MISSED'} with {self.reached:.2f}"


@dataclass(frozen=True)
class Result:
    """Everything one benchmark found. `notes` tell what was left out and why, and which rows to distrust."""

    benchmark: str
    environment: Environment
    tables: Sequence[Table]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        parts = [table.markdown() for table in self.tables]
        parts += ["\n".join(f"- {line}" for line in lines) for lines in (self.notes, self.goals) if lines]
        return "\n\n".join(parts)

    def write(self, folder: Path = FOLDER) -> Path:
        """Write the JSON and return where."""
        folder.mkdir(parents=True, exist_ok=True)
        found = asdict(self)
        for goal, written in zip(self.goals, found["goals"], strict=True):
            written["met"] = goal.met
        path = folder / f"{self.benchmark}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        return path


def options(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark that has goals."""
    parser.add_argument("--data", type=Path, default=Path(".cache/bench"), metavar="DIR", help="where spools are put")
    parser.add_argument(
        "--results", type=Path, default=FOLDER, metavar="DIR", help="where the result is written as JSON"
    )
    parser.add_argument("--strict", action="store_true", help="status 1 when a goal is missed")


def report(result: Result, args: argparse.Namespace) -> int:
    """Print and write it; the exit status."""
    print(result.markdown())
    print(f"\nwritten to {result.write(args.results)}")
    return 1 if args.strict and any(goal.met is False for goal in result.goals) else 0


def environment(data: Path, versions: Mapping[str, str] | None = None) -> Environment:
    """This machine, with the file system of `data` and the versions of what takes part: ours and those given."""
    return Environment(
        datetime.now(UTC).isoformat(timespec="seconds"),
        platform.python_version(),
        platform.release(),
        platform.machine(),
        _cpu_model(Path("/proc/cpuinfo").read_text()),
        len(os.sched_getaffinity(0)),
        filesystem_of(data),
        package_versions(PACKAGES) | dict(versions or {}),
    )


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of those Python packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def paired_ratio(samples: Sequence[Sample], base: Sequence[Sample]) -> float:
    """Median over the rounds of CPU per request as a multiple of `base` in the same round."""
    return median(one.us_per_request / other.us_per_request for one, other in zip(samples, base, strict=True))


def speed_of_core(rounds: Sequence[float]) -> str:
    """What `core_speed` found at the beginning of every round: microseconds of runs with other speeds are not comparable."""
    return f"the servers' core inflated {median(rounds):.0f} MB/s ({min(rounds):.0f}-{max(rounds):.0f})"


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path`, such as `ext4` or `tmpfs`; `unknown` where no mount has its device."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return "unknown"


def _cpu_model(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: Value, spec: str) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else format(value, spec)
