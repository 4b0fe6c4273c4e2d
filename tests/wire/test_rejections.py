import pytest

from edge.wire.rejections import REFUSALS, Reason, Rejected

TYPES = {"validation_error", "authentication_error", "server_error", "client_error", "timeout_error"}


def test_every_reason_has_its_row() -> None:
    assert list(REFUSALS) == list(Reason)


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_a_row_tells_clients_what_to_do(reason: Reason) -> None:
    refusal = REFUSALS[reason]
    assert refusal.type in TYPES
    assert 400 <= refusal.status < 600
    assert refusal.detail[-1] in ".:" or refusal.code in refusal.detail
    # Ours is 503 and worth a retry, an upstream's 502; the client's is not, and must not say so: some would send a 413 again.
    assert refusal.retry_after == (refusal.status == 503)
    assert (refusal.type == "server_error") == (refusal.status in (502, 503))
    assert (refusal.type == "authentication_error") == (refusal.status == 401)


def test_what_was_found_completes_the_sentence() -> None:
    assert Rejected(Reason.BAD_GZIP).detail == REFUSALS[Reason.BAD_GZIP].detail
    assert Rejected(Reason.BAD_JSON, "a comma").detail == "Malformed request data: Invalid JSON: a comma"


def test_the_metric_label_is_a_word() -> None:
    assert all(reason.value.replace("_", "").isalnum() and reason.value.islower() for reason in Reason)
