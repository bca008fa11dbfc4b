"""The seam between engine and the processes that it needs workers from."""

from __future__ import annotations

from typing import Protocol

from octavo.engine.processes.link import WorkerLink


class WorkerSource(Protocol):
    """Starts workers, one at a time: the next only after the last was closed."""

    def start(self, num_blocks: int | None) -> WorkerLink:
        """Start a worker and wait until it is ready.

        Args:
            num_blocks: KV blocks it must have, as its predecessor had; None: as many as fit.

        Raises:
            WorkerDiedError: it could not start; says why.
            ConfigError, CheckpointError: settings or a model that no worker can start with.
            OSError, RuntimeError, MemoryError: the system has no room for another process.
        """
        ...

    def tend(self) -> None:
        """Before the first start, now and then, and when nothing is in a hurry: prepare what the next start will need. Raises nothing."""
        ...

    def abandon(self) -> None:
        """Makes a start that waits fail soon with WorkerDiedError, and every later one too; any thread may call it."""
        ...

    def close(self) -> None:
        """End every process of the source; safe to call twice."""
        ...
