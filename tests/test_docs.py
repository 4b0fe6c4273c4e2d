"""The tables of the documents name exactly what the code has."""

import re
from pathlib import Path

import msgspec.inspect
import pytest

from edge.config import ALL
from edge.metrics import METRICS
from edge.top import Frame
from edge.wire.drops import DROP_REASONS
from edge.wire.encoding import LAYERS_MAX
from edge.wire.rejections import REFUSALS
from edge.wire.routes import CAPTURE_PATHS, ROUTE_NAMES
from tests.corpus.cases import load_rows

ROOT = Path(__file__).parent.parent
DOCS = sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


def first_cells(document: str, heading: str) -> list[str]:
    """What stands in backticks in the first column of the table under a heading."""
    text = (ROOT / "docs" / document).read_text()
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.split("\n### ", 1)[0].splitlines() if line.startswith("| `")]
    return [name for line in table for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_every_setting_is_documented_with_its_variable_and_default() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    options = {option.flag: option for option in ALL if not option.setting}
    assert set(first_cells("operations.md", "Settings")) == set(options)
    for option in options.values():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{option.flag}` "))
        assert f"`{option.variable}`" in row
        if option.default and option.name not in ("workers", "to"):
            assert f"`{option.default}`" in row
    for option in ALL:
        assert f"`{option.variable}`" in text
        assert not option.setting or f"`{option.key}`" in text


def test_every_metric_is_documented() -> None:
    documented = first_cells("operations.md", "Metrics")
    declared = [metric.name for metric in METRICS]
    assert documented[: len(declared)] == declared


def members(kind: msgspec.inspect.Type, name: str) -> list[str]:
    """What a value of JSON is made of, with dots between, and the value itself where it may be missing or is no object."""
    if isinstance(kind, msgspec.inspect.UnionType):
        (kind,) = [member for member in kind.types if not isinstance(member, msgspec.inspect.NoneType)]
        return [name] + (members(kind, name) if isinstance(kind, msgspec.inspect.StructType) else [])
    if isinstance(kind, msgspec.inspect.ListType):
        return [name, *members(kind.item_type, name + "[]")]
    if isinstance(kind, msgspec.inspect.StructType):
        prefix = name + "." if name else ""
        return [member for field in kind.fields for member in members(field.type, prefix + field.name)]
    return [name]


def test_every_member_that_top_prints_is_documented() -> None:
    made = [name for name in members(msgspec.inspect.type_info(Frame), "") if not name.startswith("drain_admin.")]
    assert sorted(first_cells("operations.md", "Watching it live")) == sorted(made)


def test_every_refusal_is_documented_with_its_status_and_code() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    assert first_cells("compatibility.md", "Answers") == [reason.value for reason in REFUSALS]
    for reason, refusal in REFUSALS.items():
        assert f"| `{reason.value}` | {refusal.status} | `{refusal.code}` | {refusal.detail} |" in text


def test_every_drop_reason_is_documented() -> None:
    heading = "Events that are accepted and not delivered"
    assert sorted(first_cells("compatibility.md", heading)) == sorted(DROP_REASONS)


def test_every_capture_route_is_documented() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    routes = text.split("## Routes")[1].split("\n\n")[1]
    assert re.findall(r"`/([^`]+)`", routes.split(", each")[0]) == list(CAPTURE_PATHS)
    assert LAYERS_MAX == 4
    assert "Up to four layers" in text


def test_every_route_and_status_is_described() -> None:
    text = (ROOT / "docs" / "openapi.yaml").read_text()
    paths = re.findall(r"^  /(\S*):$", text, re.MULTILINE)
    assert {path.strip("/") or "/" for path in paths} == {*ROUTE_NAMES} - {"other"}
    statuses = {int(status) for status in re.findall(r"^ +'(\d{3})':$", text, re.MULTILINE)}
    # Of what is not described: 404, and an upstream's failures of its own.
    assert statuses == {refusal.status for refusal in REFUSALS.values()} - {404, 502} | {200, 204}


def quirks() -> list[tuple[str, str, list[str]]]:
    """Quirk, who needs it, and the names of what proves it."""
    section = (ROOT / "docs" / "compatibility.md").read_text().split("\n## Quirks\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    return [(quirk, clients, re.findall(r"`([^`]+)`", proofs)) for quirk, clients, proofs in rows]


@pytest.mark.parametrize(("quirk", "clients", "proofs"), quirks(), ids=[quirk for quirk, _, _ in quirks()])
def test_every_quirk_names_its_clients_and_a_proof_that_exists(quirk: str, clients: str, proofs: list[str]) -> None:
    promised = {f"{section}/{row}" for section, rows in load_rows().promised.items() for row in rows}
    assert clients
    assert proofs
    for proof in proofs:
        path, _, name = proof.partition("::")
        assert proof in promised or (name and f"def {name}(" in (ROOT / path).read_text()), proof


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists() or target.startswith("https:"), target
