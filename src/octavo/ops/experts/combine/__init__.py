"""The weighted sum of each token's expert outputs."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.experts.combine.kernel import combine_kernel
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["MAX_WIDTH", "combine"]

MAX_WIDTH = 32768


def combine(
    y: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    experts: int,
    *,
    out: torch.Tensor,
    flags: torch.Tensor,
    rows_in_use: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[t] = bf16(sum over k, in assignment order, of weights[t, k] * y[t x K + k]) in f32.

    An assignment whose id is negative or >= experts is not read and adds nothing, whatever its weight. A token with no
    present assignment, or at `rows_in_use` or later, becomes zero.

    Args:
        y: (S, H) bf16, S >= T x K, H <= 32768; read.
        ids: (T, K) int32; read.
        weights: (T, K) f32; read.
        experts: E.
        out: (T, H) bf16; every row is written.
        flags: (T,) bool; written: True where a value of the row of `out` is not finite.
        rows_in_use: (1,) int32 on the device, the rows in use; None for all T.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("ids", ids, ("T", "K"), dtype=torch.int32)
    dims.check("weights", weights, ("T", "K"), dtype=torch.float32)
    dims.check("y", y, ("S", "H"), dtype=torch.bfloat16)
    dims.check("out", out, ("T", "H"), dtype=torch.bfloat16)
    dims.check("flags", flags, ("T",), dtype=torch.bool)
    tokens, top_k, width = dims["T"], dims["K"], dims["H"]
    check_range("y.shape[0]", dims["S"], tokens * top_k, INDEX_LIMIT, "pass one row per assignment")
    check_range("y.shape[1]", width, 1, MAX_WIDTH, "the kernel keeps a row in registers")
    check_range("experts", experts, 1, INDEX_LIMIT, "pass the number of experts")
    if rows_in_use is not None:
        dims.check("rows_in_use", rows_in_use, (1,), dtype=torch.int32)
    if tokens:
        block = triton.next_power_of_2(width)
        combine_kernel[check_grid("combine", tokens)](
            y, ids, weights, out, flags, rows_in_use, tokens, experts, width,
            K=top_k, BLOCK=block, num_warps=max(1, min(8, block // 512)), **LAUNCH,
        )  # fmt: skip
    return out
