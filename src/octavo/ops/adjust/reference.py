"""Penalties and masks with Python's numbers, one id after the other."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LARGEST = 3.4028234663852886e38


def adjust_reference(
    logits: Sequence[float],
    times: Sequence[tuple[bool, int]],
    repetition: float,
    frequency: float,
    presence: float,
    allowed: set[int] | None,
) -> list[float]:
    """One row after `adjust`; `times` are, for each id, whether the prompt has it, and how often the answer does."""
    adjusted = []
    for token_id, (x, (in_prompt, made)) in enumerate(zip(logits, times, strict=True)):
        value = x
        if in_prompt or made:
            value = value / repetition if value > 0 else value * repetition
            value = value - frequency * made - presence * (made > 0)
            value = struct.unpack("f", struct.pack("f", min(max(value, -LARGEST), LARGEST)))[0]
        adjusted.append(value if allowed is None or token_id in allowed else -float("inf"))
    return adjusted
