"""The layers of a decoder, bound to their parameters and to the operations of a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch

from octavo.models.decoder.delta_net import GatedDeltaNet
from octavo.models.decoder.parameters import (
    AttentionParameters,
    DeltaNetParameters,
    DenseMlp,
    LayerParameters,
    SharedExpert,
    SparseMlp,
)
from octavo.models.decoder.rows import LayerRows
from octavo.models.operations import Operations
from octavo.ops.activations import Activations
from octavo.ops.attention.cache import UNSCALED, KvScales
from octavo.ops.attention.layer import Attention, AttentionShape
from octavo.ops.formats import Bf16, LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.weighted_sum import Addend


class Mlp(Protocol):
    """The second half of a layer: normed rows -> what is added to those before the norm; `rows_in_use` as in `ForwardBatch`."""

    @property
    def forms(self) -> frozenset[type[Activations]]:
        """In which it reads its rows."""
        ...

    def __call__(self, x: Inputs, rows_in_use: torch.Tensor | None) -> Addend: ...


class Dense:
    """down (silu(gate x) * (up x))"""

    def __init__(self, parameters: DenseMlp, operations: Operations) -> None:
        self.forms = frozenset({parameters.gate_up.activations})
        self._gate_up = operations.linear(parameters.gate_up)
        self._down = operations.linear(parameters.down)
        self._gates = operations.gates

    def __call__(self, x: Inputs, rows_in_use: torch.Tensor | None) -> torch.Tensor:
        return self._down(self._gates.swiglu(self._gate_up.float32(x)))


class Shared:
    """y + sigmoid(gate x) * mlp(x); without a gate y + mlp(x)"""

    def __init__(self, parameters: SharedExpert, operations: Operations) -> None:
        self._mlp = Dense(parameters.mlp, operations)
        self.forms = self._mlp.forms | ({parameters.gate.activations} if parameters.gate is not None else set())
        self._gate = None if parameters.gate is None else operations.linear(parameters.gate)
        self._gates = operations.gates

    def __call__(self, x: Inputs, y: torch.Tensor) -> torch.Tensor:
        """x, y (T, H) -> (T, H) bf16"""
        logits = None if self._gate is None else self._gate.float32(x)
        return self._gates.add_share(y, self._mlp(x, None), logits)


class Router:
    """The logits of a router: x (T, H) -> (T, E) float32, new.

    Weights in float32 are the exact sum of three in bf16, the later ones of what the earlier leave. Their products with x
    are added in this order; where the first says it all, as for a checkpoint in bf16, there is but one.
    """

    def __init__(self, weight: LinearWeight | torch.Tensor, operations: Operations) -> None:
        parts = split_float32(weight) if isinstance(weight, torch.Tensor) else []
        self._parts = max(1, len(parts))
        whole = Bf16(torch.cat(parts)) if isinstance(weight, torch.Tensor) else weight
        self.forms = frozenset({whole.activations})
        self._linear = operations.linear(whole)

    def __call__(self, x: Inputs) -> torch.Tensor:
        logits, *others = self._linear.float32(x).chunk(self._parts, dim=1)
        for other in others:
            logits = logits + other
        return logits.contiguous()


def split_float32(weight: torch.Tensor) -> list[torch.Tensor]:
    """Up to three matrices (E, H) bf16 whose sum is `weight` (E, H) float32."""
    parts: list[torch.Tensor] = []
    while not parts or (len(parts) < 3 and bool(weight.any())):
        parts.append(weight.bfloat16())
        weight = weight - parts[-1].float()
    return parts


class Sparse:
    """The experts that the router chooses for each row, weighted, and the one that all rows share if there is one."""

    def __init__(self, parameters: SparseMlp, operations: Operations) -> None:
        self._router = Router(parameters.router, operations)
        self._experts = operations.experts(parameters.experts, parameters.rule)
        self._shared = None if parameters.shared is None else Shared(parameters.shared, operations)
        self.forms = self._router.forms | {parameters.experts.gate_up.activations}
        if self._shared is not None:
            self.forms |= self._shared.forms

    def __call__(self, x: Inputs, rows_in_use: torch.Tensor | None) -> Addend:
        logits = self._router(x)
        if self._shared is None:
            return self._experts.addend(x, logits, rows_in_use)
        return self._shared(x, self._experts(x, logits, rows_in_use))


NormWeight = Callable[[torch.Tensor], torch.Tensor]
"""From the weight of a norm as it is stored to what is multiplied by."""


def as_stored(weight: torch.Tensor) -> torch.Tensor:
    """See `NormWeight`: (D,) bf16, the same."""
    return weight


def offset_from_one(weight: torch.Tensor) -> torch.Tensor:
    """See `NormWeight`: (D,) bf16 -> (D,) float32, new."""
    return weight.float() + 1.0


class Mixer(Protocol):
    """The first half of a layer: normed rows (T, H) -> (R, H) bf16 of the R that are wanted; writes `cache`, the layer's own."""

    @property
    def forms(self) -> frozenset[type[Activations]]:
        """In which it reads its rows."""
        ...

    def __call__(self, x: Inputs, rows: LayerRows, cache: torch.Tensor) -> torch.Tensor: ...


