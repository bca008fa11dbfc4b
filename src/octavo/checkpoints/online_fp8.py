"""Plain checkpoints whose linear layers become FP8 as they are loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from octavo.checkpoints.bf16 import Bf16Format
from octavo.ops.activations import FP8
from octavo.ops.quantize.cpu import quantize_tokens


class OnlineFp8Format(Bf16Format):
    """Floats of at least 16 bits; what FP8 parameters are filled with is rounded to codes, with a scale for each output channel.

    As compressed-tensors quantizes per channel: `ops.quantize.rule` of each row of the weight, rounded to bf16 first.
    """

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """Matrices must be finite, as bf16 too; see `Format`."""
        if tensor.ndim == 2 and not bool(tensor.bfloat16().isfinite().all()):
            return "holds NaN or infinity, or a number beyond bfloat16; no scale fits that"
        return super().complaint(name, tensor)

    def is_made(self, name: str) -> bool:
        """Scales are; see `Format`."""
        return name.endswith(".weight_scale")

    def put(self, name: str, tensor: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> None:
        """Round it on the parameter's device; see `Format`."""
        parameter = parameters[name]
        if parameter.dtype != FP8:
            super().put(name, tensor, parameters)
            return
        codes, scale = quantize_tokens(tensor.to(parameter.device, torch.bfloat16))
        parameter.copy_(codes)
        parameters[f"{name}_scale"].copy_(scale)
