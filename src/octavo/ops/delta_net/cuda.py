"""Gated DeltaNet on CUDA: the convolution, what the rows of a span need of each other, and the states of single rows and of
other chunks, each in one launch for all chunks of a step."""

from __future__ import annotations

import torch
import triton

from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.delta_net.convolve_kernel import convolve_kernel
from octavo.ops.delta_net.kernel import KINDS, factors_kernel, spans_kernel
from octavo.ops.delta_net.layer import EPS, DeltaPlan, DeltaWeights, apart, check_delta
from octavo.ops.delta_net.paired_kernel import WIDTH, paired_kernel
from octavo.ops.delta_net.rows_kernel import rows_kernel
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.persistent import runs_persistent_kernels

__all__ = ["KernelDeltaNet", "delta_net"]

FACTORS = KINDS.value * SPAN + 2 * SPAN * SPAN
"""Float32 of what a span's rows have of each other, for each value head: numbers of rows, and two matrices in two bf16 each."""
PROGRAM_CHANNELS = 1024
"""Of a program of the convolution, each by itself: their number decides no bit."""
CHANNELS_OF_WARP = 128
"""Four of each thread, for which the inputs of a whole span fit into registers twice over."""
COLUMNS = 16
"""Value columns of a state that a program keeps: the rows of one tensor core product, so that its one warp never waits for another.
A request of 32 heads of 128 has 256 programs, for 132 processors."""
RESIDENT_ROWS = 1452
"""Programs of single rows that an H200 runs at a time. While all of them run at once, each has one tile of columns; else two, so that
what a program does once for its tiles is done half as often. Tiles decide no bit."""
STAGES = 3
"""Spans of a chunk that are on their way or in use. They decide no bit."""
GROUPS = 8
"""Of programs, for the chunks that are no single rows: in a step of a graph there may be hundreds of chunks, and mostly are none."""


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
    *,
    tiles: int | None = None,
    channels: int = PROGRAM_CHANNELS,
    stages: int = STAGES,
) -> torch.Tensor:
    """See `DeltaNet`, whose arguments these are; nothing is read or written for chunks whose numbers are out of range.

    Args:
        qkv: (T, C) bf16, or (T, key heads, numbers), rows and key heads apart or not; read.
        write_logits, decay_logits: (T, value heads) float32, or (T, key heads, value heads of each), apart or not; read.
        weights: of the layer; read.
        states: (states, numbers) float32; those of the plan are written.
        plan: of this step.
        shape: sizes.
        tiles: of 16 value columns, that a program has of a single row's states. None: as the number of chunks has it.
        channels: that a program of the convolution has, a power of two, 128 to 4096.
        stages: spans of a chunk that are on their way or in use.

    Returns:
        (T, value heads * value_dim) bf16, new; rows in no chunk have no meaning.

    Raises:
        KernelContractError: an argument has another shape, dtype or device.
    """
    dims = LaunchDims()
    check_delta(dims, qkv, write_logits, decay_logits, weights, states, plan, shape)
    tokens, num_spans, heads = dims["T"], dims["N"], shape.value_heads
    check_range("qkv.shape[0]", tokens, 0, INDEX_LIMIT - SPAN, "pass fewer tokens in one call")
    check_range("channels", channels, CHANNELS_OF_WARP, 32 * CHANNELS_OF_WARP, "as many as 1 to 32 warps have")
    out = qkv.new_empty((tokens, heads * shape.value_dim))
    if not tokens or not dims["S"] or not num_spans:
        return out
    convolved = qkv.new_empty((num_spans * SPAN, shape.channels))
    factors = write_logits.new_empty((num_spans, heads, FACTORS))
    matrices, halves = factors.view(torch.bfloat16), states.view(torch.bfloat16)
    sizes = (tokens, dims["states"], dims["S"], num_spans)
    constants = {
        "KEY_HEADS": shape.key_heads, "VALUE_HEADS": heads, "NUMBERS": shape.state.numbers, "KEY": shape.key_dim,
        "VALUE": shape.value_dim, "TAPS": shape.taps, "SPAN": SPAN,
    } | LAUNCH  # fmt: skip
    inputs = {"STRIDE": qkv.stride(0), "GROUP": apart(qkv) if qkv.dim() == 3 else 0}
    key_block = max(SPAN, triton.next_power_of_2(shape.key_dim))
    convolve_kernel[check_grid("delta_net", num_spans * triton.cdiv(shape.channels, channels))](
        qkv, weights.taps, halves, plan.chunks, plan.first_single, plan.spans, convolved, *sizes,
        WIDE=channels, num_warps=channels // CHANNELS_OF_WARP, **inputs, **constants,
    )  # fmt: skip
    factors_kernel[check_grid("delta_net", num_spans * heads)](
        convolved, write_logits, decay_logits, weights.log_decay, weights.step_bias, states, halves, plan.chunks,
        plan.first_single, plan.spans, factors, matrices, *sizes, shape.key_dim**-0.5, EPS, KEY_BLOCK=key_block, FACTORS=FACTORS,
        WRITE_STRIDE=write_logits.stride(0), DECAY_STRIDE=decay_logits.stride(0),
        LOGIT_GROUP=apart(write_logits) if write_logits.dim() == 3 else 0, num_warps=1, **constants,
    )  # fmt: skip
    columns = triton.cdiv(shape.value_dim, COLUMNS)
    paired = shape.key_dim == shape.value_dim == WIDTH.value and runs_persistent_kernels(qkv.device)
    tiles = tiles or (1 if dims["S"] * heads * columns <= RESIDENT_ROWS else 2)
    rows_kernel[check_grid("delta_net", dims["S"] * heads * triton.cdiv(columns, tiles))](
        convolved, factors, states, halves, plan.chunks, plan.first_single, out, *sizes,
        KEY_BLOCK=key_block, VALUE_BLOCK=COLUMNS, TILES=tiles, FACTORS=FACTORS, num_warps=1, **constants,
    )  # fmt: skip
    if plan.only_singles:
        return out
    if paired:
        paired_kernel[check_grid("delta_net", heads * columns)](
            convolved, factors, matrices, states, plan.chunks, plan.first_single, out, *sizes,
            KEY_HEADS=shape.key_heads, VALUE_HEADS=heads, NUMBERS=shape.state.numbers, FACTORS=FACTORS, num_warps=2, **LAUNCH,
        )  # fmt: skip
    spans_kernel[check_grid("delta_net", min(dims["S"], GROUPS) * heads * columns)](
        qkv, convolved, factors, matrices, states, halves, plan.chunks, plan.first_single, out, *sizes,
        KEY_BLOCK=key_block, VALUE_BLOCK=COLUMNS, FACTORS=FACTORS, ONE_IS_PAIRED=paired, num_warps=1, num_stages=stages,
        **inputs, **constants,
    )  # fmt: skip
    return out
