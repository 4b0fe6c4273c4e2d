"""How long to wait before the next attempt: exponential with full jitter, for as long as it takes."""

from typing import Final

BASE_S: Final = 0.5
CAP_S: Final = 60.0


def delay_s(failures: int, draw: float, retry_after_s: float = 0.0) -> float:
    """Seconds to wait after `failures` attempts in a row. `draw` is uniform in 0..1; never less than the receiver asked for."""
    ceiling = min(CAP_S, BASE_S * 2.0 ** min(failures - 1, 16))
    return max(retry_after_s, ceiling * draw)
