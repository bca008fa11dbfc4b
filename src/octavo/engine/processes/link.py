"""The seam between engine and worker: where a test plugs in a mock, and a crash shows as one exception."""

from __future__ import annotations

from typing import Protocol

from octavo.messages import StepMasks, StepPlan, StepResult, WorkerReady


class WorkerLink(Protocol):
    """A worker that executes plans in the order sent; the masks of one with constrained slots come before the next plan."""

    @property
    def ready(self) -> WorkerReady:
        """The message that the worker sent when it had loaded the model."""
        ...

    def send(self, plan: StepPlan) -> None:
        """Queue `plan`; returns at once.

        Raises:
            WorkerDiedError: the worker is gone.
        """
        ...

    def tell(self, masks: StepMasks) -> None:
        """Queue the masks of the plan that was sent last; returns at once.

        Raises:
            WorkerDiedError: the worker is gone.
        """
        ...

    def receive(self, timeout_s: float | None) -> StepResult | None:
        """The next result in order, or None after `timeout_s` seconds (None: wait for ever, 0: only look).

        Raises:
            WorkerDiedError: the worker is gone; says why.
        """
        ...

    @property
    def stopped(self) -> bool:
        """Somebody outside has stopped the worker's process, as SIGSTOP does: it does not hang by itself."""
        ...

    def last_output(self) -> list[str]:
        """The last lines that the worker printed, and its stack if it still runs; none if it prints where we do.

        For a worker that is given up: asking may end it.
        """
        ...

    def close(self) -> None:
        """End the worker and free what it holds; safe to call twice."""
        ...
