"""Room for a writer's segments that is made where it is wanted, and as small as tests want it."""

import contextlib

from edge.disk import Disk
from edge.spool.spare import Spare, discard, make_spare


class SmallSpares:
    """Of `size` bytes each, whatever is wanted. A disk that refuses leaves the writer without."""

    def __init__(self, disk: Disk, directory: str, size: int) -> None:
        self.wanted: list[int] = []
        self.size = size
        self._disk = disk
        self._directory = directory
        self._spare: Spare | None = None

    @property
    def ready(self) -> bool:
        return self._spare is not None

    def want(self, size: int) -> None:
        self.wanted.append(size)
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = make_spare(self._disk, self._directory, self.size, lambda _: False)

    def take(self) -> Spare | None:
        spare, self._spare = self._spare, None
        return spare

    def close(self) -> None:
        if (spare := self.take()) is not None:
            discard(self._disk, spare)
