"""The Prometheus text format, version 0.0.4, read as this program writes it: what `/metrics` answers, as numbers."""

import math
import re
from typing import Final

import msgspec

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""

_TYPE: Final = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) [a-z]+")
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([-+.0-9eE]+)")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ESCAPE: Final = re.compile(r"\\(.)")
_SHOWN_MAX: Final = 80


class Exposition(msgspec.Struct, frozen=True):
    metrics: frozenset[str]
    """The names of all that are declared, those without a sample among them."""
    samples: dict[str, dict[Labels, float]]
    """By name, which of a histogram has one of three endings, and labels."""


def parse_exposition(text: str) -> Exposition:
    """Raises `ValueError` for anything that is no exposition, what has no samples among it."""
    if not text.endswith("\n"):
        raise ValueError("expected whole lines, found one that is cut short")
    metrics: set[str] = set()
    samples: dict[str, dict[Labels, float]] = {}
    # Not `splitlines`: a label's value may hold what that takes for the end of a line.
    for line in text.split("\n"):
        if declared := _TYPE.fullmatch(line):
            metrics.add(declared[1])
        elif line and not line.startswith("#"):
            name, labels, value = parse_sample(line)
            of_name = samples.setdefault(name, {})
            if labels in of_name:
                raise ValueError(f"expected every sample once, found another {line[:_SHOWN_MAX]!r}")
            of_name[labels] = value
    if not samples:
        raise ValueError("expected samples, found none")
    return Exposition(frozenset(metrics), samples)


def parse_sample(line: str) -> tuple[str, Labels, float]:
    """One line that is no comment: name, labels, value. Raises `ValueError`."""
    match = _SAMPLE.fullmatch(line)
    value = _number(match[3]) if match else None
    if match is None or value is None:
        raise ValueError(f"expected a name, labels and a number, found {line[:_SHOWN_MAX]!r}")
    return match[1], _parse_labels(match[2] or ""), value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _parse_labels(text: str) -> Labels:
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None or match[1] in found:
            raise ValueError(f"expected labels, each once, found {text[at : at + _SHOWN_MAX]!r}")
        found[match[1]] = _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], match[2])
        at = match.end()
    return tuple(sorted(found.items()))
