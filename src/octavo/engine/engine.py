"""The engine: requests in, tokens out, one step after the other."""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from octavo.config import EngineConfig
from octavo.engine.acceptance import accept, check_room
from octavo.engine.crash_log import CrashLog
from octavo.engine.faults import FaultInjector
from octavo.engine.ledger import Ledger, copy_of
from octavo.engine.link import WorkerLink
from octavo.engine.poison import KillerSearch, PoisonWatch
from octavo.engine.request import Request
from octavo.engine.scheduler import Scheduler, Step
from octavo.engine.sequence import Sequence
from octavo.engine.statistics import EngineStatus, StepRecord
from octavo.engine.supervisor import NoSupply, RestartBudget, Supervisor
from octavo.engine.update import FinishReason, Update
from octavo.errors import ConfigError, DeathCause, RequestError, RequestFailedError, WorkerDiedError
from octavo.messages import Fault, StepResult

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2
"""Plans sent without a result: one runs, one waits behind it, so that the worker never waits for the engine."""


class Engine:
    """Runs requests on one worker at a time. For one thread; `EngineLoop` is the door for others.

    Every accepted request gets exactly one update with a finish reason. When the worker dies, the next one goes on with
    every request from its token history, which is the only state that matters; without a `supervisor`, or if that gives
    up, every request ends with an error. `deaths_before_blame`: of workers with a request alone before it is failed.

    Raises:
        ConfigError: the worker has fewer KV blocks than the config says.
    """

    def __init__(
        self,
        config: EngineConfig,
        link: WorkerLink,
        observe: Callable[[StepRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
        injector: FaultInjector | None = None,
        crashes: CrashLog | None = None,
        *,
        deaths_before_blame: int = 2,
    ) -> None:
        if config.num_blocks > link.ready.num_blocks:
            raise ConfigError("num_blocks", f"is {config.num_blocks}, but the worker has {link.ready.num_blocks}")
        self.config = config
        self._ledger = Ledger(config)
        self.death: WorkerDiedError | None = None
        self._link = link
        self._observe = observe
        self._clock = clock
        self._supervisor = supervisor or Supervisor(NoSupply(), RestartBudget(0, 1.0), clock=clock)
        self._injector = injector
        self._crashes = crashes
        self._last_crash: Path | None = None
        """The folder of the last death of a worker that was ready, if one was written."""
        self._watch = PoisonWatch(deaths_before_blame)
        self._link_is_dead = False
        """The next step starts the next worker."""
        self._in_flight: deque[Step] = deque()
        self._last_result_s = clock()
        self._step_began_s = clock()
        """When the worker could begin with the oldest step in flight."""
        self._deadline = self._supervisor.deadline
        self._deadline.on_start(link.ready.warm_up_s)

    @property
    def scheduler(self) -> Scheduler:
        return self._ledger.scheduler

    @property
    def sequences(self) -> Mapping[str, Sequence]:
        """The accepted requests that have not ended, by id, in order of arrival."""
        return self._ledger.sequences

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.sequences or self._in_flight or self._ledger.updates or self._link_is_dead)

    def add(self, request: Request) -> None:
        """Accept `request`; its updates come from `step`.

        Raises:
            RequestError: it can never be served; `param` names the field.
            OverloadedError: the queue is full.
            WorkerDiedError: the worker is gone.
        """
        sequence = self.accept(request)
        self.check_room(sequence)
        self.enqueue(sequence)

    def accept(self, request: Request) -> Sequence:
        """Check `request` against what can ever be served; changes nothing, so any thread may call it.

        Raises:
            RequestError, WorkerDiedError: as `add`.
        """
        if self.death is not None:
            raise copy_of(self.death)
        return accept(request, self.config)

    def check_room(self, sequence: Sequence, arriving: Mapping[str, Sequence] = MappingProxyType({})) -> None:
        """Check that the queue has room for `sequence`, behind those `arriving` that are accepted but not enqueued.

        Raises:
            RequestError: its id is in use.
            OverloadedError: the queue is full.
        """
        if sequence.request_id in self.sequences or sequence.request_id in arriving:
            raise RequestError(f"request id {sequence.request_id!r} is in use", param="request_id")
        check_room(sequence, arriving, self.scheduler, self.config)

    def enqueue(self, sequence: Sequence) -> None:
        """Put an accepted sequence in the queue; if the worker has died since, it ends at once."""
        if self.death is not None:
            self._ledger.refuse(sequence, self.death)
        else:
            self._ledger.enqueue(sequence)

    def abandon(self) -> None:
        """From any thread: let a `step` that waits for the next worker raise AbandonedError soon."""
        self._supervisor.abandon()

    def abort(self, request_id: str) -> None:
        """End a request at once: its last update follows, and no token. Nothing happens if it is not alive."""
        sequence = self.sequences.get(request_id)
        if sequence is not None:
            self._ledger.end(sequence, FinishReason.ABORT)

    def step(self, timeout_s: float | None = None) -> list[Update]:
        """Send what can be planned, take in the next result, and return all news.

        Waits for a result, if one is due, for `timeout_s` seconds (None: as long as a step may take). When the worker
        has died, the step after starts the next one, which takes as long as it takes. Does not raise when that is not
        possible: every request ends with that error.
        """
        if self.death is None:
            try:
                self._supervisor.tend()
                if self._link_is_dead:
                    self._resume()
                else:
                    self._go_on(timeout_s)
                if not (self.sequences or self._link_is_dead):
                    self._supervisor.on_recovered()
            except WorkerDiedError as last:
                self.die(last)
        return self.take_updates()

    def take_updates(self) -> list[Update]:
        """All news not yet returned."""
        updates, self._ledger.updates = self._ledger.updates, []
        return updates

    def die(self, error: WorkerDiedError) -> None:
        """End every request with `error`, drop the schedule, and refuse all that come after."""
        self.death = error
        self._link_is_dead = False
        self._in_flight.clear()
        self._ledger.end_all(error)

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing done, while requests are alive."""
        if self.sequences:
            return False
        self.scheduler.pool.reset_cache()
        return True

    def status(self) -> EngineStatus:
        """A snapshot; may be called from any thread."""
        scheduler = self.scheduler
        return EngineStatus(
            alive=self.death is None,
            worker_pid=self._link.ready.pid,
            recovering=self._supervisor.recovering and self.death is None,
            restarts={cause.value: count for cause, count in self._supervisor.restarts.items()},
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(scheduler.held),
            kv_usage=scheduler.pool.usage,
            free_blocks=scheduler.pool.available,
            total_blocks=self.config.num_blocks,
            last_step_age_s=self._clock() - self._last_result_s,
            **dataclasses.asdict(self._ledger.counters),
            finished={reason.value: count for reason, count in self._ledger.finished.items()},
            death=None if self.death is None else self.death.message,
        )

    def check_invariants(self) -> None:
        """Assert that the books are in order; see `Ledger`."""
        self._ledger.check_invariants()
        assert self._watch.search is not None or not self.scheduler.held
        assert len(self._in_flight) <= MAX_IN_FLIGHT

    def _go_on(self, timeout_s: float | None) -> None:
        """Exchange messages with the worker; if it is lost, all wait for the next one.

        Raises:
            WorkerDiedError: there will be none.
        """
        try:
            self._exchange(timeout_s)
        except WorkerDiedError as death:
            self._fall(death)

    def _exchange(self, timeout_s: float | None) -> None:
        """Keep two plans in flight, then wait for the result of the older."""
        self._advance_search()
        while len(self._in_flight) < MAX_IN_FLIGHT:
            step = self.scheduler.plan(self._clock())
            if step is None:
                break
            if not self._in_flight:
                self._step_began_s = self._clock()
            self._in_flight.append(step)
            step.faults = self._faults_of(step)
            try:
                self._link.send(step.plan())
            except WorkerDiedError:
                break  # receiving says so again, after the results that are still there
        assert self._in_flight or not self.sequences, "requests are alive, but none can run"
        if not self._in_flight:
            self._link.receive(0)
            return
        left_s = self._step_began_s + self._deadline.seconds - self._clock()
        result = self._link.receive(max(0.0, left_s if timeout_s is None else min(timeout_s, left_s)))
        if result is not None:
            self._take_in(result)
        elif left_s <= 0:
            raise self._hang()

    def _hang(self) -> WorkerDiedError:
        late = f"a step has taken more than {self._deadline.seconds:.3g} s"
        if self._link.stopped:
            stopped = f"the worker was stopped from outside, and {late}"
            return WorkerDiedError(stopped, exit_code=-signal.SIGSTOP, cause=DeathCause.SIGNAL)
        return WorkerDiedError(f"the worker hangs: {late}", cause=DeathCause.HANG)

    def _faults_of(self, step: Step) -> list[Fault]:
        """The faults to inject into the youngest step in flight."""
        if self._injector is None:
            return []
        return self._injector.faults_of(self._ledger.counters.steps + len(self._in_flight), step.slots())

    def _take_in(self, result: StepResult) -> None:
        """Book the result of the oldest step in flight."""
        if not self._in_flight or self._in_flight[0].number != result.step:
            raise WorkerDiedError(f"the worker answered step {result.step}, which was not the next one due")
        step = self._in_flight[0]
        now_s = self._clock()
        self._deadline.on_step(now_s - self._step_began_s)
        self._step_began_s = self._last_result_s = now_s
        ends = _ends(step) if self._watch.needs_steps else {}
        self._ledger.take_in(step, result)
        self._watch.on_step(ends)
        self._in_flight.popleft()
        self.scheduler.received = step.number
        self._ledger.counters.steps += 1
        self._supervisor.on_recovered()
        if self._observe is not None:
            self._observe(step.record(self._ledger.counters.steps, result.elapsed_s))

    def _record(self, death: WorkerDiedError) -> Path | None:
        """Write down what the worker died with; the folder, if one was written."""
        if self._crashes is None:
            return None
        restarts = sum(self._supervisor.restarts.values())
        number = self._ledger.counters.steps + 1
        return self._crashes.write(death, self._link, self._in_flight, number=number, restarts=restarts)

    def _fall(self, death: WorkerDiedError) -> None:
        """The worker is lost, with all it held: every request waits again, with nothing computed.

        Raises:
            WorkerDiedError: the supervisor gives up.
        """
        self._last_crash = self._record(death)
        running = [running.computed for running in self.scheduler.running]
        # A result that was sent may be lost with its worker, so either of the steps in flight may be the one it died in.
        ends: dict[str, int] = {}
        for step in reversed(self._in_flight):
            ends |= _ends(step)
        evident = bool(ends) and death.killer is None
        tried = self._watch.search if evident else None
        self._supervisor.on_death(death, len(running), sum(running), counts=tried is None, crash=self._last_crash)
        self._in_flight.clear()
        if self._injector is not None:
            self._injector.on_death(self._ledger.counters.steps)
        self._link_is_dead = True
        self._ledger.counters.requests_replayed += len(running)
        self._ledger.counters.tokens_recomputed += sum(running)
        self._ledger.replay()
        if evident:
            alive = {each: len(sequence.tokens) for each, sequence in self.sequences.items()}
            self._watch.on_death(ends, alive, last_restart=self._supervisor.on_last_restart)
        if tried is not None:
            self._conclude_trial(tried, died=True)
        elif self._watch.search is not None:
            if evident:
                logger.warning("workers died in a row under the same requests, %d in a step: they run apart", len(ends))
            self._ledger.restrict(self._watch.search.group)

    def _advance_search(self) -> None:
        """Wait until the requests that run apart have all got past their position, or ended, and nothing is in flight."""
        while (search := self._watch.search) is not None:
            search.pending.intersection_update(self.sequences)
            if search.pending:
                return
            if self._in_flight:
                self._ledger.restrict(())
                return
            self._conclude_trial(search, died=False)

    def _conclude_trial(self, search: KillerSearch, *, died: bool) -> None:
        """Record whether the isolated group killed the worker; isolate the next group, or fail those found guilty."""
        killers = search.record_trial(died=died)
        if killers is None:
            self._ledger.restrict(search.group)
            return
        self._supervisor.forgive(self._watch.end_search(killers))
        self._ledger.restrict(None)
        alive = [self.sequences[each] for each in killers if each in self.sequences]
        logger.warning("requests that kill the worker: %s", ", ".join(killers) or "none found")
        for sequence in alive:
            blame = RequestFailedError(_blame(len(killers), self._last_crash))
            self._ledger.end(sequence, FinishReason.ERROR, error=blame)

    def _resume(self) -> None:
        """Go on with the next worker.

        Raises:
            WorkerDiedError: there is none.
        """
        self._link = self._supervisor.replace(self._link, self.config.num_blocks, self._record)
        if self._link.ready.num_blocks < self.config.num_blocks:
            raise WorkerDiedError(f"the next worker has {self._link.ready.num_blocks} KV blocks, fewer than the last")
        self._link_is_dead = False
        self._deadline.on_start(self._link.ready.warm_up_s)


def _ends(step: Step) -> dict[str, int]:
    """Who is in `step`: request id -> the position at which its chunk ends."""
    ends = {chunk.slot: chunk.start + chunk.count for chunk in step.chunks}
    return {request_id: ends[slot] for request_id, slot in step.slots().items()}


def _blame(count: int, crash: Path | None) -> str:
    company = "it alone" if count == 1 else f"it and {count - 1} other{'s' * (count > 2)}"
    where = "" if crash is None else f"; crash file {crash.name}"
    return (
        f"the worker died each time this request ran, and again with {company}: "
        f"it cannot be served; others go on{where}"
    )
