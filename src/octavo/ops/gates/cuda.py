"""Gates, each in one launch."""

from __future__ import annotations

import torch
import triton

from octavo.ops.activations import BLOCK, FP8, Activations, GroupScaled, Unscaled
from octavo.ops.bulk_copy import empty_with_room
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.gates.kernel import add_share_kernel, gate_kernel, swiglu_kernel
from octavo.ops.inputs import Inputs
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["KernelGates", "add_share", "gate_heads", "gate_norm", "swiglu"]

COLUMNS = 1024
"""Of a program that goes over one row."""
HEADS = 16
"""Of a program that goes over heads. They decide no bit."""
MAX_WIDTH = 1024
"""Of a head, which a program keeps in registers."""


class KernelGates:
    """See `Gates`."""

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `swiglu`: (T, 2I) -> (T, I)."""
        return swiglu(gate_up)

    def norm(
        self, x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float, form: type[Activations] = Unscaled
    ) -> Inputs:
        """See `gate_norm`: (R, heads * D) -> (R, heads * D)."""
        return gate_norm(x, gates, weight, eps, form)

    def heads(self, x: torch.Tensor, gates: torch.Tensor, form: type[Activations] = Unscaled) -> Inputs:
        """See `gate_heads`: (R, heads * D) -> (R, heads * D)."""
        return gate_heads(x, gates, form)

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
    out = empty_with_room((tokens, width), torch.bfloat16, gate_up.device)
    if tokens:
        swiglu_kernel[check_grid("swiglu", tokens * triton.cdiv(width, COLUMNS))](
            gate_up, out, width, BLOCK=COLUMNS, num_warps=4, **LAUNCH
        )
    return out


def gate_norm(
    x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float, form: type[Activations] = Unscaled
) -> Inputs:
    """out = bf16(silu(gates) * y), y = bf16(bf16(x / sqrt(mean(x^2) + eps)) * weight) of each head.

    A row's bits depend on that row alone.

    Args:
        x: (R, heads * D) bf16; read.
        gates: (R, heads, D) bf16, or in groups of heads (R, groups, heads of each, D), in which all but the D numbers may be apart, D <= 1024;
            read.
        weight: (D,) bf16, or float32, with which y is not rounded before the product; read.
        eps: added to the mean of squares.
        form: as `gate_heads`.

    Returns:
        (R, heads * D), new, in bf16 or in FP8 alone.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    return _gate(x, gates, weight, eps, form)


def gate_heads(x: torch.Tensor, gates: torch.Tensor, form: type[Activations] = Unscaled) -> Inputs:
    """out = bf16(x * bf16(sigmoid(gates))). A row's bits depend on that row alone.

    Args:
        x: (R, heads * D) bf16; read.
        gates: (R, heads, D) bf16, in which rows and heads may be apart, D <= 1024; read.
        form: how `out` is wanted. `GroupScaled` is made as `quantize_groups` makes it where groups are whole heads or parts of them; others
            are left to who reads it, from bf16.

    Returns:
        (R, heads * D), new, in bf16 or in FP8 alone.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    return _gate(x, gates, None, 0.0, form)


def _gate(
    x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor | None, eps: float, form: type[Activations]
) -> Inputs:
    dims = LaunchDims()
    gates = gates[:, None] if gates.dim() == 3 else gates
    dims.check("gates", gates, ("R", "groups", "heads", "D"), dtype=torch.bfloat16, apart=True)
    rows, heads, width = dims["R"], dims["groups"] * dims["heads"], dims["D"]
    check_range("gates.shape[-1]", width, 1, MAX_WIDTH, "the kernel keeps a head in registers")
    check_range("rows x heads", rows * heads, 0, INDEX_LIMIT, "pass fewer rows in one call")
    dims.check("x", x, ("R", heads * width), dtype=torch.bfloat16)
    if weight is not None:
        dims.check("weight", weight, ("D",), dtype=(torch.bfloat16, torch.float32))
    block = max(16, triton.next_power_of_2(width))
    out, codes, scales = None, None, None
    if form is GroupScaled and block == width and width % BLOCK == 0:
        codes = empty_with_room(x.shape, FP8, x.device)
        scales = x.new_empty(GroupScaled.scale_shape(*x.shape), dtype=torch.float32)
        made = Inputs(None, GroupScaled(codes, scales))
    else:
        out = empty_with_room(x.shape, x.dtype, x.device)
        made = Inputs(out)
    if rows * heads:
        row_stride, group_stride, head_stride, _ = gates.stride()
        gate_kernel[check_grid("gates", triton.cdiv(rows * heads, HEADS))](
            x, gates, weight, out, codes, scales, rows, heads, row_stride, group_stride, head_stride, width, eps,
            GROUP_HEADS=dims["heads"], HEADS=HEADS, PARTS=max(1, width // BLOCK), BLOCK=block, num_warps=4, **LAUNCH,
        )  # fmt: skip
    return made


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
