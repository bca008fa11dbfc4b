"""Router logits to expert ids and weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from octavo.ops.sort_keys import columns_of, sort_keys


@dataclasses.dataclass(frozen=True)
class Routing:
    """The experts of each row, likeliest first: ids (T, K) int64, weights (T, K) float32."""

    ids: torch.Tensor
    weights: torch.Tensor


def choose_experts(logits: torch.Tensor, top_k: int, *, renormalize: bool) -> Routing:
    """ids = the top_k largest logits, ties to the lower id; weights = their softmax probabilities.

    The ids of a row are distinct and in [0, E) for any logits. A row with NaN or infinity is routed as if its logits
    were zero, and its weights are NaN. A row depends on that row alone.

    Args:
        logits: (T, E) float32; read.
        top_k: K <= E.
        renormalize: whether the weights of a row are divided by their sum.

    Returns:
        ids (T, K) int64 and weights (T, K) float32, new.
    """
    finite = logits.abs().amax(-1, keepdim=True) < torch.inf
    safe = torch.where(finite, logits, 0.0)
    ids = _largest(safe, top_k)
    weights = safe.softmax(-1).gather(1, ids)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return Routing(ids, torch.where(finite, weights, torch.nan))


def _largest(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """(T, K) int64: ids of the largest of (T, E) float32 without NaN, ties to the lower id."""
    return columns_of(_top(sort_keys(logits), top_k), logits.shape[1])


def _top(keys: torch.Tensor, top_k: int) -> torch.Tensor:
    """(T, K) int64: the largest of (T, E) int64 first. On a CPU NumPy sorts a whole row before PyTorch finds its top."""
    if keys.is_cuda:
        return keys.topk(top_k, dim=-1).values
    ordered = np.sort(keys.numpy(), axis=-1)
    return torch.from_numpy(ordered[:, ::-1][:, :top_k].copy())


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)) of x (...) float32, new. Written out: on a CPU torch.sigmoid rounds the last few numbers otherwise."""
    return x.neg().exp_().add_(1.0).reciprocal_()


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; gate_up (T, 2I) float32 -> (T, I) bf16. Written out: torch.silu rounds a row's tail otherwise."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (gate / gate.neg().exp_().add_(1.0)).mul_(up).to(torch.bfloat16)
