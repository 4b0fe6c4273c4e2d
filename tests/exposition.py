"""A strict reader of the Prometheus text format, version 0.0.4: what it does not know, or finds twice, is an error."""

import re

import msgspec

from edge.exposition import Labels, parse_sample

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class Family(msgspec.Struct):
    """One metric: its samples by name and labels, which are in alphabetical order."""

    help: str
    kind: str = ""
    samples: dict[tuple[str, Labels], float] = {}


def parse(text: str) -> dict[str, Family]:
    """Metrics by name. Raises `AssertionError` or `ValueError` where the text breaks the format."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    name = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, help_text = line.removeprefix("# HELP ").partition(" ")
            assert _NAME.fullmatch(name), line
            assert name not in families, f"twice: {name}"
            families[name] = Family(help_text)
        elif line.startswith("# TYPE "):
            typed, _, kind = line.removeprefix("# TYPE ").partition(" ")
            assert typed == name, f"the type of {typed} stands behind the help of {name}"
            assert kind in ("counter", "gauge", "histogram"), line
            assert not families[name].kind, f"twice: {line}"
            families[name].kind = kind
        else:
            _sample(line, name, families[name])
    for family in families.values():
        if family.kind == "histogram":
            _check_histogram(family)
    return families


def _sample(line: str, name: str, family: Family) -> None:
    found, labels, value = parse_sample(line)
    assert family.kind, f"no type before {line!r}"
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    assert found in [name + suffix for suffix in suffixes], f"{line!r} does not belong to {name}"
    assert (found, labels) not in family.samples, f"twice: {line!r}"
    family.samples[found, labels] = value


def _check_histogram(family: Family) -> None:
    """Buckets only grow, and the last one is the count."""
    seen: dict[Labels, float] = {}
    for (name, labels), value in family.samples.items():
        rest = tuple(pair for pair in labels if pair[0] != "le")
        if name.endswith("_bucket"):
            assert value >= seen.get(rest, 0), labels
            seen[rest] = value
        elif name.endswith("_count"):
            assert value == seen[rest], labels
