"""Settings: flag, `EDGE_*` variable, TOML file, default, strongest first. Every option is declared once, here.

An option `segment-bytes-max` is the flag `--segment-bytes-max`, the variable `EDGE_SEGMENT_BYTES_MAX` and the key
`segment_bytes_max` of the file. Sizes take units (`64MiB`), durations too (`5s`). Files and environments serve several verbs,
so a flag that means something else to one of them has another variable and key there: `setting`.
"""

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from edge.notation import (
    ADDRESS,
    COUNT,
    DURATION,
    EVENTS,
    NETWORKS,
    RETENTION,
    SHARE,
    SIZE,
    SKEW,
    TEXT,
    UPSTREAM,
    Notation,
    choice,
    parse_duration,
)
from edge.wire.request import EVENTS_MAX

PREFIX: Final = "EDGE_"
HIDDEN: Final = "***"
"""In a secret's place where a setting is shown."""
_USER: Final = re.compile(r"//[^/?]*@")


class ConfigError(Exception):
    """A setting that cannot be used: which one, where it came from, what was expected and found."""


class Option(msgspec.Struct, frozen=True):
    name: str
    notation: Notation
    default: str
    help: str
    metavar: str = "VALUE"
    multiple: bool = False
    setting: str = ""
    """What variable and key are made of where that is not the flag."""
    otherwise: str = ""
    """The default in words, where it is no value or not the same everywhere."""
    example: str = ""
    """What to show in the default's place where there is none; blanks between several."""

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def variable(self) -> str:
        return PREFIX + self.key.upper()

    @property
    def key(self) -> str:
        return (self.setting or self.name).replace("-", "_")

    @property
    def told(self) -> str:
        """What it is for, its default and its variable, for the help and the file alike."""
        return f"{self.help} (default: {self.otherwise or self.default}) [{self.variable}]"


Source = Literal["flag", "variable", "file", "default"]


class Setting(msgspec.Struct, frozen=True):
    """What an option is set to, and where."""

    given: list[Any]
    """As it is written there: texts, or numbers of the file. Empty without a value."""
    value: Any
    """As verbs take it: a list where several may be given, `None` without a value."""
    source: Source
    name: str = ""
    """Of the flag, the variable or the file."""


DATA: Final = Option("data", TEXT, "./edge-data", "folder of the spool, the checkpoints and the default sink", "DIR")
TO: Final = Option(
    "to",
    TEXT,
    "",
    "where to ship: file:DIR, stdout:, null:, posthog+https://HOST, kafka://HOST:PORT, s3://BUCKET/PREFIX,"
    " clickhouse+http://HOST:PORT/DB.TABLE; may be repeated",
    "URL",
    multiple=True,
    otherwise="file:DATA/events",
    example="file:./edge-data/events posthog+https://us.i.posthog.com",
)

RETAIN: Final = Option(
    "retain",
    RETENTION,
    "none",
    "shipped segments to keep for replay: of the last 1h, the newest 10GiB, or within both as 1h,10GiB",
    "TIME,SIZE",
)

ADMIN: Final = Option("admin", ADDRESS, "127.0.0.1:8001", "address of probes and metrics", "HOST:PORT")

