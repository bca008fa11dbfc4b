"""Checks of tensors on the host, before an operation on any device reads them; `launch` adds what a kernel needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from octavo.errors import KernelContractError

INDEX_LIMIT = 2**31 - 1
"""Rows and slots are numbered in int32; their products with strides are int64."""


class Dims:
    """Named sizes bound by the first tensor that has them and checked on every later one.

    >>> dims = Dims()
    >>> dims.check("x", x, ("T", "H"), dtype=torch.bfloat16)
    >>> dims.check("scale", scale, ("T",), dtype=torch.float32)
    >>> dims["H"]
    """

    contiguous: ClassVar[bool] = False
    """Whether tensors must be: PyTorch's operations take any strides."""

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
        apart: bool = False,
    ) -> torch.Tensor:
        """Return `tensor` if it is on the bound device, of `dtype` and of `shape` (names bind, ints must match).

        With `apart` the numbers of the last dimension alone must lie side by side.

        Raises: KernelContractError naming the argument, what was expected, what came and the remedy.
        """
        have = tensor.dtype
        if have is not dtype and not (isinstance(dtype, tuple) and have in dtype):
            wanted = " or ".join(
                str(d).removeprefix("torch.") for d in (dtype if isinstance(dtype, tuple) else (dtype,))
            )
            got = f"{str(have).removeprefix('torch.')} (cast it with .to({wanted.split(' or ')[0]}))"
            raise KernelContractError(argument, wanted, got)
        device = tensor.device
        if device != self._device:
            self.bind_device(argument, device)
        if not self._fits(argument, tensor.shape, shape):
            expected = "(" + ", ".join(self._describe(argument, dim) for dim in shape) + ")"
            got = f"({', '.join(map(str, tensor.shape))}) (pass the shape that the other arguments have)"
            raise KernelContractError(argument, expected, got)
        if self.contiguous and not (tensor.is_contiguous() or (apart and tensor.stride(-1) == 1)):
            raise KernelContractError(
                argument, "a contiguous tensor", f"strides {tensor.stride()} (call .contiguous())"
            )
        return tensor

    def bind_device(self, argument: str, device: torch.device) -> None:
        """Hold later tensors to the device of the first.

        Raises: KernelContractError naming the argument if it lies elsewhere.
        """
        if self._device is not None:
            raise KernelContractError(argument, f"a tensor on {self._device}", f"{device} (move it with .to())")
        self._device = device

    def _fits(self, argument: str, sizes: torch.Size, shape: Sequence[str | int]) -> bool:
        """Whether `sizes` are those of `shape`; binds names up to the first that is not. Every launch runs this."""
        if len(sizes) != len(shape):
            return False
        for dim, size in zip(shape, sizes, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    return False
            elif self._sizes.setdefault(dim, (size, argument))[0] != size:
                return False
        return True

    def _describe(self, argument: str, dim: str | int) -> str:
        if isinstance(dim, int) or dim not in self._sizes or self._sizes[dim][1] == argument:
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
