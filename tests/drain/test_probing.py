import threading

import pytest

from edge.drain.probing import Probed, probe_all
from edge.drain.sink import Paused, Retryable


def test_each_says_what_it_found_in_the_order_they_were_named() -> None:
    first = threading.Event()

    def slow() -> str:
        assert first.wait(20)
        return "slow"

    def quick() -> str:
        first.set()
        return "quick"

    def busy() -> str:
        raise Retryable("status 503")

    def paused() -> str:
        raise Paused("status 401")

    assert probe_all([slow, quick, busy, paused]) == [
        Probed(True, "slow"),
        Probed(True, "quick"),
        Probed(False, "takes nothing now: status 503"),
        Probed(False, "takes nothing until somebody acts: status 401"),
    ]


def test_one_that_hangs_holds_up_nobody() -> None:
    """As a resolver does whose name servers do not answer."""
    never = threading.Event()

    def hanging() -> str:
        never.wait(60)
        return "too late"

    assert probe_all([hanging, lambda: "there", hanging], 0.05) == [
        Probed(False, "nothing is known of it after 0.05 s"),
        Probed(True, "there"),
        Probed(False, "nothing is known of it after 0.05 s"),
    ]
    never.set()


def test_a_fault_of_ours_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    def faulty() -> str:
        raise TypeError("no such thing")

    assert probe_all([faulty, lambda: "there"]) == [
        Probed(False, "a fault of ours: TypeError: no such thing"),
        Probed(True, "there"),
    ]
    assert "Traceback" in caplog.text


def test_nobody_is_asked_for_nothing() -> None:
    assert probe_all([]) == []
