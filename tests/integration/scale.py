"""How long the tests marked `soak` run: what fits into every change's checks, or, with EDGE_SOAK=1, the whole of it."""

import os
from typing import Final

SOAK: Final = os.environ.get("EDGE_SOAK", "") == "1"


def scaled(short: int, long: int) -> int:
    """`long` under `make soak`, `short` elsewhere."""
    return long if SOAK else short
