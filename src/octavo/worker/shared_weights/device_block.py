"""Memory shared between processes on a GPU, by CUDA's handles for it.

One allocation of the driver's own, not of torch's allocator, whose segments hold other tensors too and may be of a kind
that has no handle. It is never freed or unmapped: it ends with the process.
"""

from __future__ import annotations

import ctypes
import functools

import torch

from octavo.errors import ConfigError
from octavo.messages import DeviceBlock

OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""
GRANULARITY_BYTES = 2 * 2**20
"""Bytes of which allocations are multiples: smaller ones share a block with others, which a handle would share too."""
LAZY_PEER_ACCESS = 1
"""CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the one flag there is, and required."""


class _Handle(ctypes.Structure):
    """CUipcMemHandle, passed by value."""

    _fields_ = (("reserved", ctypes.c_char * 64),)


class _Memory:
    """Bytes at a device address, in the form from which torch makes a tensor without a copy."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 2,
        }


def create_device_block(num_bytes: int, device: torch.device) -> tuple[torch.Tensor, DeviceBlock]:
    """Zeros of this process, and what others open them by.

    Returns:
        (num_bytes,) uint8 on `device`.

    Raises:
        ConfigError: they do not fit, or cannot be shared.
        RuntimeError: CUDA refuses.
    """
    _enter(device)
    address, handle = ctypes.c_uint64(), _Handle()
    code = _driver().cuMemAlloc_v2(
        ctypes.byref(address), ctypes.c_size_t(-(-num_bytes // GRANULARITY_BYTES) * GRANULARITY_BYTES)
    )
    if code == OUT_OF_MEMORY:
        free, total = torch.cuda.mem_get_info(device)
        raise ConfigError(
            "model",
            f"its weights take {num_bytes / 2**30:.1f} GiB, but {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free",
        )
    _check("cuMemAlloc", code)
    code = _driver().cuIpcGetMemHandle(ctypes.byref(handle), address)
    if code:
        raise ConfigError(
            "keep_weights",
            f"CUDA does not let processes share memory here ({_name(code)}); turn it off, and every worker loads the "
            "weights for itself",
        )
    return _tensor(address, num_bytes, device).zero_(), DeviceBlock(bytes(handle))


def map_device_block(block: DeviceBlock, num_bytes: int, device: torch.device) -> torch.Tensor:
    """The memory of another process, which must outlive this one.

    Returns:
        (num_bytes,) uint8 on `device`.

    Raises:
        RuntimeError: CUDA refuses, as when the process that holds it is gone.
    """
    _enter(device)
    address, handle = ctypes.c_uint64(), _Handle.from_buffer_copy(block.handle)
    _check(
        "cuIpcOpenMemHandle",
        _driver().cuIpcOpenMemHandle_v2(ctypes.byref(address), handle, ctypes.c_uint(LAZY_PEER_ACCESS)),
    )
    return _tensor(address, num_bytes, device)


def _enter(device: torch.device) -> None:
    """Make torch's context of `device` this thread's."""
    torch.empty(1, device=device)
    torch.cuda.synchronize(device)


def _tensor(address: ctypes.c_uint64, num_bytes: int, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(_Memory(address.value, num_bytes), device=device)


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(call: str, code: int) -> None:
    if code:
        raise RuntimeError(f"{call}: {_name(code)}")


def _name(code: int) -> str:
    name = ctypes.c_char_p()
    _driver().cuGetErrorName(code, ctypes.byref(name))
    return f"{(name.value or b'unknown error').decode()}, {code}"
