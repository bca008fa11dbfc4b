"""The process that holds the weights, as the engine sees it."""

from __future__ import annotations

from typing import TypeVar

from octavo.engine.processes.channel import ProcessChannel
from octavo.errors import WorkerDiedError
from octavo.messages import KeeperReady, KeptWeights, WeightsPlaced, WorkerConfig

Told = TypeVar("Told", WeightsPlaced, KeeperReady)


class Keeper:
    """Starts loading the weights of `config` when first asked where they are, and holds them as long as it lives.

    Raises:
        OSError, RuntimeError, MemoryError: the system has no room for another process.
    """

    def __init__(self, config: WorkerConfig, module: str) -> None:
        self.channel = ProcessChannel(module, name="keeper")
        self.weights: KeptWeights | None = None
        """Where they are, once they are loaded."""
        self._config = config
        self._placed: KeptWeights | None = None
        """Where they will be."""

    def place(self, deadline_s: float) -> KeptWeights:
        """Where the weights are, or will be once they are loaded; arguments and errors as `load`."""
        if self._placed is None:
            self.channel.send(self._config)
            self._placed = self._receive(WeightsPlaced, deadline_s).weights
        elif (death := self.channel.death()) is not None:
            raise death
        return self.weights or self._placed

    def load(self, deadline_s: float) -> tuple[KeptWeights, float]:
        """Where the weights are, and the seconds that were spent now on loading them, 0 if they were there. `place` comes first.

        Args:
            deadline_s: until when to wait, on the monotonic clock.

        Raises:
            WorkerDiedError: the keeper has ended, reports a fault, or was not ready in time.
        """
        if self.weights is None:
            ready = self._receive(KeeperReady, deadline_s)
            self.weights = ready.weights
            return ready.weights, ready.load_s
        if (death := self.channel.death()) is not None:
            raise death
        return self.weights, 0.0

    def _receive(self, kind: type[Told], deadline_s: float) -> Told:
        message = self.channel.receive(deadline_s)
        if message is None:
            raise WorkerDiedError("the weights were not loaded in time; worker_start_timeout sets how long it may take")
        if not isinstance(message, kind):
            raise WorkerDiedError(f"the keeper sent {type(message).__name__} before {kind.__name__}")
        return message
