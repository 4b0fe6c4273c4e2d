import hashlib
from collections.abc import Mapping

import pytest

from edge.wire.projects import Choice, ProjectsError, Registry, hash_key, host_name, parse_projects
from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Request
from edge.wire.routes import ROUTES

PERSONAL = "phx_secret"
SCOPED = "phx_scoped"
OLD = "an-old-personal-key"
PROJECTS = f"""
[[project]]
id = 1
name = "Web"
keys = ["phc_one", "phc_one_former"]

[[project]]
id = 2
keys = ["phc_two"]

[[personal_key]]
name = "importer"
hash = "{hash_key(PERSONAL)}"

[[personal_key]]
hash = "{hash_key(SCOPED)}"
projects = [2]

[[personal_key]]
hash = "{hash_key(OLD)}"
"""
INJECT = """
[[inject]]
host = "events.example.com"
key = "phc_one"

[[inject]]
host = "events.example.com"
path = "/batch/"
key = "phc_two"

[[inject]]
path = "/s"
key = "phc_two"
"""


def registry(mode: str, text: str = PROJECTS) -> Registry:
    return parse_projects(f'mode = "{mode}"\n{text}'.encode())


def choose(
    found: Registry,
    *in_payload: object,
    form: Mapping[str, bytes] | None = None,
    query: Mapping[str, bytes] | None = None,
    bearer: str = "",
    host: bytes = b"edge.example.com",
    path: bytes = b"/e",
    text: bytes = b"{}",
) -> Choice:
    headers = {b"host": host, **({b"authorization": f"Bearer {bearer}".encode()} if bearer else {})}
    return found.choose(in_payload, form or {}, query or {}, Request(headers=headers), ROUTES[path], text)


def refusal(found: Registry, *in_payload: object, **keywords: object) -> Rejected:
    with pytest.raises(Rejected) as caught:
        choose(found, *in_payload, **keywords)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("mode", ["off", "dry_run", "enforce"])
@pytest.mark.parametrize("key", ["phc_one", "phc_one_former", " phc_two "])
def test_a_known_key_passes_as_it_is(mode: str, key: str) -> None:
    assert choose(registry(mode), key) == Choice(key.strip())
    assert choose(registry(mode), form={"api_key": key.encode()}) == Choice(key.strip())
    assert choose(registry(mode), query={"token": key.encode()}) == Choice(key.strip())
    assert choose(registry(mode), bearer=key) == Choice(key.strip())


def test_an_unknown_key_is_refused_counted_or_passed_over() -> None:
    assert refusal(registry("enforce"), "phc_other").reason is Reason.UNKNOWN_KEY
    assert choose(registry("dry_run"), "phc_other") == Choice("phc_other", Reason.UNKNOWN_KEY)
    assert choose(registry("off"), "phc_other") == Choice("phc_other")


@pytest.mark.parametrize("mode", ["off", "dry_run", "enforce"])
def test_what_is_refused_without_a_registry_is_refused_with_one(mode: str) -> None:
    assert refusal(registry(mode)).reason is Reason.NO_TOKEN
    assert refusal(registry(mode), "phc_one", "phc_two").reason is Reason.MULTIPLE_TOKENS
    assert refusal(registry(mode), "x" * 65).reason is Reason.TOKEN_TOO_LONG
    assert refusal(registry(mode), 7).reason is Reason.TOKEN_NOT_STRING


PLACES = {
    "in the query": ({"query": {"project_id": b"1"}}, Choice("phc_one")),
    "in the form": ({"form": {"project_id": b" 1 "}}, Choice("phc_one")),
    "a number in the payload": ({"text": b'{"project_id":1}'}, Choice("phc_one")),
    "text in the payload": ({"text": b'{"project_id":"2"}'}, Choice("phc_two")),
    "in the first of a list": ({"text": b'[{"project_id":2},{}]'}, Choice("phc_two")),
}


@pytest.mark.parametrize("mode", ["dry_run", "enforce"])
@pytest.mark.parametrize(("where", "expected"), PLACES.values(), ids=PLACES)
def test_a_personal_key_stands_for_the_project_it_names(mode: str, where: dict[str, object], expected: Choice) -> None:
    assert choose(registry(mode), bearer=PERSONAL, **where) == expected  # type: ignore[arg-type]
    assert choose(registry(mode), PERSONAL, **where) == expected  # type: ignore[arg-type]
    assert choose(registry(mode), OLD, **where) == expected  # type: ignore[arg-type]