class SelfAttention:
    """The projection to queries, keys and values, attention over the cache, and the projection back."""

    def __init__(
        self, parameters: AttentionParameters, attention: Attention, operations: Operations, norm_weight: NormWeight
    ) -> None:
        self._qkv, self._out = operations.linear(parameters.qkv), operations.linear(parameters.out)
        norms = parameters.norms
        if norms is not None:
            norms = dataclasses.replace(norms, queries=norm_weight(norms.queries), keys=norm_weight(norms.keys))
        scales = parameters.kv_scales
        kv_scales = UNSCALED if scales is None else KvScales(*(scale.item() for scale in scales))
        self._attend = attention.layer(norms, kv_scales, gated=parameters.gated)
        self.forms = frozenset({parameters.qkv.activations})

    def __call__(self, x: Inputs, rows: LayerRows, cache: torch.Tensor) -> torch.Tensor:
        """x (T, H) -> (R, H) bf16 of the R rows that attend; keys and values of all rows are written to `cache`."""
        return self._out(self._attend(self._qkv(x), rows.attention, cache))


class GatedAttention(SelfAttention):
    """The same, its output multiplied by the sigmoid of a gate that is projected beside each query head.

    Both are rounded to bf16 before, as in Hugging Face's `Qwen3NextAttention`.
    """

    def __init__(
        self,
        parameters: AttentionParameters,
        attention: Attention,
        operations: Operations,
        norm_weight: NormWeight,
        shape: AttentionShape,
    ) -> None:
        super().__init__(parameters, attention, operations, norm_weight)
        self._shape, self._gates, self._out_form = shape, operations.gates, parameters.out.activations

    def __call__(self, x: Inputs, rows: LayerRows, cache: torch.Tensor) -> torch.Tensor:
        """See `SelfAttention`: x (T, H) -> (R, H) bf16."""
        heads, width = self._shape.heads, self._shape.head_dim
        qkv = self._qkv(x)
        gates = qkv[:, : 2 * heads * width].unflatten(1, (heads, 2, width))[:, :, 1]
        mixed = self._attend(qkv, rows.attention, cache)
        return self._out(self._gates.heads(mixed, rows.attention.select_queries(gates), self._out_form))


class Layer:
    """x + mixer(norm(x)), then the same with the MLP: (T, H) bf16 -> (R, H) bf16 of the R rows that are wanted.

    What comes in and goes out are the two addends of such a sum: the norm that reads it makes it.
    """

    def __init__(
        self,
        parameters: LayerParameters,
        attention: Attention,
        operations: Operations,
        rms_norm_eps: float,
        norm_weight: NormWeight,
        shape: AttentionShape,
    ) -> None:
        self._mixer: Mixer
        match parameters.mixer:
            case DeltaNetParameters():
                self._mixer = GatedDeltaNet(parameters.mixer, operations, rms_norm_eps)
            case AttentionParameters(gated=True):
                self._mixer = GatedAttention(parameters.mixer, attention, operations, norm_weight, shape)
            case AttentionParameters():
                self._mixer = SelfAttention(parameters.mixer, attention, operations, norm_weight)
        self._mlp: Mlp
        match parameters.mlp:
            case DenseMlp():
                self._mlp = Dense(parameters.mlp, operations)
            case SparseMlp():
                self._mlp = Sparse(parameters.mlp, operations)
        self._input_norm = operations.add_norm(norm_weight(parameters.input_norm), rms_norm_eps, self._mixer.forms)
        self._post_norm = operations.add_norm(norm_weight(parameters.post_norm), rms_norm_eps, self._mlp.forms)

    def __call__(
        self,
        x: torch.Tensor,
        change: Addend | None,
        rows: LayerRows,
        cache: torch.Tensor,
        rows_in_use: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Addend]:
        x, normed = self._input_norm(x, change)
        mixed = self._mixer(normed, rows, cache)
        x, normed = self._post_norm(rows.attention.select_queries(x), mixed)
        return x, self._mlp(normed, rows_in_use)
