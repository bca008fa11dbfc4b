"""The sum and its norm as a kernel against float64, in every form, and a row's bits in any batch."""

from __future__ import annotations

import pytest
import torch
import triton

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.activations import Activations, GroupScaled, TokenScaled, Unscaled
from octavo.ops.experts.combine import combine
from octavo.ops.norm.cuda import UNSCALED, add_norm, cuda_rms_norm
from octavo.ops.norm.reference import rms_norm_reference
from octavo.ops.quantize.cuda import quantize, quantize_groups
from octavo.ops.weighted_sum import WeightedSum
from ops.norm.means import mean_kernel

LIMIT = 2 * BF16_ROUNDING
FORMS: list[frozenset[type[Activations]]] = [
    frozenset({TokenScaled}),
    frozenset({GroupScaled}),
    frozenset({TokenScaled, Unscaled}),
    frozenset({GroupScaled, Unscaled}),
    frozenset({TokenScaled, GroupScaled}),
]
WIDTHS = [1, 96, 128, 1408, 2048, 4000]
ROWS, TOP_K, EXPERTS = 5, 3, 7


def draw(*shape: int, device: torch.device, scale: float = 3.0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=noise) * scale).bfloat16().to(device)


def draw_parts(width: int, device: torch.device, used: int | None = None) -> WeightedSum:
    """Assignments of which some are absent, whose parts are NaN."""
    noise = torch.Generator().manual_seed(width)
    ids = torch.randint(-1, EXPERTS + 1, (ROWS, TOP_K), generator=noise, dtype=torch.int32)
    parts = (torch.randn((ROWS * TOP_K + 2, width), generator=noise) * 2).bfloat16()
    absent = ((ids < 0) | (ids >= EXPERTS)).view(-1)
    assert absent.any()
    parts[: ROWS * TOP_K][absent] = torch.nan
    parts[ROWS * TOP_K :] = torch.nan
    weights = torch.rand((ROWS, TOP_K), generator=noise)
    in_use = None if used is None else torch.tensor([used], dtype=torch.int32, device=device)
    return WeightedSum(parts.to(device), ids.to(device), weights.to(device), EXPERTS, in_use)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_norm_alone_against_float64(width: int, device: torch.device) -> None:
    x, weight = draw(ROWS, width, device=device), draw(width, device=device, scale=0.1) + 1
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


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_a_sum_is_rounded_and_then_normed(width: int, device: torch.device) -> None:
    x, weight = draw(ROWS, width, device=device), draw(width, device=device)
    change = x.flip(0) * 2
    total, out = add_norm(x, change, weight, 1e-6)
    assert same(total, x + change)
    assert same(out.bf16, cuda_rms_norm(x + change, weight, 1e-6))
    assert not same(out.bf16, cuda_rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize("used", [None, 0, 3, 99])
@pytest.mark.parametrize("width", [37, 2048])
def test_a_weighted_sum_is_what_combine_makes(width: int, used: int | None, device: torch.device) -> None:
    x, weight, parts = draw(ROWS, width, device=device), draw(width, device=device), draw_parts(width, device, used)
    summed = combine(
        parts.parts, parts.ids, parts.weights, EXPERTS,
        out=torch.empty_like(x), flags=torch.empty(ROWS, dtype=torch.bool, device=device), rows_in_use=parts.rows_in_use,
    )  # fmt: skip
    assert summed.isfinite().all()
    total, out = add_norm(x, parts, weight, 1e-6)
    assert same(total, x + summed)
    assert same(out.bf16, cuda_rms_norm(x + summed, weight, 1e-6))


@pytest.mark.parametrize("forms", FORMS, ids=lambda forms: "-".join(sorted(form.__name__ for form in forms)))
@pytest.mark.parametrize("width", WIDTHS)
def test_every_form_has_the_bits_of_its_own_kernel(
    width: int, forms: frozenset[type[Activations]], device: torch.device
) -> None:
    x, change, weight = draw(ROWS, width, device=device), draw_parts(width, device), draw(width, device=device)
    x[1], x[2, 0] = 0, torch.inf
    total, normed = add_norm(x, change, weight, 1e-6)
    again, out = add_norm(x, change, weight, 1e-6, forms=forms)
    assert same(again, total)
    assert (out.rows is None) == (len(forms) == 1)
    assert out.rows is None or same(out.rows, normed.bf16)
    assert type(out.scaled) is (TokenScaled if TokenScaled in forms else GroupScaled)
    expected = (quantize if type(out.scaled) is TokenScaled else quantize_groups)(normed.bf16)
    assert same(out.scaled.data, expected.data)
    assert same(out.scaled.scale.nan_to_num(), expected.scale.nan_to_num())


@pytest.mark.parametrize("width", [96, 2048])
def test_a_row_has_the_same_bits_alone(width: int, device: torch.device) -> None:
    x, weight, parts = draw(ROWS, width, device=device), draw(width, device=device), draw_parts(width, device)
    forms = frozenset[type[Activations]]({TokenScaled, Unscaled})
    total, whole = add_norm(x, parts, weight, 1e-5, forms=forms)
    for row in range(ROWS):
        of_row = slice(row * TOP_K, (row + 1) * TOP_K)
        part = WeightedSum(parts.parts[of_row], parts.ids[row : row + 1], parts.weights[row : row + 1], EXPERTS)
        alone, out = add_norm(x[row : row + 1], part, weight, 1e-5, forms=forms)
        assert same(alone, total[row : row + 1])
        assert same(out.bf16, whole.bf16[row : row + 1])
        assert out.scaled is not None
        assert whole.scaled is not None
        assert same(out.scaled.data, whole.scaled.data[row : row + 1])


def test_a_weight_in_float32_is_multiplied_before_the_only_rounding(device: torch.device) -> None:
    noise = torch.Generator().manual_seed(7)
    x = (torch.randn((5, 96), generator=noise) * 3).bfloat16().to(device)
    weight = (torch.randn((96,), generator=noise) * 0.01 + 1).to(device)
    out, expected = cuda_rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6)
    assert ((out.double() - expected).abs() <= 2.0**-8 * expected.abs() * 1.001).all()
    assert not torch.equal(out, cuda_rms_norm(x, weight.bfloat16(), 1e-6))


