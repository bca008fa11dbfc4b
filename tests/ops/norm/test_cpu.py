"""The norm against float64, row by row and bit by bit."""

from __future__ import annotations

import pytest
import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.norm.cpu import rms_norm
from octavo.ops.norm.reference import rms_norm_reference


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("width", [1, 16, 24, 192, 2048])
def test_norm_against_float64(width: int) -> None:
    x, weight = noise(37, width) * 5, noise(width, seed=2)
    expected = rms_norm_reference(x, weight, 1e-6)
    assert_rows(rms_norm(x, weight, 1e-6), expected, 2 * BF16_ROUNDING)
    x[5] = x[6] * 0.5 + x[7]
    assert row_errors(rms_norm(x, weight, 1e-2), expected).max() > 2 * BF16_ROUNDING or width == 1


@pytest.mark.parametrize("width", [16, 24, 192])
def test_a_weight_in_float32_is_multiplied_before_the_only_rounding(width: int) -> None:
    """As `Qwen3NextRMSNorm` does, whose weights are one and a little."""
    x, weight = noise(37, width) * 5, 1 + noise(width, seed=2).float() * 0.01
    out, expected = rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6)
    assert out.dtype == torch.bfloat16
    assert ((out.double() - expected).abs() <= 2.0**-8 * expected.abs() * 1.001).all()
    assert not torch.equal(out, rms_norm(x, weight.bfloat16(), 1e-6))


def test_norm_row_depends_on_itself_alone() -> None:
    x, weight = noise(70, 192), noise(192, seed=2)
    whole = rms_norm(x, weight, 1e-6)
    for count in range(1, 71):
        assert torch.equal(rms_norm(x[:count], weight, 1e-6), whole[:count])
        assert torch.equal(rms_norm(x[count - 1 :], weight, 1e-6), whole[count - 1 :])
    x[::2] = torch.nan
    assert torch.equal(rms_norm(x, weight, 1e-6)[1::2], whole[1::2])


def test_norm_of_a_view_is_that_of_its_copy() -> None:
    """Queries are a slice of the joint projection."""
    x, weight = noise(9, 8, 32), noise(32, seed=2)
    assert torch.equal(rms_norm(x[:, 2:5], weight, 1e-6), rms_norm(x[:, 2:5].contiguous(), weight, 1e-6))


def test_norm_with_a_weight_for_each_head() -> None:
    x, weight = noise(9, 8, 32), noise(3, 32, seed=2)
    together = rms_norm(x[:, 2:5], weight, 1e-6)
    for head in range(3):
        assert torch.equal(together[:, head], rms_norm(x[:, 2 + head], weight[head], 1e-6))


def test_contract() -> None:
    with pytest.raises(KernelContractError, match=r"weight: .*\(8\).*\(7\)"):
        rms_norm(noise(3, 8), noise(7), 1e-6)
    with pytest.raises(KernelContractError, match="x: expected bfloat16"):
        rms_norm(noise(3, 8).float(), noise(8), 1e-6)
