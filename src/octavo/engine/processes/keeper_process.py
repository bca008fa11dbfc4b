"""The process that holds the weights, as the engine sees it."""

from __future__ import annotations

from typing import TypeVar

from octavo.engine.processes.channel import ProcessChannel
from octavo.errors import WorkerDiedError
from octavo.messages import KeeperReady, KeptWeights, WeightsPlaced, WorkerConfig, WorkerMessage

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
        """Where the weights are, or will be once they are loaded.

        Args:
            deadline_s: until when to wait, on the monotonic clock.

        Raises:
            WorkerDiedError: the keeper has ended, reports a fault, or has not answered in time.
        """
        if self._placed is None:
            self.channel.send(self._config)
            self._placed = self._require(WeightsPlaced, self.channel.receive(deadline_s)).weights
        elif (death := self.channel.death()) is not None:
            raise death
        return self.weights or self._placed

    def load(self, until_s: float) -> tuple[KeptWeights, float] | None:
        """Where the weights are, and the seconds that were spent on loading them, 0 if they were there; None: they are still being loaded. `place` comes first.

        Args:
            until_s: how long to wait for them, on the monotonic clock.

        Raises:
            WorkerDiedError: the keeper has ended, or reports a fault.
        """
        if self.weights is None:
            message = self.channel.receive(until_s)
            if message is None:
                return None
            ready = self._require(KeeperReady, message)
            self.weights = ready.weights
            return ready.weights, ready.load_s
        if (death := self.channel.death()) is not None:
            raise death
        return self.weights, 0.0

    def _require(self, kind: type[Told], message: WorkerMessage | None) -> Told:
        if message is None:
            raise late()
        if not isinstance(message, kind):
            raise WorkerDiedError(f"the keeper sent {type(message).__name__} before {kind.__name__}")
        return message


def late() -> WorkerDiedError:
    """What ends a start that has waited for the weights for too long."""
    return WorkerDiedError("the weights were not loaded in time; worker_start_timeout sets how long it may take")
