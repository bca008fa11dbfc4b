"""FP8 codes and scales, exactly, for rows of every kind."""

from __future__ import annotations

import pytest
import torch

from compare import assert_rows, row_errors
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, FP8_MAX, GroupScaled, StaticScaled, TokenScaled, blocks
from octavo.ops.quantize.cuda import quantize, quantize_groups, quantize_static, swiglu_quantize
from octavo.ops.quantize.reference import (
    quantize_groups_reference,
    quantize_reference,
    swiglu_reference,
)
from ops.quantize.rounding import round_kernel

NAN, INF = float("nan"), float("inf")
WIDTHS = [1, 16, 80, 96, 128, 176, 192, 768, 1408]


def rows_of_every_kind(width: int, device: torch.device) -> torch.Tensor:
    """(14, width) bf16: ordinary rows between zero, tiny, huge and non-finite ones (class F, flashinfer#5024)."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn((14, width), generator=generator)
    x[1] = 0
    for row, top in [(3, 1e-45), (4, 1e-39), (5, 6.3e-38), (6, 1.3e-36), (7, 448.0), (8, 1e30), (9, 3.3e38)]:
        x[row] = 0 if row == 3 else x[row] / x[row].abs().max() * top
        x[row, width // 2] = top
    x[10, width // 2] = NAN
    x[11, width - 1] = INF
    x[12, 0] = -INF
    return x.bfloat16().to(device)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bytes, NaN included."""
    return torch.equal(a.cpu().contiguous().view(torch.uint8), b.cpu().contiguous().view(torch.uint8))


def assert_quantized(got: TokenScaled | GroupScaled, data: torch.Tensor, scale: torch.Tensor) -> None:
    assert torch.equal(got.scale.cpu().isnan(), scale.cpu().isnan())
    assert same(got.scale.nan_to_num(), scale.nan_to_num())
    assert same(got.data, data)


@pytest.mark.parametrize("width", WIDTHS)
def test_quantize(width: int, device: torch.device) -> None:
    x = rows_of_every_kind(width, device)
    guard = Guard(device)
    out = TokenScaled(guard.empty((14, width), FP8), guard.empty((14,), torch.float32))
    got = quantize(guard.copy(x), out=out)
    guard.check()
    assert_quantized(got, *quantize_reference(x.cpu()))
    assert not bool(got.data.float().isnan().any())


@pytest.mark.parametrize("width", WIDTHS)
def test_quantize_groups(width: int, device: torch.device) -> None:
    x = rows_of_every_kind(width, device)
    guard = Guard(device)
    out = GroupScaled(guard.empty((14, width), FP8), guard.empty((14, blocks(width)), torch.float32))
    got = quantize_groups(guard.copy(x), out=out)
    guard.check()
    assert_quantized(got, *quantize_groups_reference(x.cpu()))


@pytest.mark.parametrize("width", [80, 768])
def test_quantize_static(width: int, device: torch.device) -> None:
    x = rows_of_every_kind(width, device)
    scale = torch.tensor([0.25], device=device)
    guard = Guard(device)
    got = quantize_static(guard.copy(x), scale, out=StaticScaled(guard.empty((14, width), FP8), scale))
    guard.check()
    codes = (x.float() / 0.25).clamp(-FP8_MAX, FP8_MAX).to(FP8).view(torch.uint8)
    codes = torch.where(x.isfinite(), codes, torch.tensor(0x7F, dtype=torch.uint8, device=device))
    assert same(got.data, codes)


def every_quotient(exponent: int) -> torch.Tensor:
    """(128, 5121) bf16: a bf16 has 128 mantissas, so a row's scale has 128 too: all pairs, over every exponent that a code can have."""
    mantissas = torch.arange(128, 256, dtype=torch.float64) / 128
    powers = 2.0 ** torch.arange(-20, 0, dtype=torch.float64)
    small = (powers[:, None] * mantissas).flatten().expand(128, -1)
    return (torch.cat([mantissas[:, None], small, -small], 1) * 2.0**exponent).bfloat16()


@pytest.mark.parametrize("exponent", [0, 100, -110, -120])
def test_every_quotient(exponent: int, device: torch.device) -> None:
    x = every_quotient(exponent)
    assert_quantized(quantize(x.to(device)), *quantize_reference(x))


def rounded(x: torch.Tensor, device: torch.device) -> TokenScaled:
    rows, width = x.shape
    out = TokenScaled(torch.empty(x.shape, dtype=FP8, device=device), torch.empty(rows, device=device))
    round_kernel[(rows,)](x.float().to(device), out.data, out.scale, WIDTH=width)
    return out


def test_rounding_without_a_branch_for_small_scales(device: torch.device) -> None:
    """The same codes and scales, of rows of every kind and of every quotient."""
    x = rows_of_every_kind(128, torch.device("cpu"))
    assert_quantized(rounded(x, device), *quantize_reference(x))
    for exponent in (0, 100, -110, -120):  # at -110 quotients differ where remainders are subnormal
        x = every_quotient(exponent)[:, :4096].contiguous()
        assert_quantized(rounded(x, device), *quantize_reference(x))


