"""compressed-tensors' float-quantized format with one scale per channel.

A quantized layer of N outputs and K inputs is stored as `weight` (N, K) float8_e4m3fn and `weight_scale` (N, 1), and
stands for weight * weight_scale. Everything else is stored as in a plain checkpoint.
"""

from __future__ import annotations

import torch

from octavo.checkpoints.bf16 import FLOATS

FP8 = torch.float8_e4m3fn


class CompressedTensorsFormat:
    """FP8 weights with float scales; the rest as `Bf16Format`."""

    def stored_as(self, name: str, parameter: torch.dtype) -> tuple[torch.dtype, ...]:
        """See `Format`."""
        return (FP8,) if parameter == FP8 else FLOATS

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """Scales must be positive numbers; see `Format`."""
        if not name.endswith(".weight_scale"):
            return None
        rows = (~(tensor.isfinite() & (tensor > 0))).any(-1).nonzero().view(-1).tolist()
        return f"scale of row {rows[0]} is {tensor[rows[0]].item()}; scales must be positive numbers" if rows else None
