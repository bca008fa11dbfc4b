"""FP8 checkpoints, whatever tool has written them.

A quantized layer of N outputs and K inputs is stored as `weight` (N, K) float8_e4m3fn and its scales: compressed-tensors'
`weight_scale`, (N, 1) per channel or (ceil(N / 128), ceil(K / 128)) in blocks, or `weight_scale_inv` in blocks, by which Qwen's
and DeepSeek's own checkpoints multiply too. Everything else is stored as in a plain checkpoint.
"""

from __future__ import annotations

import torch

from octavo.checkpoints.bf16 import FLOATS, Bf16Format

FP8 = torch.float8_e4m3fn


class Fp8Format:
    """FP8 weights with float scales; the rest as `Bf16Format`."""

    def stored_as(self, name: str, parameter: torch.dtype) -> tuple[torch.dtype, ...]:
        """See `Format`."""
        return (FP8,) if parameter == FP8 else FLOATS

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """Scales must be positive numbers; see `Format`."""
        if not name.endswith((".weight_scale", ".weight_scale_inv")):
            return Bf16Format().complaint(name, tensor)
        rows = (~(tensor.isfinite() & (tensor > 0))).any(-1).nonzero().view(-1).tolist()
        bad = [scale for scale in tensor[rows[0]].view(-1).tolist() if not 0 < scale < float("inf")] if rows else []
        return f"scale of row {rows[0]} is {bad[0]}; scales must be positive numbers" if rows else None
