"""Routing against float64, for logits good and bad."""

from __future__ import annotations

import pytest
import torch

from cases import distinct_ids
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.experts.route import Routing, route
from octavo.ops.experts.route.reference import route_reference

SHAPES = [(1, 1, 1), (2, 8, 2), (17, 60, 4), (3, 64, 6), (5, 128, 8), (2, 257, 10), (3, 512, 22), (2, 512, 32)]
INF, NAN = float("inf"), float("nan")


def assert_routing(got: Routing, logits: torch.Tensor, top_k: int, renormalize: bool) -> None:
    ids, weights, flags = route_reference(logits.cpu(), top_k, renormalize=renormalize)
    assert torch.equal(got.ids.cpu(), ids)
    assert torch.equal(got.flags.cpu(), flags)
    assert float((got.weights.cpu().double() / weights - 1).abs().max()) < 2e-6


def guarded(
    logits: torch.Tensor, top_k: int, guard: Guard, renormalize: bool = True, rows_in_use: torch.Tensor | None = None
) -> Routing:
    out = guard.rebuild(Routing.allocate(logits.shape[0], top_k, logits.device))
    return route(guard.copy(logits), top_k, renormalize=renormalize, rows_in_use=rows_in_use, out=out)


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalised", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), SHAPES)
def test_route(
    tokens: int, experts: int, top_k: int, dtype: torch.dtype, renormalize: bool, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(tokens * experts)
    logits = (torch.randn((tokens, experts), generator=generator) * 3).to(device, dtype)
    guard = Guard(device)
    got = guarded(logits, top_k, guard, renormalize)
    guard.check()
    assert_routing(got, logits, top_k, renormalize)


@pytest.mark.parametrize("mutant", ["row", "expert", "weight"])
def test_the_check_sees_one_wrong_value(mutant: str, device: torch.device) -> None:
    logits = torch.randn((5, 64), generator=torch.Generator().manual_seed(1)).to(device)
    got = route(logits, 4, renormalize=True)
    assert_routing(got, logits, 4, True)
    match mutant:
        case "row":
            got.ids[3] = got.ids[2]
        case "expert":
            got.ids[4, 3] = (got.ids[4, 3] + 1) % 64
        case "weight":
            got.weights[0, 1] *= 1.00001
    with pytest.raises(AssertionError):
        assert_routing(got, logits, 4, True)


def test_a_spoilt_row_is_routed_by_nan(device: torch.device) -> None:
    logits = torch.randn((5, 64), generator=torch.Generator().manual_seed(2)).to(device)
    logits[3, 7] = NAN
    plain, spoilt = (route(logits, 4, renormalize=True, spoil=spoil) for spoil in (False, True))
    assert torch.equal(spoilt.ids, plain.ids)
    assert torch.equal(spoilt.flags, plain.flags)
    assert spoilt.weights[3].isnan().all()
    spoilt.weights[3] = plain.weights[3]
    assert torch.equal(spoilt.weights, plain.weights)


BAD_ROWS = {
    "all-nan": [NAN] * 16,
    "one-nan": [0.0] * 7 + [NAN] + [1.0] * 8,
    "all-plus-infinity": [INF] * 16,
    "all-minus-infinity": [-INF] * 16,
    "one-infinity": [0.0] * 15 + [INF],
    "all-equal": [2.5] * 16,
    "signed-zeros": [-0.0, 0.0] * 8,
    "extremes": [3.4e38, -3.4e38] * 8,
    "denormals": [1e-45, 0.0] * 8,
}


@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_any_logits_give_distinct_ids_and_finite_weights(bad: list[float], device: torch.device) -> None:
    """Class C, vllm#39391: NaN logits made eight equal ids."""
    good = torch.randn((3, 16), generator=torch.Generator().manual_seed(2))
    logits = good.clone()
    logits[1] = torch.tensor(bad)
    got = route(logits.to(device), 8, renormalize=True)
    assert_routing(got, logits, 8, True)
    assert all(len(set(row)) == 8 and min(row) >= 0 and max(row) < 16 for row in got.ids.tolist())
    assert bool(torch.isfinite(got.weights).all())
    alone = route(good[[0, 2]].to(device), 8, renormalize=True)
    assert torch.equal(got.ids[[0, 2]], alone.ids)
    assert torch.equal(got.weights[[0, 2]], alone.weights)


def test_ties_go_to_the_lower_id(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0, 1.0]], device=device)
    assert route(logits, 5, renormalize=True).ids.tolist() == [[1, 2, 4, 0, 3]]


def test_winners_above_255_are_found(device: torch.device) -> None:
    """Class B, imp#2056: ids from 256 were never chosen."""
    logits = torch.zeros((2, 512), device=device)
    logits[:, 256:] = distinct_ids(2, 256, 256, torch.Generator().manual_seed(3)).float().to(device) + 1
    got = route(logits, 10, renormalize=True)
    assert_routing(got, logits, 10, True)
    assert int(got.ids.min()) >= 256


@pytest.mark.parametrize("count", [-3, 0, 5, 8, 2**31 - 1])
def test_rows_past_the_count_are_absent(count: int, device: torch.device) -> None:
    """Class E, sglang#30895: the real batch is 5 in a graph of 8; the count itself may be nonsense."""
    logits = torch.randn((8, 32), generator=torch.Generator().manual_seed(4)).to(device)
    whole = route(logits, 4, renormalize=True)
    rows = min(max(count, 0), 8)
    logits[rows:] = NAN
    guard = Guard(device)
    got = guarded(logits, 4, guard, rows_in_use=torch.tensor([count], dtype=torch.int32, device=device))
    guard.check()
    assert torch.equal(got.ids[:rows], whole.ids[:rows])
    assert torch.equal(got.weights[:rows], whole.weights[:rows])
    assert got.ids[rows:].eq(-1).all()
    assert got.weights[rows:].eq(0).all()
    assert not got.flags[rows:].any()


def test_no_tokens(device: torch.device) -> None:
    """Class D, sglang#22455: zero rows are a size."""
    got = route(torch.empty((0, 8), device=device), 2, renormalize=True)
    assert got.ids.shape == (0, 2)


@pytest.mark.parametrize(
    ("shape", "top_k", "match"),
    [
        pytest.param((2, 513), 2, "logits.shape", id="experts"),
        pytest.param((2, 8), 9, "top_k", id="more-than-experts"),
        pytest.param((2, 64), 33, "top_k", id="more-than-32"),
        pytest.param((2, 64), 0, "top_k", id="none"),
        pytest.param((2, 2, 64), 2, "logits", id="rank"),
    ],
)
def test_limits_are_refused(shape: tuple[int, ...], top_k: int, match: str, device: torch.device) -> None:
    with pytest.raises(KernelContractError, match=match):
        route(torch.zeros(shape, device=device), top_k, renormalize=True)
