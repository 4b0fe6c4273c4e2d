import json
import os
import sys
from pathlib import Path

import pytest

from bench import instructions, stages

LIBPYTHON = "/opt/lib/libpython3.11.so.1.0"
ZSTD = "/venv/site-packages/backports/zstd/_zstd.cpython-311-x86_64-linux-gnu.so"
MSGSPEC = "/venv/site-packages/msgspec/_core.cpython-311-x86_64-linux-gnu.so"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"

PROFILE = f"""# callgrind format
version: 1
creator: callgrind-3.19.0
cmd:  python -m bench
part: 1

desc: Trigger: Program termination

positions: line
events: Ir
summary: 1177

ob=(1) {LIBPYTHON}
fl=(1) ceval.c
fn=(1) _PyEval_EvalFrameDefault'2
10 500
+3 20
cob=(2) {LIBC}
cfi=(2) malloc.c
cfn=(2) malloc
calls=3 30
-2 9000
* 7
fi=(3) object.h
44 50
fe=(1)
cfn=(3) sre_ucs1_match
calls=1 5
11 8000
12 1

fn=(3)
6 300

ob=(3) {ZSTD}
fl=(4) ???
fn=(4) ZSTD_compressBlock_fast
0 200
cob=(2)
cfi=(2)
cfn=(2)
calls=1 30
0 7000

ob=(2)
fl=(2)
fn=(2)
30 40
cfn=(5) memcpy
calls=1 90
31 9

fn=(5)
90 9

ob=(1)
fl=(1)
fn=(2)
70 50

totals: 1177
"""
"""Callgrind's own form: names stand for numbers from where they are first written, `+3`, `-2` and `*` for line numbers."""

FAKE = """#!{python}
import sys
from pathlib import Path

turns = int(sys.argv[-1])
payload = sys.argv[sys.argv.index("--payload") + 1]
places = ("libpython3.11.so", "_sre_search", 300), ("libpython3.11.so", "PyList_New", 50), ("msgspec/_core.so", "json", 50)
lines = ["ob=(1) /lib/ld.so", "fn=(1) start", "1 12345"]
for number, (path, function, cost) in enumerate(places, 2):
    each = cost * (2 if payload == "F" else 1)
    lines += [f"ob=({{number}}) /lib/{{path}}", f"fn=({{number}}) {{function}}", f"1 {{each * turns * 32}}"]
total = sum(int(line.split()[1]) for line in lines if line[0] == "1") + {lost}
Path(sys.argv[2].partition("=")[2]).write_text("\\n".join(lines) + "\\n")
print(f"==1== Collected : {{total}}", file=sys.stderr)
"""
"""Stands for valgrind: starts nothing, and tells of 400 instructions a request, 800 of F."""


def with_valgrind(folder: Path, monkeypatch: pytest.MonkeyPatch, lost: int = 0) -> None:
    program = folder / "bin" / "valgrind"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable, lost=lost))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_function_has_what_it_executed_itself(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(PROFILE)
    assert stages.self_costs(tmp_path / "profile") == {
        (LIBPYTHON, "_PyEval_EvalFrameDefault'2"): 578,
        (LIBPYTHON, "sre_ucs1_match"): 300,
        (ZSTD, "ZSTD_compressBlock_fast"): 200,
        (LIBC, "malloc"): 40,
        (LIBC, "memcpy"): 9,
        (LIBPYTHON, "malloc"): 50,
    }


@pytest.mark.parametrize(
    ("path", "function", "stage"),
    [
        (LIBPYTHON, "sre_ucs1_count", "regular expressions"),
        (LIBPYTHON, "_sre_SRE_Pattern_match", "regular expressions"),
        (MSGSPEC, "json_skip_string", "JSON (msgspec)"),
        (MSGSPEC, "Struct_vectorcall", "Python: objects, calls, built-in types"),
        (ZSTD, "ZSTD_compressBlock_fast", "compression (zstd)"),
        ("/venv/site-packages/xxhash/_xxhash.so", "XXH3_update_avx2", "checksums (xxhash)"),
        (LIBC, "__memcpy_avx_unaligned_erms", "memory: allocated, freed, copied"),
        (LIBPYTHON, "_PyObject_Free", "memory: allocated, freed, copied"),
        (LIBPYTHON, "_PyObject_FastCall", "Python: objects, calls, built-in types"),
        (LIBPYTHON, "_PyEval_EvalFrameDefault'2", "Python: the interpreter's loop"),
        ("/usr/bin/python3.11", "_PyEval_EvalFrameDefault", "Python: the interpreter's loop"),
        ("/opt/lib-dynload/_struct.so", "s_pack", "Python: objects, calls, built-in types"),
        ("/lib/libm.so.6", "log", "other"),
        ("???", "0x00000000049367a8", "other"),
    ],
)
def test_what_is_executed_where_is_of_which_stage(path: str, function: str, stage: str) -> None:
    assert {name for name, cost in stages.by_stage({(path, function): 7}).items() if cost} == {stage}


def test_the_stages_sum_up_to_everything(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(PROFILE)
    costs = stages.self_costs(tmp_path / "profile")
    costs["/opt/nobody/knows.so", "f"] += 1000
    found = stages.by_stage(costs)
    assert sum(found.values()) == costs.total() == 2177
    assert found[stages.OTHER] == 1000


def test_a_row_for_each_stage_and_the_rows_sum_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_valgrind(tmp_path, monkeypatch)
    arguments = ["--payloads", "A,F", "--data", str(tmp_path / "data"), "--results", str(tmp_path)]
    assert stages.main(arguments) == 0
    [table] = json.loads((tmp_path / "stages.json").read_text())["tables"]
    assert list(table["columns"]) == ["stage", "A", "A share", "F", "F share"]
    *rows, whole = table["rows"]
    assert whole == {"stage": stages.ALL, "A": 400, "A share": 1, "F": 800, "F share": 1}
    for column in ("A", "A share", "F", "F share"):
        assert sum(row[column] for row in rows) == pytest.approx(whole[column])
    # The start of the process is in neither.
    assert rows[-1] == {"stage": stages.OTHER, "A": 0, "A share": 0, "F": 0, "F share": 0}
    assert "| regular expressions | 300 | 75.0% | 600 | 75.0% |" in capsys.readouterr().out
    assert not list((tmp_path / "data").iterdir())


def test_a_profile_that_lacks_something_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_valgrind(tmp_path, monkeypatch, lost=1)
    with pytest.raises(AssertionError, match="expected 652346 instructions, found 652345"):
        stages.measure("A", tmp_path)


def test_without_valgrind_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stages.main(["--data", str(tmp_path / "data"), "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "bench stages: expected valgrind, found none\n"
    assert not list(tmp_path.iterdir())


def test_a_payload_that_cannot_be_counted_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stages.main(["--payloads", "A,C"])
    assert "expected payloads of A,B,D,F, found A,C" in capsys.readouterr().err


def test_the_same_counting_gives_the_figure_and_keeps_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_valgrind(tmp_path, monkeypatch)
    assert instructions.main(["--payload", "F", "--profile", str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out == "F: 800 instructions per request\n"
    assert stages.self_costs(tmp_path / "kept").total() == 12345 + 800 * 32 * instructions.LONG_TURNS
