"""Linear layers of PyTorch operations against float64, row by row and bit by bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, blocks
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight, widen
from octavo.ops.linear.cpu import TILE_ROWS, TiledLinear
from octavo.ops.linear.layer import Linear
from octavo.ops.linear.reference import linear_reference
from octavo.ops.quantize.cpu import quantize_tokens, round_groups, round_static, round_tokens
from octavo.ops.quantize.reference import quantize_groups_reference, static_reference
from octavo.ops.row_chunks import CHUNK_ROWS

KINDS = ["bf16", "fp8", "static", "block"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(kind: str, rows: int, columns: int, *, bias: bool = False) -> tuple[LinearWeight, Linear]:
    noise = torch.randn((rows, columns), generator=generator(1)) / columns**0.5
    biases = torch.randn(rows, generator=generator(2)).bfloat16() if bias else None
    if kind == "bf16":
        weight = Bf16(noise.bfloat16(), biases)
        return weight, TiledLinear(weight)
    if kind == "block":
        scale = 2.0 ** -(torch.arange(blocks(rows))[:, None] + 3.0 * torch.arange(blocks(columns)) + 7)
        block = Fp8Block((noise * 100).to(FP8), scale, biases)
        return block, TiledLinear(block)
    if kind == "static":  # fused parts, each with a scale of its own
        scale = 2.0 ** -(torch.arange(rows) * 3 // rows + 6.0)
        static = Fp8Static((noise * 100).to(FP8), scale, biases, input_scales=torch.tensor([0.3, 0.9, 0.7]))
        return static, TiledLinear(static)
    # Every channel has its own scale, far from the others: a mix-up shows.
    scale = 2.0 ** torch.arange(-10, rows - 10).remainder(7)
    quantized = Fp8Channel((noise * 100).to(FP8), scale / 100, biases)
    return quantized, TiledLinear(quantized)


def rows_of(count: int, columns: int) -> torch.Tensor:
    scale = 2.0 ** torch.arange(count).remainder(9)[:, None]
    return (torch.randn((count, columns), generator=generator(3)) * scale).bfloat16()


@pytest.mark.parametrize("shape", [(16, 32), (33, 24), (40, 36), (5, 200), (130, 7), (260, 300)], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_against_float64(kind: str, bias: bool, shape: tuple[int, int]) -> None:
    """[F] Also sizes that are no multiples of anything."""
    weight, linear = make(kind, *shape, bias=bias)
    for count in (0, 1, 31, 32, 33, 94):
        x = rows_of(count, shape[1])
        expected = linear_reference(x, weight)
        assert_rows(linear.float32(x), expected, 1e-4)
        assert_rows(linear(x), expected, BF16_ROUNDING)


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_sees_a_wrong_row(kind: str) -> None:
    """The twin: one channel takes another's weight."""
    weight, linear = make(kind, 16, 32)
    expected = linear_reference(rows_of(5, 32), weight)
    wrong = weight.data.clone()
    wrong[2] = weight.data[4]  # the channel with the largest scale
    other = TiledLinear(dataclasses.replace(weight, data=wrong))
    assert row_errors(other(rows_of(5, 32)), expected).min() > BF16_ROUNDING
    assert row_errors(linear(rows_of(5, 32)), expected).max() <= BF16_ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_itself_alone(kind: str) -> None:
    """Every count from 1 to 100, and every row at another place; NaN beside it."""
    _, linear = make(kind, 72, 96)
    x = rows_of(100, 96)
    whole = linear.float32(x)
    for count in range(1, 101):
        assert torch.equal(linear.float32(x[:count]), whole[:count])
    assert torch.equal(linear.float32(x.roll(37, 0)), whole.roll(37, 0))
    x[1::2] = torch.nan
    poisoned = linear.float32(x)
    assert torch.equal(poisoned[::2], whole[::2])
    assert poisoned[1::2].isnan().all()


