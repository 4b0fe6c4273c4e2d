"""The project key: which one counts, and whether it has the shape of one. No key is looked up."""

from collections.abc import Mapping
from typing import Final, TypeGuard

from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Request

TOKEN_BYTES_MAX: Final = 64
_KNOWN_MAX: Final = 4096
_known: Final[set[str]] = set()
PERSONAL_PREFIX: Final = "phx_"
_BEARER: Final = b"bearer "


def is_key(token: object) -> TypeGuard[str]:
    """Whether it may be a project key: a string that is not blank."""
    return isinstance(token, str) and bool(token) and not token.isspace()


def judge_token(token: object) -> str:
    """The key to use downstream: trimmed. Raises `Rejected` with the first rule it breaks."""
    if not isinstance(token, str):
        raise Rejected(Reason.TOKEN_NOT_STRING)
    # A project's key comes with every request. Only what is one is remembered, and not the blanks around it.
    if token in _known:
        return token
    token = _judge_text(token.strip())
    if len(_known) >= _KNOWN_MAX:
        _known.clear()
    _known.add(token)
    return token


def _judge_text(token: str) -> str:
    if not token:
        raise Rejected(Reason.TOKEN_EMPTY)
    if len(token.encode("utf-8", "surrogatepass")) > TOKEN_BYTES_MAX:
        raise Rejected(Reason.TOKEN_TOO_LONG)
    if not token.isascii():
        raise Rejected(Reason.TOKEN_NOT_ASCII)
    if token.startswith(PERSONAL_PREFIX):
        raise Rejected(Reason.TOKEN_PERSONAL)
    if "\0" in token:
        raise Rejected(Reason.TOKEN_NULL_BYTE)
    return token


def choose_token(
    in_payload: tuple[object, ...],
    form: Mapping[str, bytes],
    query: Mapping[str, bytes],
    request: Request,
) -> str:
    """The payload's key, else the form's, the query's, the bearer's. Raises `Rejected` for none, several, or a bad one.

    What is blank or no string counts where there is no other: `token` is a name that properties have, too.
    """
    if len(in_payload) > 1:
        raise Rejected(Reason.MULTIPLE_TOKENS)
    if in_payload and is_key(in_payload[0]):
        return judge_token(in_payload[0])
    for fields in (form, query):
        for name in ("api_key", "token"):
            if found := fields.get(name, b"").strip():
                return judge_token(found.decode("utf-8", "replace"))
    found_key = bearer_key(request)
    if found_key and not found_key.startswith(PERSONAL_PREFIX):
        return judge_token(found_key)
    if in_payload:
        return judge_token(in_payload[0])
    raise Rejected(Reason.NO_TOKEN)


def bearer_key(request: Request) -> str:
    """The key in `Authorization: Bearer`, empty for none."""
    authorization = request.authorization
    if authorization[: len(_BEARER)].lower() != _BEARER:
        return ""
    return authorization[len(_BEARER) :].strip().decode("latin-1")
