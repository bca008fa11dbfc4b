"""File descriptors kept for the moment when the process has none left, and yet must start a worker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

COUNT = 12
"""What a process costs its parent: a socket pair, the pipe of its output, the pipe that says whether it could be started."""


class DescriptorReserve:
    """Holds `COUNT` open descriptors, or as many as there are, until they are needed; for one thread at a time."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._keep()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Give them back to the system while a process is started, and take as many again after."""
        self.close()
        try:
            yield
        finally:
            self._keep()

    def close(self) -> None:
        """Give them back; safe to call twice."""
        while self._kept:
            os.close(self._kept.pop())

    def _keep(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._kept) < COUNT:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
