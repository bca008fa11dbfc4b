"""The expert layer on CUDA with PyTorch's own operations: one pair of products per expert."""

from __future__ import annotations

import itertools

import torch

from benchmarks.torch_baseline.linear import torch_linear
from octavo.ops.contract import Dims
from octavo.ops.experts.layer import ExpertWeights
from octavo.ops.experts.routing import choose_experts, swiglu
from octavo.ops.experts.rules import RoutingRule
from octavo.ops.formats import LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.linear.layer import Linear
from octavo.ops.row_chunks import row_chunks


class CudaExperts:
    """Sorts the assignments by expert, asks the device once for the counts, and runs the experts in turn.

    Raises:
        CheckpointError: sizes that `RowwiseFp8Linear` cannot run.
    """

    def __init__(self, weights: ExpertWeights, rule: RoutingRule) -> None:
        self._gate_up, self._down = _split(weights.gate_up), _split(weights.down)
        self._hidden_size = weights.down.data.shape[1]
        self._rule, self._top_k = rule, rule.top_k

    def __call__(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Experts`.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        x = Inputs.of(x).bf16
        dims = Dims()
        dims.check("x", x, ("T", self._hidden_size), dtype=torch.bfloat16)
        dims.check("logits", logits, ("T", len(self._down)), dtype=torch.float32)
        routing = choose_experts(logits, self._rule)
        ids = routing.ids.view(-1)
        order = torch.argsort(ids, stable=True)
        bounds = torch.searchsorted(ids[order], torch.arange(len(self._down) + 1, device=x.device)).tolist()
        rows = x.index_select(0, order // self._top_k)
        out = torch.empty_like(rows)
        for expert, (begin, end) in enumerate(itertools.pairwise(bounds)):
            if begin < end:
                hidden = swiglu(self._gate_up[expert](rows[begin:end]).float())
                out[begin:end] = self._down[expert](hidden)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=x.device)
        return combine(out, places.view(routing.ids.shape), routing.weights)

    def addend(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Experts`."""
        return self(x, logits, rows_in_use)


def _split(weight: LinearWeight) -> list[Linear]:
    """One linear layer per expert, sharing the stacked weight's memory."""
    return [torch_linear(weight.expert(e)) for e in range(len(weight.data))]


def combine(rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """out[t] = sum over k, in order, of weights[t, k] * rows[places[t, k]], in float32.

    rows (P, H) bf16, places (T, K) int64, weights (T, K) float32 -> (T, H) bf16, new.
    """
    out = rows.new_empty((len(places), rows.shape[1]))
    for chunk in row_chunks(len(places)):
        at, shares = places[chunk], weights[chunk]
        total = torch.zeros(out[chunk].shape, dtype=torch.float32, device=rows.device)
        for k in range(places.shape[1]):
            total.add_(rows.index_select(0, at[:, k]).float().mul_(shares[:, k, None]))
        out[chunk] = total
    return out
