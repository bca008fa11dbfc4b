"""Gates, each in one launch."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.gates.kernel import add_share_kernel, gate_kernel, swiglu_kernel
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["KernelGates", "add_share", "gate_heads", "gate_norm", "swiglu"]

COLUMNS = 1024
"""Of a program that goes over one row."""
HEADS = 16
"""Of a program that goes over heads: as many at every size, as the tree of a head's sum may depend on it."""
MAX_WIDTH = 1024
"""Of a head, which a program keeps in registers."""


class KernelGates:
    """See `Gates`."""

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `swiglu`: (T, 2I) -> (T, I)."""
        return swiglu(gate_up)

    def norm(self, x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `gate_norm`: (R, heads * D) -> (R, heads * D)."""
        return gate_norm(x, gates, weight, eps)

    def heads(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """See `gate_heads`: (R, heads * D) -> (R, heads * D)."""
        return gate_heads(x, gates)

    def add_share(self, x: torch.Tensor, shared: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
        """See `add_share`: (T, H) -> (T, H)."""
        return add_share(x, shared, logits)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """out = bf16(silu(gate) * up). A row's bits depend on that row alone.

    Args:
        gate_up: (T, 2I) f32, gates first; read.

    Returns:
        (T, I) bf16, new.

    Raises:
        KernelContractError: the argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("gate_up", gate_up, ("T", "2I"), dtype=torch.float32)
    tokens, width = dims["T"], dims["2I"] // 2
    check_range("gate_up.shape[0]", tokens, 0, INDEX_LIMIT, "pass fewer rows in one call")
    check_range("gate_up.shape[1]", dims["2I"], 2, INDEX_LIMIT, "pass gates and ups")
    check_range("columns without their gate", dims["2I"] % 2, 0, 0, "pass as many gates as ups")
    out = torch.empty((tokens, width), dtype=torch.bfloat16, device=gate_up.device)
    if tokens:
        swiglu_kernel[check_grid("swiglu", tokens * triton.cdiv(width, COLUMNS))](
            gate_up, out, width, BLOCK=COLUMNS, num_warps=4, **LAUNCH
        )
    return out


def gate_norm(x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """out = bf16(silu(gates) * y), y = bf16(bf16(x / sqrt(mean(x^2) + eps)) * weight) of each head.

    A row's bits depend on that row alone.

    Args:
        x: (R, heads * D) bf16; read.
        gates: (R, heads, D) bf16, in which rows and heads may be apart, D <= 1024; read.
        weight: (D,) bf16, or float32, with which y is not rounded before the product; read.
        eps: added to the mean of squares.

    Returns:
        (R, heads * D) bf16, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    return _gate(x, gates, weight, eps)


def gate_heads(x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """out = bf16(x * bf16(sigmoid(gates))). A row's bits depend on that row alone.

    Args:
        x: (R, heads * D) bf16; read.
        gates: (R, heads, D) bf16, in which rows and heads may be apart, D <= 1024; read.

    Returns:
        (R, heads * D) bf16, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    return _gate(x, gates, None, 0.0)


def _gate(x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    dims = LaunchDims()
    dims.check("gates", gates, ("R", "heads", "D"), dtype=torch.bfloat16, apart=True)
    rows, heads, width = dims["R"], dims["heads"], dims["D"]
    check_range("gates.shape[2]", width, 1, MAX_WIDTH, "the kernel keeps a head in registers")
    check_range("gates.shape[0] x gates.shape[1]", rows * heads, 0, INDEX_LIMIT, "pass fewer rows in one call")
    dims.check("x", x, ("R", heads * width), dtype=torch.bfloat16)
    if weight is not None:
        dims.check("weight", weight, ("D",), dtype=(torch.bfloat16, torch.float32))
    out = torch.empty_like(x)
    if rows * heads:
        row_stride, head_stride, _ = gates.stride()
        gate_kernel[check_grid("gates", triton.cdiv(rows * heads, HEADS))](
            x, gates, weight, out, rows, heads, row_stride, head_stride, width, eps,
            HEADS=HEADS, BLOCK=max(16, triton.next_power_of_2(width)), num_warps=4, **LAUNCH,
        )  # fmt: skip
    return out


def add_share(x: torch.Tensor, shared: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
    """out = bf16(x + sigmoid(logits) * shared). A row's bits depend on that row alone.

    Args:
        x: (T, H) bf16; read.
        shared: (T, H) bf16; read.
        logits: (T, 1) f32; read. None: the whole of `shared` is added.

    Returns:
        (T, H) bf16, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("x", x, ("T", "H"), dtype=torch.bfloat16)
    dims.check("shared", shared, ("T", "H"), dtype=torch.bfloat16)
    if logits is not None:
        dims.check("logits", logits, ("T", 1), dtype=torch.float32)
    tokens, width = dims["T"], dims["H"]
    check_range("x.shape[0]", tokens, 0, INDEX_LIMIT, "pass fewer rows in one call")
    out = torch.empty_like(x)
    if tokens and width:
        add_share_kernel[check_grid("add_share", tokens * triton.cdiv(width, COLUMNS))](
            x, shared, logits, out, width, BLOCK=COLUMNS, num_warps=4, **LAUNCH
        )
    return out
