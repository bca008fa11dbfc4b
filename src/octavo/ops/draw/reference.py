"""The draw with Python's numbers, one id after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from octavo.ops.draw.fixed_point import ONE


def draw_reference(logits: torch.Tensor, temperature: float, min_p: float, number: float) -> int:
    """The id of one row, (V,) float32; see `draw`."""
    masses = _masses(logits, temperature, min_p)
    return _invert(range(len(masses)), masses, number)


def draw_truncated_reference(
    logits: torch.Tensor, temperature: float, min_p: float, top_k: float, top_p: float, number: float
) -> int:
    """The id of one row, (V,) float32; see `draw_truncated`."""
    masses, values = _masses(logits, temperature, min_p), logits.tolist()
    order = sorted(range(len(values)), key=lambda token_id: (-values[token_id], token_id))
    order = order[: int(top_k) or None]
    limit, before, kept = top_p * sum(masses[token_id] for token_id in order), 0, []
    for token_id in order:
        if before < limit:
            kept.append(token_id)
        before += masses[token_id]
    return _invert(kept, [masses[token_id] for token_id in kept], number)


def _masses(logits: torch.Tensor, temperature: float, min_p: float) -> list[int]:
    values: list[float] = logits.double().tolist()
    highest = max(values)
    masses = [round(math.exp((value - highest) / temperature) * ONE) for value in values]
    return [mass if mass >= min_p * ONE else 0 for mass in masses]


def _invert(ids: Iterable[int], masses: list[int], number: float) -> int:
    """The first of `ids` at which the masses so far exceed number x total."""
    target = min(int(number * sum(masses)), sum(masses) - 1)
    reached = 0
    for token_id, mass in zip(ids, masses, strict=True):
        reached += mass
        if reached > target:
            return token_id
    raise AssertionError("the target is below the total")
