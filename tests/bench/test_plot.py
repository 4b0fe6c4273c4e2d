import json
import re
from pathlib import Path

import pytest

from bench import plot

RESULTS = {
    "latency": [
        {"rows": [{"server": "page", "share": share, "p50 ms": 1.0, "p99 ms": 2.0} for share in (0.1, 0.5)]},
        {"rows": [{"p99 ms": 0.5}]},
    ],
    "compare": [
        {"title": "A", "rows": [{"server": "page", "µs/request": 12.0, "kernel": 0.4}, {"server": "gone (failed)"}]}
    ],
    "stages": [
        {
            "columns": {"stage": "", "A": "", "A share": "", "F": "", "F share": ""},
            "rows": [
                {"stage": stage, "A": 40.0 * part, "A share": part / 3, "F": 50.0 * part, "F share": part / 3}
                for stage, part in (("JSON", 1), ("memory", 2), ("all", 3))
            ],
        }
    ],
    "connections": [
        {},
        {"columns": {"server": "", "10": "", "1,000": ""}, "rows": [{"server": "page", "10": 1, "1,000": 2}]},
    ],
    "workers": [
        {"rows": [{"workers": count, "capacity on as many cores, requests/s": 1000 * count} for count in (1, 2)]}
    ],
    "drill": [
        {
            "rows": [
                {"second": second, "destination": does, "accepted/s": 9.0, "shipped/s": 8.0, "waiting": second}
                for second, does in enumerate(("takes", "refuses", "takes"), 1)
            ]
        }
    ],
}


def write_results(folder: Path) -> None:
    for benchmark, tables in RESULTS.items():
        (folder / f"{benchmark}.json").write_text(json.dumps({"tables": tables}))


def test_every_result_has_its_picture_and_the_same_one_again(tmp_path: Path) -> None:
    write_results(tmp_path)
    assert RESULTS.keys() == plot.PICTURES.keys()
    for folder in ("one", "other"):
        assert plot.main(["--results", str(tmp_path), "--to", str(tmp_path / folder)]) == 0
    pictures = sorted((tmp_path / "one").iterdir())
    assert [path.name for path in pictures] == sorted(name for name, _ in plot.PICTURES.values())
    for path in pictures:
        assert path.read_text().rstrip().endswith("</svg>")
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_the_picture_of_stages_names_every_stage_and_the_sum(tmp_path: Path) -> None:
    write_results(tmp_path)
    assert plot.main(["--results", str(tmp_path), "--to", str(tmp_path)]) == 0
    # Letters are drawn as outlines, and what they say stands beside them in comments.
    said = re.findall("<!-- (.*) -->", (tmp_path / "stages.svg").read_text())
    assert {"A", "F", "JSON", "memory", "33%", "67%", " 120", " 150"} <= set(said)
    assert "all" not in said


def test_without_results_it_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main(["--results", str(tmp_path), "--to", str(tmp_path)]) == 1
    assert "make bench" in capsys.readouterr().err
