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
from typing import Any, Final

import msgspec

from edge.segment.record import SKEW_KEPT
from edge.wire.client_ip import parse_networks
from edge.wire.forward import parse_upstream
from edge.wire.request import EVENTS_MAX, EVENTS_MAX_LEAST

PREFIX: Final = "EDGE_"


class ConfigError(Exception):
    """A setting that cannot be used: which one, where it came from, what was expected and found."""


class Option(msgspec.Struct, frozen=True):
    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    metavar: str = "VALUE"
    multiple: bool = False
    setting: str = ""
    """What variable and key are made of where that is not the flag."""

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def variable(self) -> str:
        return PREFIX + self.key.upper()

    @property
    def key(self) -> str:
        return (self.setting or self.name).replace("-", "_")


class Address(msgspec.Struct, frozen=True):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Retention(msgspec.Struct, frozen=True):
    """Which shipped segments are kept: those that are within every limit there is; none without limits."""

    age_s: float | None = None
    bytes: int | None = None


class Share(msgspec.Struct, frozen=True):
    """One of `count` drainers, the first with `index` 0: the slots whose number divided by `count` leaves `index`."""

    index: int
    count: int


_SIZE: Final = re.compile(r"(\d+)\s*([KMG]i?B|B|)", re.IGNORECASE)
_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_ADDRESS: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+)):([0-9]{1,5})")
_SHARE: Final = re.compile(r"([0-9]{1,4})/([0-9]{1,4})", re.ASCII)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
_DURATION_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("expected a size above zero such as 64MiB")
    return int(match[1]) * _SIZE_UNITS[match[2].lower()]


