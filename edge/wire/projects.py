"""The project registry: which keys are known, and what a request without a key of its own is filed under.

A TOML file:

    mode = "enforce"                       # off (default), dry_run, enforce

    [[project]]
    id = 1
    keys = ["phc_current", "phc_former"]   # the first is what a personal key resolves to

    [[personal_key]]                       # `edge projects hash` makes the hash
    hash = "sha256$…64 hexadecimal digits…"
    projects = [1]                         # all when left out

    [[inject]]                             # for clients that must not carry a key
    host = "events.example.com"            # any when left out
    path = "/e"                            # any when left out
    key = "phc_current"

`off` fills in missing keys and looks nothing up. `dry_run` also resolves personal keys, and says of every other request
what `enforce` would have refused it for. A personal key comes as `Authorization: Bearer`, or where a project key is
expected, together with a `project_id`.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import Raw

from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Request
from edge.wire.routes import ROUTES, Kind, Route
from edge.wire.validate import PERSONAL_PREFIX, bearer_key, choose_token, judge_token

HASH_PREFIX: Final = "sha256$"
PROJECT_ID_DIGITS_MAX: Final = 18

_KEYLESS: Final = frozenset((Reason.NO_TOKEN, Reason.TOKEN_EMPTY, Reason.TOKEN_NOT_STRING))
"""Of a client that carries no key."""
_HASH: Final = re.compile(r"sha256\$[0-9a-f]{64}")
_DIGITS: Final = re.compile(rb"[0-9]{1,%d}" % PROJECT_ID_DIGITS_MAX)

Mode = Literal["off", "dry_run", "enforce"]


class ProjectsError(ValueError):
    """The file cannot be used: where in it, what was expected and what was found."""


class _Project(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: int
    keys: list[str]
    name: str = ""


class _PersonalKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    hash: str
    projects: list[int] | None = None
    name: str = ""


class _Inject(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str
    host: str = ""
    path: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    mode: Mode = "off"
    project: list[_Project] = []
    personal_key: list[_PersonalKey] = []
    inject: list[_Inject] = []


class _Holder(msgspec.Struct, gc=False):
    project_id: Raw = Raw(b"")


_decode_object: Final = msgspec.json.Decoder(_Holder).decode
_decode_list: Final = msgspec.json.Decoder(list[_Holder]).decode


class Choice(msgspec.Struct, gc=False, frozen=True):
    """The project key of a request."""

    token: str
    doubt: Reason | None = None
    """What `enforce` would have refused the request for."""


class Registry(msgspec.Struct, frozen=True):
    """The file, ready for look-ups."""

    mode: Mode
    keys: frozenset[str]
    """Every project key."""
    projects: Mapping[int, str]
    """First key by project id."""
    personal: Mapping[str, frozenset[int] | None]
    """Projects by hash; `None` for all."""
    injected: Mapping[tuple[str, str], str]
    """Key by host in lower case and name of the route, each empty for any."""

    @property
    def idle(self) -> bool:
        """Nothing would come out differently without it."""
        return self.mode == "off" and not self.injected

    def choose(
        self,
        in_payload: tuple[object, ...],
        form: Mapping[str, bytes],
        query: Mapping[str, bytes],
        request: Request,
        route: Route,
        text: bytes,
    ) -> Choice:
        """The key that counts. `in_payload` are the keys found there, `text` is the payload's JSON.

        Raises `Rejected` for what is refused without a registry too, and when enforcing for what it does not know.
        """
        token = ""
        try:
            token = choose_token(in_payload, form, query, request)
        except Rejected as rejected:
            if rejected.reason not in _KEYLESS and rejected.reason is not Reason.TOKEN_PERSONAL:
                raise
            refusal = rejected
        else:
            if self.mode == "off" or token in self.keys:
                return Choice(token)
            refusal = Rejected(Reason.UNKNOWN_KEY)
        personal = "" if self.mode == "off" else _personal_key(in_payload, form, query, request) or token
        project_id = _project_id(form, query, text) if personal else b""
        if refusal.reason in _KEYLESS and not project_id:
            injected = self._injected(request, route)
            if injected:
                return Choice(injected)
        if not personal:
            raise refusal
        try:
            return Choice(self._project_key(personal, project_id))
        except Rejected as unresolved:
            if self.mode == "enforce":
                raise
            if not token:
                raise refusal from None
            return Choice(token, unresolved.reason)

    def _injected(self, request: Request, route: Route) -> str:
        """The key to fill in, empty for none. Of several rules the one with the host wins."""
        host = host_name(request.headers.get(b"host", b""))
        for rule in ((host, route.name), (host, ""), ("", route.name), ("", "")):
            key = self.injected.get(rule)
            if key is not None:
                return key
        return ""

    def _project_key(self, personal: str, project_id: bytes) -> str:
        """The key of the project that a personal key is used for. Raises `Rejected`."""
        if not project_id:
            raise Rejected(Reason.UNKNOWN_KEY)
        if not _id_digits(project_id):
            raise Rejected(Reason.BAD_PROJECT, f"Expected a whole number, found {_shown(project_id)}.")
        hashed = hash_key(personal)
        if hashed not in self.personal:
            raise Rejected(Reason.UNKNOWN_PERSONAL_KEY)
        number = int(project_id)
        allowed = self.personal[hashed]
        if number not in self.projects or (allowed is not None and number not in allowed):
            raise Rejected(Reason.BAD_PROJECT, f"The personal key has no project {number}.")
        return self.projects[number]


def parse_projects(data: bytes) -> Registry:
    """The registry of a file's bytes. Raises `ProjectsError`."""
    try:
        file = msgspec.convert(tomllib.loads(data.decode()), _File)
    except UnicodeDecodeError as error:
        raise ProjectsError(f"expected UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProjectsError(f"not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ProjectsError(str(error)) from error
    projects, owners = _read_projects(file)
    return Registry(
        file.mode,
        frozenset(owners),
        projects,
        _read_personal_keys(file, projects),
        _read_injected(file, owners),
    )


def hash_key(key: str) -> str:
    """What is kept of a personal key. The key is random, so it needs no salt."""
    return HASH_PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def host_name(host: bytes) -> str:
    """The name in a Host header, in lower case and without port."""
    text = host.strip().decode("latin-1").lower()
    return text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]


