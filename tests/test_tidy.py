"""The shape of the code, kept by a test: imports point down, the core stays pure, every module has its tests."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EDGE = ROOT / "edge"

ORDER = (
    {"segment"},
    {"wire"},
    {"blocks", "disk", "layout", "metrics", "exposition", "notation", "config", "logs", "process"},
    {"checkpoints"},
    {"spool"},
    {"drain", "status", "top"},
    {"server"},
    {"commands"},
    {"cli"},
)
"""Lowest first. What is on one level knows itself and what is below, not its neighbours' users."""

RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}

IMPURE = {"asyncio", "os", "socket", "time", "random", "logging"}

TESTED_ELSEWHERE = {
    "drain/process.py": "tests/integration/test_drainer_restart.py",
    "server/capturing.py": "tests/server/test_heavy.py",
}

SOURCES = sorted(path for path in EDGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(EDGE))


def part_of(path: Path) -> str:
    return path.relative_to(EDGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports"
            assert node.module is not None
            yield node.module
            # A name taken from a package may be a module of it.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(tree: ast.AST) -> set[str]:
    return {module.split(".")[1] for module in imports(tree) if module.startswith("edge.")} - {"__version__"}


def circle_of(texts: Mapping[str, str]) -> list[str]:
    """Modules that know each other in a circle, be it for a type only; `texts` by module. Empty when there is none."""
    known = {module: texts.keys() & set(imports(ast.parse(text))) for module, text in texts.items()}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    for part in parts_imported(ast.parse(path.read_text())):
        assert part == own or RANK[part] <= RANK[own], f"{own} knows {part}"


def test_no_modules_know_each_other_in_a_circle() -> None:
    modules = {".".join(("edge", *path.relative_to(EDGE).with_suffix("").parts)): path.read_text() for path in SOURCES}
    assert circle_of(modules) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(path) in ("segment", "wire")], ids=name_of)
def test_the_core_takes_bytes_and_numbers(path: Path) -> None:
    found = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
    assert not found & IMPURE


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_has_its_tests(path: Path) -> None:
    relative = path.relative_to(EDGE)
    mirrored = ROOT / "tests" / relative.parent / f"test_{relative.name}"
    elsewhere = TESTED_ELSEWHERE.get(str(relative))
    assert mirrored.is_file() or (elsewhere is not None and (ROOT / elsewhere).is_file()), f"expected {mirrored}"


def faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (isinstance(node.type, ast.Name) and "Exception" in node.type.id)
            if broad and all(isinstance(statement, ast.Pass) for statement in node.body):
                yield f"line {node.lineno}: a fault that nobody hears of"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_fault_is_silent_and_nothing_is_left_to_do(path: Path) -> None:
    text = path.read_text()
    assert list(faults(ast.parse(text))) == []
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    assert not [word for word in words if word in text]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in SOURCES} == set(RANK)


MISTAKES = {
    "upwards": ("from edge.server.worker import main", {"server"}),
    "from the package": ("from edge import logs, __version__", {"logs"}),
    "inside a function": ("def f():\n    import edge.cli", {"cli"}),
}


@pytest.mark.parametrize(("text", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_imports_are_found_wherever_they_stand(text: str, parts: set[str]) -> None:
    assert parts_imported(ast.parse(text)) == parts


def test_circles_are_found() -> None:
    texts = {
        "edge.a": "if TYPE_CHECKING:\n    from edge.b.c import C",
        "edge.b.c": "from edge.b import d",
        "edge.b.d": "def f():\n    import edge.a",
        "edge.e": "from edge.a import A",
    }
    assert set(circle_of(texts)) == {"edge.a", "edge.b.c", "edge.b.d"}
    assert circle_of({**texts, "edge.b.d": ""}) == []


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept BaseException:\n    pass",
    ],
    ids=["bare", "Exception", "BaseException"],
)
def test_silence_is_found(text: str) -> None:
    assert len(list(faults(ast.parse(text)))) == 1
