"""Instructions per request by stage: in which library, and which part of Python, the request path spends them.

Counted as `python -m bench instructions` counts, which says what runs and what is left out. Callgrind also tells which
function of which object file executed each instruction, and that decides the stage: what a regular expression copies with
libc counts as memory. It needs a Python with the symbols of its functions. Instructions are not time: some take longer.

    python -m bench stages [--payloads A,B,F]
"""

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.instructions import LONG_TURNS, PAYLOADS, SHORT_TURNS, TURN_REQUESTS, count, valgrind_found
from bench.results import Result, Table, Value, environment, options, report

Place = tuple[str, str]
"""An object file and a function in it."""

ALL: Final = "all"
OTHER: Final = "other"
_REQUESTS_APART: Final = (LONG_TURNS - SHORT_TURNS) * TURN_REQUESTS
_PYTHON: Final = r"[^/]+/(lib)?python3"
STAGES: Final = (
    ("regular expressions", _PYTHON, r"_?sre_|pattern_|match_|state_|getstring$"),
    ("JSON (msgspec)", r"msgspec/", r"(?!Struct)"),
    ("compression (zstd)", r"zstd/|zstandard/|lib-dynload/_zstd", r""),
    ("checksums (xxhash)", r"xxhash/", r""),
    ("memory: allocated, freed, copied", _PYTHON, r"_?Py(Object|Mem)_(Raw)?(Malloc|Calloc|Realloc|Free)"),
    ("memory: allocated, freed, copied", r"[^/]+/libc[.-]", r""),
    ("Python: the interpreter's loop", _PYTHON, r"_PyEval_EvalFrameDefault"),
    ("Python: objects, calls, built-in types", rf"{_PYTHON}|lib-dynload/|msgspec/", r""),
)
"""Stage, and what the names of its object files, with their folder, and of its functions begin with; the first counts."""


def main(argv: Sequence[str]) -> int:
    """Count, print, write the result. 2 when valgrind is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench stages", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--payloads", default=",".join(PAYLOADS), metavar="A,...")
    options(parser)
    args = parser.parse_args(argv)
    names = args.payloads.split(",")
    if not set(names) <= set(PAYLOADS):
        parser.error(f"expected payloads of {','.join(PAYLOADS)}, found {args.payloads}")
    if not valgrind_found("stages"):
        return 2
    args.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stages-", dir=args.data) as scratch:
        costs = {name: measure(name, Path(scratch).resolve()) for name in names}
    title = "instructions, not time, per request by stage; page, the kernel and the event loop left out"
    return report(Result("stages", environment(args.data), [table(title, costs)]), args)


def measure(payload: str, scratch: Path) -> dict[str, float]:
    """Instructions per request of every stage, and of all of them."""
    totals, places = [], []
    for turns in (SHORT_TURNS, LONG_TURNS):
        total, profile = count(payload, turns, scratch)
        found = self_costs(profile)
        assert found.total() == total, f"{profile}: expected {total} instructions, found {found.total()}"
        totals.append(total)
        places.append(found)
    short, long = places
    long.subtract(short)
    per_request = {stage: cost / _REQUESTS_APART for stage, cost in by_stage(long).items()}
    return per_request | {ALL: (totals[1] - totals[0]) / _REQUESTS_APART}


def self_costs(profile: Path) -> Counter[Place]:
    """Instructions that each function executed itself, of callgrind's output."""
    costs: Counter[Place] = Counter()
    # A name is written once, with a number that stands for it from there on, whether for a caller or a callee.
    names: dict[str, dict[str, str]] = {"ob": {}, "fn": {}}
    here = {"ob": "", "fn": ""}
    of_callee = False
    with profile.open(errors="replace") as lines:
        for line in lines:
            key, _, value = line.rstrip("\n").partition("=")
            if key in ("ob", "fn", "cob", "cfn"):
                kind = key[-2:]
                number, _, name = value.partition(" ")
                if name:
                    names[kind][number] = name
                if key == kind:
                    here[kind] = names[kind][number]
            elif key == "calls":
                of_callee = True
            elif line[0] in "0123456789+-*":
                # The line after a call is what the callee cost, which stands with the callee too.
                if not of_callee:
                    costs[here["ob"], here["fn"]] += int(line.split()[1])
                of_callee = False
    return costs


def by_stage(costs: Mapping[Place, int]) -> dict[str, int]:
    """The same by stage, each of them once, what belongs to none in `other`."""
    found = {stage: 0 for stage, _, _ in STAGES} | {OTHER: 0}
    for (path, function), cost in costs.items():
        found[_stage("/".join(path.split("/")[-2:]), function)] += cost
    return found


def table(title: str, costs: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each stage, and for each payload its instructions and their share."""
    columns = {"stage": ""}
    for name in costs:
        columns |= {name: ",.0f", f"{name} share": ".1%"}
    rows: list[dict[str, Value]] = []
    for stage in next(iter(costs.values())):
        row: dict[str, Value] = {"stage": stage}
        for name, found in costs.items():
            row |= {name: found[stage], f"{name} share": found[stage] / found[ALL]}
        rows.append(row)
    return Table(title, columns, rows)


def _stage(object_file: str, function: str) -> str:
    for stage, objects, functions in STAGES:
        if re.match(objects, object_file) and re.match(functions, function):
            return stage
    return OTHER
