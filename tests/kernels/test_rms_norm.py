"""The norm of a sum as a kernel against float64, its FP8 code by code, and a row's bits in any batch."""

from __future__ import annotations

import pytest
import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from memory import Guard
from octavo.errors import KernelContractError
from octavo.kernels.quantize import quantize
from octavo.kernels.quantize.reference import rms_norm_reference as rounded_reference
from octavo.kernels.rms_norm.cuda import Normed, add_norm
from octavo.kernels.rms_norm.reference import rms_norm_reference

EPS = 1e-6
LIMIT = 2 * BF16_ROUNDING


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """By itself, in bf16."""
    return add_norm(x, None, weight, EPS, bf16=True).in_bf16.data


def draw(width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x and change (9, width), of zeros in row 2 and with NaN in row 5, and a weight."""
    noise = torch.Generator().manual_seed(width)
    x, change = (torch.randn((2, 9, width), generator=noise) * 3).bfloat16().to(device)
    x[2] = change[2] = 0
    change[5, width // 2] = torch.nan
    return x, change, (torch.randn((width,), generator=noise) * 0.1 + 1).bfloat16().to(device)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit by bit, but any NaN for any other."""
    return torch.equal(a.float().nan_to_num(nan=-7.5), b.float().nan_to_num(nan=-7.5))


def assert_same(got: Normed, expected: Normed, rows: slice) -> None:
    assert same(got.total, expected.total[rows])
    assert same(got.in_bf16.data, expected.in_bf16.data[rows])
    assert same(got.in_fp8.data, expected.in_fp8.data[rows])
    assert same(got.in_fp8.scale, expected.in_fp8.scale[rows])


@pytest.mark.parametrize("width", [1, 96, 2048, 4000])
def test_against_float64(width: int, device: torch.device) -> None:
    noise = torch.Generator().manual_seed(width)
    x = (torch.randn((5, width), generator=noise) * 3).bfloat16().to(device)
    weight = (torch.randn((width,), generator=noise) * 0.1 + 1).bfloat16().to(device)
    out = normed(x, weight)
    assert_rows(out, rms_norm_reference(x, weight, EPS), LIMIT)
    assert row_errors(out, rms_norm_reference(x, weight * 1.1, EPS)).min() > LIMIT
    x[3, width // 2] = torch.nan
    bad = normed(x, weight)
    assert bad[3].isnan().all()
    good = [0, 1, 2, 4]
    assert torch.equal(bad[good], out[good])
    assert torch.equal(normed(x[4:], weight)[0], out[4])
    assert normed(x[:0], weight).shape == (0, width)


@pytest.mark.parametrize("width", [80, 128, 2048])
def test_a_sum_its_norm_and_their_codes_are_those_of_separate_layers(width: int, device: torch.device) -> None:
    x, change, weight = draw(width, device)
    guard = Guard(device)
    out = guard.empty((9, width), torch.bfloat16)
    got = add_norm(*map(guard.copy, (x, change, weight)), EPS, bf16=True, fp8=True, out=out)
    guard.check()
    assert same(got.total, x + change)
    assert same(out, normed(x + change, weight))
    codes = quantize(out)
    assert same(got.in_fp8.data, codes.data)
    assert same(got.in_fp8.scale, codes.scale)
    # the twin: a sum that is not rounded to bf16
    exact = rms_norm_reference(x.double() + change.double(), weight, EPS)
    assert not same(out, exact.bfloat16())


@pytest.mark.parametrize("width", [80, 2048])
def test_bits_hang_on_no_other_row_and_on_no_other_output(width: int, device: torch.device) -> None:
    x, change, weight = draw(width, device)
    whole = add_norm(x, change, weight, EPS, bf16=True, fp8=True)
    for row in range(9):
        part = slice(row, row + 1)
        assert_same(add_norm(x[part], change[part], weight, EPS, bf16=True, fp8=True), whole, part)
    assert same(add_norm(x, change, weight, EPS, fp8=True).in_fp8.data, whole.in_fp8.data)
    last = add_norm(x, change, weight, EPS, bf16=True, total=False)
    assert same(last.in_bf16.data, whole.in_bf16.data)
    assert last.total is x
    assert_same(add_norm(whole.total, None, weight, EPS, bf16=True, fp8=True), whole, slice(None))


@pytest.mark.parametrize("width", [80, 128, 1408])
def test_whole_numbers_have_the_bits_of_the_reference(width: int, device: torch.device) -> None:
    """Their squares add up exactly in any order."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randint(-9, 10, (9, width), generator=generator).bfloat16().to(device)
    x[2] = 0
    x[5, 3] = torch.nan
    weight = torch.randn((width,), generator=generator).bfloat16().to(device)
    assert same(normed(x, weight).cpu(), rounded_reference(x.cpu(), weight.cpu(), EPS))


def test_contract(device: torch.device) -> None:
    x = torch.ones((2, 8), dtype=torch.bfloat16, device=device)
    with pytest.raises(KernelContractError, match="weight: expected"):
        normed(x, x[0, :4].contiguous())
    with pytest.raises(KernelContractError, match="change: expected"):
        add_norm(x, x[:1], x[0], EPS, fp8=True)
    with pytest.raises(KernelContractError, match="out: expected"):
        add_norm(x, None, x[0], EPS, bf16=True, out=x[:1])
