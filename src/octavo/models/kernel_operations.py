"""Octavo's own kernels for a whole model on CUDA.

A module of its own: importing it compiles nothing yet, but it needs Triton, which a CPU does not.
"""

from __future__ import annotations

import torch

from octavo.kernels.attention import Plan
from octavo.kernels.attention_input import attention_input
from octavo.kernels.dense_gemm.layer import KernelLinear, product
from octavo.kernels.experts import Experts, ExpertWeights
from octavo.kernels.linear import Bf16Weight, Fp8Weight, Linear, LinearWeight
from octavo.kernels.moe import MoeWorkspace, moe_workspace
from octavo.kernels.moe.experts import KernelExperts
from octavo.kernels.paged_attention import PagedPlan, Partials, paged_attention, plan_paged_attention
from octavo.kernels.rms_norm.cuda import Normed, add_norm
from octavo.kernels.rotary import RotaryTable
from octavo.kernels.scaled import ChannelWeights, PlainWeights, TokenScaled, Unscaled, Weights
from octavo.models.interface import ForwardBatch
from octavo.models.operations import HeadNorms, Norm, NormedExperts, NormedLinear


def _inputs(normed: Normed, weight: LinearWeight) -> TokenScaled | Unscaled:
    """The rows in the format that `weight` asks for."""
    match weight:
        case Fp8Weight():
            return normed.in_fp8
        case Bf16Weight():
            return normed.in_bf16


class KernelNormedLinear:
    """A `NormedLinear` in two kernels: sum, norm and rounding to the weight's format; the product."""

    def __init__(self, norm: Norm, weight: LinearWeight) -> None:
        self._norm, self._weight = norm, weight
        self._fp8 = isinstance(weight, Fp8Weight)

    def __call__(self, x: torch.Tensor, change: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return self._into(x, change, torch.bfloat16)

    def float32(self, x: torch.Tensor, change: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return self._into(x, change, torch.float32)

    def _into(
        self, x: torch.Tensor, change: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed = add_norm(x, change, self._norm.weight, self._norm.eps, bf16=not self._fp8, fp8=self._fp8)
        return normed.total, product(_inputs(normed, self._weight), self._weight, dtype)


class KernelNormedExperts:
    """A `NormedExperts` whose sum, norm and rounding to the formats of router and experts are one kernel."""

    def __init__(self, norm: Norm, router: LinearWeight, gate_up: LinearWeight, experts: KernelExperts) -> None:
        self._norm, self._router, self._gate_up, self._experts = norm, router, gate_up, experts
        kinds = {type(router), type(gate_up)}
        self._bf16, self._fp8 = Bf16Weight in kinds, Fp8Weight in kinds

    def __call__(
        self, x: torch.Tensor, change: torch.Tensor | None, live: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed = add_norm(x, change, self._norm.weight, self._norm.eps, bf16=self._bf16, fp8=self._fp8)
        logits = product(_inputs(normed, self._router), self._router, torch.float32)
        inputs = normed.in_fp8 if isinstance(self._gate_up, Fp8Weight) else normed.in_bf16.data
        return normed.total, self._experts(inputs, logits, live)


class KernelOperations:
    """A row's bits depend on its request's tokens up to it alone, at any batch up to `max_tokens`.

    The workspace of the experts is allocated with the first layer of a shape, for the worst routing, and the room of
    attention with its first call; all layers share them, one call at a time.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._workspaces: dict[tuple[object, ...], MoeWorkspace] = {}
        self._partials: dict[tuple[int, int, torch.device], Partials] = {}

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return KernelLinear(weight)

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""
        return self._kernel_experts(weights, top_k=top_k, renormalize=renormalize)

    def _kernel_experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> KernelExperts:
        gate_up, down = _format(weights.gate_up), _format(weights.down)
        shape = (type(gate_up), type(down), tuple(down.data.shape), down.data.device, top_k)
        if shape not in self._workspaces:
            self._workspaces[shape] = moe_workspace(self._max_tokens, top_k, gate_up, down)
        return KernelExperts(gate_up, down, top_k=top_k, renormalize=renormalize, workspace=self._workspaces[shape])

    def plan_attention(self, batch: ForwardBatch, *, block_size: int, heads_per_kv_head: int) -> Plan:
        """See `Operations`."""
        return plan_paged_attention(
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
        return add_norm(x, change, norm.weight, norm.eps, bf16=True, total=False, out=out).in_bf16.data

    def normed_linear(self, norm: Norm, weight: LinearWeight) -> NormedLinear:
        """See `Operations`."""
        return KernelNormedLinear(norm, weight)

    def normed_experts(
        self, norm: Norm, router: LinearWeight, weights: ExpertWeights, *, top_k: int, renormalize: bool
    ) -> NormedExperts:
        """See `Operations`."""
        experts = self._kernel_experts(weights, top_k=top_k, renormalize=renormalize)
        return KernelNormedExperts(norm, router, weights.gate_up, experts)

    def attention_input(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations`."""
        return attention_input(qkv, norms.queries, norms.keys, norms.eps, rows, cache, slot_mapping)

    def attention(self, queries: torch.Tensor, cache: torch.Tensor, plan: Plan) -> torch.Tensor:
        """See `Operations`."""
        assert isinstance(plan, PagedPlan), "plan_attention makes the plan"
        _, heads, width = queries.shape
        shape = (heads, width, queries.device)
        if shape not in self._partials:
            self._partials[shape] = Partials.allocate(heads, width, queries.device)
        return paged_attention(queries, cache, plan, self._partials[shape])


def _format(weight: LinearWeight) -> Weights:
    """The kernels' name for the same tensors."""
    match weight:
        case Fp8Weight(data, scale):
            return ChannelWeights(data, scale)
        case Bf16Weight(data):
            return PlainWeights(data)
