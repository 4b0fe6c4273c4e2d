"""Random programs by the thousand against the spool and its model: see `tests/spool_model.py`."""

import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.scale import scaled
from tests.spool_model import SpoolMachine

PROGRAMS: Final = scaled(1_000, 10_000)
ACTIONS: Final = 64
PIECE: Final = 250


def _run(number: int) -> int:
    logging.disable(logging.CRITICAL)
    chosen = settings(
        max_examples=PIECE,
        stateful_step_count=ACTIONS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    SpoolMachine.programs = 0
    run_state_machine_as_test(seed(number)(SpoolMachine), settings=chosen)
    return SpoolMachine.programs


@pytest.mark.soak
def test_spool_does_what_its_model_does_in_thousands_of_programs() -> None:
    first = time.time_ns()
    started_s = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        run = sum(pool.map(_run, range(first, first + PROGRAMS // PIECE)))
    print(
        f"\n{run} programs of up to {ACTIONS} actions in {time.monotonic() - started_s:.0f} s, seeds from {first}:"
        " the model and the spool agree"
    )
    assert run >= PROGRAMS
