"""Plain checkpoints: every tensor in a float of at least 16 bits, kept as bf16."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

KV_SCALE = re.compile(r"(.*\.self_attn)\.(?:(?:attn|qkv_proj|[kv]_proj)\.)?([kv])_scale")
"""compressed-tensors' scales of keys and values are attention's, ModelOpt's are those of the projections."""
OUTPUT_SCALE = re.compile(r"(.*\.self_attn)\.([kv])_proj\.output_scale")
"""The same of compressed-tensors until 0.5."""
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
        if is_kv_scale(name) and not bool((tensor.isfinite() & (tensor > 0)).all()):
            return f"is {tensor.view(-1)[0].item()}; scales must be positive numbers"
        return None

    def usual_name(self, name: str) -> str:
        """See `Format`."""
        match = KV_SCALE.fullmatch(name) or OUTPUT_SCALE.fullmatch(name)
        return f"{match[1]}.{match[2]}_scale" if match else name

    def is_single(self, name: str) -> bool:
        """See `Format`."""
        return is_kv_scale(name)

    def is_made(self, name: str) -> bool:
        """Nothing is; see `Format`."""
        return False

    def put(self, name: str, tensor: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> None:
        """Convert it to the parameter's type; see `Format`."""
        parameters[name].copy_(tensor, non_blocking=True)

    def default(self, name: str) -> float | None:
        """Scales of keys and values that nobody has measured are 1; see `Format`."""
        return 1.0 if is_kv_scale(name) else None


def is_kv_scale(name: str) -> bool:
    """Whether the parameter `name` is the scale of a layer's keys or values."""
    return name.endswith((".self_attn.k_scale", ".self_attn.v_scale"))
