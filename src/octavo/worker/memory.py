"""How much of the device's memory goes where."""

from __future__ import annotations

import dataclasses
import time

import torch

from octavo.config import ModelFacts
from octavo.errors import ConfigError
from octavo.messages import WorkerConfig
from octavo.worker.host_memory import free_host_bytes

CPU_KV_BYTES = 2**30
"""Most keys and values on a CPU unless told otherwise."""

CONTEXT_BYTES = 2**30
"""More than what a process takes of a GPU's memory by opening it."""

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


def count_blocks(config: WorkerConfig, model: ModelFacts, available_bytes: int) -> int:
    """KV blocks to allocate: as many as told, else all that fit in kv_cache_memory_bytes or `available_bytes` beside recurrent
    states.

    On a CPU, whose memory others use too, no more than all running requests can fill unless told; on a GPU all there is:
    what running requests leave holds the prefixes of those that come.

    Raises:
        ConfigError: not one block fits.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    given = config.kv_cache_memory_bytes
    block_bytes = model.kv_bytes_per_token * config.block_size
    states = config.num_states * model.state_bytes_per_request
    room = max(0, available_bytes) if given is None else given
    count = (room - states) // block_bytes
    if count < 1:
        told = given is not None or (states and config.device == "cpu")
        setting = "kv_cache_memory_bytes" if told else "gpu_memory_utilization"
        beside = f", {config.num_states} states of requests (by max_num_seqs) take {states}" if states else ""
        lower = "max_num_seqs or max_num_batched_tokens" if states else "max_num_batched_tokens"
        raise ConfigError(
            setting,
            f"leaves {room} bytes for the cache, one block of {config.block_size} tokens takes {block_bytes}{beside}; "
            f"raise it, or lower {lower}",
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


def taken_bytes(device: torch.device) -> int:
    """Bytes of a GPU's memory in use, by whatever process; 0 on a CPU."""
    if device.type == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


def require_share(config: WorkerConfig, taken_before: int) -> None:
    """Refuse to share out more of a GPU than there was when this server started; a cache of a told size shares out nothing.

    Args:
        config: of the worker.
        taken_before: `taken_bytes` when this server had opened the device and loaded nothing.

    Raises:
        ConfigError: other processes leave less than gpu_memory_utilization.
    """
    if config.device == "cpu" or config.num_blocks is not None or config.kv_cache_memory_bytes is not None:
        return
    total = torch.cuda.mem_get_info()[1]
    share = config.gpu_memory_utilization * total
    if share > total - max(0, taken_before - CONTEXT_BYTES):
        raise ConfigError(
            "gpu_memory_utilization",
            f"{config.gpu_memory_utilization:g} of the GPU's memory is {share / 2**30:.1f} GiB, but when this server "
            f"started {(total - taken_before) / 2**30:.1f} GiB were free: other processes use the GPU; lower it",
        )


def held_bytes(weight_bytes: int, *, mapped: bool) -> int:
    """Bytes of a GPU's memory that this server is known to hold: its weights, and what this process keeps for tensors.

    Args:
        weight_bytes: of the model.
        mapped: another process allocated the weights.
    """
    return torch.cuda.memory_reserved() + (weight_bytes if mapped else 0)


def available_bytes(config: WorkerConfig, workspace_bytes: int, taken_before: int, held: int) -> int:
    """Bytes for keys and values, weights already loaded and `workspace_bytes` kept for steps.

    On a GPU the share `gpu_memory_utilization` of its memory is this server's, whatever other processes take, as in vLLM. What has been
    taken since this server started is its own as far as it can be: others may start, or end, at the same time.

    Args:
        config: of the worker.
        workspace_bytes: that a step takes beside weights, keys and values.
        taken_before: as in `require_share`.
        held: `held_bytes`; the contexts of two processes come to it at most. 0 on a CPU.
    """
    if config.device == "cpu":
        return CPU_KV_BYTES
    free, total = torch.cuda.mem_get_info()
    taken_since = min(max(total - free - taken_before, held), held + 2 * CONTEXT_BYTES)
    return min(int(config.gpu_memory_utilization * total) - taken_since, free) - workspace_bytes


def await_memory(num_bytes: int) -> None:
    """Wait until `num_bytes` are free on the CUDA device: a worker that was killed holds its memory a moment longer.

    Returns after `RETURN_S` seconds in any case: what is allocated next then says what is missing.
    """
    deadline_s = time.monotonic() + RETURN_S
    while torch.cuda.mem_get_info()[0] < num_bytes and time.monotonic() < deadline_s:
        time.sleep(0.01)