def _read_projects(file: _File) -> tuple[dict[int, str], dict[str, int]]:
    """First key by project, and project by key."""
    projects: dict[int, str] = {}
    owners: dict[str, int] = {}
    for index, project in enumerate(file.project):
        where = f"project {index + 1}"
        if not 0 < project.id < 10**PROJECT_ID_DIGITS_MAX:
            raise ProjectsError(f"{where}: expected an id above zero, found {project.id}")
        if project.id in projects:
            raise ProjectsError(f"{where}: expected every id once, found {project.id} again")
        if not project.keys:
            raise ProjectsError(f"{where}: expected at least one key")
        for key in project.keys:
            _require_key(key, where)
            if key in owners:
                raise ProjectsError(f"{where}: {key!r} is a key of project {owners[key]} already")
            owners[key] = project.id
        projects[project.id] = project.keys[0]
    if file.mode != "off" and not projects:
        raise ProjectsError(f"expected a [[project]], for mode {file.mode!r} without any would refuse everything")
    return projects, owners


def _read_personal_keys(file: _File, projects: Mapping[int, str]) -> dict[str, frozenset[int] | None]:
    personal: dict[str, frozenset[int] | None] = {}
    for index, entry in enumerate(file.personal_key):
        where = f"personal_key {index + 1}"
        if not _HASH.fullmatch(entry.hash):
            # What stands there may be a key: it is not repeated.
            raise ProjectsError(f"{where}: expected a hash as `edge projects hash` prints it, {HASH_PREFIX}…")
        if entry.hash in personal:
            raise ProjectsError(f"{where}: expected every hash once, found one again")
        for number in entry.projects or ():
            if number not in projects:
                raise ProjectsError(f"{where}: there is no project {number}")
        personal[entry.hash] = None if entry.projects is None else frozenset(entry.projects)
    return personal


def _read_injected(file: _File, owners: Mapping[str, int]) -> dict[tuple[str, str], str]:
    injected: dict[tuple[str, str], str] = {}
    for index, entry in enumerate(file.inject):
        where = f"inject {index + 1}"
        _require_key(entry.key, where)
        if file.mode != "off" and entry.key not in owners:
            raise ProjectsError(f"{where}: {entry.key!r} is no key of a project")
        if entry.host != host_name(entry.host.encode()):
            raise ProjectsError(f"{where}: expected a host in lower case and without port, found {entry.host!r}")
        rule = (entry.host, _route_name(entry.path, where) if entry.path else "")
        if rule in injected:
            raise ProjectsError(f"{where}: there is a rule for this host and path already")
        injected[rule] = entry.key
    return injected


def _route_name(path: str, where: str) -> str:
    route = ROUTES.get(path.encode())
    if route is None or route.kind is not Kind.CAPTURE:
        raise ProjectsError(f"{where}: expected the path of a capture route such as /e, found {path!r}")
    return route.name


def _require_key(key: str, where: str) -> None:
    try:
        judged = judge_token(key)
    except Rejected as rejected:
        raise ProjectsError(f"{where}: {key!r} is no project key: {rejected.reason.value}") from rejected
    if judged != key:
        raise ProjectsError(f"{where}: expected a key without blanks around it, found {key!r}")


def _personal_key(
    in_payload: tuple[object, ...], form: Mapping[str, bytes], query: Mapping[str, bytes], request: Request
) -> str:
    """The first personal key where clients put one, empty for none."""
    fields = ((form.get("api_key") or form.get("token")), (query.get("api_key") or query.get("token")))
    found = [bearer_key(request), *(key.strip() for key in in_payload if isinstance(key, str))]
    found += [field.decode("utf-8", "replace").strip() for field in fields if field]
    return next((key for key in found if key.startswith(PERSONAL_PREFIX)), "")


def _project_id(form: Mapping[str, bytes], query: Mapping[str, bytes], text: bytes) -> bytes:
    """As the client wrote it, from the query, the form or the payload, of a list its first element; empty for none."""
    found = query.get("project_id") or form.get("project_id")
    if found:
        return found.strip()
    try:
        holder = _decode_list(text)[0] if text.startswith(b"[") else _decode_object(text)
        raw = bytes(holder.project_id)
        return b"" if raw == b"null" else raw.strip(b'"')
    except msgspec.ValidationError:
        return b""


def _id_digits(project_id: bytes) -> bool:
    return _DIGITS.fullmatch(project_id) is not None


def _shown(text: bytes) -> str:
    return repr(text[:40])[1:]
