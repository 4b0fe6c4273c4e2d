"""That every fault can still be planted; `make mutants` plants them and looks who notices."""

import shutil
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, planted


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_source_is_as_the_fault_expects_it(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / mutant.file, copy)
    planted(mutant, tmp_path)
    compile(copy.read_text(), copy, "exec")
    assert copy.read_text() != (ROOT / mutant.file).read_text()


def test_a_fault_that_does_not_fit_is_told(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("one\none\n")
    with pytest.raises(ValueError, match=r"expected once in code.py, found 2 times"):
        planted(Mutant("twice", "code.py", (("one", "two"),)), tmp_path)


def test_there_are_at_least_ten_of_different_names() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 10
