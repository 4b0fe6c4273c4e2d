"""TERM at any moment: what was acknowledged is delivered before the program ends."""

import time

import pytest

from tests.integration.edge_process import EdgeProcess

EVENT = b'{"api_key":"phc_stop","event":"signed up","distinct_id":"ada"}'


@pytest.mark.parametrize("after_s", [0.0, 0.5, 2.5], ids=["at once", "after half a second", "after some time"])
def test_what_was_acknowledged_before_a_stop_is_delivered_before_the_end(edge: EdgeProcess, after_s: float) -> None:
    time.sleep(after_s)
    # Every connection is given to one of the workers: all of them get some.
    for _ in range(20):
        assert edge.request("POST", "/i/v0/e/", EVENT).status == 200
    edge.stop()
    assert len(edge.events()) == 20
    assert [sink["waiting_events"] for sink in edge.status()["sinks"]] == [0]
