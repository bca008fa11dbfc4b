"""Norm, rotation and the write to the KV cache, between the projection to queries, keys and values and the attention."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class HeadNorms:
    """Weights (D,) bf16 of the norms of query and key heads, and what is added to the mean square."""

    queries: torch.Tensor
    keys: torch.Tensor
    eps: float
