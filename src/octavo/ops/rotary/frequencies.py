"""The frequencies of a rotary embedding, in the operations and the order of transformers, so that the bits are the same."""

from __future__ import annotations

import math

import torch

from octavo.config.rope import Rope, Yarn


def frequencies(rope: Rope) -> torch.Tensor:
    """(R / 2,) float32 on the CPU: the angle of one position for each pair of the R = `rope.width` numbers that are turned."""
    powers = rope.theta ** (torch.arange(0, rope.width, 2, dtype=torch.float32) / rope.width)
    if rope.yarn is None:
        return 1.0 / powers if rope.factor == 1.0 else (1.0 / powers).div_(rope.factor)
    stay = 1 - _ramp(rope, rope.yarn)
    return 1.0 / (rope.factor * powers) * (1 - stay) + 1.0 / powers * stay


def _ramp(rope: Rope, yarn: Yarn) -> torch.Tensor:
    """(R / 2,) float32: 0 where a frequency stays, 1 where it is divided by the whole factor."""

    def border(turns: float) -> float:
        """The pair that turns so often within the original positions."""
        of_turn = yarn.original_positions / (turns * 2 * math.pi)
        return (rope.width * math.log(of_turn)) / (2 * math.log(rope.theta))

    low, high = border(yarn.beta_fast), border(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    if low == high:
        high += 0.001
    return ((torch.arange(rope.width // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
