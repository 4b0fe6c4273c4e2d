"""`edge config show|init|schema`: what the settings are and where they come from, a file to begin with, what one may hold."""

import argparse
import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

from edge.config import ALL, HIDDEN, UP, ConfigError, Option, Setting, add_options, resolve, unknown_variables
from edge.drain.sink import without_secrets
from edge.notation import DECIMAL_MIN, NUMBER_BELOW, Notation
from edge.process import EXIT_UNUSABLE

VERBS: Final = {
    "show": "every setting as it is in effect, as a file for --config; the flags are those of edge up",
    "init": "a file with every setting and its default, as comments",
    "schema": "the JSON Schema of the file, for editors and checks",
}

_HEAD: Final = """\
# Settings of edge, read with --config FILE or EDGE_CONFIG.
# Stronger than this file are the variable, in brackets here, and the flag.
# Nothing is set yet. Lines without a blank behind the # are settings with their defaults, or with an example where
# the default is no value; take the # away to set one.
"""
_WIDTH: Final = 118
_PLAIN: Final = re.compile("[1-9][0-9]*")
_HIDDEN_TOLD: Final = f"# {HIDDEN} is a secret that is not shown: put it in before this is read."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="VERB", required=True)
    parsers = {name: verbs.add_parser(name, help=text, description=text) for name, text in VERBS.items()}
    show = parsers["show"]
    add_options(show, UP)
    # What `edge up` has no flag for comes from the environment and the file alone.
    show.set_defaults(**{option.key: None for option in ALL})
    show.add_argument("--origin", action="store_true", help="tell of each where it comes from")
    show.add_argument("--json", action="store_true", help="machine-readable, one object a line, with the origin")
    parsers["init"].add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="to be created; standard output without"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.what == "show":
        return _show(arguments)
    if arguments.what == "init":
        return _init(arguments.file)
    return _print(json.dumps(schema(), indent=2) + "\n")


def _print(text: str) -> int:
    # By lines: of what is more than its buffer a stream that fails keeps nothing, and with nothing left to be written
    # `edge.cli` could not tell that it was standard output.
    for line in text.splitlines(keepends=True):
        sys.stdout.write(line)
        sys.stdout.flush()
    return 0


def _show(arguments: argparse.Namespace) -> int:
    for sentence in unknown_variables(os.environ, ALL):
        print(f"edge config: {sentence}", file=sys.stderr)
    settings = resolve(ALL, arguments, os.environ, ALL)
    if arguments.json:
        return _print("".join(_object(option, settings[option.key]) for option in ALL))
    return _print("".join(_lines(option, settings[option.key], arguments.origin) for option in ALL))


def _init(path: Path | None) -> int:
    if path is None:
        return _print(template())
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise ConfigError(f"expected no file at {path}, found one, which is not overwritten") from error
    except OSError as error:
        return _refused(path, error)
    try:
        with file:
            file.write(template())
    except OSError as error:
        path.unlink()
        return _refused(path, error)
    return 0


def _refused(path: Path, error: OSError) -> int:
    print(f"edge config: cannot write {path}: {error.strerror}", file=sys.stderr)
    return EXIT_UNUSABLE


def _object(option: Option, setting: Setting) -> str:
    found = {
        "key": option.key,
        "value": _shown(option, setting),
        "origin": setting.source,
        "name": setting.name or None,
    }
    return json.dumps(found) + "\n"


def _lines(option: Option, setting: Setting, with_origin: bool) -> str:
    """A setting as the file has it; one without a value as a comment that tells what holds."""
    origin = ""
    if with_origin:
        name = setting.name if setting.name.isprintable() else json.dumps(setting.name)
        origin = f"  # {setting.source} {name}".rstrip()
    shown = _shown(option, setting)
    if not setting.given:
        return f"# {option.key}: {option.otherwise}{origin}\n"
    line = f"{option.key} = {toml(shown)}{origin}\n"
    if any("\ud800" <= character <= "\udfff" for character in line):
        raise ConfigError(f"{setting.name}: expected UTF-8, as TOML is, found {shown!r}")
    return line if shown == _written(option, setting.given) else f"{_HIDDEN_TOLD}\n{line}"


def _shown(option: Option, setting: Setting) -> Any:
    """A setting's value without secrets, as the file has it; `None` without one."""
    if not setting.given:
        return None
    if option.metavar != "URL":
        return _written(option, setting.given)
    return _written(option, [without_secrets(url) for url in setting.given])


def _written(option: Option, given: list[Any]) -> Any:
    """The value that the file has: a list where there may be several, a number where one may stand and does."""
    if option.multiple:
        return given
    value = given[0]
    number = option.notation.number and isinstance(value, str) and _PLAIN.fullmatch(value)
    return int(value) if number else value


def toml(value: Any) -> str:
    """A text, number or list of them in TOML's notation."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    # JSON's notation, but for the one control character it leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def template() -> str:
    """A file that sets nothing and names every setting."""
    parts = [_HEAD]
    for option in ALL:
        told = textwrap.wrap(option.told, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        parts.append("\n".join(["", *told, f"#{option.key} = {toml(_example(option))}", ""]))
    return "".join(parts)


def _example(option: Option) -> Any:
    text = option.default or option.example
    return _written(option, text.split() if option.multiple else [text])


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of the file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edge",
        "description": "Settings of edge, read with --config FILE or EDGE_CONFIG.",
        "type": "object",
        "properties": {option.key: _property(option) for option in ALL},
        "additionalProperties": False,
    }


def _property(option: Option) -> dict[str, Any]:
    one = _one(option.notation)
    several = {"anyOf": [one, {"type": "array", "items": one}]}
    told = f"{option.help} (default: {option.otherwise})" if option.otherwise else option.help
    found = {"description": told, **(several if option.multiple else one)}
    if option.example:
        found["examples"] = [_example(option)]
    elif not option.otherwise:
        found["default"] = _example(option)
    return found


def _one(notation: Notation) -> dict[str, Any]:
    """The schema of one value."""
    if notation.choices:
        return {"enum": list(notation.choices)}
    if not notation.pattern:
        return {"type": "string", "minLength": 1}
    text = {"type": "string", "pattern": f"^(?:{notation.pattern})$"}
    if not notation.number:
        return text
    smallest = notation.least if notation.number == "integer" else DECIMAL_MIN
    number = {"type": notation.number, "minimum": smallest, "exclusiveMaximum": NUMBER_BELOW}
    return {"anyOf": [number, text]}
