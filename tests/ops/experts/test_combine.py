"""The weighted sum against float64."""

from __future__ import annotations

import pytest
import torch

from cases import ROUTINGS
from compare import BF16_ROUNDING, assert_rows
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.experts.combine import combine
from octavo.ops.experts.combine.reference import combine_reference

NAN = float("nan")


def inputs(
    tokens: int, top_k: int, hidden: int, routing: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, ids and weights; the rows of absent assignments are NaN, and so are their weights."""
    generator = torch.Generator().manual_seed(tokens + top_k)
    ids = ROUTINGS[routing](tokens, 16, top_k, generator)
    y = torch.randn((tokens * top_k, hidden), generator=generator).bfloat16()
    weights = torch.rand((tokens, top_k), generator=generator)
    absent = (ids < 0) | (ids >= 16)
    y[absent.flatten()] = NAN
    weights[absent] = NAN
    return y.to(device), ids.to(device), weights.to(device)


def run(
    y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, guard: Guard, rows_in_use: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    out = guard.empty((ids.shape[0], y.shape[1]), torch.bfloat16)
    flags = guard.empty((ids.shape[0],), torch.bool)
    args = (guard.copy(y), guard.copy(ids), guard.copy(weights), 16)
    combine(*args, out=out, flags=flags, rows_in_use=rows_in_use)
    return out, flags


@pytest.mark.parametrize("routing", ["uniform", "sentinels", "duplicates", "all-absent"])
@pytest.mark.parametrize(
    ("tokens", "top_k", "hidden"), [(1, 1, 80), (2, 2, 768), (17, 4, 96), (9, 8, 2880), (3, 16, 7168)]
)
def test_combine(tokens: int, top_k: int, hidden: int, routing: str, device: torch.device) -> None:
    """Class C, vllm#54747 and class E, vllm#41249: an absent assignment adds nothing, whatever its memory holds."""
    y, ids, weights = inputs(tokens, top_k, hidden, routing, device)
    guard = Guard(device)
    out, flags = run(y, ids, weights, guard)
    guard.check()
    assert not flags.any()
    expected = combine_reference(y.cpu(), ids.cpu(), weights.cpu(), 16)
    assert_rows(out, expected, BF16_ROUNDING)


@pytest.mark.parametrize("mutant", ["row", "assignment", "weight", "column-block"])
def test_the_check_sees_one_wrong_value(mutant: str, device: torch.device) -> None:
    y, ids, weights = inputs(9, 4, 256, "uniform", device)
    expected = combine_reference(y.cpu(), ids.cpu(), weights.cpu(), 16)
    match mutant:
        case "row":
            y[16:20] = 0
        case "assignment":
            y[[3, 2]] = y[[2, 3]]
        case "weight":
            weights[5, 1] *= 1.05
        case "column-block":
            y[:, 128:192] = 0
    out, _ = run(y, ids, weights, Guard(device))
    with pytest.raises(AssertionError):
        assert_rows(out, expected, BF16_ROUNDING)


def test_assignments_are_added_in_order(device: torch.device) -> None:
    """2^24 + 1 + 1 is 2^24 in float32; 1 + 1 + 2^24 is not."""
    y = (
        torch.tensor([2.0**24, 1.0, 1.0, 1.0, 1.0, 2.0**24], device=device)
        .bfloat16()[:, None]
        .expand(-1, 32)
        .contiguous()
    )
    y[2], y[5] = y[2] * 2.0**17, y[5] - 2.0**24 + 1
    ids = torch.zeros((2, 3), dtype=torch.int32, device=device)
    out, _ = run(y, ids, torch.ones((2, 3), device=device), Guard(device))
    assert float(out[0, 0]) == 2.0**24 + 2.0**17
    assert float(out[1, 0]) == 3.0


def test_a_row_that_is_not_finite_is_flagged_alone(device: torch.device) -> None:
    y, ids, weights = inputs(9, 4, 96, "uniform", device)
    clean, _ = run(y, ids, weights, Guard(device))
    y[4 * 4 + 2, 95] = NAN
    weights[7, 0] = float("inf")
    out, flags = run(y, ids, weights, Guard(device))
    assert flags.tolist() == [row in (4, 7) for row in range(9)]
    others = [row for row in range(9) if row not in (4, 7)]
    assert torch.equal(out[others], clean[others])


@pytest.mark.parametrize("count", [-1, 0, 5, 9, 2**31 - 1])
def test_rows_past_the_count_become_zero(count: int, device: torch.device) -> None:
    y, ids, weights = inputs(9, 4, 96, "uniform", device)
    clean, _ = run(y, ids, weights, Guard(device))
    rows = min(max(count, 0), 9)
    y[rows * 4 :] = NAN
    out, flags = run(y, ids, weights, Guard(device), torch.tensor([count], dtype=torch.int32, device=device))
    assert torch.equal(out[:rows], clean[:rows])
    assert out[rows:].eq(0).all()
    assert not flags.any()


def test_no_tokens(device: torch.device) -> None:
    out, _ = run(*inputs(0, 2, 64, "uniform", device), Guard(device))
    assert out.shape == (0, 64)


def test_too_few_expert_rows_are_refused(device: torch.device) -> None:
    y, ids, weights = inputs(3, 2, 64, "uniform", device)
    with pytest.raises(KernelContractError, match=r"y\.shape\[0\]"):
        run(y[:5], ids, weights, Guard(device))
