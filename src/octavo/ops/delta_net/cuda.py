"""Gated DeltaNet on CUDA: the convolution and the delta rule, each in one launch for all chunks of a step."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.delta_net.kernel import convolve_kernel, scan_kernel
from octavo.ops.delta_net.layer import EPS, DeltaPlan, DeltaShape, DeltaWeights, check_delta
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["KernelDeltaNet", "delta_net"]

ROWS, CHANNELS = 8, 128
"""Of a tile of the convolution. Rows and channels by themselves: their number decides no bit."""
COLUMNS = 32
"""Most columns of a state that a program keeps. Chosen, not tuned."""


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
        qkv: (T, C) bf16; read.
        write_logits, decay_logits: (T, value heads) float32; read.
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
    tokens, heads = dims["T"], shape.value_heads
    check_range("qkv.shape[0]", tokens, 0, INDEX_LIMIT - ROWS, "pass fewer tokens in one call")
    out = qkv.new_empty((tokens, heads * shape.value_dim))
    if not tokens or not dims["S"]:
        return out
    convolved = torch.empty_like(qkv)
    numbers = shape.state.numbers
    convolve_kernel[check_grid("delta_net", dims["S"] * triton.cdiv(shape.channels, CHANNELS))](
        qkv, weights.taps, states, plan.chunks, convolved,
        tokens, dims["states"], numbers, shape.state_numbers, shape.channels,
        ROWS=ROWS, BLOCK=CHANNELS, TAPS=shape.taps, num_warps=4, **LAUNCH,
    )  # fmt: skip
    columns = min(COLUMNS, triton.next_power_of_2(shape.value_dim))
    scan_kernel[check_grid("delta_net", dims["S"] * heads * triton.cdiv(shape.value_dim, columns))](
        convolved, write_logits, decay_logits, weights.log_decay, weights.step_bias, states, plan.chunks, out,
        tokens, dims["states"], numbers, shape.key_heads, heads, shape.key_dim**-0.5, EPS,
        KEY=shape.key_dim, VALUE=shape.value_dim, KEY_BLOCK=triton.next_power_of_2(shape.key_dim), VALUE_BLOCK=columns,
        num_warps=4, **LAUNCH,
    )  # fmt: skip
    return out
