"""The layers of a decoder, bound to their parameters and to the operations of a device."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.models.decoder.parameters import AttentionParameters, DenseMlp, LayerParameters, SharedExpert, SparseMlp
from octavo.models.operations import Operations
from octavo.ops.activations import Activations
from octavo.ops.attention.layer import Attention, AttentionRows
from octavo.ops.experts.routing import swiglu
from octavo.ops.experts.rules import sigmoid
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

    def __call__(self, x: Inputs, rows_in_use: torch.Tensor | None) -> torch.Tensor:
        return self._down(swiglu(self._gate_up.float32(x)))


class Shared:
    """sigmoid(gate x) * mlp(x), in float32; without a gate mlp(x)"""

    def __init__(self, parameters: SharedExpert, operations: Operations) -> None:
        self._mlp = Dense(parameters.mlp, operations)
        self.forms = self._mlp.forms | ({parameters.gate.activations} if parameters.gate is not None else set())
        self._gate = None if parameters.gate is None else operations.linear(parameters.gate)

    def __call__(self, x: Inputs) -> torch.Tensor:
        """x (T, H) -> (T, H) float32"""
        out = self._mlp(x, None).float()
        return out if self._gate is None else sigmoid(self._gate.float32(x)) * out


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
        return (self._experts(x, logits, rows_in_use).float() + self._shared(x)).to(torch.bfloat16)


class SelfAttention:
    """The projection to queries, keys and values, attention over the cache, and the projection back."""

    def __init__(self, parameters: AttentionParameters, attention: Attention, operations: Operations) -> None:
        self._qkv, self._out = operations.linear(parameters.qkv), operations.linear(parameters.out)
        self._attend = attention.layer(parameters.norms)
        self.forms = frozenset({parameters.qkv.activations})

    def __call__(self, x: Inputs, rows: AttentionRows, cache: torch.Tensor) -> torch.Tensor:
        """x (T, H) -> (R, H) bf16 of the R rows that attend; keys and values of all rows are written to `cache`."""
        return self._out(self._attend(self._qkv(x), rows, cache))


class Layer:
    """x + attention(norm(x)), then the same with the MLP: (T, H) bf16 -> (R, H) bf16 of the R rows that attend.

    What comes in and goes out are the two addends of such a sum: the norm that reads it makes it.
    """

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
        self._input_norm = operations.add_norm(parameters.input_norm, rms_norm_eps, self._attention.forms)
        self._post_norm = operations.add_norm(parameters.post_norm, rms_norm_eps, self._mlp.forms)

    def __call__(
        self,
        x: torch.Tensor,
        change: Addend | None,
        rows: AttentionRows,
        cache: torch.Tensor,
        rows_in_use: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Addend]:
        x, normed = self._input_norm(x, change)
        attended = self._attention(normed, rows, cache)
        x, normed = self._post_norm(rows.select_queries(x), attended)
        return x, self._mlp(normed, rows_in_use)
