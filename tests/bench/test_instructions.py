import subprocess
import sys

import pytest

from bench.instructions import PAYLOADS


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_counted_is_requests_that_are_stored(payload: str) -> None:
    # The driver itself checks that as many events were committed as were sent.
    subprocess.run([sys.executable, "-m", "bench", "instructions", "--payload", payload, "--turns", "3"], check=True)
