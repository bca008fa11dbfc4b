"""Device to host in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

MISSING = -(2**62)
"""In host memory before the copy: no token id, no flag, and no bits of a float32."""


class Download:
    """The tensors on their way to the host: one copy, behind what the device has still to do.

    Args:
        tensors: bool, int64 (no element is MISSING) or float32, any shape, all on one device.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._like = [(tensor.shape, tensor.dtype) for tensor in tensors]
        parts = [_to_int64(tensor).flatten() for tensor in tensors if tensor.numel()]
        packed = torch.cat(parts or [tensors[0].new_empty(0, dtype=torch.int64)])
        self._arrived: torch.cuda.Event | None = None
        self._packed = packed
        if packed.is_cuda:
            self._packed = torch.full(packed.shape, MISSING, dtype=packed.dtype, pin_memory=True)
            self._packed.copy_(packed, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @property
    def arrived(self) -> bool:
        """Whether `tensors` will not wait."""
        return self._arrived is None or bool(self._arrived.query())

    def tensors(self) -> list[torch.Tensor]:
        """Returns the tensors on the CPU, in order, with the same shapes, dtypes and bits; waits for the copy.

        Raises:
            RuntimeError: the device says that it has copied them, and has not.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        packed, at, found = _whole(self._packed.numpy()), 0, []
        for shape, dtype in self._like:
            found.append(_from_int64(packed[at : at + shape.numel()], dtype).view(shape))
            at += shape.numel()
        return found


def _whole(packed: np.ndarray) -> np.ndarray:
    """`packed`, if the copy has written all of it: the memory may hold the results of an earlier step, which look right."""
    if (packed == MISSING).any():
        raise RuntimeError("results of a step did not arrive, though the device says that they were copied")
    return packed


def _to_int64(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor).long()


def _from_int64(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """By NumPy, whose views cost a fourth of PyTorch's."""
    if dtype == torch.float32:
        values = values.astype(np.int32).view(np.float32)
    elif dtype == torch.bool:
        values = values.astype(np.bool_)
    return torch.from_numpy(values)
