"""The draw with Python's numbers, one id after the other."""

from __future__ import annotations

import math

import torch

from octavo.ops.draw.fixed_point import ONE


def draw_reference(logits: torch.Tensor, temperature: float, min_p: float, number: float) -> int:
    """The id of one row, (V,) float32; see `draw`."""
    values: list[float] = logits.double().tolist()
    highest = max(values)
    masses = [round(math.exp((value - highest) / temperature) * ONE) for value in values]
    masses = [mass if mass >= min_p * ONE else 0 for mass in masses]
    target = min(int(number * sum(masses)), sum(masses) - 1)
    reached = 0
    for token_id, mass in enumerate(masses):
        reached += mass
        if reached > target:
            return token_id
    raise AssertionError("the target is below the total")
