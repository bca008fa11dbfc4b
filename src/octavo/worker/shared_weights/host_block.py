"""Memory shared between processes on a CPU.

An anonymous file (memfd) in the keeper, which others open through /proc and map read-only: it has no name in the file
system, so that nothing is left of it when all processes are gone, however they ended; and a worker that writes into it
dies of that instead of changing the weights.
"""

from __future__ import annotations

import mmap
import os
import warnings

import torch

from octavo.messages import HostBlock


def create_host_block(num_bytes: int) -> tuple[torch.Tensor, HostBlock]:
    """Zeros of this process, and what others open them by; the file stays open as long as this process lives.

    Returns:
        (num_bytes,) uint8 on the CPU.

    Raises:
        OSError: no memory.
    """
    file = os.memfd_create("octavo-weights", os.MFD_CLOEXEC)
    os.posix_fallocate(file, 0, num_bytes)
    memory = mmap.mmap(file, num_bytes)
    return torch.frombuffer(memory, dtype=torch.uint8), HostBlock(f"/proc/{os.getpid()}/fd/{file}")


def map_host_block(block: HostBlock, num_bytes: int) -> torch.Tensor:
    """The memory of another process; writing to it is a segmentation fault.

    Returns:
        (num_bytes,) uint8 on the CPU.

    Raises:
        OSError: the process that holds it is gone.
        ValueError: it is smaller.
    """
    file = os.open(block.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        memory = mmap.mmap(file, num_bytes, access=mmap.ACCESS_READ)
    finally:
        os.close(file)
    with warnings.catch_warnings():
        # torch has no read-only tensors and says so.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(memory, dtype=torch.uint8)
