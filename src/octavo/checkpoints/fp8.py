"""FP8 checkpoints, whatever tool has written them.

A quantized layer of N outputs and K inputs is stored as `weight` (N, K) float8_e4m3fn and its scales: compressed-tensors'
`weight_scale`, (N, 1) per channel or (ceil(N / 128), ceil(K / 128)) in blocks, or `weight_scale_inv` in blocks, by which Qwen's
and DeepSeek's own checkpoints multiply too; or one number, with another one for its inputs, `input_scale`, if that is static.
Everything else is stored as in a plain checkpoint.
"""

from __future__ import annotations

import math

import torch

from octavo.checkpoints.bf16 import FLOATS, Bf16Format

FP8 = torch.float8_e4m3fn


class Fp8Format(Bf16Format):
    """FP8 weights with float scales; the rest as `Bf16Format`.

    Args:
        zeros: whether a scale may be 0, as some writers store a block of nothing but zeros.
    """

    def __init__(self, *, zeros: bool = False) -> None:
        self._zeros = zeros

    def stored_as(self, name: str, parameter: torch.dtype) -> tuple[torch.dtype, ...]:
        """See `Format`."""
        return (FP8,) if parameter == FP8 else FLOATS

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """Scales must be numbers, positive or, of blocks, not negative: see `Format`."""
        if not name.endswith((".weight_scale", ".weight_scale_inv")):
            return super().complaint(name, tensor)
        good = tensor.isfinite() & ((tensor >= 0) if self._zeros else (tensor > 0))
        if good.all():
            return None
        row = int((~good).any(-1).nonzero()[0])
        bad = tensor[row][~good[row]].view(-1)[0].item()
        return f"scale of row {row} is {bad}; scales must be {'at least 0' if self._zeros else 'positive numbers'}"


class TensorFp8Format(Fp8Format):
    """The same with one scale for each matrix, and one for its inputs if that is static."""

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """Scales must be positive numbers; see `Format`."""
        if not self.is_single(name):
            return super().complaint(name, tensor)
        number = tensor.flatten()[0].item()
        return None if 0 < number < math.inf else f"is {number}; scales must be positive numbers"

    def usual_name(self, name: str) -> str:
        """transformers' own names are others; see `Format`."""
        for theirs, ours in ((".weight_scale_inv", ".weight_scale"), (".activation_scale", ".input_scale")):
            if name.endswith(theirs):
                return name.removesuffix(theirs) + ours
        return super().usual_name(name)

    def is_single(self, name: str) -> bool:
        """Scales are; see `Format`."""
        return name.endswith((".weight_scale", ".input_scale")) or super().is_single(name)
