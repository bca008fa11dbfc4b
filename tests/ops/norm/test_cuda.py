"""The norm as a kernel against float64, and a row's bits in any batch."""

from __future__ import annotations

import pytest
import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.norm.cuda import cuda_rms_norm
from octavo.ops.norm.reference import rms_norm_reference

LIMIT = 2 * BF16_ROUNDING


@pytest.mark.parametrize("width", [1, 96, 2048, 4000])
def test_against_float64(width: int, device: torch.device) -> None:
    noise = torch.Generator().manual_seed(width)
    x = (torch.randn((5, width), generator=noise) * 3).bfloat16().to(device)
    weight = (torch.randn((width,), generator=noise) * 0.1 + 1).bfloat16().to(device)
    out = cuda_rms_norm(x, weight, 1e-6)
    assert_rows(out, rms_norm_reference(x, weight, 1e-6), LIMIT)
    assert row_errors(out, rms_norm_reference(x, weight * 1.1, 1e-6)).min() > LIMIT
    x[3, width // 2] = torch.nan
    bad = cuda_rms_norm(x, weight, 1e-6)
    assert bad[3].isnan().all()
    good = [0, 1, 2, 4]
    assert torch.equal(bad[good], out[good])
    assert torch.equal(cuda_rms_norm(x[4:], weight, 1e-6)[0], out[4])
    assert cuda_rms_norm(x[:0], weight, 1e-6).shape == (0, width)


def test_a_weight_in_float32_is_multiplied_before_the_only_rounding(device: torch.device) -> None:
    noise = torch.Generator().manual_seed(7)
    x = (torch.randn((5, 96), generator=noise) * 3).bfloat16().to(device)
    weight = (torch.randn((96,), generator=noise) * 0.01 + 1).to(device)
    out, expected = cuda_rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6)
    assert ((out.double() - expected).abs() <= 2.0**-8 * expected.abs() * 1.001).all()
    assert not torch.equal(out, cuda_rms_norm(x, weight.bfloat16(), 1e-6))


def test_contract(device: torch.device) -> None:
    x = torch.ones((2, 8), dtype=torch.bfloat16, device=device)
    with pytest.raises(KernelContractError, match="weight: expected"):
        cuda_rms_norm(x, x[0, :4].contiguous(), 1e-6)
