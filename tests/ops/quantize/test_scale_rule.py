"""The scale rule against the library that defines it; it runs on the host."""

from __future__ import annotations

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams

from octavo.ops.quantize.reference import quantize_reference


def test_the_scale_is_that_of_compressed_tensors() -> None:
    """Source of the rule: compressed_tensors.quantization.utils.calculate_qparams."""

    x = torch.randn((64, 96), generator=torch.Generator().manual_seed(8)).float()
    x[3] = 0
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="token", dynamic=True)
    scale, _ = calculate_qparams(x.amin(-1), x.amax(-1), args)
    assert torch.equal(quantize_reference(x)[1], scale)
