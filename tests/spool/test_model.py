"""A few programs; `make test-integration ARGS="-k model"` runs many."""

import logging

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.spool_model import SpoolMachine


def test_spool_does_what_its_model_does(caplog: pytest.LogCaptureFixture) -> None:
    chosen = settings(
        max_examples=25, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    with caplog.at_level(logging.CRITICAL + 1):
        run_state_machine_as_test(SpoolMachine, settings=chosen)