SERVE: Final = (
    Option("listen", ADDRESS, "127.0.0.1:8000", "address of the public port; port 0 picks a free one", "HOST:PORT"),
    ADMIN,
    DATA,
    Option("workers", COUNT, str(os.cpu_count() or 1), "worker processes", "N", otherwise="one for each CPU"),
    Option(
        "durability",
        choice("fsync", "page"),
        "fsync",
        "answer after the data is on stable storage, or after it is in the page cache",
        "fsync|page",
    ),
    Option(
        "trusted-proxies",
        NETWORKS,
        "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,::1/128,fc00::/7,fe80::/10",
        "networks whose X-Forwarded-For, Forwarded and X-Real-Ip are believed",
        "CIDR,...",
    ),
    Option(
        "projects",
        TEXT,
        "",
        "TOML file of project keys, read again when it changes: look keys up, fill in missing ones",
        "FILE",
        otherwise="none",
        example="projects.toml",
    ),
    Option("body-bytes-max", SIZE, "20MiB", "request body on the wire", "SIZE"),
    Option("replay-body-bytes-max", SIZE, "64MiB", "request body on the wire on /s/", "SIZE"),
    Option("v1-body-bytes-max", SIZE, "10MiB", "request body on the wire on /i/v1/", "SIZE"),
    Option("v1-decoded-bytes-max", SIZE, "50MiB", "request body after decompression on /i/v1/", "SIZE"),
    Option("decoded-bytes-max", SIZE, "100MiB", "request body after decompression", "SIZE"),
    Option("lz64-bytes-max", SIZE, "2MiB", "lz64 text after decompression", "SIZE"),
    Option("events-max", EVENTS, str(EVENTS_MAX), "events of a request", "N"),
    Option("inline-bytes-max", SIZE, "384KiB", "larger bodies are decoded by a process of its own", "SIZE"),
    Option("target-bytes-max", SIZE, "64KiB", "request target on capture routes", "SIZE"),
    Option("other-target-bytes-max", SIZE, "8KiB", "request target elsewhere", "SIZE"),
    Option("header-bytes-max", SIZE, "32KiB", "all headers of a request", "SIZE"),
    Option("headers-max", COUNT, "100", "number of headers of a request", "N"),
    Option("header-timeout", DURATION, "10s", "from the first to the last byte of a request's head", "TIME"),
    Option("body-timeout", DURATION, "60s", "from the head to the last byte of the body", "TIME"),
    Option("idle-timeout", DURATION, "620s", "a kept connection without a request", "TIME"),
    Option("write-timeout", DURATION, "30s", "a client that does not read its answers", "TIME"),
    Option("pipeline-max", COUNT, "16", "about how many requests of a connection may wait for answers", "N"),
    Option("inflight-bytes-max", SIZE, "256MiB", "bodies being read or committed, per worker", "SIZE"),
    Option("connections-max", COUNT, "10000", "open connections, per worker", "N"),
    Option(
        "spool-bytes-max",
        SIZE,
        "",
        "size of all segments beyond which requests are refused",
        "SIZE",
        otherwise="what the disk holds",
        example="100GiB",
    ),
    Option(
        "disk-free-min",
        SIZE,
        "",
        "room on the disk that is left to others",
        "SIZE",
        otherwise="5 % of it, at most 2 GiB",
        example="2GiB",
    ),
    Option(
        "reserve-bytes",
        SIZE,
        "64MiB",
        "room held for the moment the disk is full, at most 2 % of the disk",
        "SIZE",
    ),
    Option(
        "skew-correction",
        SKEW,
        "always",
        "move events' times by what `sent_at` tells of the client's clock: always, off, or from a difference of TIME on",
        "always|off|TIME",
    ),
    Option("segment-bytes-max", SIZE, "64MiB", "compressed size at which a segment is finished", "SIZE"),
    Option("segment-age-max", DURATION, "60s", "age at which a segment is finished", "TIME"),
    Option("sync-interval", DURATION, "1s", "longest stay in the page cache only, with --durability page", "TIME"),
    Option(
        "upstream",
        UPSTREAM,
        "",
        "where everything that is not capture is forwarded",
        "URL",
        otherwise="nowhere",
        example="https://us.i.posthog.com",
    ),
    Option(
        "assets-upstream",
        UPSTREAM,
        "",
        "the same for /static/* and /array/*",
        "URL",
        otherwise="that of --upstream",
        example="https://us-assets.i.posthog.com",
    ),
    Option("upstream-requests-max", COUNT, "256", "forwarded requests under way, per upstream and worker", "N"),
    Option("upstream-body-bytes-max", SIZE, "64MiB", "body of a forwarded request", "SIZE"),
    Option("upstream-connect-timeout", DURATION, "5s", "for a connection to an upstream", "TIME"),
    Option("upstream-read-timeout", DURATION, "30s", "an upstream that neither answers nor takes a body", "TIME"),
)

DRAIN: Final = (
    DATA,
    TO,
    RETAIN,
    Option("share", SHARE, "1/1", "which of how many drainers of the data folder this is", "K/N"),
    # One file, and one environment, serves `edge serve` and `edge drain` beside it, which cannot have one address.
    Option(
        "admin",
        ADDRESS,
        "",
        "address of the drainer's own probes and metrics",
        "HOST:PORT",
        setting="drain-admin",
        otherwise="none",
        example="127.0.0.1:8002",
    ),
)