@pytest.mark.parametrize("width", [2, 96, 2048, 4000])
@pytest.mark.parametrize("warps", [1, 4, 16])
def test_squares_are_summed_as_a_tree_of_neighbours(width: int, warps: int, device: torch.device) -> None:
    """However many threads share a row; and the twin: of eight rows another order gives some other bits."""
    block, noise = triton.next_power_of_2(width), torch.Generator().manual_seed(width)
    x = torch.randn((8, width), generator=noise) * 2.0 ** torch.randint(-6, 7, (8, width), generator=noise)
    x = x.bfloat16().float()  # as norms have it: squares are exact
    out = torch.empty(8, dtype=torch.float32, device=device)
    for row in range(8):
        mean_kernel[(1,)](x[row].to(device), out[row:], width, BLOCK=block, num_warps=warps)
    squares = halves = torch.nn.functional.pad(x**2, (0, block - width))
    while squares.shape[1] > 1:
        squares = squares[:, ::2] + squares[:, 1::2]
        first, second = halves.chunk(2, dim=1)
        halves = first + second
    assert torch.equal(out.cpu(), squares[:, 0] / width)
    assert width == 2 or not torch.equal(out.cpu(), halves[:, 0] / width)


def test_contract(device: torch.device) -> None:
    x, parts = draw(ROWS, 64, device=device), draw_parts(64, device)
    weight = x[0].contiguous()
    wrong = {
        "weight": (x, None, x[0, :4].contiguous()),
        "change": (x, x[:, :32].contiguous(), weight),
        "change.parts": (x, WeightedSum(parts.parts[:9], parts.ids, parts.weights, EXPERTS), weight),
        "change.ids": (x, WeightedSum(parts.parts, parts.ids.long(), parts.weights, EXPERTS), weight),
        "change.weights": (x, WeightedSum(parts.parts, parts.ids, parts.weights[:, :2].contiguous(), EXPERTS), weight),
        "change.experts": (x, WeightedSum(parts.parts, parts.ids, parts.weights, 0), weight),
        "change.rows_in_use": (x, WeightedSum(parts.parts, parts.ids, parts.weights, EXPERTS, parts.ids), weight),
    }
    for name, (rows, change, norm) in wrong.items():
        with pytest.raises(KernelContractError, match=name):
            add_norm(rows, change, norm, 1e-6)
    assert add_norm(x[:0], x[:0], weight, 1e-6, forms=UNSCALED)[1].bf16.shape == (0, 64)