@pytest.mark.parametrize("rows", [2049, 2058])
def test_rows_that_share_a_program(rows: int, device: torch.device) -> None:
    """Many rows run several to a program; none notices the others."""
    few = rows_of_every_kind(96, device)
    x, at = few.repeat(rows // 14 + 1, 1)[:rows].contiguous(), torch.arange(rows) % 14
    count = torch.tensor([rows - 1], dtype=torch.int32, device=device)
    guard = Guard(device)
    out = TokenScaled(guard.empty((rows, 96), FP8), guard.empty((rows,), torch.float32))
    got = quantize(guard.copy(x), rows_in_use=count, out=out)
    guard.check()
    data, scale = quantize_reference(few.cpu())
    assert_quantized(
        TokenScaled(got.data[:-1], got.scale[:-1]), data.view(torch.uint8)[at[:-1]].view(FP8), scale[at[:-1]]
    )
    assert got.scale[-1:].isnan().all(), "the row past the count was written"
    groups = quantize_groups(x)
    assert_quantized(groups, data.view(torch.uint8)[at].view(FP8), scale[at][:, None])
    static = torch.ones(1, device=device)
    assert same(quantize_static(x, static).data, quantize_static(few, static).data.view(torch.uint8)[at].view(FP8))


@pytest.mark.parametrize("mutant", ["code", "scale", "row"])
def test_the_check_sees_one_wrong_value(mutant: str, device: torch.device) -> None:
    x = rows_of_every_kind(96, device)
    got = quantize(x)
    match mutant:
        case "code":
            got.data.view(torch.uint8)[2, 17] ^= 1
        case "scale":
            got.scale[7] *= 1 + 2.0**-22
        case "row":
            got.data[8] = got.data[2]
    with pytest.raises(AssertionError):
        assert_quantized(got, *quantize_reference(x.cpu()))


@pytest.mark.parametrize("count", [-1, 0, 5, 14, 2**31 - 1])
def test_rows_past_the_count_are_left_alone(count: int, device: torch.device) -> None:
    """Class E, vllm#40047: the scale of a real row must not see padding; padding is not written either."""
    x = rows_of_every_kind(80, device)
    rows = min(max(count, 0), 14)
    whole = quantize(x)
    x[rows:] = NAN
    out = Guard(device).rebuild(quantize(x))
    got = quantize(x, rows_in_use=torch.tensor([count], dtype=torch.int32, device=device), out=out)
    assert same(got.data[:rows], whole.data[:rows])
    assert same(got.scale[:rows].nan_to_num(), whole.scale[:rows].nan_to_num())
    assert got.data[rows:].view(torch.uint8).eq(0xFF).all()


@pytest.mark.parametrize("width", [80, 176, 768])
def test_swiglu_quantize(width: int, device: torch.device) -> None:
    gate_up = (torch.randn((9, 2 * width), generator=torch.Generator().manual_seed(width)) * 4).bfloat16().to(device)
    gate_up[2] = 0
    gate_up[3, 0] = -300.0
    gate_up[5, 3] = INF
    guard = Guard(device)
    out = guard.rebuild(TokenScaled(gate_up[:, :width].contiguous().to(FP8), gate_up[:, 0].float()))
    got = swiglu_quantize(guard.copy(gate_up), out=out)
    guard.check()
    good = [0, 1, 2, 3, 4, 6, 7, 8]
    value = got.data.float() * got.scale[:, None]
    exact = gate_up.cpu().double()
    exact = exact[:, :width] / (1 + torch.exp(-exact[:, :width])) * exact[:, width:]
    assert_rows(value[good], exact[good], 0.04)
    assert bool(got.scale[5].isnan())
    steps = (
        got.data[good].view(torch.int8)
        - quantize_reference(swiglu_reference(gate_up.cpu()))[0][good].to(device).view(torch.int8)
    ).abs()
    assert float((steps != 0).float().mean()) < 0.02
    half = value.clone()
    half[4, : width // 2] = 0
    assert float(row_errors(half[good], exact[good]).max()) > 0.04


@pytest.mark.parametrize("width", [96, 768])
def test_a_row_has_the_same_bits_alone(width: int, device: torch.device) -> None:
    x = rows_of_every_kind(width, device)
    whole = quantize(x)
    for row in range(14):
        alone = quantize(x[row : row + 1])
        assert same(alone.data, whole.data[row : row + 1])


def test_no_rows(device: torch.device) -> None:
    x = torch.empty((0, 64), dtype=torch.bfloat16, device=device)
    assert quantize(x).data.shape == (0, 64)
    assert quantize_groups(x).scale.shape == (0, 1)
    assert swiglu_quantize(x).data.shape == (0, 32)
    assert quantize_static(x, torch.ones(1, device=device)).data.shape == (0, 64)


@pytest.mark.parametrize("scale_shape", [(1,), (4, 1), (3,)], ids=["one-for-all", "a-column", "too-few"])
def test_a_scale_of_another_shape_is_refused(scale_shape: tuple[int, ...], device: torch.device) -> None:
    """Class F, vllm#33019: a scale of another granularity was broadcast in silence."""
    x = torch.zeros((4, 64), dtype=torch.bfloat16, device=device)
    out = TokenScaled(torch.empty_like(x, dtype=FP8), torch.empty(scale_shape, device=device))
    with pytest.raises(KernelContractError, match=r"out\.scale"):
        quantize(x, out=out)


def test_too_wide_a_row_is_refused(device: torch.device) -> None:
    with pytest.raises(KernelContractError, match=r"x\.shape\[1\]"):
        quantize(torch.empty((1, 32769), dtype=torch.bfloat16, device=device))
