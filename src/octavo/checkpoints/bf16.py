"""Plain checkpoints: every tensor in a float of at least 16 bits, kept as bf16."""

from __future__ import annotations

import torch

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


class Bf16Format:
    """Every tensor is bf16, or a float16 or float32 that is rounded to bf16."""

    def stored_as(self, name: str, parameter: torch.dtype) -> tuple[torch.dtype, ...]:
        """See `Format`."""
        return FLOATS

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """The biases by which a router decides must be finite; see `Format`."""
        if name.endswith("e_score_correction_bias") and not bool(tensor.isfinite().all()):
            return "holds NaN or infinity; a router cannot decide by that"
        return None
