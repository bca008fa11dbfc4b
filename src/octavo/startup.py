"""Wires the rooms together: from settings to an engine, and to a server. The one place that knows them all."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from octavo.checkpoints.files import find_files
from octavo.checkpoints.folder import TEXT_PATTERNS, Hub, resolve_folder
from octavo.config import EngineConfig, ModelFacts, Settings, WeightFormat
from octavo.config.format_choice import AS_STATED, FormatChoice
from octavo.engine.engine import Engine
from octavo.engine.loop import EngineLoop
from octavo.engine.processes.link import WorkerLink
from octavo.engine.processes.worker_source import WorkerSource
from octavo.engine.recovery.crash_log import CrashLog
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.statistics import RecoveryRecord, StepLog, StepRecord
from octavo.errors import ConfigError, DeathCause, WorkerDiedError
from octavo.grammar import Compiler, ForkServer, Vocabulary
from octavo.messages import FaultKind, WorkerConfig, WorkerReady
from octavo.models.registry import idle_overrides, read_folder
from octavo.text import (
    ChatTemplate,
    DefaultSampling,
    Tokenizer,
    load_chat_template,
    load_default_sampling,
    load_tokenizer,
)
from octavo.worker.host_memory import free_host_bytes, require_room

if TYPE_CHECKING:
    from octavo.server.context import ServerContext

log = logging.getLogger(__name__)

OpenWorkers = Callable[[WorkerConfig, Settings], WorkerSource]
"""Opens what workers come from; starts none yet."""

Observer = Callable[[StepRecord], None]
RecoveryObserver = Callable[[RecoveryRecord], None]


@dataclasses.dataclass(frozen=True)
class Model:
    """Holds what is known of a model without its weights."""

    folder: Path
    facts: ModelFacts
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    default_sampling: DefaultSampling


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


def start(settings: Settings, open_workers: OpenWorkers) -> Runtime:
    """Read the model's small files, start a worker, and size the engine by what it has.

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


def server_context(runtime: Runtime) -> ServerContext:
    """Makes the context of a server; its engine loop is not started yet."""
    from octavo.server.context import ServerContext
    from octavo.server.dispatch import Dispatcher
    from octavo.server.metrics import Metrics

    dispatcher = Dispatcher()
    metrics = Metrics(runtime.settings.model_names[0], runtime.config)
    return ServerContext(
        loop=EngineLoop(runtime.engine(metrics.on_step, metrics.on_recovery), dispatcher.deliver),
        dispatcher=dispatcher,
        metrics=metrics,
        tokenizer=runtime.model.tokenizer,
        chat_template=runtime.model.chat_template,
        default_sampling=runtime.model.default_sampling,
        settings=runtime.settings,
        engine_config=runtime.config,
        model=runtime.model.facts,
        worker_ready=runtime.link.ready,
        phases=runtime.phases,
        compiler=runtime.compiler,
    )


