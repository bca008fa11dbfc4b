"""Gated DeltaNet as a part of a layer, with the projections to it and from it."""

from __future__ import annotations

import torch

from octavo.models.decoder.parameters import DeltaNetParameters
from octavo.models.decoder.rows import LayerRows
from octavo.models.operations import Operations
from octavo.ops.inputs import Inputs


class GatedDeltaNet:
    """The projections, the delta rule on each request's state, a norm of each head times the silu of its gate, and back."""

    def __init__(self, parameters: DeltaNetParameters, operations: Operations, eps: float) -> None:
        self._qkvz, self._out = operations.linear(parameters.qkvz), operations.linear(parameters.out)
        self._write_decay = operations.linear(parameters.write_decay)
        self._delta = operations.delta_net(parameters.shape, parameters.weights)
        self._shape, self._grouped = parameters.shape, parameters.grouped
        self._gates, self._norm, self._eps = operations.gates, parameters.norm, eps
        self._out_form = parameters.out.activations
        self.forms = frozenset({parameters.qkvz.activations, parameters.write_decay.activations})

    def __call__(self, x: Inputs, rows: LayerRows, cache: torch.Tensor) -> torch.Tensor:
        """x (T, H) -> (R, H) bf16 of the rows that are wanted; `cache` (states, numbers) float32 is moved on by all rows."""
        assert rows.delta is not None, "a model with this layer plans for it"
        # the small product first: the weights of the large one come meanwhile
        write, decay = self._split_logits(self._write_decay.float32(x))
        qkv, gates = self._split(self._qkvz(x))
        mixed = self._delta(qkv, write, decay, cache, rows.delta)
        mixed, gates = rows.attention.select_queries(mixed), rows.attention.select_queries(gates)
        return self._out(self._gates.norm(mixed, gates, self._norm, self._eps, self._out_form))

    def _split(self, qkvz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, 2 K + 2 V) -> queries, keys and values (T, C), and gates (T, value heads, D); by key head, if they lie so, both with one
        dimension more for it. Views."""
        shape = self._shape
        if not self._grouped:
            qkv, gates = qkvz.split([shape.channels, shape.value_heads * shape.value_dim], dim=1)
            return qkv, gates.unflatten(1, (shape.value_heads, shape.value_dim))
        by_head = qkvz.unflatten(1, (shape.key_heads, -1))
        gates = by_head[..., shape.channels // shape.key_heads :]
        return by_head, gates.unflatten(2, (shape.value_heads // shape.key_heads, shape.value_dim))

    def _split_logits(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, 2 value heads) float32 -> what decides how much is written, and how fast a state decays, as `DeltaNet` takes them: views."""
        by_head = logits.unflatten(1, (self._shape.key_heads, -1)) if self._grouped else logits
        write, decay = by_head.chunk(2, dim=-1)
        return write, decay
