"""The counting sort as three lines of Python."""

from __future__ import annotations

import torch


def permute_reference(
    ids: torch.Tensor, experts: int, *, rows: int, rows_in_use: int | None = None
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """order and tiles (expert, first row, rows) of ids (T, K) int32; see `permute`."""
    live = ids[:rows_in_use].flatten().tolist()
    assignments = [[s for s, e in enumerate(live) if e == expert] for expert in range(experts)]
    order = [s for expert in assignments for s in expert]
    first = [sum(map(len, assignments[:e])) for e in range(experts)]
    tiles = [
        (e, first[e] + done, min(rows, len(assignments[e]) - done))
        for e in range(experts)
        for done in range(0, len(assignments[e]), rows)
    ]
    return order, tiles
