"""Makes a runner that is ready for the first plan of a `WorkerConfig`."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import torch

from octavo.config import ModelFacts
from octavo.errors import ConfigError
from octavo.messages import STANDBY_BYTES, Begin, WorkerConfig, WorkerReady
from octavo.models.cpu_operations import CpuOperations
from octavo.models.decoder.model import Decoder
from octavo.models.kv_cache import KVCache
from octavo.models.load import LoadedModel
from octavo.models.operations import Operations
from octavo.worker.memory import (
    CONTEXT_BYTES,
    MemoryTable,
    available_bytes,
    await_memory,
    count_blocks,
    free_bytes,
    held_bytes,
    kv_cache_source,
    require_share,
)
from octavo.worker.process import Start
from octavo.worker.runner import IdleWork, Model, Runner, no_work
from octavo.worker.shared_weights.weights import MappedWeights, OwnWeights
from octavo.worker.threads import ThreadedModel
from octavo.worker.warm_up import blocks_of_widest, load_kernels, visit_kernels, warm_up

if TYPE_CHECKING:  # importing them imports Triton
    from octavo.ops.compiler_process import Compilers
    from octavo.worker.graphs import Capture, GraphedModel

log = logging.getLogger(__name__)

AHEAD_TOKENS = 4096
"""Of the largest step that a standby runs."""
AHEAD_BYTES = STANDBY_BYTES - CONTEXT_BYTES // 2
"""Of a standby for tensors: on an H200 its context has 518 MiB (torch 2.11, driver 580)."""

ChooseOperations = Callable[[WorkerConfig, torch.device], Operations]


def start(config: WorkerConfig, choose: ChooseOperations | None = None) -> tuple[Runner, WorkerReady]:
    """Load the model, share out the memory, and warm up. Prints a memory table to standard error.

    Args:
        config: what the engine told.
        choose: what to compute with, by config and device; None: the fastest that keep the promises there.

    Raises:
        ConfigError: a setting cannot work on this machine.
        CheckpointError: the model folder is wrong.
    """
    order = Begin(config.num_blocks, config.has_predecessor, config.weights, time.monotonic())
    return prepare(config, choose)(order)


def prepare(config: WorkerConfig, choose: ChooseOperations | None = None) -> Start:
    """Open the device, load the weights or map them, and prepare kernels; what is returned takes memory for keys and values and warms up.

    On a GPU kernels are compiled, of mapped weights while their keeper still loads them: what is compiled depends on their shapes, and hardly
    on what they hold (a router in float32 has more columns then; a kernel that is first met behind that is compiled where it is launched).
    Where `config` says that a worker like it has run, kernels are loaded too, as far as there is memory beside that worker.
    Arguments and errors as `start`.
    """
    with _compilers(config) as compilers:
        return _prepare(config, choose or choose_operations, compilers)


def _prepare(config: WorkerConfig, choose: ChooseOperations, compilers: Compilers | None) -> Start:
    watch = _Watch()
    device = open_device(config)
    open_s = watch.lap()
    log.debug("device %s opened in %.2f s", _describe(device), open_s)
    operations = choose(config, device)
    weights = _weights(config, device, operations)
    loaded = weights.build() if weights.are_loaded else None
    load_s = watch.lap()
    log.debug("weights %s in %.2f s", "loaded" if config.weights is None else "mapped", load_s)
    is_ahead = loaded is not None and config.has_predecessor
    if device.type == "cuda":
        if loaded is not None and is_ahead:
            _load_kernels_ahead(loaded, config, device)
        else:
            _compile_kernels(loaded or weights.build(), config, device, compilers)
    kernels_s = watch.lap()

    def begin(order: Begin) -> tuple[Runner, WorkerReady]:
        waited = waited_for((open_s, load_s, kernels_s), time.monotonic() - order.since_s)
        settled = msgspec.structs.replace(
            config, num_blocks=order.num_blocks, has_predecessor=order.has_predecessor, weights=order.weights
        )
        watch.lap()
        checksum = weights.verify(order.weights)
        model = loaded or weights.build()
        build_s = watch.lap()
        if device.type == "cuda" and settled.has_predecessor and not is_ahead:
            _load_kernels_ahead(model, settled, device)
        ready_kernels_s = watch.lap()
        runner, ready = _begin(settled, device, model, watch, weights.taken_bytes)
        told = {
            "weights_checksum": checksum,
            "open_s": waited[0],
            "load_s": waited[1] + build_s,
            "measure_s": waited[2] + ready_kernels_s + ready.measure_s,
            "ahead_s": open_s + load_s + kernels_s - sum(waited),
        }
        return runner, msgspec.structs.replace(ready, **told)

    return begin


def waited_for(parts_s: Sequence[float], waited_s: float) -> list[float]:
    """Of parts that followed one another, the seconds that fell in the last `waited_s`."""
    told: list[float] = []
    for part_s in reversed(parts_s):
        told.insert(0, min(part_s, max(0.0, waited_s)))
        waited_s -= part_s
    return told


def _weights(config: WorkerConfig, device: torch.device, operations: Operations) -> OwnWeights | MappedWeights:
    if config.weights is None:
        return OwnWeights(config, device, operations)
    return MappedWeights(config.weights, device, operations, config.max_model_len)


def _begin(
    config: WorkerConfig, device: torch.device, loaded: LoadedModel, watch: _Watch, taken: int
) -> tuple[Runner, WorkerReady]:
    log.debug("model of %.1f MiB as %s", loaded.weight_bytes / 2**20, loaded.config.quantization.format.value)
    require_share(config, taken)
    measure = device.type == "cuda" and not config.has_predecessor
    workspace = _measure_workspace(loaded, config, device) if measure else 0
    measure_s = watch.lap()
    held = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        held = held_bytes(loaded.weight_bytes, mapped=config.weights is not None)
    num_blocks = count_blocks(config, loaded.config.facts, available_bytes(config, workspace, taken, held))
    if config.has_predecessor and device.type == "cuda":
        await_memory(_cache_bytes(loaded, config, num_blocks))
    kv_cache = _allocate(loaded, config, num_blocks, device)
    allocate_s = watch.lap()
    log.debug("KV cache of %d blocks of %d tokens allocated in %.2f s", num_blocks, config.block_size, allocate_s)
    vocab_size = loaded.config.vocab_size
    model, idle_work = prepare_model(loaded.model, kv_cache, config)
    warm_up(model, kv_cache, config, vocab_size=vocab_size, briefly=config.has_predecessor)
    warm_up_s = watch.lap()
    log.debug(
        "warm in %.2f s; loading kernels and measuring took %.2f s, %.1f MiB", warm_up_s, measure_s, workspace / 2**20
    )
    print(MemoryTable(loaded.weight_bytes, kv_cache.num_bytes, workspace), file=sys.stderr, flush=True)
    ready = WorkerReady(
        pid=os.getpid(),
        device=_describe(device),
        weights_format=loaded.config.quantization.format.value,
        num_blocks=num_blocks,
        weight_bytes=loaded.weight_bytes,
        kv_cache_bytes=kv_cache.num_bytes,
        kv_cache_source=kv_cache_source(config),
        workspace_bytes=workspace,
        free_bytes=torch.cuda.mem_get_info()[0] if device.type == "cuda" else 0,
        load_s=0.0,
        measure_s=measure_s,
        allocate_s=allocate_s,
        warm_up_s=warm_up_s,
    )
    return Runner(model, kv_cache, config, vocab_size=vocab_size, idle_work=idle_work), ready


def _load_kernels_ahead(loaded: LoadedModel, config: WorkerConfig, device: torch.device) -> None:
    """Run steps of many sizes on keys and values that are then dropped, so that the worker's first step waits for no kernel.

    They take no more than `STANDBY_BYTES`, so that the worker beside has what it needs; kernels of sizes for which that is too little are
    loaded when they are needed.
    """
    config = ahead_config(config, loaded.config.facts)
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, AHEAD_BYTES / total))
    try:
        _run_all_sizes(loaded, config, -(-config.max_num_batched_tokens // config.block_size), device, quiet=True)
    except torch.OutOfMemoryError as exc:
        log.info("kernels of large steps are loaded when they are needed: %s", exc)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    kept = torch.cuda.memory_reserved() / 2**20
    log.info("a standby is prepared: it holds %.0f MiB of the device beside its context", kept)


def ahead_config(config: WorkerConfig, facts: ModelFacts) -> WorkerConfig:
    """The same worker with steps, and with recurrent states, small enough for `AHEAD_BYTES`."""
    state_bytes = facts.state_bytes_per_request
    seats = min(config.max_num_seqs, max(1, AHEAD_BYTES // 4 // state_bytes)) if state_bytes else config.max_num_seqs
    tokens = min(config.max_num_batched_tokens, AHEAD_TOKENS)
    return msgspec.structs.replace(
        config,
        max_num_seqs=seats,
        num_snapshots=min(config.num_snapshots, 1),
        max_num_batched_tokens=tokens,
    )


class _Watch:
    """Seconds between one look and the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def prepare_model(decoder: Decoder, kv_cache: KVCache, config: WorkerConfig) -> tuple[Model, IdleWork]:
    """`decoder` as a runner takes it: with graphs, each made when it is first needed or when nothing else is to be done, or with its steps
    shared out among the threads of a CPU.
    """
    if config.device == "cpu":
        threads = torch.get_num_threads()
        return (ThreadedModel(decoder, threads) if threads > 1 else decoder), no_work
    from octavo.worker.graphs import CudaCapture

    model = _graphed(decoder, kv_cache, config, CudaCapture())
    return model, model.prepare_next