def in_processes(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """Workers in processes of their own: the death of one is an error here, not the end."""
    from octavo.engine.processes.worker_process import ProcessSource

    return ProcessSource(config, settings.worker_start_timeout)


def with_keeper(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """Opens workers as `in_processes` does, with a process that holds the weights and standbys that wait to be the next worker."""
    from octavo.engine.processes.standby_source import StandbySource

    return StandbySource(config, settings.worker_start_timeout)


def in_this_process(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """Workers in this process: they start sooner, but what ends one of them ends us."""
    from octavo.worker.inprocess import InProcessSource

    return InProcessSource(config)


def load_model(settings: Settings) -> Model:
    """Read the small files of the model: configuration, tokenizer, chat template, default sampling.

    Raises:
        ConfigError, CheckpointError: as `start`.
    """
    hub = Hub(settings.download_dir, settings.hf_token)
    folder = resolve_folder(settings.model, settings.revision, hub)
    texts = folder
    if settings.tokenizer is not None or settings.tokenizer_revision is not None:
        name = settings.tokenizer or settings.model
        texts = resolve_folder(name, settings.tokenizer_revision, hub, patterns=TEXT_PATTERNS)
    sampling_folder = {"auto": folder, "vllm": None}.get(settings.generation_config, Path(settings.generation_config))
    facts = read_facts(folder, settings.hf_overrides, FormatChoice(settings.kv_cache_dtype, settings.quantization))
    check_dtype(settings.dtype, facts.weight_format)
    return Model(
        folder=folder,
        facts=facts,
        tokenizer=load_tokenizer(texts),
        chat_template=load_chat_template(
            texts,
            override=settings.chat_template,
            default_kwargs=settings.default_chat_template_kwargs,
            content_format=settings.chat_template_content_format,
        ),
        default_sampling=load_default_sampling(sampling_folder, settings.override_generation_config),
    )


def read_facts(
    folder: Path, overrides: Mapping[str, Any] | None = None, choice: FormatChoice = AS_STATED
) -> ModelFacts:
    """What `folder`'s config.json says of its model, with `overrides` instead of its own fields,
    and formats as the user says.

    Raises:
        CheckpointError: a file is missing or not a JSON object, or states something that is not served.
    """
    facts = read_folder(folder, overrides, choice).facts
    if idle := idle_overrides(folder, overrides or {}):
        log.warning("--hf-overrides: %s changes nothing that is read of this model's config", ", ".join(idle))
    return facts


def check_dtype(dtype: str, weights: WeightFormat) -> None:
    """Say that float16 is not what an FP8 model is computed in, which it was not made for either.

    Raises:
        ConfigError: a bfloat16 model was to be computed in float16.
    """
    if dtype not in ("float16", "half"):
        return
    if weights is WeightFormat.BF16:
        raise ConfigError("dtype", f"is {dtype}, but models are computed in bfloat16, which these weights are in")
    log.warning("--dtype %s has no effect: models are computed in bfloat16, between products in FP8", dtype)


def worker_config(settings: Settings, model: Model) -> WorkerConfig:
    """Makes the configuration that the worker is told.

    Raises:
        ConfigError: max_model_len is more than the model can do.
    """
    longest = model.facts.max_position_embeddings
    if settings.max_model_len is not None and settings.max_model_len > longest:
        raise ConfigError(
            "max_model_len", f"is {settings.max_model_len}, but the model has positions for {longest} tokens only"
        )
    return WorkerConfig(
        model=str(model.folder),
        load_format=settings.load_format,
        hf_overrides=settings.hf_overrides or {},
        kv_cache_dtype=settings.kv_cache_dtype,
        quantization=settings.quantization,
        device=resolve_device(settings.device),
        max_model_len=settings.max_model_len or longest,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        block_size=settings.block_size,
        num_blocks=settings.num_gpu_blocks_override,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.enforce_eager,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
        threads=settings.cpu_threads,
        seed=settings.seed,
        logging_level=settings.logging_level,
    )


def require_files_and_memory(config: WorkerConfig, model: Model) -> None:
    """Notice before anything is loaded that the model has no weights, or that a KV cache as told cannot fit in memory.

    Raises:
        CheckpointError: files of weights are missing.
        ConfigError: the machine has too little memory.
    """
    if config.load_format == "auto":
        find_files(model.folder)
    if config.device != "cpu":
        return
    told = {
        "kv_cache_memory_bytes": config.kv_cache_memory_bytes or 0,
        "num_gpu_blocks_override": (config.num_blocks or 0) * config.block_size * model.facts.kv_bytes_per_token,
    }
    for setting, num_bytes in told.items():
        require_room(num_bytes, free_host_bytes(), setting, "keys and values as told take")


def changed_worker_config(
    config: WorkerConfig, model: str | None, load_format: str | None, device: str | None
) -> WorkerConfig:
    """`config` with what is not None; the model as a folder, a repo id or octavo-tiny.

    Raises:
        ConfigError, CheckpointError: there is no such model.
    """
    return msgspec.structs.replace(
        config,
        model=config.model if model is None else str(resolve_folder(model, None)),
        load_format=load_format or config.load_format,
        device=config.device if device is None else resolve_device(device),
    )


def engine_config(settings: Settings, model: Model, num_blocks: int) -> EngineConfig:
    """Limits and sizes, now that the worker has said how many KV blocks there are."""
    return EngineConfig(
        vocab_size=model.facts.vocab_size,
        eos_token_ids=tuple(dict.fromkeys([*model.facts.eos_token_ids, *model.default_sampling.eos_token_ids])),
        max_model_len=settings.max_model_len or model.facts.max_position_embeddings,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_num_seqs=settings.max_num_seqs,
        block_size=settings.block_size,
        num_blocks=num_blocks,
        prefix_caching=settings.enable_prefix_caching,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        max_num_queued_reqs=settings.max_num_queued_reqs,
        max_num_queued_tokens=settings.max_num_queued_tokens,
        max_logprobs=model.facts.vocab_size if settings.max_logprobs == -1 else settings.max_logprobs,
        seed=settings.seed,
    )


def fault_injector(settings: Settings, device: str) -> FaultInjector | None:
    """Makes what injects the faults that the settings ask for; None if they ask for none.

    Raises:
        ConfigError: one of them makes no sense, or none on this device.
    """
    faults = [parse_fault(text) for text in settings.inject_fault]
    if device != "cuda" and any(fault.kind is FaultKind.OUT_OF_BOUNDS for fault in faults):
        raise ConfigError("inject_fault", "out-of-bounds is a fault of CUDA kernels; on a CPU, use kill")
    return FaultInjector(faults) if faults else None


def crash_log(settings: Settings, config: WorkerConfig) -> CrashLog | None:
    """Makes the crash log; None if the settings want none, or the default is in the home folder of a user without one.

    Raises:
        ConfigError: the folder asked for is in the home folder of a user who has none.
    """
    if settings.crash_dir is None:
        return None
    try:
        folder = Path(settings.crash_dir).expanduser().absolute()
    except RuntimeError:
        if settings.crash_dir == Settings.crash_dir:
            log.warning("deaths of workers are not written down: this user has no home folder; --crash-dir names one")
            return None
        message = f"{settings.crash_dir}: this user has no home folder; name another folder, or none to write nothing"
        raise ConfigError("crash_dir", message) from None
    keep = settings.crash_keep_prompts
    return CrashLog(folder, config, most=settings.max_crash_folders, keep_prompts=keep)


def resolve_device(device: str) -> str:
    """`auto` as `cuda` if this machine shows an NVIDIA GPU, else `cpu`; asks no CUDA, that is the worker's."""
    if device != "auto":
        return device
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    visible = any(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
    return "cuda" if visible and not hidden else "cpu"


def _both(observe: Observer | None, step_log: StepLog | None) -> Observer | None:
    if observe is None or step_log is None:
        return observe or step_log

    def call(record: StepRecord) -> None:
        step_log(record)
        observe(record)

    return call
