"""All memory a layer needs, sized once for the worst routing."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.activations import FP8, Activations, GroupScaled, Quantizer, StaticScaled, TokenScaled
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.experts.permute import Permutation
from octavo.ops.formats import Weights
from octavo.ops.quantize.cuda import quantize, quantize_groups, quantize_static


@dataclasses.dataclass(frozen=True)
class ActivationBuffer:
    """Room for FP8 activations of one layer input: data (R, K) fp8 and the scales of the weights' format."""

    data: torch.Tensor
    """(R, K) fp8; (0, K) where the weights are bf16."""
    scale: torch.Tensor
    """(R,) f32 per token, (R, ceil(K / 128)) f32 per group, (0,) where there is nothing to write."""

    @classmethod
    def allocate(cls, rows: int, weights: Weights) -> ActivationBuffer:
        """Uninitialised room for `rows` rows of inputs of `weights`."""
        width, device = weights.data.shape[-1], weights.data.device
        data_rows = rows if weights.scales is not None else 0
        return cls(
            torch.empty((data_rows, width), dtype=FP8, device=device),
            torch.empty(weights.activations.scale_shape(rows, width), dtype=torch.float32, device=device),
        )

    def quantizer(self, rows_in_use: torch.Tensor | None, *, overlap_previous: bool = False) -> Quantizer:
        """Writes activations of (rows, K) numbers here, up to R rows; the arguments are those of `quantize`."""
        return _IntoBuffer(self, rows_in_use, overlap_previous)

    @property
    def grouped(self) -> GroupScaled:
        """All rows, whatever they hold, with a scale for each 128 columns."""
        return GroupScaled(self.data, self.scale)

    def held(self, rows: int, weights: Weights) -> Activations:
        """Views the first `rows` rows, whatever they hold, in the format that `weights` asks for."""
        return weights.activate(self.data[:rows], _AsHeld(self))


@dataclasses.dataclass(frozen=True)
class _IntoBuffer:
    """A `Quantizer` that writes to `buffer`."""

    buffer: ActivationBuffer
    rows_in_use: torch.Tensor | None
    overlap_previous: bool

    def per_token(self, x: torch.Tensor) -> TokenScaled:
        return quantize(
            x,
            rows_in_use=self.rows_in_use,
            out=_AsHeld(self.buffer).per_token(x),
            overlap_previous=self.overlap_previous,
        )

    def per_group(self, x: torch.Tensor) -> GroupScaled:
        return quantize_groups(
            x,
            rows_in_use=self.rows_in_use,
            out=_AsHeld(self.buffer).per_group(x),
            overlap_previous=self.overlap_previous,
        )

    def static(self, x: torch.Tensor, scale: torch.Tensor) -> StaticScaled:
        return quantize_static(
            x,
            scale,
            rows_in_use=self.rows_in_use,
            out=_AsHeld(self.buffer).static(x, scale),
            overlap_previous=self.overlap_previous,
        )


@dataclasses.dataclass(frozen=True)
class _AsHeld:
    """A `Quantizer` that computes nothing: the rows of `buffer` as they are, as many as it is given."""

    buffer: ActivationBuffer

    def per_token(self, x: torch.Tensor) -> TokenScaled:
        return TokenScaled(self.buffer.data[: len(x)], self.buffer.scale[: len(x)])

    def per_group(self, x: torch.Tensor) -> GroupScaled:
        return GroupScaled(self.buffer.data[: len(x)], self.buffer.scale[: len(x)])

    def static(self, x: torch.Tensor, scale: torch.Tensor) -> StaticScaled:
        return StaticScaled(self.buffer.data[: len(x)], scale)


@dataclasses.dataclass(frozen=True)
class MoeWorkspace:
    """Device memory of `moe` for up to `max_tokens` tokens with `top_k` assignments each; S = max_tokens x top_k.

    One workspace serves any number of layers of the same shape, one call at a time.
    """

    max_tokens: int
    top_k: int
    input: ActivationBuffer
    """(max_tokens, H)"""
    permutation: Permutation
    hidden: torch.Tensor
    """(S, I) bf16 in sorted order"""
    hidden_quantized: ActivationBuffer
    """(S, I)"""
    expert_out: torch.Tensor
    """(S, H) bf16 in assignment order"""

    @property
    def nbytes(self) -> int:
        """Bytes of device memory held."""
        parts = [
            self.input.data,
            self.input.scale,
            self.hidden,
            self.hidden_quantized.data,
            self.hidden_quantized.scale,
        ]
        parts += [
            self.expert_out,
            *(getattr(self.permutation, field.name) for field in dataclasses.fields(self.permutation)),
        ]
        return sum(part.numel() * part.element_size() for part in parts)


def moe_workspace(max_tokens: int, top_k: int, gate_up: Weights, down: Weights) -> MoeWorkspace:
    """Allocate for the worst routing of max_tokens x top_k assignments: all on one expert, or one on each.

    Args:
        max_tokens: most tokens of one call.
        top_k: assignments per token.
        gate_up: weights (E, 2I, H) of a layer; shape, format and device are read.
        down: weights (E, H, I) of a layer; shape, format and device are read.

    Raises:
        KernelContractError: max_tokens x top_k is out of range.
    """
    assignments = check_range(
        "max_tokens x top_k", max_tokens * top_k, 0, INDEX_LIMIT - 1024, "configure fewer tokens per step"
    )
    experts, hidden_size, intermediate = down.data.shape
    device = down.data.device
    return MoeWorkspace(
        max_tokens=max_tokens,
        top_k=top_k,
        input=ActivationBuffer.allocate(max_tokens, gate_up),
        permutation=Permutation.allocate(assignments, experts, device),
        hidden=torch.empty((assignments, intermediate), dtype=torch.bfloat16, device=device),
        hidden_quantized=ActivationBuffer.allocate(assignments, down),
        expert_out=torch.empty((assignments, hidden_size), dtype=torch.bfloat16, device=device),
    )
