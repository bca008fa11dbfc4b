"""What a model is computed with: one type per device, chosen once at load."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.models.forward_batch import ForwardBatch
from octavo.ops.attention import CpuAttentionPlan, Plan, cpu_attention, plan_cpu_attention
from octavo.ops.experts import CpuExperts, Experts, ExpertWeights
from octavo.ops.formats import LinearWeight
from octavo.ops.linear.cpu import cpu_linear
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cpu import rms_norm
from octavo.ops.prepare_qkv.cpu import cpu_prepare_qkv
from octavo.ops.rotary import RotaryTable


@dataclasses.dataclass(frozen=True)
class HeadNorms:
    """Weights (D,) bf16 of the norms of query and key heads, and what is added to the mean square."""

    queries: torch.Tensor
    keys: torch.Tensor
    eps: float


class Operations(Protocol):
    """Binds weights to the layers that compute with them on one kind of device."""

    def linear(self, weight: LinearWeight) -> Linear:
        """The linear layer of `weight`."""
        ...

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """The expert layer of `weights`."""
        ...

    def plan_attention(self, batch: ForwardBatch, *, block_size: int, heads_per_kv_head: int) -> Plan:
        """What every layer's attention over `batch` shares."""
        ...

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root-mean-square norm of each row: x (T, H), weight (H,) bf16 -> (T, H) bf16."""
        ...

    def prepare_qkv(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """Norm and rotate queries and keys, and write keys and values to `cache` at `slot_mapping`.

        qkv (T, H + 2G, D) bf16: query heads, key heads, value heads; rows: the table at each token's position ->
        queries (T, H, D) bf16.
        """
        ...

    def attention(self, queries: torch.Tensor, cache: torch.Tensor, plan: Plan) -> torch.Tensor:
        """Attend to what the cache holds: queries (T, H, D) -> (T, H, D)."""
        ...


class CpuOperations:
    """Every row's bits depend on that row and its request alone."""

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Operations`."""
        return rms_norm(x, weight, eps)

    def attention(self, queries: torch.Tensor, cache: torch.Tensor, plan: Plan) -> torch.Tensor:
        """See `Operations`."""
        assert isinstance(plan, CpuAttentionPlan), "plan_attention makes the plan"
        return cpu_attention(queries, cache, plan)

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return cpu_linear(weight)

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""
        return CpuExperts(weights, top_k=top_k, renormalize=renormalize)

    def plan_attention(self, batch: ForwardBatch, *, block_size: int, heads_per_kv_head: int) -> Plan:
        """See `Operations`."""
        return plan_cpu_attention(
            batch.block_tables,
            batch.chunk_starts,
            batch.context_lens,
            block_size=block_size,
            heads_per_kv_head=heads_per_kv_head,
        )

    def prepare_qkv(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations`."""
        return cpu_prepare_qkv(qkv, norms.queries, norms.keys, norms.eps, rows, cache, slot_mapping)
