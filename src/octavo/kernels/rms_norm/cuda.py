"""Root-mean-square normalisation in one kernel: PyTorch's sum over a row on CUDA changes with the number of rows."""

from __future__ import annotations

import dataclasses

import torch
import triton

from octavo.kernels.contract import INDEX_LIMIT, LAUNCH, Dims, check_grid, check_range
from octavo.kernels.quantize import MAX_WIDTH
from octavo.kernels.rms_norm.kernel import add_norm_kernel
from octavo.kernels.scaled import FP8, TokenScaled, Unscaled

__all__ = ["Normed", "add_norm"]


@dataclasses.dataclass(frozen=True)
class Normed:
    """Rows before and after a norm, in the forms that the layers behind it read."""

    total: torch.Tensor
    """(R, K) bf16: what was normed."""
    rows: torch.Tensor | None
    """(R, K) bf16"""
    codes: TokenScaled | None
    """The same rows in FP8 per token."""

    @property
    def in_bf16(self) -> Unscaled:
        """`rows`, which were asked for."""
        assert self.rows is not None, "ask add_norm for bf16"
        return Unscaled(self.rows)

    @property
    def in_fp8(self) -> TokenScaled:
        """`codes`, which were asked for."""
        assert self.codes is not None, "ask add_norm for fp8"
        return self.codes


def add_norm(
    x: torch.Tensor,
    change: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    *,
    bf16: bool = False,
    fp8: bool = False,
    total: bool = True,
    out: torch.Tensor | None = None,
) -> Normed:
    """z = bf16(x + change), y = bf16(bf16(z / sqrt(mean(z^2) + eps)) * weight), and y in FP8 as `quantize` has it.

    A row's bits depend on that row alone, and not on what else is asked for.

    Args:
        x: (R, K) bf16, K <= 32768; read.
        change: (R, K) bf16; read. None: z is x.
        weight: (K,) bf16; read.
        eps: added to the mean of squares.
        bf16: whether y is wanted.
        fp8: whether y is wanted in FP8 per token.
        total: whether z is wanted; x comes back where it is not.
        out: (R, K) bf16 where y goes; written. None allocates.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = Dims()
    dims.check("x", x, ("R", "K"), dtype=torch.bfloat16)
    dims.check("weight", weight, ("K",), dtype=torch.bfloat16)
    for name, rows in (("change", change), ("out", out)):
        if rows is not None:
            dims.check(name, rows, ("R", "K"), dtype=torch.bfloat16)
    count, width = x.shape
    check_range("x.shape[0]", count, 0, INDEX_LIMIT, "pass fewer rows in one call")
    check_range("x.shape[1]", width, 1, MAX_WIDTH, "the kernel keeps a row in registers")
    added = torch.empty_like(x) if total and change is not None else None
    normed = (torch.empty_like(x) if out is None else out) if bf16 else None
    codes = TokenScaled(torch.empty_like(x, dtype=FP8), x.new_empty((count,), dtype=torch.float32)) if fp8 else None
    if count:
        block = triton.next_power_of_2(width)
        # a function of the row width alone: the reduction tree depends on it
        warps = max(1, min(8, block // 1024))
        add_norm_kernel[check_grid("add_norm", count)](
            x, change, weight, added, normed, codes and codes.data, codes and codes.scale, eps, width,
            BLOCK=block, num_warps=warps, **LAUNCH,
        )  # fmt: skip
    return Normed(x if added is None else added, normed, codes)
