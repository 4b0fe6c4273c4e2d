"""How long to wait before the next attempt, and how slowly to begin again afterwards. Pure functions."""

from typing import Final

BASE_S: Final = 0.5
CAP_S: Final = 60.0
PAUSE_BASE_S: Final = 1.0
OUTAGE_S: Final = 10.0
"""Refused for so long, a receiver may have much to catch up with."""
RAMP_S: Final = 30.0
_RAMP_SHARE: Final = 0.1
_RAMP_CAP_S: Final = 5.0


def delay_s(failures: int, draw: float, retry_after_s: float = 0.0, at_most_s: float = CAP_S) -> float:
    """Seconds to wait after `failures` attempts in a row: exponential up to `at_most_s`, with full jitter.

    `draw` is uniform in 0..1; never less than the receiver asked for.
    """
    ceiling = min(at_most_s, BASE_S * 2.0 ** min(failures - 1, 16))
    return max(retry_after_s, ceiling * draw)


def pause_s(failures: int, draw: float) -> float:
    """Seconds to wait where somebody has to act first: soon at first, for what was only starting, then about once a minute."""
    return min(CAP_S, PAUSE_BASE_S * 2.0 ** min(failures - 1, 16)) * (0.8 + 0.4 * draw)


def ramp_s(since_recovery_s: float, took_s: float) -> float:
    """Seconds to leave a receiver alone after a batch that took `took_s`, so soon after an outage.

    It is busy with us a tenth of the time at first and all of it half a minute later, whatever its speed.
    """
    share = _RAMP_SHARE + (1.0 - _RAMP_SHARE) * max(0.0, since_recovery_s) / RAMP_S
    return 0.0 if share >= 1.0 else min(_RAMP_CAP_S, took_s * (1.0 / share - 1.0))