def _graphed(decoder: Decoder, kv_cache: KVCache, config: WorkerConfig, capture: Capture) -> GraphedModel:
    """`decoder` with graphs that `capture` makes."""
    # Triton chooses at import between its compiler and its interpreter; a CPU worker needs neither.
    from octavo.worker.graphs import MOST_TOKENS, GraphedModel, graph_sizes

    return GraphedModel(
        decoder,
        kv_cache,
        max_chunks=config.max_num_seqs,
        columns=-(-config.max_model_len // config.block_size),
        sizes=graph_sizes(0 if config.enforce_eager else min(MOST_TOKENS, config.max_num_batched_tokens)),
        capture=capture,
    )


def open_device(config: WorkerConfig) -> torch.device:
    """The device, ready for use, with torch set up so that a row's bits depend on that row alone."""
    device = torch.device(config.device)
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("device", "cuda asked for, but torch sees no CUDA device; use --device cpu")
        # Split-k sums in bf16 and TF32 products depend on the tile that cuBLAS picks for the batch.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.empty(1, device=device)
    return device


def choose_operations(config: WorkerConfig, device: torch.device) -> Operations:
    """Octavo's kernels on CUDA, sized for the largest step; PyTorch's operations elsewhere."""
    if device.type != "cuda":
        return CpuOperations()
    from octavo.models.cuda_operations import CudaOperations
    from octavo.ops.compilation import log_compilations

    log_compilations()
    return CudaOperations(max_tokens=config.max_num_batched_tokens)


def _measure_workspace(loaded: LoadedModel, config: WorkerConfig, device: torch.device) -> int:
    """Bytes that torch's allocator reserves for steps of all sizes, and for graphs of some, measured on a KV cache that is
    then dropped."""
    num_blocks = _blocks_for_now(loaded, config, device)
    kv_bytes = _cache_bytes(loaded, config, num_blocks)
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    _run_all_sizes(loaded, config, num_blocks, device)
    return torch.cuda.max_memory_reserved() - before - kv_bytes


def _run_all_sizes(
    loaded: LoadedModel, config: WorkerConfig, num_blocks: int, device: torch.device, *, quiet: bool = False
) -> None:
    """Run steps from one token to the whole budget on keys and values in `num_blocks` blocks that are then dropped; all layers only the
    largest, behind short contexts."""
    kv_cache = _allocate(loaded, config, num_blocks, device)
    model, _idle_work = prepare_model(loaded.model, kv_cache, config)
    short, cache = loaded.model.shortened(), kv_cache.of(loaded.model.samples)
    load_kernels(
        prepare_model(short, cache, config)[0], cache, config, vocab_size=loaded.config.vocab_size, quiet=quiet
    )
    warm_up(model, kv_cache, config, vocab_size=loaded.config.vocab_size, shortly=True)
    torch.cuda.synchronize()


def _compilers(config: WorkerConfig) -> contextlib.AbstractContextManager[Compilers | None]:
    """What compiles the kernels of the first worker of its kind: processes that have to be forked off before the device is opened."""
    if torch.device(config.device).type != "cuda" or config.has_predecessor:
        return contextlib.nullcontext()
    import octavo.models.cuda_operations  # noqa: F401 - has all kernels imported, once for all processes
    from octavo.ops.compiler_process import CORES_EACH, MOST_PROCESSES, Compilers

    cores = len(os.sched_getaffinity(0))
    return contextlib.closing(Compilers(cores, min(MOST_PROCESSES, cores // CORES_EACH)))


def _compile_kernels(
    loaded: LoadedModel, config: WorkerConfig, device: torch.device, compilers: Compilers | None
) -> None:
    """Compile what steps of all sizes will launch, on all cores, or read it from Triton's cache; the device's memory is as before.

    Meanwhile a keeper may load the weights, for which it needs memory too: a cache is made of the layers alone that are visited.
    """
    from octavo.ops.compilation import compiling_instead

    watch = _Watch()
    with compiling_instead(len(os.sched_getaffinity(0)), compilers):
        kv_cache = KVCache.allocate(
            tuple(loaded.config.cache[number] for number in loaded.model.samples),
            num_blocks=_blocks_for_now(loaded, config, device),
            num_states=config.num_states,
            block_size=config.block_size,
            device=device,
        )
        model = _graphed(
            loaded.model.shortened(), kv_cache, config, capture=lambda _launch: lambda: None
        )  # visited when it was recorded
        visit_kernels(model, kv_cache, config, vocab_size=loaded.config.vocab_size)
        visited_s = watch.lap()
    log.debug("kernels visited in %.2f s, ready %.2f s later", visited_s, watch.lap())
    del model, kv_cache
    gc.collect()
    torch.cuda.empty_cache()


def _blocks_for_now(loaded: LoadedModel, config: WorkerConfig, device: torch.device) -> int:
    """Blocks of a cache for steps that are run before there is the worker's own: as many as the widest takes, or half of what is free."""
    block_bytes = loaded.config.facts.kv_bytes_per_token * config.block_size
    free = free_bytes(device) - _cache_bytes(loaded, config, 0)
    return min(blocks_of_widest(config), max(1, free // 2 // block_bytes))


def _allocate(loaded: LoadedModel, config: WorkerConfig, num_blocks: int, device: torch.device) -> KVCache:
    return KVCache.allocate(
        loaded.config.cache,
        num_blocks=num_blocks,
        num_states=config.num_states,
        block_size=config.block_size,
        device=device,
    )


def _cache_bytes(loaded: LoadedModel, config: WorkerConfig, num_blocks: int) -> int:
    """Bytes of what `_allocate` makes."""
    return loaded.config.facts.cache_bytes(tokens=num_blocks * config.block_size, requests=config.num_states)


def _describe(device: torch.device) -> str:
    """Names the device as a person would."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"
