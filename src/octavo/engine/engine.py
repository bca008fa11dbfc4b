"""The engine: requests in, tokens out, one step after the other."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from octavo.config import EngineConfig
from octavo.engine.acceptance import accept, check_room
from octavo.engine.masks import Masks
from octavo.engine.processes.link import WorkerLink
from octavo.engine.recovery.crash_log import CrashLog
from octavo.engine.recovery.fault_injection import FaultInjector
from octavo.engine.recovery.recovery import Recovery
from octavo.engine.recovery.supervisor import NoSource, RestartBudget, Supervisor
from octavo.engine.request import Request
from octavo.engine.request_table import RequestTable, copy_of
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Sequence
from octavo.engine.statistics import EngineStatus, StepRecord
from octavo.engine.step import Step
from octavo.engine.update import FinishReason, Update
from octavo.errors import ConfigError, DeathCause, RequestError, WorkerDiedError
from octavo.grammar import ForkServer
from octavo.messages import StepMasks, StepPlan, StepResult

_Message = TypeVar("_Message", StepPlan, StepMasks)

MAX_IN_FLIGHT = 2
"""Plans sent without a result: one runs, one waits behind it, so that the worker never waits for the engine."""
PATIENCE_S = 0.02
"""How long a step may wait for what its requests with a grammar may sample, from when the last token before it is there: the worker
computes meanwhile. Those that are not told by then sample in a later step, and for `CAUTIOUS` tokens no step waits for them."""
MASK_LOOK_S = 0.05
"""With nothing else to do: how long to wait for that before looking at other things."""


class Engine:
    """Runs requests on one worker at a time. For one thread; `EngineLoop` is the door for others.

    Every accepted request gets exactly one update with a finish reason. When the worker dies, the next one goes on with
    every request from its token history, which is the only state that matters; without a `supervisor`, or if that gives
    up, every request ends with an error. `deaths_before_blame`: of workers with a request alone before it is failed.
    `fork_server`: where the process comes from that follows grammars; None: no request may have one.

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
        fork_server: ForkServer | None = None,
        deaths_before_blame: int = 2,
    ) -> None:
        if config.num_blocks > link.ready.num_blocks:
            raise ConfigError("num_blocks", f"is {config.num_blocks}, but the worker has {link.ready.num_blocks}")
        self.config = config
        self._requests = RequestTable(config)
        self.death: WorkerDiedError | None = None
        self._link = link
        self._observe = observe
        self._clock = clock
        self._supervisor = supervisor or Supervisor(NoSource(), RestartBudget(0, 1.0), clock=clock)
        self._recovery = Recovery(self._requests, self._supervisor, injector, crashes, deaths_before_blame)
        self._masks = Masks(self._requests, fork_server)
        self._in_flight: deque[Step] = deque()
        self._last_result_s = clock()
        self._step_began_s = clock()
        """When the worker could begin with the oldest step in flight."""
        self._deadline = self._supervisor.deadline
        self._deadline.on_start(link.ready.warm_up_s)

    @property
    def scheduler(self) -> Scheduler:
        return self._requests.scheduler

    @property
    def sequences(self) -> Mapping[str, Sequence]:
        """The accepted requests that have not ended, by id, in order of arrival."""
        return self._requests.sequences

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.sequences or self._in_flight or self._requests.updates or self._recovery.needs_worker)

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
        if request.grammar is not None and not self._masks.served:
            raise RequestError("this engine was made without what follows grammars", param="structured_outputs")
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
            self._requests.refuse(sequence, self.death)
        else:
            self._requests.enqueue(sequence)
            if sequence.grammar is not None:
                self._masks.begin(sequence, sequence.grammar)

    def close(self) -> None:
        """Let go of the process that follows grammars, when no thread steps any more; safe to call twice."""
        self._masks.close()

    def abandon(self) -> None:
        """Makes a `step` that waits for the next worker raise AbandonedError soon; any thread may call it."""
        self._supervisor.abandon()

    def abort(self, request_id: str) -> None:
        """End a request at once: its last update follows, and no token. Nothing happens if it is not alive."""
        sequence = self.sequences.get(request_id)
        if sequence is not None:
            self._requests.end(sequence, FinishReason.ABORT)

    def step(self, timeout_s: float | None = None) -> list[Update]:
        """Send what can be planned, take in the next result, and return all news.

        Waits for a result, if one is due, for `timeout_s` seconds (None: as long as a step may take). When the worker
        has died, the step after starts the next one, which takes as long as it takes. Does not raise when that is not
        possible: every request ends with that error.
        """
        if self.death is None:
            try:
                self._supervisor.tend()
                if self._recovery.needs_worker:
                    self._start_next_worker()
                else:
                    self._step_or_recover(timeout_s)
                if not (self.sequences or self._recovery.needs_worker):
                    self._supervisor.on_recovered()
            except WorkerDiedError as last:
                self.die(last)
        return self.take_updates()

    def take_updates(self) -> list[Update]:
        """All news not yet returned."""
        updates, self._requests.updates = self._requests.updates, []
        return updates

    def die(self, error: WorkerDiedError) -> None:
        """End every request with `error`, drop the schedule, and refuse all that come after."""
        self.death = error
        self._recovery.needs_worker = False
        self._in_flight.clear()
        self._requests.end_all(error)

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
            cached_blocks=scheduler.pool.num_cached,
            last_step_age_s=self._clock() - self._last_result_s,
            step_token_limit=self._requests.most_tokens,
            step_token_budget=self.config.max_num_batched_tokens,
            **dataclasses.asdict(self._requests.counters),
            finished={reason.value: count for reason, count in self._requests.finished.items()},
            death=None if self.death is None else self.death.message,
        )

    def check_invariants(self) -> None:
        """Assert that the books are in order; see `RequestTable`."""
        self._requests.check_invariants()
        assert self._recovery.searching or not self.scheduler.held
        assert len(self._in_flight) <= MAX_IN_FLIGHT

    def _step_or_recover(self, timeout_s: float | None) -> None:
        """Exchange messages with the worker; if it is lost, all requests wait for the next one.

        Raises:
            WorkerDiedError: there will be none.
        """
        try:
            self._exchange(timeout_s)
        except WorkerDiedError as death:
            self._recovery.on_death(death, self._link, self._in_flight)
            self._in_flight.clear()

    def _exchange(self, timeout_s: float | None) -> None:
        """Keep two plans in flight, then apply the result of the older."""
        self._masks.take()
        self._recovery.advance_search(idle=not self._in_flight)
        going = self._tell_oldest()
        while (
            going and len(self._in_flight) < MAX_IN_FLIGHT and (step := self.scheduler.plan(self._clock())) is not None
        ):
            going = self._send(step) and self._tell_oldest()
        if (result := self._receive(timeout_s)) is not None:
            self._apply(result)

    def _tell_oldest(self) -> bool:
        """Tell the worker what the oldest step may sample, if it waits for that: all tokens before are known. False as `_send`.

        So whatever is planned knows of every step in flight who gets a token in it.
        """
        if not self._in_flight or (step := self._in_flight[0]).is_told:
            return True
        self._masks.wait_for([running.sequence for running in step.constrained], PATIENCE_S)
        return self._queue(self._link.tell, step.masks())

    def _send(self, step: Step) -> bool:
        """Put `step` in flight; False if the worker is gone: receiving says so again, after the results still there."""
        if not self._in_flight:
            self._step_began_s = self._clock()
        self._in_flight.append(step)
        step.faults = self._recovery.faults_of(step, self._requests.counters.steps + len(self._in_flight))
        self._masks.prepare(step.beginning())
        return self._queue(self._link.send, step.plan())

    @staticmethod
    def _queue(send: Callable[[_Message], None], message: _Message) -> bool:
        try:
            send(message)
        except WorkerDiedError:
            return False
        return True

    def _receive(self, timeout_s: float | None) -> StepResult | None:
        """The next result, or None after `timeout_s` (None: as long as a step may take), or if none is due."""
        if not self._in_flight and self._masks.pending:
            self._masks.wait(MASK_LOOK_S if timeout_s is None else min(timeout_s, MASK_LOOK_S))
            return None
        assert self._in_flight or not self.sequences, "requests are alive, but none can run"
        if not self._in_flight:
            return self._link.receive(0)
        left_s = self._step_began_s + self._deadline.seconds - self._clock()
        result = self._link.receive(max(0.0, left_s if timeout_s is None else min(timeout_s, left_s)))
        if result is None and left_s <= 0:
            raise self._hang()
        return result

    def _hang(self) -> WorkerDiedError:
        late = f"a step has taken more than {self._deadline.seconds:.3g} s"
        if self._link.stopped:
            stopped = f"the worker was stopped from outside, and {late}"
            return WorkerDiedError(stopped, exit_code=-signal.SIGSTOP, cause=DeathCause.SIGNAL)
        return WorkerDiedError(f"the worker hangs: {late}", cause=DeathCause.HANG)

    def _apply(self, result: StepResult) -> None:
        """Book the result of the oldest step in flight."""
        if not self._in_flight or self._in_flight[0].number != result.step:
            raise WorkerDiedError(f"the worker answered step {result.step}, which was not the next one due")
        step = self._in_flight[0]
        now_s = self._clock()
        self._deadline.on_step(now_s - self._step_began_s)
        self._step_began_s = self._last_result_s = now_s
        positions = self._recovery.positions_of(step)
        followed = step.followed()
        self._requests.apply_result(step, result)
        self._masks.advance(followed)
        self._in_flight.popleft()
        self.scheduler.received = step.number
        self._requests.counters.steps += 1
        self._recovery.on_result(step, positions)
        if self._observe is not None:
            self._observe(step.record(self._requests.counters.steps, result.elapsed_s))

    def _start_next_worker(self) -> None:
        """Go on with the next worker.

        Raises:
            WorkerDiedError: there is none.
        """
        self._link = self._recovery.next_worker(self._link, self.config.num_blocks)
        self._deadline.on_start(self._link.ready.warm_up_s)
