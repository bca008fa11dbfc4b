"""Start values under which copying is learnt soon: heads that look back from the first step on.

To copy, a head must first find the place after the last match; that takes a head before it that says what stood one
place earlier. Random weights find that pair of heads late, since without biases a head can hardly look at a distance
whatever the tokens are. So one coordinate is the same for all tokens, and the first layer's first heads use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tools.tiny.model import Attention, Experts, Model

BIAS = 4.0
"""Coordinate 0 of every token's embedding, whose other coordinates are of scale 1."""
BACK = (1, 2)
"""How far back the first heads look. They share the first key head."""
PAIRS = 4
"""Rotary pairs they use, the quickest: a neighbour's score is 3.8 lower than that of the place meant."""


def turned(x: Tensor, back: int, theta: float) -> Tensor:
    """x (D,) as rotary positions turn it `back` places earlier."""
    half = x.shape[0] // 2
    angle = -back * theta ** (-torch.arange(half) / half)
    left, right = x.chunk(2)
    return torch.cat((left * angle.cos() - right * angle.sin(), left * angle.sin() + right * angle.cos()))


@torch.no_grad()
def look_back(model: Model) -> None:
    """Write the constant coordinate and the first layer's first heads."""
    size, theta = model.shape.head_dim, model.shape.rope_theta
    model.embed[:, 0] = BIAS
    for layer in model.experts:
        cast("Experts", layer).router[:, 0] = 0.0
    first = cast("Attention", model.attention[0])
    key = torch.zeros(size)
    key[:PAIRS] = 1.0
    for weight, rows in ((first.k, [key]), (first.q, [turned(key, back, theta) for back in BACK])):
        for head, row in enumerate(rows):
            part = weight[head * size : (head + 1) * size]
            part *= 0.1
            part[:, 0] = row