def test_a_personal_key_stands_for_the_project_beside_an_unknown_key_but_not_beside_a_known_one() -> None:
    query = {"project_id": b"2"}
    assert choose(registry("enforce"), "phc_other", bearer=PERSONAL, query=query) == Choice("phc_two")
    assert choose(registry("enforce"), "phc_one", bearer=PERSONAL, query=query) == Choice("phc_one")


REFUSED_PERSONAL = {
    "no project": (PERSONAL, {}, Reason.UNKNOWN_KEY),
    "a project that is null": (PERSONAL, {"text": b'{"project_id":null}'}, Reason.UNKNOWN_KEY),
    "a project that is a word": (PERSONAL, {"query": {"project_id": b"one"}}, Reason.BAD_PROJECT),
    "a project that is a fraction": (PERSONAL, {"text": b'{"project_id":1.0}'}, Reason.BAD_PROJECT),
    "a project that is negative": (PERSONAL, {"text": b'{"project_id":-1}'}, Reason.BAD_PROJECT),
    "a project of 19 digits": (PERSONAL, {"text": b'{"project_id":1000000000000000000}'}, Reason.BAD_PROJECT),
    "a project there is not": (PERSONAL, {"query": {"project_id": b"3"}}, Reason.BAD_PROJECT),
    "a project that is not the key's": (SCOPED, {"query": {"project_id": b"1"}}, Reason.BAD_PROJECT),
    "an unknown key": ("phx_other", {"query": {"project_id": b"1"}}, Reason.UNKNOWN_PERSONAL_KEY),
    "an unknown key and no number": ("phx_other", {"query": {"project_id": b"one"}}, Reason.BAD_PROJECT),
}


@pytest.mark.parametrize(("key", "where", "reason"), REFUSED_PERSONAL.values(), ids=REFUSED_PERSONAL)
def test_a_personal_key_that_does_not_fit_is_refused_when_enforcing(
    key: str, where: dict[str, object], reason: Reason
) -> None:
    assert refusal(registry("enforce"), bearer=key, **where).reason is reason
    assert refusal(registry("enforce"), key, **where).reason is reason
    # Without a registry a personal key was refused too, by its shape or as none at all: a dry run changes no answer.
    assert refusal(registry("dry_run"), bearer=key, **where).reason is Reason.NO_TOKEN
    assert refusal(registry("dry_run"), key, **where).reason is Reason.TOKEN_PERSONAL
    assert refusal(registry("off"), bearer=key, **where).reason is Reason.NO_TOKEN


def test_an_unknown_key_with_a_project_is_taken_for_a_personal_one() -> None:
    for project_id, reason in ((b"1", Reason.UNKNOWN_PERSONAL_KEY), (b"one", Reason.BAD_PROJECT)):
        query = {"project_id": project_id}
        assert refusal(registry("enforce"), "phc_other", query=query).reason is reason
        assert choose(registry("dry_run"), "phc_other", query=query) == Choice("phc_other", reason)


HOSTS = {
    "by host": ({"host": b"events.example.com"}, "phc_one"),
    "by host, in any case and with a port": ({"host": b"Events.Example.Com:8443"}, "phc_one"),
    "by host and path": ({"host": b"events.example.com", "path": b"/batch"}, "phc_two"),
    "by path": ({"path": b"/s/"}, "phc_two"),
    "by host before path": ({"host": b"events.example.com", "path": b"/s"}, "phc_one"),
}


@pytest.mark.parametrize("mode", ["off", "dry_run", "enforce"])
@pytest.mark.parametrize(("where", "key"), HOSTS.values(), ids=HOSTS)
def test_a_missing_key_is_filled_in(mode: str, where: dict[str, object], key: str) -> None:
    found = registry(mode, PROJECTS + INJECT)
    assert choose(found, **where) == Choice(key)  # type: ignore[arg-type]
    # What the client says counts before.
    assert choose(found, "phc_one_former", **where) == Choice("phc_one_former")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["off", "dry_run", "enforce"])
@pytest.mark.parametrize("odd", ["", " ", 7], ids=["empty", "blank", "a number"])
def test_a_key_that_is_none_is_filled_in(mode: str, odd: object) -> None:
    found = registry(mode, PROJECTS + INJECT)
    assert choose(found, odd, host=b"events.example.com") == Choice("phc_one")


def test_no_key_is_filled_in_where_no_rule_fits() -> None:
    for mode in ("off", "dry_run", "enforce"):
        assert refusal(registry(mode, PROJECTS + INJECT)).reason is Reason.NO_TOKEN


