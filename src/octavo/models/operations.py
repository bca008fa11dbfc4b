"""What a model is computed with: one type per device, chosen once at load."""

from __future__ import annotations

import abc
import dataclasses
from typing import Protocol

import torch

from octavo.kernels.attention import (
    AttentionPlan,
    CpuAttentionPlan,
    Plan,
    cpu_attention,
    plan_attention,
    plan_cpu_attention,
    write_kv,
)
from octavo.kernels.attention import attention as attend
from octavo.kernels.experts import CpuExperts, CudaExperts, Experts, ExpertWeights
from octavo.kernels.linear import (
    Bf16Weight,
    CublasLinear,
    Fp8Weight,
    Linear,
    LinearWeight,
    RowwiseFp8Linear,
    TiledFp8Linear,
    TiledLinear,
)
from octavo.kernels.pieces import pieces
from octavo.kernels.rms_norm import rms_norm
from octavo.kernels.rotary import RotaryTable, rotary
from octavo.models.interface import ForwardBatch


@dataclasses.dataclass(frozen=True)
class Norm:
    """Weight (H,) bf16 of a root-mean-square norm, and what is added to the mean square."""

    weight: torch.Tensor
    eps: float


@dataclasses.dataclass(frozen=True)
class HeadNorms:
    """Weights (D,) bf16 of the norms of query and key heads, and what is added to the mean square."""

    queries: torch.Tensor
    keys: torch.Tensor
    eps: float


class NormedLinear(Protocol):
    """A sum, and a linear layer of its norm. The sum is what the next layers add to."""

    def __call__(self, x: torch.Tensor, change: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """x + change and W @ norm(x + change) + b; x, change (T, H) bf16, None for nothing -> (T, H), (T, N) bf16."""
        ...

    def float32(self, x: torch.Tensor, change: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, the product not rounded to bf16: (T, H) bf16, (T, N) float32."""
        ...


class NormedExperts(Protocol):
    """A sum, and the experts that a router chooses for its norm."""

    def __call__(
        self, x: torch.Tensor, change: torch.Tensor | None, live: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x + change and the experts' output for norm(x + change), (T, H) bf16 each; `live` as in `Experts`."""
        ...


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

    def norm(
        self, x: torch.Tensor, change: torch.Tensor | None, norm: Norm, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """norm(x + change) of each row: x, change (T, H) bf16, None for nothing -> (T, H) bf16, in `out` or new."""
        ...

    def normed_linear(self, norm: Norm, weight: LinearWeight) -> NormedLinear:
        """The linear layer of `weight` behind `norm`."""
        ...

    def normed_experts(
        self, norm: Norm, router: LinearWeight, weights: ExpertWeights, *, top_k: int, renormalize: bool
    ) -> NormedExperts:
        """The expert layer of `weights` behind `norm`, with its router."""
        ...

    def attention_input(
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


class SeparateLinear:
    """A `NormedLinear` of one operation after the other."""

    def __init__(self, norm: Norm, linear: Linear) -> None:
        self._norm, self._linear = norm, linear

    def __call__(self, x: torch.Tensor, change: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        x = x if change is None else x + change
        return x, self._linear(rms_norm(x, self._norm.weight, self._norm.eps))

    def float32(self, x: torch.Tensor, change: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        x = x if change is None else x + change
        return x, self._linear.float32(rms_norm(x, self._norm.weight, self._norm.eps))


class SeparateExperts:
    """A `NormedExperts` of one operation after the other."""

    def __init__(self, norm: Norm, router: Linear, experts: Experts) -> None:
        self._norm, self._router, self._experts = norm, router, experts

    def __call__(
        self, x: torch.Tensor, change: torch.Tensor | None, live: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = x if change is None else x + change
        normed = rms_norm(x, self._norm.weight, self._norm.eps)
        return x, self._experts(normed, self._router.float32(normed), live)


class TorchOperations(abc.ABC):
    """What is PyTorch's operations on any device."""

    @abc.abstractmethod
    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""

    @abc.abstractmethod
    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""

    def normed_linear(self, norm: Norm, weight: LinearWeight) -> NormedLinear:
        """See `Operations`."""
        return SeparateLinear(norm, self.linear(weight))

    def normed_experts(
        self, norm: Norm, router: LinearWeight, weights: ExpertWeights, *, top_k: int, renormalize: bool
    ) -> NormedExperts:
        """See `Operations`."""
        experts = self.experts(weights, top_k=top_k, renormalize=renormalize)
        return SeparateExperts(norm, self.linear(router), experts)

    def plan_attention(self, batch: ForwardBatch, *, block_size: int, heads_per_kv_head: int) -> Plan:
        """See `Operations`."""
        return plan_attention(
            batch.block_tables,
            batch.chunk_starts,
            batch.context_lens,
            block_size=block_size,
            heads_per_kv_head=heads_per_kv_head,
        )

    def norm(
        self, x: torch.Tensor, change: torch.Tensor | None, norm: Norm, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Operations`."""
        normed = rms_norm(x if change is None else x + change, norm.weight, norm.eps)
        return normed if out is None else out.copy_(normed)

    def attention_input(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations`."""
        kv_heads = cache.shape[3]
        queries, keys, values = torch.split(qkv, [qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
        keys = rotary(rms_norm(keys, norms.keys, norms.eps), rows)
        write_kv(keys, values, cache, slot_mapping)
        return rotary(rms_norm(queries, norms.queries, norms.eps), rows)

    def attention(self, queries: torch.Tensor, cache: torch.Tensor, plan: Plan) -> torch.Tensor:
        """See `Operations`."""
        match plan:
            case CpuAttentionPlan():
                return cpu_attention(queries, cache, plan)
            case AttentionPlan():
                return attend(queries, cache, plan)
        raise TypeError(f"{type(plan).__name__} is a plan of other operations")


class CpuOperations(TorchOperations):
    """Every row's bits depend on that row and its request alone."""

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        match weight:
            case Bf16Weight():
                return TiledLinear(weight)
            case Fp8Weight():
                return TiledFp8Linear(weight)

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

    def attention_input(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations`; queries and keys go together."""
        kv_heads = cache.shape[3]
        heads = qkv.shape[1] - 2 * kv_heads
        weight = torch.cat((norms.queries.expand(heads, -1), norms.keys.expand(kv_heads, -1)))
        turned = qkv.new_empty((len(qkv), heads + kv_heads, qkv.shape[2]))
        for piece in pieces(len(qkv)):
            normed = rms_norm(qkv[piece, :-kv_heads], weight, norms.eps)
            turned[piece] = rotary(normed, rows.piece(piece))
        write_kv(turned[:, heads:], qkv[:, -kv_heads:], cache, slot_mapping)
        return turned[:, :heads]


class CudaOperations(TorchOperations):
    """PyTorch's own operations on CUDA; the shapes of products, and so bits, may change with the batch."""

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        match weight:
            case Bf16Weight():
                return CublasLinear(weight)
            case Fp8Weight():
                return RowwiseFp8Linear(weight)

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""
        return CudaExperts(weights, top_k=top_k, renormalize=renormalize)


def operations_for(device: torch.device) -> Operations:
    """The operations of `device`."""
    return CudaOperations() if device.type == "cuda" else CpuOperations()
