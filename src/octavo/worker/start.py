"""From a `WorkerConfig` to a runner that is ready for the first plan."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch

from octavo.config import ModelConfig
from octavo.errors import ConfigError
from octavo.messages import WorkerConfig, WorkerReady
from octavo.models.interface import KVCache
from octavo.models.load import LoadedModel
from octavo.models.operations import Operations, operations_for
from octavo.worker.memory import MemoryTable, available_bytes, await_memory, count_blocks
from octavo.worker.runner import Model, Runner
from octavo.worker.threads import ThreadedModel
from octavo.worker.warm_up import blocks_of_widest, load_kernels, warm_up
from octavo.worker.weights import load_weights, map_weights

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
    watch = _Watch()
    device = open_device(config)
    open_s = watch.lap()
    loaded, weights_checksum = _load(config, device, (choose or choose_operations)(config, device))
    load_s = watch.lap()
    measure = device.type == "cuda" and not config.proven
    workspace = _measure_workspace(loaded, config, device) if measure else 0
    num_blocks = count_blocks(config, loaded.config, available_bytes(config, workspace))
    if config.proven and device.type == "cuda":
        await_memory(num_blocks * loaded.config.kv_bytes_per_token * config.block_size)
    kv_cache = _allocate(loaded.config, config, num_blocks, device)
    allocate_s = watch.lap()
    vocab_size = loaded.config.vocab_size
    model = prepare_model(loaded, kv_cache, config, record=measure)
    warm_up(model, kv_cache, config, vocab_size=vocab_size)
    kv_bytes = sum(layer.numel() * layer.element_size() for layer in kv_cache.layers)
    print(MemoryTable(loaded.weight_bytes, kv_bytes, workspace), file=sys.stderr, flush=True)
    ready = WorkerReady(
        pid=os.getpid(),
        device=_describe(device),
        weights_format=loaded.config.weight_format.value,
        num_blocks=num_blocks,
        weight_bytes=loaded.weight_bytes,
        weights_checksum=weights_checksum,
        kv_cache_bytes=kv_bytes,
        workspace_bytes=workspace,
        open_s=open_s,
        load_s=load_s,
        allocate_s=allocate_s,
        warm_up_s=watch.lap(),
    )
    return Runner(model, kv_cache, config, vocab_size=vocab_size), ready


class _Watch:
    """Seconds between one look and the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _load(config: WorkerConfig, device: torch.device, operations: Operations) -> tuple[LoadedModel, int]:
    """The model on weights of its own or on kept ones, and their checksum."""
    if config.weights is not None:
        return map_weights(config.weights, device, operations), config.weights.checksum
    return load_weights(config, device, operations)


def prepare_model(loaded: LoadedModel, kv_cache: KVCache, config: WorkerConfig, *, record: bool) -> Model:
    """The model as a runner takes it: with graphs, or with its steps shared out among the threads of a CPU.

    `record` makes all graphs at once; else each is made when it is first needed.
    """
    if config.device == "cpu":
        threads = torch.get_num_threads()
        return ThreadedModel(loaded.model, threads) if threads > 1 else loaded.model
    # Triton chooses at import between its compiler and its interpreter; a CPU worker needs neither.
    from octavo.worker.graphs import MOST_TOKENS, CudaCapture, GraphedModel, graph_sizes

    model = GraphedModel(
        loaded.model,
        kv_cache,
        hidden_size=loaded.config.hidden_size,
        max_chunks=config.max_num_seqs,
        columns=-(-config.max_model_len // config.block_size),
        sizes=graph_sizes(0 if config.enforce_eager else min(MOST_TOKENS, config.max_num_batched_tokens)),
        capture=CudaCapture(),
    )
    if record:
        model.prepare()
    return model


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
        return operations_for(device)
    from octavo.models.kernel_operations import KernelOperations

    return KernelOperations(max_tokens=config.max_num_batched_tokens)


def _measure_workspace(loaded: LoadedModel, config: WorkerConfig, device: torch.device) -> int:
    """Bytes that torch's allocator reserves for steps of all sizes, and for graphs of some, measured on a KV cache that is
    then dropped."""
    block_bytes = loaded.config.kv_bytes_per_token * config.block_size
    num_blocks = min(blocks_of_widest(config), max(1, available_bytes(config, 0) // 2 // block_bytes))
    kv_cache = _allocate(loaded.config, config, num_blocks, device)
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    model = prepare_model(loaded, kv_cache, config, record=False)
    for run in (load_kernels, warm_up):
        run(model, kv_cache, config, vocab_size=loaded.config.vocab_size)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved() - before


def _allocate(model: ModelConfig, config: WorkerConfig, num_blocks: int, device: torch.device) -> KVCache:
    return KVCache.allocate(
        num_layers=model.num_hidden_layers,
        num_blocks=num_blocks,
        block_size=config.block_size,
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        device=device,
    )


def _describe(device: torch.device) -> str:
    """What a person would call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"