@pytest.mark.parametrize("columns", [7, 192, 256, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_at_every_place_of_a_tile(kind: str, columns: int) -> None:
    """The same row throughout 3 tiles and a piece: the same bits, alone too."""
    _, linear = make(kind, 384, columns)
    row = rows_of(2, columns)[1:]
    alone = linear.float32(row)
    for count in (2, 3 * TILE_ROWS - 1, CHUNK_ROWS + 1):
        assert torch.equal(linear.float32(row.expand(count, -1)), alone.expand(count, -1))


def test_quantisation_is_that_of_compressed_tensors() -> None:
    """In float32: scale, clamp and rounding of the library's dynamic token strategy."""
    x = (torch.randn((64, 96), generator=generator(5)) * torch.logspace(-30, 30, 64)[:, None]).bfloat16().float()
    x[7] = 0
    args = QuantizationArgs(num_bits=8, type="float", strategy="token", symmetric=True, dynamic=True)
    scale, zero = compute_dynamic_scales_and_zp(x[None], args, torch.nn.Identity())
    q, s = quantize_tokens(x)
    assert torch.equal(s, scale[0])
    assert torch.equal(q.float() * s, fake_quantize(x[None], scale, zero, args)[0])


def test_rounding_by_arithmetic_is_the_conversion() -> None:
    """For every bf16 number of FP8's range, beside 448 so that the scale is 1; ties and subnormals are among them."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    numbers = numbers[numbers.isfinite() & (numbers.abs() <= 448)]
    x = torch.stack((numbers, torch.full_like(numbers, 448.0)), dim=1)
    q, s = quantize_tokens(x)
    rounded, scale = round_tokens(x)
    assert torch.equal(s, torch.ones_like(s))
    assert torch.equal(scale, s)
    assert torch.equal(rounded, q.float())
    codes = torch.arange(256, dtype=torch.uint8).view(FP8)
    assert torch.equal(widen(codes).nan_to_num(nan=-1.0), codes.float().nan_to_num(nan=-1.0))


@pytest.mark.parametrize("columns", [7, 128, 300])
def test_groups_are_those_of_the_reference(columns: int) -> None:
    x = rows_of(40, columns)
    x[3], x[5, 1], x[6, -1] = 0, torch.nan, torch.inf
    rounded, scale = round_groups(x)
    codes, scales = quantize_groups_reference(x)
    assert torch.equal(rounded, codes.float())
    every = scales.repeat_interleave(128, 1)[:, :columns]
    assert torch.equal(scale.nan_to_num(nan=-1.0), every.nan_to_num(nan=-1.0))


def test_class_f_rows_at_the_edge_of_the_scale() -> None:
    """[F] All zero, tiny, huge, one infinity, one NaN: a finite scale or NaN as the rule says, and no other row changes."""
    cases = [0.0, 1e-45, 6.3e-38, 1.3e-36, 448.0, 1e30]
    x = torch.zeros((8, 16))
    for row, value in enumerate(cases):
        x[row, 3] = value
    x[6, 5], x[7, 5] = torch.inf, torch.nan
    q, s = quantize_tokens(x)
    rounded, scale = round_tokens(x)
    assert s[0] == torch.finfo(torch.float32).eps
    assert q[:6].float().isfinite().all()
    assert (q[0].float() == 0).all()
    assert s[6:].isnan().all()
    assert (q[6:].float() == 0).all()
    assert torch.equal(rounded, q.float())
    assert torch.equal(scale.nan_to_num(nan=-1.0), s.nan_to_num(nan=-1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str) -> None:
    _, linear = make(kind, 16, 32)
    with pytest.raises(KernelContractError, match=r"x: .*\(3, 31\)"):
        linear(torch.zeros((3, 31), dtype=torch.bfloat16))
    with pytest.raises(KernelContractError, match=r"x: .*float32"):
        linear(torch.zeros((3, 32)))


@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 0.0123, 3.7, 1e-30, 1e30], ids=str)
def test_static_codes_of_every_number(scale: float) -> None:
    """All of bf16: held within +-448, NaN and infinity are NaN."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(256, 256)
    given = torch.tensor([scale])
    codes, same = round_static(numbers, given)
    assert same is given
    expected = static_reference(numbers, given).float()
    assert torch.equal(codes.isnan(), ~numbers.isfinite())
    assert torch.equal(codes.nan_to_num(0.0), expected.nan_to_num(0.0))
    # the twin: what is not held wraps, or is NaN
    assert not torch.equal((numbers.float() / given).to(FP8).float().nan_to_num(0.0), expected.nan_to_num(0.0))