def parse_duration(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError("expected a duration above zero such as 5s")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_skew(text: str) -> int:
    """`always`, `off` or a time: the smallest difference of clocks that is corrected, microseconds, `SKEW_KEPT` for none."""
    if text.strip() in ("always", "off"):
        return 0 if text.strip() == "always" else SKEW_KEPT
    try:
        return max(1, round(parse_duration(text) * 1_000_000))
    except ValueError:
        raise ValueError("expected always, off, or a time such as 30s") from None


def parse_retention(text: str) -> Retention:
    """`none`, a time, a size, or both with a comma between."""
    parts = text.split(",")
    if text.strip() == "none":
        return Retention()
    sizes = [part for part in parts if part.strip().lower().endswith("b")]
    times = [part for part in parts if part.strip().endswith(("s", "m", "h"))]
    if len(sizes) > 1 or len(times) > 1 or len(sizes) + len(times) < len(parts):
        raise ValueError("expected none, a time such as 1h, a size such as 10GiB, or both as 1h,10GiB")
    return Retention(
        parse_duration(times[0]) if times else None,
        parse_size(sizes[0]) if sizes else None,
    )


def parse_share(text: str) -> Share:
    """`2/4`: the second of four."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("expected which of how many, such as 1/2")
    return Share(int(match[1]) - 1, int(match[2]))


def parse_address(text: str) -> Address:
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or int(match[3]) > 65535:
        raise ValueError("expected HOST:PORT")
    return Address(match[1] or match[2], int(match[3]))


def parse_count(text: str) -> int:
    if not text.strip().isdigit() or int(text) == 0:
        raise ValueError("expected a whole number above zero")
    return int(text)


def parse_events(text: str) -> int:
    if not text.strip().isdigit() or int(text) < EVENTS_MAX_LEAST:
        raise ValueError(f"expected a whole number of at least {EVENTS_MAX_LEAST}, as clients send as many at a time")
    return int(text)


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text

    return parse


def _text(text: str) -> str:
    if not text:
        raise ValueError("expected a value")
    return text


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def _upstream(text: str) -> str:
    parse_upstream(text)
    return text


DATA: Final = Option("data", _text, "./edge-data", "folder of the spool, the checkpoints and the default sink", "DIR")
TO: Final = Option(
    "to",
    _text,
    "",
    "where to ship: file:DIR, stdout:, null:, posthog+https://HOST, kafka://HOST:PORT, s3://BUCKET/PREFIX,"
    " clickhouse+http://HOST:PORT/DB.TABLE; may be repeated (default: file:DATA/events)",
    "URL",
    multiple=True,
)

RETAIN: Final = Option(
    "retain",
    parse_retention,
    "none",
    "shipped segments to keep for replay: of the last 1h, the newest 10GiB, or within both as 1h,10GiB",
    "TIME,SIZE",
)

ADMIN: Final = Option("admin", parse_address, "127.0.0.1:8001", "address of probes and metrics", "HOST:PORT")

SERVE: Final = (
    Option(
        "listen", parse_address, "127.0.0.1:8000", "address of the public port; port 0 picks a free one", "HOST:PORT"
    ),
    ADMIN,
    DATA,
    Option("workers", parse_count, str(os.cpu_count() or 1), "worker processes", "N"),
    Option(
        "durability",
        choice("fsync", "page"),
        "fsync",
        "answer after the data is on stable storage, or after it is in the page cache",
        "fsync|page",
    ),
    Option(
        "trusted-proxies",
        _networks,
        "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,::1/128,fc00::/7,fe80::/10",
        "networks whose X-Forwarded-For, Forwarded and X-Real-Ip are believed",
        "CIDR,...",
    ),
    Option(
        "projects",
        _text,
        "",
        "TOML file of project keys, read again when it changes: look keys up, fill in missing ones (default: none)",
        "FILE",
    ),
    Option("body-bytes-max", parse_size, "20MiB", "request body on the wire", "SIZE"),
    Option("replay-body-bytes-max", parse_size, "64MiB", "request body on the wire on /s/", "SIZE"),
    Option("v1-body-bytes-max", parse_size, "10MiB", "request body on the wire on /i/v1/", "SIZE"),
    Option("v1-decoded-bytes-max", parse_size, "50MiB", "request body after decompression on /i/v1/", "SIZE"),
    Option("decoded-bytes-max", parse_size, "100MiB", "request body after decompression", "SIZE"),
    Option("lz64-bytes-max", parse_size, "2MiB", "lz64 text after decompression", "SIZE"),
    Option("events-max", parse_events, str(EVENTS_MAX), "events of a request", "N"),
    Option("inline-bytes-max", parse_size, "384KiB", "larger bodies are decoded by a process of its own", "SIZE"),
    Option("target-bytes-max", parse_size, "64KiB", "request target on capture routes", "SIZE"),
    Option("other-target-bytes-max", parse_size, "8KiB", "request target elsewhere", "SIZE"),
    Option("header-bytes-max", parse_size, "32KiB", "all headers of a request", "SIZE"),
    Option("headers-max", parse_count, "100", "number of headers of a request", "N"),
    Option("header-timeout", parse_duration, "10s", "from the first to the last byte of a request's head", "TIME"),
    Option("body-timeout", parse_duration, "60s", "from the head to the last byte of the body", "TIME"),
    Option("idle-timeout", parse_duration, "620s", "a kept connection without a request", "TIME"),
    Option("write-timeout", parse_duration, "30s", "a client that does not read its answers", "TIME"),
    Option("pipeline-max", parse_count, "16", "about how many requests of a connection may wait for answers", "N"),
    Option("inflight-bytes-max", parse_size, "256MiB", "bodies being read or committed, per worker", "SIZE"),
    Option("connections-max", parse_count, "10000", "open connections, per worker", "N"),
    Option(
        "spool-bytes-max",
        parse_size,
        "",
        "size of all segments beyond which requests are refused (default: what the disk holds)",
        "SIZE",
    ),
    Option(
        "disk-free-min",
        parse_size,
        "",
        "room on the disk that is left to others (default: 5 % of it, at most 2 GiB)",
        "SIZE",
    ),
    Option(
        "reserve-bytes",
        parse_size,
        "64MiB",
        "room held for the moment the disk is full, at most 2 % of the disk",
        "SIZE",
    ),
    Option(
        "skew-correction",
        parse_skew,
        "always",
        "move events' times by what `sent_at` tells of the client's clock: always, off, or from a difference of TIME on",
        "always|off|TIME",
    ),
    Option("segment-bytes-max", parse_size, "64MiB", "compressed size at which a segment is finished", "SIZE"),
    Option("segment-age-max", parse_duration, "60s", "age at which a segment is finished", "TIME"),
    Option(
        "sync-interval", parse_duration, "1s", "longest stay in the page cache only, with --durability page", "TIME"
    ),
    Option("upstream", _upstream, "", "where everything that is not capture is forwarded (default: nowhere)", "URL"),
    Option(
        "assets-upstream", _upstream, "", "the same for /static/* and /array/* (default: that of --upstream)", "URL"
    ),
    Option("upstream-requests-max", parse_count, "256", "forwarded requests under way, per upstream and worker", "N"),
    Option("upstream-body-bytes-max", parse_size, "64MiB", "body of a forwarded request", "SIZE"),
    Option("upstream-connect-timeout", parse_duration, "5s", "for a connection to an upstream", "TIME"),
    Option("upstream-read-timeout", parse_duration, "30s", "an upstream that neither answers nor takes a body", "TIME"),
)

DRAIN: Final = (
    DATA,
    TO,
    RETAIN,
    Option("share", parse_share, "1/1", "which of how many drainers of the data folder this is", "K/N"),
    # One file, and one environment, serves `edge serve` and `edge drain` beside it, which cannot have one address.
    Option(
        "admin",
        parse_address,
        "",
        "address of the drainer's own probes and metrics (default: none)",
        "HOST:PORT",
        setting="drain-admin",
    ),
)

DRAINERS: Final = Option(
    "drainers", parse_count, "1", "drainer processes, which have the workers' slots between them", "N"
)

UP: Final = (*SERVE, TO, RETAIN, DRAINERS)

TOP: Final = (
    ADMIN,
    Option(
        "drain-admin",
        parse_address,
        "",
        "address of the drainer's probes and metrics, where it has its own (default: none)",
        "HOST:PORT",
    ),
)

ALL: Final = (*SERVE, *DRAIN, DRAINERS)
"""What a file or the environment may hold, whichever verb reads it."""


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """A flag for every option, its variable and default printed beside it."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings [EDGE_CONFIG]")
    for option in options:
        shown = f" (default: {option.default})" if option.default else ""
        parser.add_argument(
            option.flag,
            metavar=option.metavar,
            dest=option.key,
            action="append" if option.multiple else "store",
            default=None,
            help=f"{option.help}{shown} [{option.variable}]".replace("%", "%%"),
        )


