"""The expert layer on CUDA with PyTorch's own operations: one pair of products per expert."""

from __future__ import annotations

import itertools

import torch

from octavo.ops.contract import Dims
from octavo.ops.experts.layer import ExpertWeights
from octavo.ops.experts.routing import choose_experts, combine, swiglu
from octavo.ops.formats import LinearWeight
from octavo.ops.linear.layer import Linear
from octavo.ops.linear.torch_cuda import torch_linear


class CudaExperts:
    """Sorts the slots by expert, asks the device once for the counts, and runs the experts in turn.

    Raises:
        CheckpointError: sizes that `RowwiseFp8Linear` cannot run.
    """

    def __init__(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> None:
        self._gate_up, self._down = _split(weights.gate_up), _split(weights.down)
        self._hidden_size = weights.down.data.shape[1]
        self._top_k, self._renormalize = top_k, renormalize

    def __call__(self, x: torch.Tensor, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None) -> torch.Tensor:
        """See `Experts`.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        dims = Dims()
        dims.check("x", x, ("T", self._hidden_size), dtype=torch.bfloat16)
        dims.check("logits", logits, ("T", len(self._down)), dtype=torch.float32)
        routing = choose_experts(logits, self._top_k, renormalize=self._renormalize)
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


def _split(weight: LinearWeight) -> list[Linear]:
    """One linear layer per expert, sharing the stacked weight's memory."""
    return [torch_linear(weight.expert(e)) for e in range(len(weight.data))]
