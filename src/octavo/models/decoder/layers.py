"""The layers of a decoder, bound to their parameters and to the operations of a device."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.models.decoder.parameters import AttentionParameters, DenseMlp, LayerParameters, SharedExpert, SparseMlp
from octavo.models.operations import Operations
from octavo.ops.attention.cache import UNSCALED, KvScales
from octavo.ops.attention.layer import Attention, AttentionRows
from octavo.ops.experts.routing import swiglu
from octavo.ops.experts.rules import sigmoid
from octavo.ops.formats import Bf16, LinearWeight


class Mlp(Protocol):
    """The second half of a layer: (T, H) bf16 -> (T, H) bf16; `rows_in_use` as in `ForwardBatch`."""

    def __call__(self, x: torch.Tensor, rows_in_use: torch.Tensor | None) -> torch.Tensor: ...


class Dense:
    """down (silu(gate x) * (up x))"""

    def __init__(self, parameters: DenseMlp, operations: Operations) -> None:
        self._gate_up = operations.linear(parameters.gate_up)
        self._down = operations.linear(parameters.down)

    def __call__(self, x: torch.Tensor, rows_in_use: torch.Tensor | None) -> torch.Tensor:
        return self._down(swiglu(self._gate_up.float32(x)))


class Shared:
    """sigmoid(gate x) * mlp(x), in float32; without a gate mlp(x)"""

    def __init__(self, parameters: SharedExpert, operations: Operations) -> None:
        self._mlp = Dense(parameters.mlp, operations)
        self._gate = None if parameters.gate is None else operations.linear(parameters.gate)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, H) bf16 -> (T, H) float32"""
        out = self._mlp(x, None).float()
        return out if self._gate is None else sigmoid(self._gate.float32(x)) * out


class Router:
    """The logits of a router: x (T, H) bf16 -> (T, E) float32, new.

    Weights in float32 are the exact sum of three in bf16, the later ones of what the earlier leave. Their products with x
    are added in this order; where the first says it all, as for a checkpoint in bf16, there is but one.
    """

    def __init__(self, weight: LinearWeight | torch.Tensor, operations: Operations) -> None:
        parts = split_float32(weight) if isinstance(weight, torch.Tensor) else []
        self._parts = max(1, len(parts))
        self._linear = operations.linear(Bf16(torch.cat(parts)) if isinstance(weight, torch.Tensor) else weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
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

    def __call__(self, x: torch.Tensor, rows_in_use: torch.Tensor | None) -> torch.Tensor:
        chosen = self._experts(x, self._router(x), rows_in_use)
        return chosen if self._shared is None else (chosen.float() + self._shared(x)).to(torch.bfloat16)


class SelfAttention:
    """The projection to queries, keys and values, attention over the cache, and the projection back."""

    def __init__(self, parameters: AttentionParameters, attention: Attention, operations: Operations) -> None:
        self._qkv, self._out = operations.linear(parameters.qkv), operations.linear(parameters.out)
        scales = parameters.kv_scales
        self._attend = attention.layer(
            parameters.norms, UNSCALED if scales is None else KvScales(*(scale.item() for scale in scales))
        )

    def __call__(self, x: torch.Tensor, rows: AttentionRows, cache: torch.Tensor) -> torch.Tensor:
        """(T, H) bf16 -> (R, H) bf16 of the R rows that attend; keys and values of all rows are written to `cache`."""
        return self._out(self._attend(self._qkv(x), rows, cache))


class Layer:
    """x + attention(norm(x)), then the same with the MLP: (T, H) bf16 -> (R, H) bf16 of the R rows that attend."""

    def __init__(
        self, parameters: LayerParameters, attention: Attention, operations: Operations, rms_norm_eps: float
    ) -> None:
        self._attention = SelfAttention(parameters.attention, attention, operations)
        self._mlp: Mlp
        match parameters.mlp:
            case DenseMlp():
                self._mlp = Dense(parameters.mlp, operations)
            case SparseMlp():
                self._mlp = Sparse(parameters.mlp, operations)
        self._norms = (parameters.input_norm, parameters.post_norm)
        self._eps, self._norm = rms_norm_eps, operations.norm

    def __call__(
        self, x: torch.Tensor, rows: AttentionRows, cache: torch.Tensor, rows_in_use: torch.Tensor | None
    ) -> torch.Tensor:
        attended = self._attention(self._norm(x, self._norms[0], self._eps), rows, cache)
        x = rows.select_queries(x) + attended
        return x + self._mlp(self._norm(x, self._norms[1], self._eps), rows_in_use)
