"""Checks of tensors on the host, before a kernel sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton

from octavo.errors import KernelContractError

GRID_LIMIT = 2**31 - 1
"""Programs along the first grid axis (CUDA C++ Programming Guide, technical specifications per compute capability)."""
INDEX_LIMIT = 2**31 - 1
"""Rows and slots are numbered in int32; their products with strides are int64."""

LAUNCH: dict[str, Any] = {"PDL": False} if triton.knobs.runtime.interpret else {"PDL": True, "launch_pdl": True}
"""What every launch passes: programmatic dependent launch (see `device.follow`), which the interpreter does not know."""


class Dims:
    """Named sizes bound by the first tensor that has them and checked on every later one.

    >>> dims = Dims()
    >>> dims.check("x", x, ("T", "H"), dtype=torch.bfloat16)
    >>> dims.check("scale", scale, ("T",), dtype=torch.float32)
    >>> dims["H"]
    """

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, str]] = {}
        self._device: torch.device | None = None

    def __getitem__(self, name: str) -> int:
        return self._sizes[name][0]

    def check(
        self,
        argument: str,
        tensor: torch.Tensor,
        shape: Sequence[str | int],
        *,
        dtype: torch.dtype | tuple[torch.dtype, ...],
    ) -> torch.Tensor:
        """Return `tensor` if it is contiguous, on the bound device, of `dtype` and of `shape` (names bind, ints must match).

        Raises: KernelContractError naming the argument, what was expected, what came and the remedy.
        """
        dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
        if tensor.dtype not in dtypes:
            wanted = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
            got = f"{str(tensor.dtype).removeprefix('torch.')} (cast it with .to({wanted.split(' or ')[0]}))"
            raise KernelContractError(argument, wanted, got)
        self._check_device(argument, tensor)
        self._check_shape(argument, tensor, shape)
        if not tensor.is_contiguous():
            raise KernelContractError(
                argument, "a contiguous tensor", f"strides {tensor.stride()} (call .contiguous())"
            )
        return tensor

    def _check_device(self, argument: str, tensor: torch.Tensor) -> None:
        if self._device is None:
            if tensor.device.type != "cuda" and not triton.knobs.runtime.interpret:
                raise KernelContractError(
                    argument, "a CUDA tensor", f"{tensor.device} (move it, or set TRITON_INTERPRET=1 before the import)"
                )
            self._device = tensor.device
        elif tensor.device != self._device:
            raise KernelContractError(argument, f"a tensor on {self._device}", f"{tensor.device} (move it with .to())")

    def _check_shape(self, argument: str, tensor: torch.Tensor, shape: Sequence[str | int]) -> None:
        expected = "(" + ", ".join(self._describe(dim) for dim in shape) + ")"
        got = f"({', '.join(map(str, tensor.shape))}) (pass the shape that the other arguments have)"
        if tensor.ndim != len(shape):
            raise KernelContractError(argument, expected, got)
        for dim, size in zip(shape, tensor.shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    raise KernelContractError(argument, expected, got)
            elif self._sizes.setdefault(dim, (size, argument))[0] != size:
                raise KernelContractError(argument, expected, got)

    def _describe(self, dim: str | int) -> str:
        if isinstance(dim, int) or dim not in self._sizes:
            return str(dim)
        size, source = self._sizes[dim]
        return f"{dim}={size} as in {source}"


def check_range(argument: str, value: int, low: int, high: int, remedy: str) -> int:
    """Return `value` if low <= value <= high.

    Raises: KernelContractError with the limits and the remedy.
    """
    if not low <= value <= high:
        raise KernelContractError(argument, f"{low} to {high}", f"{value} ({remedy})")
    return value


def check_grid(kernel: str, programs: int) -> tuple[int]:
    """Return the launch grid of `programs` programs.

    Raises: KernelContractError when the device cannot launch so many.
    """
    check_range(f"{kernel} grid", programs, 1, GRID_LIMIT, "pass fewer tokens in one call")
    return (programs,)
