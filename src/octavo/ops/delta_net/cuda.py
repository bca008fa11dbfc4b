"""Gated DeltaNet on CUDA: the convolution, what the rows of a span need of each other, and the states, each in one launch
for all chunks of a step."""

from __future__ import annotations

import torch
import triton

from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.delta_net.kernel import convolve_kernel, factors_kernel, scan_kernel
from octavo.ops.delta_net.layer import EPS, DeltaPlan, DeltaWeights, check_delta
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["KernelDeltaNet", "delta_net"]

FACTORS = 2 * SPAN * SPAN + 6 * SPAN
"""Numbers that a span's rows have of each other, for each value head."""
CHANNELS = 128
"""Of a tile of the convolution. Each by itself: their number decides no bit."""
COLUMNS = 16
"""Value columns of a state that a program keeps: the rows of one tensor core product, so that its one warp never waits for another.
A request of 32 heads of 128 has 256 programs, for 132 processors."""


class KernelDeltaNet:
    """See `DeltaNet`."""

    def __init__(self, shape: DeltaShape, weights: DeltaWeights) -> None:
        self._shape, self._weights = shape, weights

    def __call__(
        self,
        qkv: torch.Tensor,
        write_logits: torch.Tensor,
        decay_logits: torch.Tensor,
        states: torch.Tensor,
        plan: DeltaPlan,
    ) -> torch.Tensor:
        """See `DeltaNet`: (T, C) bf16 -> (T, value heads * value_dim) bf16."""
        return delta_net(qkv, write_logits, decay_logits, self._weights, states, plan, self._shape)


def delta_net(
    qkv: torch.Tensor,
    write_logits: torch.Tensor,
    decay_logits: torch.Tensor,
    weights: DeltaWeights,
    states: torch.Tensor,
    plan: DeltaPlan,
    shape: DeltaShape,
) -> torch.Tensor:
    """See `DeltaNet`, whose arguments these are; nothing is read or written for chunks whose numbers are out of range.

    Args:
        qkv: (T, C) bf16, whose rows may be apart; read.
        write_logits, decay_logits: (T, value heads) float32, whose rows may be apart; read.
        weights: of the layer; read.
        states: (states, numbers) float32; those of the plan are written.
        plan: of this step.
        shape: sizes.

    Returns:
        (T, value heads * value_dim) bf16, new; rows in no chunk have no meaning.

    Raises:
        KernelContractError: an argument has another shape, dtype or device.
    """
    dims = LaunchDims()
    check_delta(dims, qkv, write_logits, decay_logits, weights, states, plan, shape)
    tokens, num_spans, heads = dims["T"], dims["N"], shape.value_heads
    check_range("qkv.shape[0]", tokens, 0, INDEX_LIMIT - SPAN, "pass fewer tokens in one call")
    out = qkv.new_empty((tokens, heads * shape.value_dim))
    if not tokens or not dims["S"] or not num_spans:
        return out
    convolved = qkv.new_empty((num_spans * SPAN, shape.channels))
    factors = write_logits.new_empty((num_spans, heads, FACTORS))
    halves = states.view(torch.bfloat16)
    sizes = (tokens, dims["states"], dims["S"], num_spans)
    constants = {
        "KEY_HEADS": shape.key_heads, "VALUE_HEADS": heads, "NUMBERS": shape.state.numbers, "KEY": shape.key_dim,
        "VALUE": shape.value_dim, "SPAN": SPAN,
    } | LAUNCH  # fmt: skip
    key_block = max(SPAN, triton.next_power_of_2(shape.key_dim))
    convolve_kernel[check_grid("delta_net", num_spans * triton.cdiv(shape.channels, CHANNELS))](
        qkv, weights.taps, halves, plan.chunks, plan.spans, convolved, *sizes,
        TAPS=shape.taps, STRIDE=qkv.stride(0), BLOCK=CHANNELS, num_warps=4, **constants,
    )  # fmt: skip
    factors_kernel[check_grid("delta_net", num_spans * heads)](
        convolved, write_logits, decay_logits, weights.log_decay, weights.step_bias, states, plan.chunks, plan.spans,
        factors, *sizes, shape.key_dim**-0.5, EPS, KEY_BLOCK=key_block, FACTORS=FACTORS,
        WRITE_STRIDE=write_logits.stride(0), DECAY_STRIDE=decay_logits.stride(0), num_warps=1, **constants,
    )  # fmt: skip
    scan_kernel[check_grid("delta_net", dims["S"] * heads * triton.cdiv(shape.value_dim, COLUMNS))](
        qkv, convolved, factors, states, halves, plan.chunks, out, *sizes,
        KEY_BLOCK=key_block, VALUE_BLOCK=COLUMNS, TAPS=shape.taps, STRIDE=qkv.stride(0), FACTORS=FACTORS, num_warps=1, num_stages=2,
        **constants,
    )  # fmt: skip
    return out
