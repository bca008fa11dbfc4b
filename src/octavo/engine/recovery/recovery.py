"""Brings the requests of a worker that died to the next one, and finds those that kill every worker they run on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from octavo.engine.processes.link import WorkerLink
from octavo.engine.recovery.crash_log import CrashLog
from octavo.engine.recovery.fault_injection import FaultInjector
from octavo.engine.recovery.killers import NOWHERE, KillerSearch, SuspectWatch
from octavo.engine.recovery.step_sizes import StepSizes
from octavo.engine.recovery.supervisor import Supervisor
from octavo.engine.request_table import RequestTable
from octavo.engine.step import Step
from octavo.engine.update import FinishReason
from octavo.errors import RequestFailedError, WorkerDiedError
from octavo.messages import Fault

logger = logging.getLogger(__name__)


class Recovery:
    """Brings requests to the next worker. The engine calls it when a worker has died, before each step, and after each result.

    Args:
        requests: those of the engine; after a death all wait again, and while killers are searched for, only some run.
        supervisor: starts the next worker.
        injector: hands out faults for tests.
        crashes: writes down each death.
        deaths_before_blame: of workers with a request alone before it is failed.
    """

    def __init__(
        self,
        requests: RequestTable,
        supervisor: Supervisor,
        injector: FaultInjector | None,
        crashes: CrashLog | None,
        deaths_before_blame: int,
    ) -> None:
        self.needs_worker = False
        """A worker has died, and the next one has not been started yet."""
        self._requests = requests
        self._supervisor = supervisor
        self._injector = injector
        self._crashes = crashes
        self._last_crash: Path | None = None
        """The folder of the last death of a worker that was ready, if one was written."""
        self._watch = SuspectWatch(deaths_before_blame)
        self._sizes = StepSizes(requests.config.max_num_batched_tokens)

    @property
    def searching(self) -> bool:
        """Requests run apart, to find those that kill."""
        return self._watch.search is not None

    def faults_of(self, step: Step, number: int) -> list[Fault]:
        """The faults to inject into `step`, the engine's step `number`."""
        return [] if self._injector is None else self._injector.faults_of(number, step.slots(), step.tokens)

    def positions_of(self, step: Step) -> Mapping[str, int]:
        """Says where the chunk of each request ends in a step, by request id; `on_result` needs it when the step's result is applied."""
        return step.positions() if self._watch.needs_steps else {}

    def on_result(self, step: Step, positions: Mapping[str, int]) -> None:
        """`step` gave its result: requests got to `positions`, and no worker is waited for."""
        self._watch.on_step(positions)
        if self._sizes.needs_steps:
            self._sizes.on_step(step.tokens)
        self._supervisor.on_recovered()

    def on_death(self, death: WorkerDiedError, link: WorkerLink, in_flight: Sequence[Step]) -> None:
        """A worker is lost, with all it held: every request waits again, with nothing computed.

        Args:
            link: to that worker, not yet closed.
            in_flight: steps without a result, oldest first.

        Raises:
            WorkerDiedError: the supervisor gives up.
        """
        self._last_crash = self._record(death, link, in_flight)
        computed = [running.computed for running in self._requests.scheduler.running]
        # A result that was sent may be lost with its worker, so either of the steps in flight may be the one it died in.
        positions: dict[str, int] = {}
        last: dict[str, int] = {}
        for step in in_flight:
            positions = step.positions() | positions
            last |= step.positions()
        evident = bool(positions) and death.killer is None
        tried = self._watch.search if evident else None
        self._supervisor.on_death(death, len(computed), sum(computed), counts=tried is None, crash=self._last_crash)
        if self._injector is not None:
            self._injector.on_death(self._requests.counters.steps)
        self.needs_worker = True
        sizes = [step.tokens for step in in_flight if step.tokens]
        if evident and sizes and (tried is None or not tried.trial.in_small_steps):
            self._supervisor.forgive(self._sizes.on_death(sizes, counts=tried is None))
            self._take_sizes()
        self._requests.replay()
        if evident:
            alive = {each: len(sequence.tokens) for each, sequence in self._requests.sequences.items()}
            self._watch.on_death(positions, alive, last_restart=self._supervisor.on_last_restart, last_ends=last)
        if tried is not None:
            self._conclude_trial(tried, died=True, last=last)
        elif self._watch.search is not None:
            if evident:
                logger.warning(
                    "workers died in a row under the same requests, %d in a step: they run apart", len(positions)
                )
            # Whoever kills from outside may leave workers no time for the largest step.
            self._try(self._watch.search, whole_steps=evident)

    def next_worker(self, link: WorkerLink, num_blocks: int) -> WorkerLink:
        """A worker in place of the one at `link`, with at least `num_blocks` KV blocks.

        Raises:
            WorkerDiedError: there is none.
            AbandonedError: nobody waits for it any more.
        """
        link = self._supervisor.replace(link, num_blocks, lambda death: self._record(death, link, ()))
        if link.ready.num_blocks < num_blocks:
            raise WorkerDiedError(f"the next worker has {link.ready.num_blocks} KV blocks, fewer than the last")
        self.needs_worker = False
        return link

    def advance_search(self, *, idle: bool) -> None:
        """Try the next group once all requests that run apart have got past their positions, or ended.

        Args:
            idle: no step is in flight.
        """
        while (search := self._watch.search) is not None:
            search.pending.intersection_update(self._requests.sequences)
            if search.pending:
                return
            if not idle:
                self._requests.restrict(())
                return
            self._conclude_trial(search, died=False)

    def _conclude_trial(self, search: KillerSearch, *, died: bool, last: Mapping[str, int] = NOWHERE) -> None:
        """Record whether the isolated group killed the worker, whose steps had chunks up to `last`; isolate the next group, or fail those
        found guilty."""
        small, lived = search.trial.in_small_steps, search.has_lived
        killers = search.record_trial(died=died, last_ends=last)
        if killers is None:
            self._try(search)
            return
        if small and lived and not died:
            self._sizes.on_life_in_small_steps()
        # Whoever has gone in the midst of a trial may have been the one: of steps nothing is known then.
        explained = self._sizes.on_verdict(found=bool(killers) or not (died or lived))
        sequences = self._requests.sequences
        guilty = self._watch.guilty(killers, sequences)
        self._supervisor.forgive(max(0, self._watch.end_search(guilty) - explained))
        self._take_sizes()
        self._requests.restrict(None)
        names = ", ".join(guilty) or ("some have ended without which the others do not" if killers else "none found")
        logger.warning("requests that kill the worker: %s", names)
        for sequence in [sequences[each] for each in guilty]:
            blame = RequestFailedError(_blame(len(killers), self._last_crash))
            self._requests.end(sequence, FinishReason.ERROR, error=blame)

    def _try(self, search: KillerSearch, *, whole_steps: bool = True) -> None:
        """Isolate the requests of the search's trial."""
        most = self._sizes.small if search.trial.in_small_steps else None
        self._requests.restrict(search.trial.group, whole_steps=whole_steps, most_tokens=most)

    def _take_sizes(self) -> None:
        """Have steps be as large as they may be by now."""
        if self._sizes.most < self._requests.most_tokens:
            logger.warning(
                "workers died in steps of more than %d tokens: steps have at most as many from now on, until the next start or until a "
                "request is found that is to blame",
                self._sizes.most,
            )
        self._requests.most_tokens = self._sizes.most

    def _record(self, death: WorkerDiedError, link: WorkerLink, in_flight: Sequence[Step]) -> Path | None:
        """Write down what the worker died with; the folder, if one was written."""
        if self._crashes is None:
            return None
        restarts = sum(self._supervisor.restarts.values())
        number = self._requests.counters.steps + 1
        return self._crashes.write(death, link, in_flight, number=number, restarts=restarts)


def _blame(count: int, crash: Path | None) -> str:
    company = "it alone" if count == 1 else f"it and {count - 1} other{'s' * (count > 2)}"
    where = "" if crash is None else f"; crash file {crash.name}"
    return (
        f"the worker died each time this request ran, and again with {company}: "
        f"it cannot be served; others go on{where}"
    )
