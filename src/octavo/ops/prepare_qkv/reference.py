"""Norm, rotation and cache in float64, rounded to bf16 where the separate layers round."""

from __future__ import annotations

import torch

from octavo.ops.prepare_qkv import HeadNorms
from octavo.ops.rotary import RotaryTable


def prepare_qkv_reference(
    qkv: torch.Tensor, norms: HeadNorms | None, rows: RotaryTable, kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries (T, H, D), keys and values (T, G, D) as they go on, f64; arguments as `prepare_qkv`."""
    queries, keys, values = torch.split(qkv, [qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    cos, sin = rows.cos.double()[:, None], rows.sin.double()[:, None]

    def turned(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        wide = x.double()
        if weight is not None:
            wide = (wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()).to(weight.dtype).double()
            wide = (wide * weight.double()).bfloat16().double()
        a, b = wide[..., : 2 * cos.shape[-1]].chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin, wide[..., 2 * cos.shape[-1] :]), -1)

    finite = values.isfinite()
    q_weight, k_weight, eps = (None, None, 0.0) if norms is None else (norms.queries, norms.keys, norms.eps)
    keys = torch.where(finite.all(-1, keepdim=True), turned(keys, k_weight, eps), torch.nan)
    return turned(queries, q_weight, eps), keys, torch.where(finite, values, 0.0).double()
