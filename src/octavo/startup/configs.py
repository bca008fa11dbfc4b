"""What the worker and the engine are told, from the settings and what is known of the model."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from octavo.checkpoints.files import find_files
from octavo.checkpoints.folder import resolve_folder
from octavo.config import EngineConfig, Settings
from octavo.errors import ConfigError
from octavo.messages import WorkerConfig
from octavo.startup.model import Model
from octavo.worker.host_memory import free_host_bytes, require_room

CUDA_BLOCK_SIZE = 64
"""A tile of keys: attention looks its block up once, and not for each key (a fifth less time than blocks of 16 on an H200)."""
CPU_BLOCK_SIZE = 16
"""vLLM's: the shorter a block, the more of a prefix is shared."""


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
        block_size=block_size_of(settings),
        num_blocks=settings.num_gpu_blocks_override,
        num_snapshots=_num_snapshots(settings, model),
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.enforce_eager,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
        threads=settings.cpu_threads,
        seed=settings.seed,
        logging_level=settings.logging_level,
    )


def block_size_of(settings: Settings) -> int:
    """Tokens per KV block: as set, or as many as the device's attention reads at a time."""
    if settings.block_size is not None:
        return settings.block_size
    return CPU_BLOCK_SIZE if resolve_device(settings.device) == "cpu" else CUDA_BLOCK_SIZE


def changed_worker_config(
    config: WorkerConfig, model: str | None, load_format: str | None, device: str | None
) -> WorkerConfig:
    """`config` with what is not None; the model as a folder, a repo id or an embedded one's name.

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
        block_size=block_size_of(settings),
        num_blocks=num_blocks,
        prefix_caching=settings.enable_prefix_caching,
        priorities=settings.scheduling_policy == "priority",
        num_snapshots=_num_snapshots(settings, model) if model.facts.state_bytes_per_request else None,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        max_num_queued_reqs=settings.max_num_queued_reqs,
        max_num_queued_tokens=settings.max_num_queued_tokens,
        max_logprobs=model.facts.vocab_size if settings.max_logprobs == -1 else settings.max_logprobs,
        seed=settings.seed,
    )


def _num_snapshots(settings: Settings, model: Model) -> int:
    """States of recurrent layers to keep behind cached prefixes: half as many as requests run at once."""
    if not settings.enable_prefix_caching or not model.facts.state_bytes_per_request:
        return 0
    return -(-settings.max_num_seqs // 2)


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
        "max_num_seqs": config.num_states * model.facts.state_bytes_per_request,
        "kv_cache_memory_bytes": config.kv_cache_memory_bytes or 0,
        "num_gpu_blocks_override": (config.num_blocks or 0) * config.block_size * model.facts.kv_bytes_per_token,
    }
    for setting, num_bytes in told.items():
        require_room(num_bytes, free_host_bytes(), setting, "keys, values and states as told take")


def resolve_device(device: str) -> str:
    """`auto` as `cuda` if this machine shows an NVIDIA GPU, else `cpu`; asks no CUDA, that is the worker's."""
    if device != "auto":
        return device
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    visible = any(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
    return "cuda" if visible and not hidden else "cpu"