def load(
    options: Sequence[Option], arguments: argparse.Namespace, environ: Mapping[str, str], known: Iterable[Option]
) -> dict[str, Any]:
    """The value of every option by its key. `known` are all options of the program: a file may serve several verbs.

    Raises `ConfigError`.
    """
    path = arguments.config or environ.get(PREFIX + "CONFIG")
    file = _read_file(path, {option.key for option in known}) if path else {}
    return {option.key: _resolve(option, arguments, environ, file, path) for option in options}


def _resolve(
    option: Option, arguments: argparse.Namespace, environ: Mapping[str, str], file: Mapping[str, Any], path: str | None
) -> Any:
    given: Any = getattr(arguments, option.key)
    origin = option.flag
    if given is None and option.variable in environ:
        given = environ[option.variable].split() if option.multiple else environ[option.variable]
        origin = option.variable
    if given is None and option.key in file:
        given = file[option.key]
        origin = f"{option.key} in {path}"
    if given is None:
        given = [] if option.multiple else option.default
        if not given:
            return [] if option.multiple else None
        origin = "the default"
    texts = given if isinstance(given, list) else [given]
    try:
        values = [option.parse(str(text)) for text in texts]
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}, found {', '.join(map(repr, texts))}") from error
    if option.multiple:
        return values
    if len(values) != 1:
        raise ConfigError(f"{origin}: expected one value, found {len(values)}")
    return values[0]


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
