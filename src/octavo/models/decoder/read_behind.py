"""What the products of a layer's first half ask for when their own weights have come."""

from __future__ import annotations

import dataclasses

from octavo.models.decoder.parameters import AttentionParameters, DenseMlp, LayerParameters, SparseMlp
from octavo.ops.ahead import Ahead

FEW_ROWS = 4
"""For which experts leave room in the second cache for the next layer's weights."""


@dataclasses.dataclass(frozen=True)
class ReadBehind:
    """What is read behind the products of a layer's first half."""

    by_input: list[Ahead]
    """Asked for by the projection to it: the weight of the projection back, and what the second half reads first, of experts where there are so
    many rows that most are chosen."""
    by_output: list[Ahead]
    """By the projection back: what the next layer reads first, if there is one."""

    @classmethod
    def of(cls, layer: LayerParameters, behind: LayerParameters | None) -> ReadBehind:
        """Of `layer`, and the one behind it."""
        by_input = [Ahead.of(layer.mixer.out.data), _first(layer.mlp)]
        if behind is None:
            return cls(by_input, [])
        mixer = behind.mixer
        first = mixer.qkv if isinstance(mixer, AttentionParameters) else mixer.qkvz
        return cls(by_input, [Ahead.of(first.data, most=FEW_ROWS)])


def _first(mlp: DenseMlp | SparseMlp) -> Ahead:
    if isinstance(mlp, DenseMlp):
        return Ahead.of(mlp.gate_up.data)
    gate_up = mlp.experts.gate_up.data
    return Ahead.of(gate_up, fewest=len(gate_up) // mlp.rule.top_k)
