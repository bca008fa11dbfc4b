"""How much of the device's memory goes where."""

from __future__ import annotations

import dataclasses
import time

import torch

from octavo.config import ModelConfig
from octavo.errors import ConfigError
from octavo.messages import WorkerConfig
from octavo.worker.host_memory import free_host_bytes

CPU_KV_BYTES = 2**30
"""Most keys and values on a CPU unless told otherwise."""

RETURN_S = 10.0
"""How long the memory of a process that has ended may take to come back."""


@dataclasses.dataclass(frozen=True)
class MemoryTable:
    """Bytes by use."""

    weights: int
    kv_cache: int
    workspace: int
    """Peak of the largest step beyond weights and KV cache, as torch's allocator reserved it; 0 on a CPU: not measured."""

    def __str__(self) -> str:
        rows = dataclasses.asdict(self) | {"total": self.weights + self.kv_cache + self.workspace}
        return "\n".join(f"{name.replace('_', ' '):<10} {size / 2**20:>12,.1f} MiB" for name, size in rows.items())


def blocks_wanted(config: WorkerConfig) -> int:
    """Blocks with which no running request ever waits for another: all slots at full length."""
    return config.max_num_seqs * -(-config.max_model_len // config.block_size)


def count_blocks(config: WorkerConfig, model: ModelConfig, available_bytes: int) -> int:
    """KV blocks to allocate: as many as told, else all that fit in kv_cache_memory_bytes or `available_bytes`.

    On a CPU, whose memory others use too, no more than all running requests can fill unless told; on a GPU all there is:
    what running requests leave holds the prefixes of those that come.

    Raises:
        ConfigError: not one block fits.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    given = config.kv_cache_memory_bytes
    block_bytes = model.kv_bytes_per_token * config.block_size
    count = (available_bytes if given is None else given) // block_bytes
    if count < 1:
        setting = "gpu_memory_utilization" if given is None else "kv_cache_memory_bytes"
        room = max(0, available_bytes) if given is None else given
        raise ConfigError(
            setting,
            f"leaves {room} bytes for keys and values, one block of {config.block_size} tokens takes {block_bytes}; "
            "raise it, or lower max_num_batched_tokens",
        )
    return min(count, blocks_wanted(config)) if given is None and config.device == "cpu" else count


def kv_cache_source(config: WorkerConfig) -> str:
    """Why there are as many KV blocks as there are, in words for the user."""
    if config.num_blocks is not None:
        return "--num-gpu-blocks-override"
    if config.kv_cache_memory_bytes is not None:
        return "--kv-cache-memory-bytes"
    if config.device == "cpu":
        return (
            f"what all running requests can fill, at most {CPU_KV_BYTES >> 30} GiB; --kv-cache-memory-bytes gives more"
        )
    return f"--gpu-memory-utilization {config.gpu_memory_utilization:g}"


def free_bytes(device: torch.device) -> int:
    """Bytes that new tensors on `device` may take."""
    if device.type == "cpu":
        return free_host_bytes()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def available_bytes(config: WorkerConfig, workspace_bytes: int) -> int:
    """Bytes free for keys and values, weights already loaded and `workspace_bytes` kept for steps."""
    if config.device == "cpu":
        return CPU_KV_BYTES
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return int(free - (1 - config.gpu_memory_utilization) * total) - workspace_bytes


def await_memory(num_bytes: int) -> None:
    """Wait until `num_bytes` are free on the CUDA device: a worker that was killed holds its memory a moment longer.

    Returns after `RETURN_S` seconds in any case: what is allocated next then says what is missing.
    """
    deadline_s = time.monotonic() + RETURN_S
    while torch.cuda.mem_get_info()[0] < num_bytes and time.monotonic() < deadline_s:
        time.sleep(0.01)
