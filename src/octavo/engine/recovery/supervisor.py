"""Replaces dead workers, as often as its budget allows, and tells of each recovery."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from octavo.engine.processes.link import WorkerLink
from octavo.engine.processes.worker_source import WorkerSource
from octavo.engine.recovery.deadline import StepDeadline
from octavo.engine.statistics import RecoveryRecord
from octavo.errors import ChangedWeightsError, DeathCause, OctavoError, WorkerDiedError

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
"""Between two starts that failed one after the other: what ails the system may pass."""
TEND_S = 0.5
"""How often the source is tended."""


class NoSource:
    """A `WorkerSource` that has nothing: the death of the only worker is final."""

    def start(self, num_blocks: int | None) -> WorkerLink:
        raise WorkerDiedError("there is no other worker", cause=DeathCause.START)

    def tend(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self) -> None:
        pass


class AbandonedError(Exception):
    """No worker is waited for any more: the engine is to stop."""


class RestartBudget:
    """Allows at most `most` restarts within `window_s` seconds."""

    def __init__(self, most: int, window_s: float) -> None:
        self.most = most
        self.window_s = window_s
        self._spent: deque[float] = deque()

    def spend(self, now_s: float) -> bool:
        """Count a restart; False, and nothing counted, if it would be one too many."""
        while self._spent and self._spent[0] <= now_s - self.window_s:
            self._spent.popleft()
        if len(self._spent) >= self.most:
            return False
        self._spent.append(now_s)
        return True

    @property
    def is_spent(self) -> bool:
        """No restart was left at the last look."""
        return len(self._spent) >= self.most

    def forgive(self, count: int) -> None:
        """Take back the last `count` restarts, as far as they still count."""
        for _ in range(min(count, len(self._spent))):
            self._spent.pop()


@dataclasses.dataclass
class _Recovery:
    """A recovery that goes on."""

    cause: DeathCause
    message: str
    began_s: float
    restarts: int = 0
    requests: int = 0
    tokens: int = 0
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    crash: Path | None = None
    """Where the last death is written down."""


class Supervisor:
    """Gets the engine its next worker; used by the engine's thread.

    Args:
        source: where workers come from.
        budget: of restarts.
        step_timeout_s: what every step is given before its worker counts as hung; see `StepDeadline`.
        observe: gets the record of every recovery.
        clock: seconds, as the engine's.
    """

    def __init__(
        self,
        source: WorkerSource,
        budget: RestartBudget,
        observe: Callable[[RecoveryRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        step_timeout_s: float = 60.0,
    ) -> None:
        self.deadline = StepDeadline(step_timeout_s)
        self.restarts = dict.fromkeys(DeathCause, 0)
        self._source = source
        self._budget = budget
        self._observe = observe
        self._clock = clock
        self._recovery: _Recovery | None = None
        self._kills: deque[signal.Signals | None] = deque(maxlen=max(1, budget.most))
        """What killed each of the last workers, as far as the budget paid for them; None: it ended from inside."""
        self._abandoned = threading.Event()
        self._tended_s = float("-inf")

    @property
    def recovering(self) -> bool:
        """True from the death of a worker until `on_recovered`."""
        return self._recovery is not None

    @property
    def on_last_restart(self) -> bool:
        """One more death, and the budget is spent."""
        return self._budget.is_spent

    def on_death(
        self, death: WorkerDiedError, requests: int, tokens: int, *, counts: bool = True, crash: Path | None = None
    ) -> None:
        """A worker died while `requests` ran, with `tokens` positions computed, that are to be planned again.

        `counts`: the budget pays; a search for the requests that kill is bounded by itself. `crash`: where more is
        written of it.

        Raises:
            WorkerDiedError: the budget is spent; says so.
        """
        if self._recovery is None:
            self._recovery = _Recovery(death.cause, death.headline, self._clock())
        self._recovery.requests = max(self._recovery.requests, requests)
        self._recovery.tokens += tokens
        self._recovery.crash = crash
        self._spend(death, counts=counts)

    def forgive(self, count: int) -> None:
        """Take back the last `count` restarts: what made them needed is found."""
        self._budget.forgive(count)

    def abandon(self) -> None:
        """Stops waiting for a next worker; one that runs goes on. Any thread may call it."""
        self._abandoned.set()
        self._source.abandon()

    def tend(self) -> None:
        """Let the source prepare for the next start, every `TEND_S` seconds while nobody waits for a worker."""
        if self._recovery is None and self._clock() - self._tended_s >= TEND_S:
            self._tended_s = self._clock()
            self._source.tend()

    def replace(
        self, link: WorkerLink, num_blocks: int, record: Callable[[WorkerDiedError], object] = lambda death: None
    ) -> WorkerLink:
        """End what is left of `link` and start the next worker, again and again while the budget lasts.

        Whatever a start raises is a start that failed, and is tried again after a pause that doubles. `record` gets the
        death of each.

        Raises:
            WorkerDiedError: the budget is spent, or no other worker could go on with the same answers; says why.
            AbandonedError: so it is.
        """
        began_s = self._clock()
        link.close()
        ended_s = self._clock()
        logger.debug("recovery: what was left of the worker ended in %.2f s", ended_s - began_s)
        pause_s = 0.0
        while True:
            try:
                return self._started(self._source.start(num_blocks), ended_s - began_s, ended_s)
            except ChangedWeightsError as error:
                raise WorkerDiedError(f"no worker can start: {error.message}", cause=DeathCause.START) from error
            except Exception as error:
                if self._abandoned.is_set():
                    raise AbandonedError from error
                death = _failed_start(error)
                logger.warning("a worker could not start: %s", death.message)
                record(death)
                self._spend(death)
            if self._abandoned.wait(pause_s):
                raise AbandonedError
            pause_s = min(max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)

    def on_recovered(self) -> None:
        """Results come, or nobody waits for any: if a recovery went on, it ends here, with one line in the log."""
        recovery, self._recovery = self._recovery, None
        if recovery is None:
            return
        record = RecoveryRecord(
            cause=recovery.cause,
            restarts=recovery.restarts,
            requests=recovery.requests,
            tokens=recovery.tokens,
            seconds=self._clock() - recovery.began_s,
            phases=recovery.phases,
        )
        logger.warning(
            "recovered from %s in %.2f s (%s): restarts %d, requests replayed %d, tokens recomputed %d; %s; crash file %s",
            record.cause.value,
            record.seconds,
            recovery.message,
            record.restarts,
            record.requests,
            record.tokens,
            ", ".join(f"{name} {seconds:.2f} s" for name, seconds in record.phases.items()),
            recovery.crash or "none",
        )
        if self._observe is not None:
            self._observe(record)

    def _started(self, link: WorkerLink, end_s: float, ended_s: float) -> WorkerLink:
        """Note what the start of `link` was made of."""
        assert self._recovery is not None
        ready = link.ready
        allocate_s = ready.measure_s + ready.allocate_s
        parts = {"open": ready.open_s, "load": ready.load_s, "allocate": allocate_s, "warm up": ready.warm_up_s}
        process_s = max(0.0, self._clock() - ended_s - sum(parts.values()))
        self._recovery.phases = {"end": end_s, "process": process_s, **parts}
        logger.debug("recovery: worker %d is ready; its requests are planned again", ready.pid)
        return link

    def _spend(self, death: WorkerDiedError, *, counts: bool = True) -> None:
        assert self._recovery is not None
        if counts and not self._budget.spend(self._clock()):
            raise self._last(death)
        if counts:
            self._kills.append(death.killer)
        self.restarts[death.cause] += 1
        self._recovery.restarts += 1

    def _last(self, death: WorkerDiedError) -> WorkerDiedError:
        """`death`, which ends all, with the reason why nothing follows."""
        most = self._budget.most
        if not most:
            return death
        why = f"the worker was started again {most} times within {self._budget.window_s:g} s, which is all that "
        kills = [killer.name for killer in [*self._kills, death.killer] if killer is not None]
        outside = (
            f"; of the workers, {len(kills)} killed from outside ({', '.join(sorted(set(kills)))}), as by the system "
            "when memory runs out, and no request is to blame for that"
        )
        return WorkerDiedError(
            f"{why}max_worker_restarts allows{outside if kills else ''}; then: {death.message}",
            exit_code=death.exit_code,
            cause=death.cause,
        )


def _failed_start(error: Exception) -> WorkerDiedError:
    """Turns whatever kept a worker from starting into the death of a worker."""
    match error:
        case WorkerDiedError():
            return WorkerDiedError(
                error.message, exit_code=error.exit_code, cause=DeathCause.START, traceback=error.traceback
            )
        case OctavoError():
            message = error.message
        case OSError():
            message = f"the system refused: {error.strerror or error}" + (
                f" ({error.filename})" if error.filename else ""
            )
        case _:
            message = f"{type(error).__name__}: {error}"
    return WorkerDiedError(message, cause=DeathCause.START)
