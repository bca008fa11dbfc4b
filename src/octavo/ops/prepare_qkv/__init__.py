"""Norm, rotation and the write to the KV cache, between the projection to queries, keys and values and the attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch


@dataclasses.dataclass(frozen=True)
class HeadNorms:
    """Weights (D,) of the norms of query and key heads, both bf16 or both float32, and what is added to the mean square.

    Of a float32 weight the normed number is not rounded before it is multiplied.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    eps: float


@dataclasses.dataclass(frozen=True)
class WidthNorms:
    """Weights (H D,) and (G D,) bf16 of norms over all query heads and all key heads of a row, and what is added."""

    queries: torch.Tensor
    keys: torch.Tensor
    eps: float


def norm_widths(
    qkv: torch.Tensor,
    norms: HeadNorms | WidthNorms | None,
    norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
) -> tuple[torch.Tensor, HeadNorms | None]:
    """qkv with queries and keys normed over their width, if `norms` are such; and the norms that are left to do.

    qkv (T, N) bf16 of N = (H + 2 G) D numbers: query heads, key heads, value heads.
    """
    if not isinstance(norms, WidthNorms):
        return qkv, norms
    weights = (norms.queries, norms.keys)
    *parts, values = qkv.split([len(norms.queries), len(norms.keys), len(norms.keys)], dim=1)
    normed = (norm(part.contiguous(), weight, norms.eps) for part, weight in zip(parts, weights, strict=True))
    return torch.cat((*normed, values), dim=1), None


def without_gates(heads: torch.Tensor, queries: int) -> torch.Tensor:
    """heads (T, 2 H + 2 G, D), of which a gate stands behind each of the H `queries`, without the gates: (T, H + 2 G, D), new."""
    return torch.cat((heads[:, : 2 * queries : 2], heads[:, 2 * queries :]), dim=1)
