import itertools
import math
import time

from hypothesis import given
from hypothesis import strategies as st

from bench.floor import ANSWER
from bench.open_loop import OpenLoop, arrivals, percentile
from tests.bench.test_load import UNAVAILABLE, counting_server

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([1.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= len(ordered) * percent / 100 - 1e-9
    assert sum(value < found for value in ordered) < len(ordered) * percent / 100 + 1e-9


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    found = arrivals(10_000, 10, seed=1)
    assert found == sorted(found)
    assert found[0] >= 0
    assert found[-1] < 10
    assert abs(len(found) - 100_000) < 2000
    gaps = [after - before for before, after in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert abs(spread / mean - 1) < 0.05
    assert arrivals(100, 1, seed=1) != arrivals(100, 1, seed=2)


def test_every_request_that_falls_due_is_sent_and_answered() -> None:
    with (
        counting_server(lambda _: ANSWER, len(REQUEST), pieces=2) as server,
        OpenLoop("127.0.0.1", server.port, 3) as load,
    ):
        found = load.run_at([REQUEST], 500, 0.3)
        again = load.run_at([REQUEST], 500, 0.1, seed=2)
    assert found.answered == len(found.latencies_s) == len(arrivals(500, 0.3, 1))
    assert found.answered + again.answered == server.requests
    assert (found.errors, again.errors) == (0, 0)
    assert found.latencies_s == tuple(sorted(found.latencies_s))
    assert found.latencies_s[0] > 0


def test_waiting_for_a_connection_counts() -> None:
    def slow(served: int) -> bytes:
        if served == 0:
            time.sleep(0.2)
        return ANSWER

    with counting_server(slow, len(REQUEST)) as server, OpenLoop("127.0.0.1", server.port, 1) as load:
        found = load.run_at([REQUEST], 500, 0.1)
    assert found.answered == len(arrivals(500, 0.1, 1))
    # All fell due while the first one kept the only connection busy.
    assert found.latencies_s[0] > 0.08
    assert len(found.lateness_s) == 1


def test_errors_are_counted_and_told() -> None:
    with counting_server(lambda _: UNAVAILABLE, len(REQUEST)) as server, OpenLoop("127.0.0.1", server.port, 2) as load:
        found = load.run_at([REQUEST], 200, 0.1)
    assert (found.answered, found.errors) == (0, len(arrivals(200, 0.1, 1)))
    assert "503" in found.first_error


def test_lost_connections_end_the_run() -> None:
    with counting_server(lambda _: b"", len(REQUEST)) as server, OpenLoop("127.0.0.1", server.port, 2) as load:
        found = load.run_at([REQUEST], 200, 0.1)
    assert found.answered == 0
    assert found.errors == len(arrivals(200, 0.1, 1))
