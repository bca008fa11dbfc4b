"""The one rule of scales, which CPU, CUDA and reference share.

The scale of a row (or of 128 columns of it) is amax / 448, as compressed-tensors computes it (`calculate_qparams`,
symmetric float: amax over half the range), and a code is x / scale, rounded to nearest even:

    all zeros            scale 2^-23 (compressed-tensors' eps for a zero scale), codes 0
    amax < 448 x 2^-126  scale 2^-126, the smallest normal float32
    NaN or infinity      scale NaN, codes 0: what is computed from the row is NaN, and other rows cannot notice

Where a scale is known beforehand, each number is by itself: x / scale is held within +-448, and what is not finite is NaN.
"""

from __future__ import annotations

import torch

from octavo.ops.activations import FP8, FP8_MAX

ZERO_SCALE = 2.0**-23
MIN_SCALE = 2.0**-126
NAN_CODE = 0x7F
"""The code of NaN that is written, of the two there are."""


def scales_of(x: torch.Tensor) -> torch.Tensor:
    """(..., 1) float32 scales of the last dimension of x (..., K), any float."""
    amax = x.abs().amax(-1, keepdim=True).float()
    # a tensor divides on CUDA as on the host; a Python number would be multiplied by its inverse
    scale = (amax / amax.new_tensor(FP8_MAX)).clamp_(min=MIN_SCALE)
    scale = torch.where(amax == 0, ZERO_SCALE, scale)
    return torch.where(amax < torch.inf, scale, torch.nan)


def divide(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x / scale in float32 within +-448, to be rounded to codes; 0 where the scale is NaN. x (..., K), scale (..., 1)."""
    scaled = x.float().div(scale).clamp_(-FP8_MAX, FP8_MAX)
    bad = scale.isnan()
    # on a device the answer would have to be waited for
    return scaled.masked_fill_(bad, 0.0) if scaled.is_cuda or bool(bad.any()) else scaled


def static_codes(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The codes fp8 of x at a scale that is known beforehand; x of any shape and float, scale (1,) or () float32."""
    wide = x.float()
    codes = wide.div(scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8).view(torch.uint8)
    return codes.masked_fill_(~wide.isfinite(), NAN_CODE).view(FP8)