DRAINERS: Final = Option("drainers", COUNT, "1", "drainer processes, which have the workers' slots between them", "N")

UP: Final = (*SERVE, TO, RETAIN, DRAINERS)

TOP: Final = (
    ADMIN,
    Option(
        "drain-admin",
        ADDRESS,
        "",
        "address of the drainer's probes and metrics, where it has its own",
        "HOST:PORT",
        otherwise="none",
    ),
)

ALL: Final = tuple(dict.fromkeys((*SERVE, *DRAIN, DRAINERS)))
"""What a file or the environment may hold, whichever verb reads it: each once."""


def duration_between(least: str, most: str, example: str) -> Callable[[str], float]:
    """What argparse takes as the type of a time that is no setting, seconds; all three as they are written."""

    def parse(text: str) -> float:
        try:
            value = parse_duration(text)
        except ValueError:
            value = 0.0
        if not parse_duration(least) <= value <= parse_duration(most):
            raise argparse.ArgumentTypeError(
                f"expected a time from {least} to {most} such as {example}, found {text!r}"
            )
        return value

    return parse


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """A flag for every option, its variable and default printed beside it."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings [EDGE_CONFIG]")
    for option in options:
        parser.add_argument(
            option.flag,
            metavar=option.metavar,
            dest=option.key,
            action="append" if option.multiple else "store",
            default=None,
            help=option.told.replace("%", "%%"),
        )


def load(
    options: Sequence[Option], arguments: argparse.Namespace, environ: Mapping[str, str], known: Iterable[Option]
) -> dict[str, Any]:
    """The value of every option by its key. `known` are all options of the program: a file may serve several verbs.

    Raises `ConfigError`.
    """
    return {key: setting.value for key, setting in resolve(options, arguments, environ, known).items()}


def resolve(
    options: Sequence[Option], arguments: argparse.Namespace, environ: Mapping[str, str], known: Iterable[Option]
) -> dict[str, Setting]:
    """The same, each with where it comes from."""
    path = arguments.config or environ.get(PREFIX + "CONFIG") or ""
    file = _read_file(path, {option.key for option in known}) if path else {}
    return {option.key: _resolve(option, arguments, environ, file, path) for option in options}


def _resolve(
    option: Option, arguments: argparse.Namespace, environ: Mapping[str, str], file: Mapping[str, Any], path: str
) -> Setting:
    flag: Any = getattr(arguments, option.key)
    if flag is not None:
        return _read(option, flag, "flag", option.flag)
    if option.variable in environ:
        text = environ[option.variable]
        return _read(option, text.split() if option.multiple else text, "variable", option.variable)
    if option.key in file:
        return _read(option, file[option.key], "file", path)
    if option.default:
        return _read(option, option.default, "default", "")
    return Setting([], [] if option.multiple else None, "default")


def _read(option: Option, given: Any, source: Source, name: str) -> Setting:
    origin = f"{option.key} in {name}" if source == "file" else name or "the default"
    if isinstance(given, list) and not option.multiple:
        raise ConfigError(f"{origin}: expected one value, found a list of {len(given)}")
    written = given if isinstance(given, list) else [given]
    try:
        values = [option.notation.read(item) for item in written]
    except ValueError as error:
        raise ConfigError(
            f"{origin}: {error}, found {', '.join(without_user(repr(item)) for item in written)}"
        ) from error
    return Setting(written, values if option.multiple else values[0], source, name)


def without_user(text: str) -> str:
    """A URL without the user, and what else stands there, a password for one."""
    return _USER.sub(f"//{HIDDEN}@", text)


def _read_file(path: str, keys: set[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for key in found:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            raise ConfigError(
                f"{path}: no setting is called {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
            )
    return found


def unknown_variables(environ: Mapping[str, str], known: Iterable[Option]) -> list[str]:
    """A sentence for every `EDGE_*` variable that nothing reads."""
    names = {option.variable for option in known} | {PREFIX + "CONFIG"}
    sentences = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in names:
            near = difflib.get_close_matches(name, names, 1)
            sentences.append(f"nothing reads {name}" + (f", did you mean {near[0]}?" if near else ""))
    return sentences
