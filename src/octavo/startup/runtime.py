"""A ready worker and all that an engine is made from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from octavo.config import EngineConfig, Settings
from octavo.engine.engine import Engine
from octavo.engine.processes.link import WorkerLink
from octavo.engine.processes.worker_source import WorkerSource
from octavo.engine.recovery.crash_log import CrashLog
from octavo.engine.recovery.fault_injection import FaultInjector
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.statistics import RecoveryRecord, StepLog, StepRecord
from octavo.errors import DeathCause, WorkerDiedError
from octavo.grammar import Compiler, ForkServer, Vocabulary
from octavo.messages import WorkerReady
from octavo.startup.configs import engine_config, require_files_and_memory, worker_config
from octavo.startup.model import Model, load_model
from octavo.startup.recovery import crash_log, fault_injector
from octavo.startup.worker_sources import OpenWorkers

Observer = Callable[[StepRecord], None]
RecoveryObserver = Callable[[RecoveryRecord], None]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A ready worker, where the next would come from, and all that an engine is made from. Close it when done."""

    settings: Settings
    model: Model
    source: WorkerSource
    link: WorkerLink
    """The first worker."""
    config: EngineConfig
    step_log: StepLog | None
    injector: FaultInjector | None
    crashes: CrashLog | None
    phases: Mapping[str, float]
    """Name of each part of the start to its seconds."""
    fork_server: ForkServer
    compiler: Compiler
    engines: list[Engine] = dataclasses.field(default_factory=list)
    """Those that were made."""

    def engine(self, observe: Observer | None = None, observe_recovery: RecoveryObserver | None = None) -> Engine:
        """The engine; `observe` gets the record of every step, beside the step log."""
        budget = RestartBudget(self.settings.max_worker_restarts, self.settings.worker_restart_window)
        step_timeout_s = self.settings.worker_step_timeout
        supervisor = Supervisor(self.source, budget, observe_recovery, step_timeout_s=step_timeout_s)
        engine = Engine(
            self.config,
            self.link,
            _both(observe, self.step_log),
            supervisor=supervisor,
            injector=self.injector,
            crashes=self.crashes,
            deaths_before_blame=self.settings.deaths_before_blame,
            fork_server=self.fork_server,
        )
        self.engines.append(engine)
        return engine

    def close(self) -> None:
        """End the workers, for which no engine looks for others; safe to call twice."""
        for engine in self.engines:
            engine.abandon()
            engine.close()
        self.compiler.close()
        self.source.close()
        if self.step_log is not None:
            self.step_log.close()


def start(settings: Settings, open_workers: OpenWorkers, beside: Callable[[], None] | None = None) -> Runtime:
    """Read the model's small files, start a worker, and size the engine by what it has.

    Args:
        settings: of the model, the worker and the engine.
        open_workers: opens what workers come from.
        beside: is called when the first processes run, before any is waited for; None: nothing.

    Raises:
        ConfigError: settings that the model or the machine cannot work with.
        CheckpointError: the model folder is wrong.
        WorkerDiedError: the worker could not start; says why.
    """
    began = time.monotonic()
    model = load_model(settings)
    config = worker_config(settings, model)
    require_files_and_memory(config, model)
    injector = fault_injector(settings, config.device)
    crashes = crash_log(settings, config)
    step_log = StepLog(Path(settings.step_log)) if settings.step_log is not None else None
    read = time.monotonic()
    source = open_workers(config, settings)
    try:
        if beside is not None:
            source.tend()
            beside()
        link = source.start(config.num_blocks)
        engine = engine_config(settings, model, link.ready.num_blocks)
    except BaseException as exc:
        source.close()
        if isinstance(exc, (OSError, RuntimeError, MemoryError)):
            raise WorkerDiedError(f"the worker could not start: {exc}", cause=DeathCause.START) from exc
        raise
    phases = {"files": read - began, **_phases(link.ready, time.monotonic() - read)}
    forks = ForkServer(Vocabulary(model.tokenizer, engine.vocab_size, engine.eos_token_ids))
    return Runtime(settings, model, source, link, engine, step_log, injector, crashes, phases, forks, Compiler(forks))


def _phases(ready: WorkerReady, start_s: float) -> dict[str, float]:
    """Parts of the `start_s` seconds until a worker was ready, by name; what it did not time itself is its process."""
    parts = {
        "device": ready.open_s,
        "weights": ready.load_s,
        "kernels": ready.measure_s,
        "KV cache": ready.allocate_s,
        "largest step": ready.warm_up_s,
    }
    return {"worker process": max(0.0, start_s - sum(parts.values())), **parts}


def _both(observe: Observer | None, step_log: StepLog | None) -> Observer | None:
    if observe is None or step_log is None:
        return observe or step_log

    def call(record: StepRecord) -> None:
        step_log(record)
        observe(record)

    return call
