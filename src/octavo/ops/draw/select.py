"""The draw among the likeliest ids of any number, in two kernels."""

from __future__ import annotations

import torch

from octavo.ops.draw.select_kernel import bin_masses_kernel, select_kernel
from octavo.ops.draw.settings import DrawSettings
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

SEGMENT = 2048
BLOCK = 1024
"""Ids that a program of a row takes at a time: of 2048 its eight warps need 212 registers each, of these 111."""
BINS = 1024
ROOM = 4096
"""Ids of one bin that are kept beside the logits; of more, all logits of the row are gone over for each question."""


def select(logits: torch.Tensor, settings: DrawSettings, *, room: int = ROOM) -> torch.Tensor:
    """`draw_truncated` of any rows.

    Args:
        logits: (R, V) float32, on CUDA; read.
        settings: of the R rows; read.
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
        highest = logits.amax(-1)
        masses = torch.zeros((rows, BINS), dtype=torch.int64, device=logits.device)
        counts = torch.zeros((rows, BINS), dtype=torch.int32, device=logits.device)
        keys, held = torch.empty((2, rows, room), dtype=torch.int64, device=logits.device)
        bin_masses_kernel[check_grid("draw", rows * segments)](
            logits, highest, settings.values, masses, counts, rows, width, segments,
            SEGMENT=SEGMENT, BINS=BINS, num_warps=4, **LAUNCH,
        )  # fmt: skip
        select_kernel[check_grid("draw", rows)](
            logits, highest, settings.values, masses, counts, keys, held, out, rows, width,
            ROOM=room, BINS=BINS, BLOCK=BLOCK, num_warps=8, **LAUNCH,
        )  # fmt: skip
    return out
