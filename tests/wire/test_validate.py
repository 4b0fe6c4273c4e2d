import pytest

from edge.wire.rejections import Reason, Rejected
from edge.wire.request import Request
from edge.wire.validate import _KNOWN_MAX, TOKEN_BYTES_MAX, _known, choose_token, judge_token

GOOD = {
    "as they are now": ("phc_abc", "phc_abc"),
    "as they were": ("BVK0Ijaz_R-0=", "BVK0Ijaz_R-0="),
    "blanks around it": (" \tphc_abc\n", "phc_abc"),
    "as long as may be": ("k" * TOKEN_BYTES_MAX, "k" * TOKEN_BYTES_MAX),
    "as long as may be, and blanks": (" " * 1000 + "k" * TOKEN_BYTES_MAX, "k" * TOKEN_BYTES_MAX),
    "personal prefix not at its start": ("x_phx_", "x_phx_"),
}


@pytest.mark.parametrize(("token", "kept"), GOOD.values(), ids=GOOD)
def test_a_key_of_the_right_shape_is_kept_without_blanks(token: str, kept: str) -> None:
    assert judge_token(token) == kept


BAD: dict[str, tuple[object, Reason]] = {
    "a number": (7, Reason.TOKEN_NOT_STRING),
    "an object": ({}, Reason.TOKEN_NOT_STRING),
    "empty": ("", Reason.TOKEN_EMPTY),
    "blanks": (" \t ", Reason.TOKEN_EMPTY),
    "many blanks": (" " * 1000, Reason.TOKEN_EMPTY),
    "a byte too long": ("k" * (TOKEN_BYTES_MAX + 1), Reason.TOKEN_TOO_LONG),
    "too long in bytes": ("é" * 33, Reason.TOKEN_TOO_LONG),
    "not ASCII": ("phc_é", Reason.TOKEN_NOT_ASCII),
    "half a character": ("phc_\ud83c", Reason.TOKEN_NOT_ASCII),
    "personal": ("phx_abc", Reason.TOKEN_PERSONAL),
    "personal, behind blanks": ("  phx_abc", Reason.TOKEN_PERSONAL),
    "NUL": ("phc_\0", Reason.TOKEN_NULL_BYTE),
}


@pytest.mark.parametrize(("token", "reason"), BAD.values(), ids=BAD)
def test_a_key_of_the_wrong_shape_is_refused_every_time(token: object, reason: Reason) -> None:
    for _ in range(2):
        with pytest.raises(Rejected) as raised:
            judge_token(token)
        assert raised.value.reason is reason


def test_what_is_remembered_of_keys_is_small() -> None:
    _known.clear()
    judge_token(" " * 5_000_000 + "phc_abc")
    judge_token("phc_abc")
    assert _known == {"phc_abc"}
    for number in range(2 * _KNOWN_MAX):
        judge_token(f"phc_{number}")
    assert len(_known) <= _KNOWN_MAX


NONE: tuple[object, ...] = ()
CHOICES = {
    "payload": (("a",), {"token": b"b"}, {"token": b"c"}, b"Bearer d", "a"),
    "form": (NONE, {"token": b"b"}, {"token": b"c"}, b"Bearer d", "b"),
    "form, api_key first": (NONE, {"token": b"b", "api_key": b"B"}, {}, b"", "B"),
    "query": (NONE, {}, {"token": b"c"}, b"Bearer d", "c"),
    "form, when the payload's is empty": (("",), {"api_key": b"b"}, {"api_key": b"c"}, b"", "b"),
    "query, when the payload's is no text": ((7,), {"token": b" "}, {"api_key": b"c"}, b"Bearer d", "c"),
    "bearer, when the payload's is blank": ((" ",), {}, {}, b"Bearer d", "d"),
    "query, when the form's is empty": (NONE, {"token": b""}, {"api_key": b"c"}, b"Bearer d", "c"),
    "bearer": (NONE, {}, {}, b"Bearer d", "d"),
    "bearer, in other capitals": (NONE, {}, {}, b"bEaReR  d ", "d"),
}


@pytest.mark.parametrize(("payload", "form", "query", "authorization", "token"), CHOICES.values(), ids=CHOICES)
def test_the_nearest_key_counts(
    payload: tuple[object, ...], form: dict[str, bytes], query: dict[str, bytes], authorization: bytes, token: str
) -> None:
    request = Request(headers={b"authorization": authorization})
    assert choose_token(payload, form, query, request) == token


REFUSED = {
    "none": (NONE, {}, b"", Reason.NO_TOKEN),
    "personal key as a bearer": (NONE, {}, b"Bearer phx_d", Reason.NO_TOKEN),
    "other authorization": (NONE, {}, b"Basic ZA==", Reason.NO_TOKEN),
    "empty bearer": (NONE, {}, b"Bearer ", Reason.NO_TOKEN),
    "several": (("a", "b"), {}, b"", Reason.MULTIPLE_TOKENS),
    "several, one no text": (("a", 7), {}, b"", Reason.MULTIPLE_TOKENS),
    "no text": ((7,), {}, b"", Reason.TOKEN_NOT_STRING),
    "empty in the payload": (("",), {"token": b" "}, b"Bearer phx_d", Reason.TOKEN_EMPTY),
    "blank in the payload": ((" \t",), {}, b"", Reason.TOKEN_EMPTY),
    "bad in the query": (NONE, {"token": b"\xff"}, b"", Reason.TOKEN_NOT_ASCII),
    "bad as a bearer": (NONE, {}, b"Bearer \xe9", Reason.TOKEN_NOT_ASCII),
}


@pytest.mark.parametrize(("payload", "query", "authorization", "reason"), REFUSED.values(), ids=REFUSED)
def test_no_good_key_is_refused(
    payload: tuple[object, ...], query: dict[str, bytes], authorization: bytes, reason: Reason
) -> None:
    with pytest.raises(Rejected) as raised:
        choose_token(payload, {}, query, Request(headers={b"authorization": authorization}))
    assert raised.value.reason is reason
