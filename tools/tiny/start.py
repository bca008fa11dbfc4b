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
    from tools.tiny.hybrid import DeltaNet, Hybrid
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
    _share_a_coordinate(model)
    first = cast("Attention", model.mixers[0])
    key = torch.zeros(size)
    key[:PAIRS] = 1.0
    for weight, rows in ((first.k, [key]), (first.q, [turned(key, back, theta) for back in BACK])):
        for head, row in enumerate(rows):
            part = weight[head * size : (head + 1) * size]
            part *= 0.1
            part[:, 0] = row


def _share_a_coordinate(model: Model) -> None:
    """Make coordinate 0 of all tokens the same, and routers blind to it."""
    model.embed[:, 0] = BIAS
    for layer in model.experts:
        cast("Experts", layer).router[:, 0] = 0.0


@torch.no_grad()
def remember(model: Hybrid) -> None:
    """Write the constant coordinate and the first layer's convolution: each token's value stands under what came before it.

    A query is made of one, two or three tokens up to its own, by head, and the key of a value of as many up to the one
    before. So a state answers from the first step on with what followed the last time.
    """
    _share_a_coordinate(model)
    shape, first = model.shape, cast("DeltaNet", model.mixers[0])
    queries, keys, _values = first.qkvz[: shape.channels].split([shape.keys, shape.keys, shape.values])
    queries[:, 0] = 0.0
    keys.copy_(queries)
    first.taps.mul_(0.2)
    at, before, now = first.taps.split([shape.keys, shape.keys, shape.values])
    now[:, -1] += 1.0
    for head in range(shape.key_heads):
        rows = slice(head * shape.key_dim, (head + 1) * shape.key_dim)
        for back in range(1 + head % (shape.taps - 1)):
            at[rows, -1 - back] += 1.0
            before[rows, -2 - back] += 1.0
