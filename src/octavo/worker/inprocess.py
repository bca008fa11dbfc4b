"""A worker in the caller's own process: same plans, same results, no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from octavo.errors import OctavoError, WorkerDiedError
from octavo.messages import StepMasks, StepPlan, StepResult, WorkerConfig, WorkerReady
from octavo.worker.launched import Launched
from octavo.worker.runner import Runner
from octavo.worker.start import start


class InProcessSource:
    """A `WorkerSource` in the caller's own process: what ends the process ends all, what raises is replaced."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._worker: InProcessWorker | None = None

    def start(self, num_blocks: int | None) -> InProcessWorker:
        self.close()
        try:
            self._worker = InProcessWorker(msgspec.structs.replace(self._config, num_blocks=num_blocks))
        except OctavoError:
            raise
        except Exception as exc:
            raise WorkerDiedError(f"the worker could not start: {exc}") from exc
        return self._worker

    def tend(self) -> None:
        """Does nothing: no worker can be prepared beside the one that runs."""

    def abandon(self) -> None:
        """Does nothing: a start in this process cannot be cut short."""

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class InProcessWorker:
    """A `WorkerLink` that runs each plan when its result is asked for.

    Args:
        config: what to load.
        start: makes the runner; the default also sets torch's thread count, for the whole process.
        ahead: plans that are launched, if they have been sent, before the result of the first of them is read.

    Raises:
        ConfigError, CheckpointError: as `start`.
    """

    def __init__(
        self,
        config: WorkerConfig,
        start: Callable[[WorkerConfig], tuple[Runner, WorkerReady]] = start,
        *,
        ahead: int = 1,
    ) -> None:
        runner, self._ready = start(config)
        self._runner: Runner | None = runner
        self._messages: deque[StepPlan | StepMasks] = deque()
        self._steps: deque[Launched] = deque()
        self._ahead = ahead

    @property
    def ready(self) -> WorkerReady:
        return self._ready

    def send(self, plan: StepPlan) -> None:
        self._live()
        self._messages.append(plan)

    def tell(self, masks: StepMasks) -> None:
        self._live()
        self._messages.append(masks)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        """The next result; None at once, whatever `timeout_s`, if no plan waits."""
        runner = self._live()
        if not self._messages and not self._steps:
            return None
        try:
            while self._messages:
                match self._messages[0]:
                    case StepMasks() as masks:
                        runner.sample(masks)
                    case StepPlan() as plan if len(self._steps) < self._ahead:
                        self._steps.append(runner.launch(plan))
                    case _:
                        break
                self._messages.popleft()
            return self._steps.popleft().result()
        except Exception as exc:
            self.close()
            raise WorkerDiedError(f"the worker met a fault: {exc}") from exc

    @property
    def stopped(self) -> bool:
        return False

    def last_output(self) -> list[str]:
        return []

    def close(self) -> None:
        self._runner = None
        self._messages.clear()
        self._steps.clear()

    def _live(self) -> Runner:
        if self._runner is None:
            raise WorkerDiedError("the worker is closed")
        return self._runner
