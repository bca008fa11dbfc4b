"""The draw among the likeliest ids of any number, in two kernels."""

from __future__ import annotations

import torch

from octavo.ops.draw.select_kernel import bin_masses_kernel, select_kernel
from octavo.ops.draw.settings import DrawSettings, largest_of
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

SEGMENT = 2048
BLOCK = 1024
"""Ids that a program of a row takes at a time: of 2048 its eight warps need 212 registers each, of these 111."""
BINS = 256
"""1/32 of (max x - x) / T each; the last holds all that is 8 and more below, where little mass is left."""
ROOM = 4096
"""Ids that are kept beside the logits and bisected; of more in a bin, all logits of the row are gone over to bisect them."""


def select(
    logits: torch.Tensor, settings: DrawSettings, highest: torch.Tensor | None = None, *, room: int = ROOM
) -> torch.Tensor:
    """`draw_truncated` of any rows.

    Args:
        logits: (R, V) float32, on CUDA; read.
        settings: of the R rows; read.
        highest: (R,) float32, the largest of each row; None: found here; read.
        room: see `ROOM`.

    Returns:
        (R,) int64, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    settings.check(dims, logits)
    rows, width = dims["R"], dims["V"]
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        segments = -(-width // SEGMENT)
        highest = largest_of(dims, logits, highest)
        masses, counts = torch.zeros((2, rows, BINS), dtype=torch.int64, device=logits.device)
        keys, held = torch.empty((2, rows, room), dtype=torch.int64, device=logits.device)
        bin_masses_kernel[check_grid("draw", rows * segments)](
            logits, highest, settings.values, masses, counts if settings.has_top_k else None, rows, width, segments,
            SEGMENT=SEGMENT, BINS=BINS, num_warps=4, **LAUNCH,
        )  # fmt: skip
        select_kernel[check_grid("draw", rows)](
            logits, highest, settings.values, masses, counts if settings.has_top_k else None, keys, held, out, rows, width,
            ROOM=room, BINS=BINS, BLOCK=BLOCK, num_warps=8, **LAUNCH,
        )  # fmt: skip
    return out