def test_a_personal_key_that_names_a_project_counts_before_a_rule() -> None:
    found = registry("enforce", PROJECTS + INJECT)
    host = b"events.example.com"
    assert choose(found, bearer=PERSONAL, query={"project_id": b"2"}, host=host) == Choice("phc_two")
    assert choose(found, bearer=PERSONAL, host=host) == Choice("phc_one")


def test_a_rule_without_host_and_path_is_for_all() -> None:
    assert choose(registry("off", '[[inject]]\nkey = "phc_any"')) == Choice("phc_any")


def test_a_registry_that_changes_nothing_is_idle() -> None:
    assert registry("off").idle
    assert parse_projects(b"").idle
    assert not registry("off", PROJECTS + INJECT).idle
    assert not registry("dry_run").idle


UNUSABLE = {
    "no TOML": ("mode =", "not TOML"),
    "another mode": ('mode = "on"', "Invalid enum value 'on' - at `$.mode`"),
    "a table nobody reads": ("[[projects]]\nid = 1", "unknown field `projects`"),
    "a key nobody reads": ('[[project]]\nid = 1\nkeys = ["a"]\nkey = "b"', "unknown field `key` - at `$.project[0]`"),
    "an id that is text": ('[[project]]\nid = "1"\nkeys = ["a"]', "Expected `int`, got `str` - at `$.project[0].id`"),
    "an id of zero": ('[[project]]\nid = 0\nkeys = ["a"]', "project 1: expected an id above zero, found 0"),
    "an id twice": (
        '[[project]]\nid=1\nkeys=["a"]\n[[project]]\nid=1\nkeys=["b"]',
        "project 2: expected every id once",
    ),
    "a project without keys": ("[[project]]\nid = 1\nkeys = []", "project 1: expected at least one key"),
    "a personal key as a project's": ('[[project]]\nid=1\nkeys=["phx_a"]', "no project key: token_personal_api_key"),
    "a key with blanks": ('[[project]]\nid=1\nkeys=[" a"]', "without blanks"),
    "a key of two projects": (
        '[[project]]\nid=1\nkeys=["a"]\n[[project]]\nid=2\nkeys=["a"]',
        "project 2: 'a' is a key of project 1 already",
    ),
    "no project to enforce": ('mode = "enforce"', "expected a [[project]]"),
    "a personal key in the clear": ('[[personal_key]]\nhash = "phx_secret"', "personal_key 1: expected a hash"),
    "a hash twice": (f'[[personal_key]]\nhash="{hash_key("a")}"\n' * 2, "personal_key 2: expected every hash once"),
    "a personal key of no project": (
        f'[[personal_key]]\nhash="{hash_key("a")}"\nprojects=[9]',
        "there is no project 9",
    ),
    "a rule for a page": (
        '[[inject]]\npath = "/_liveness"\nkey = "a"',
        "inject 1: expected the path of a capture route",
    ),
    "a rule with an unknown key": (
        'mode="dry_run"\n[[project]]\nid=1\nkeys=["a"]\n[[inject]]\nkey="b"',
        "'b' is no key of a project",
    ),
    "a rule with a port": ('[[inject]]\nhost = "a:80"\nkey = "a"', "in lower case and without port, found 'a:80'"),
    "a rule twice": ('[[inject]]\npath="/e"\nkey="a"\n[[inject]]\npath="/e/"\nkey="b"', "inject 2: there is a rule"),
}


@pytest.mark.parametrize(("text", "found"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_meant_is_refused_by_place_and_reason(text: str, found: str) -> None:
    with pytest.raises(ProjectsError) as caught:
        parse_projects(text.encode())
    assert found in str(caught.value)
    assert "phx_secret" not in str(caught.value)


def test_a_file_must_be_utf_8() -> None:
    with pytest.raises(ProjectsError, match="expected UTF-8"):
        parse_projects(b'mode = "\xff"')


def test_a_personal_key_is_kept_as_posthog_keeps_it() -> None:
    assert hash_key("phx_a") == "sha256$" + hashlib.sha256(b"phx_a").hexdigest()
    assert PERSONAL not in repr(registry("enforce"))


def test_a_host_is_compared_by_its_name() -> None:
    assert host_name(b"[::1]:8000") == "[::1]"
    assert host_name(b" A.b:80 ") == "a.b"
    assert host_name(b"") == ""
