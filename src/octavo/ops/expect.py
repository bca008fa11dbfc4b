"""Checks of tensors for operations that run on any device."""

from __future__ import annotations

import torch

from octavo.errors import KernelContractError


def expect(argument: str, tensor: torch.Tensor, shape: tuple[int | None, ...], *dtypes: torch.dtype) -> None:
    """Check the shape (None: any size) and dtype of `tensor`.

    Raises:
        KernelContractError: naming the argument, what was expected and what came.
    """
    if tensor.dtype not in dtypes:
        raise KernelContractError(argument, " or ".join(map(str, dtypes)), str(tensor.dtype))
    if tensor.ndim != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, tensor.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise KernelContractError(argument, f"shape ({wanted})", str(tuple(tensor.shape)))
