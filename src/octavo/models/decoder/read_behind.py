"""What the products of a layer's first half ask for when their own weights have come."""

from __future__ import annotations

import dataclasses

from octavo.models.decoder.parameters import DenseMlp, LayerParameters, SparseMlp
from octavo.ops.ahead import Ahead

FEW_ROWS = 16
"""Whose keys and values leave room in the second cache for a weight, where contexts are short."""


@dataclasses.dataclass(frozen=True)
class ReadBehind:
    """What is read behind the products of a layer's first half."""

    by_input: Ahead
    """Asked for by the projection to it: the weight of the projection back."""
    by_output: Ahead
    """By the projection back: what the second half reads first, of experts where there are so many rows that most are chosen."""

    @classmethod
    def of(cls, layer: LayerParameters) -> ReadBehind:
        """Of `layer`."""
        return cls(Ahead.of(layer.mixer.out.data, most=FEW_ROWS), _first(layer.mlp))


def _first(mlp: DenseMlp | SparseMlp) -> Ahead:
    if isinstance(mlp, DenseMlp):
        return Ahead.of(mlp.gate_up.data)
    gate_up = mlp.experts.gate_up.data
    return Ahead.of(gate_up, fewest=len(gate_up) // mlp.rule.top_k)
