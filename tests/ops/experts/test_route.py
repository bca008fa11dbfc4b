"""Routing against float64, for logits good and bad."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from cases import distinct_ids
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.experts import choose_experts
from octavo.ops.experts.permute import Permutation, most_apart
from octavo.ops.experts.route import Routing, route
from octavo.ops.experts.route.reference import route_reference
from octavo.ops.experts.rules import RoutingRule, SharedRule, SigmoidRule, SoftmaxRule
from ops.experts.test_permute import assert_permutation

SHAPES = [(1, 1, 1), (2, 8, 2), (17, 60, 4), (3, 64, 6), (5, 128, 8), (2, 257, 10), (3, 512, 22), (2, 512, 32)]
INF, NAN = float("inf"), float("nan")


def assert_routing(got: Routing, logits: torch.Tensor, rule: RoutingRule) -> None:
    ids, weights, flags = route_reference(logits.cpu(), rule)
    assert torch.equal(got.ids.cpu(), ids)
    assert torch.equal(got.flags.cpu(), flags)
    torch.testing.assert_close(got.weights.cpu().double(), weights, rtol=2e-6, atol=0)


def guarded(logits: torch.Tensor, rule: RoutingRule, guard: Guard, rows_in_use: torch.Tensor | None = None) -> Routing:
    out = guard.rebuild(Routing.allocate(logits.shape[0], rule.top_k, logits.device))
    return route(guard.copy(logits), rule, rows_in_use=rows_in_use, out=out)


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalised", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), SHAPES)
def test_route(
    tokens: int, experts: int, top_k: int, dtype: torch.dtype, renormalize: bool, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(tokens * experts)
    logits = (torch.randn((tokens, experts), generator=generator) * 3).to(device, dtype)
    guard = Guard(device)
    got = guarded(logits, SoftmaxRule(top_k, renormalize), guard)
    guard.check()
    assert_routing(got, logits, SoftmaxRule(top_k, renormalize))


@pytest.mark.parametrize("mutant", ["row", "expert", "weight"])
def test_the_check_sees_one_wrong_value(mutant: str, device: torch.device) -> None:
    logits = torch.randn((5, 64), generator=torch.Generator().manual_seed(1)).to(device)
    got = route(logits, SoftmaxRule(4, True))
    assert_routing(got, logits, SoftmaxRule(4, True))
    match mutant:
        case "row":
            got.ids[3] = got.ids[2]
        case "expert":
            got.ids[4, 3] = (got.ids[4, 3] + 1) % 64
        case "weight":
            got.weights[0, 1] *= 1.00001
    with pytest.raises(AssertionError):
        assert_routing(got, logits, SoftmaxRule(4, True))


def test_a_spoilt_row_is_routed_by_nan(device: torch.device) -> None:
    logits = torch.randn((5, 64), generator=torch.Generator().manual_seed(2)).to(device)
    logits[3, 7] = NAN
    plain, spoilt = (route(logits, SoftmaxRule(4, True), spoil=spoil) for spoil in (False, True))
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
    got = route(logits.to(device), SoftmaxRule(8, True))
    assert_routing(got, logits, SoftmaxRule(8, True))
    assert all(len(set(row)) == 8 and min(row) >= 0 and max(row) < 16 for row in got.ids.tolist())
    assert bool(torch.isfinite(got.weights).all())
    alone = route(good[[0, 2]].to(device), SoftmaxRule(8, True))
    assert torch.equal(got.ids[[0, 2]], alone.ids)
    assert torch.equal(got.weights[[0, 2]], alone.weights)


def test_ties_go_to_the_lower_id(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0, 1.0]], device=device)
    assert route(logits, SoftmaxRule(5, True)).ids.tolist() == [[1, 2, 4, 0, 3]]


def test_winners_above_255_are_found(device: torch.device) -> None:
    """Class B, imp#2056: ids from 256 were never chosen."""
    logits = torch.zeros((2, 512), device=device)
    logits[:, 256:] = distinct_ids(2, 256, 256, torch.Generator().manual_seed(3)).float().to(device) + 1
    got = route(logits, SoftmaxRule(10, True))
    assert_routing(got, logits, SoftmaxRule(10, True))
    assert int(got.ids.min()) >= 256


@pytest.mark.parametrize("count", [-3, 0, 5, 8, 2**31 - 1])
def test_rows_past_the_count_are_absent(count: int, device: torch.device) -> None:
    """Class E, sglang#30895: the real batch is 5 in a graph of 8; the count itself may be nonsense."""
    logits = torch.randn((8, 32), generator=torch.Generator().manual_seed(4)).to(device)
    whole = route(logits, SoftmaxRule(4, True))
    rows = min(max(count, 0), 8)
    logits[rows:] = NAN
    guard = Guard(device)
    got = guarded(
        logits, SoftmaxRule(4, True), guard, rows_in_use=torch.tensor([count], dtype=torch.int32, device=device)
    )
    guard.check()
    assert torch.equal(got.ids[:rows], whole.ids[:rows])
    assert torch.equal(got.weights[:rows], whole.weights[:rows])
    assert got.ids[rows:].eq(-1).all()
    assert got.weights[rows:].eq(0).all()
    assert not got.flags[rows:].any()


@pytest.mark.parametrize(
    ("experts", "top_k", "most"), [(1, 1, 1), (8, 2, 1), (60, 4, 3), (128, 8, 4), (257, 10, 4), (512, 32, 4)]
)
def test_choices_of_few_tokens_are_permuted(experts: int, top_k: int, most: int, device: torch.device) -> None:
    """Each choice as a tile, in memory of just the size and of more; for one token as `permute` does it."""
    assert most_apart(top_k, experts) == most
    logits = torch.randn((most, experts), generator=torch.Generator().manual_seed(experts)).to(device)
    rules: list[RoutingRule] = [SoftmaxRule(top_k, True), sigmoid_rule(experts, top_k, device)]
    for rule, used in itertools.product(rules, (None, -1, *range(most + 1), 2**31 - 1)):
        guard = Guard(device)
        count = None if used is None else torch.tensor([used], dtype=torch.int32, device=device)
        live = most if used is None else min(max(used, 0), most)
        for room in (most * top_k, most * top_k + 9):
            got = guard.rebuild(Permutation.allocate(room, experts, device))
            ids = route(guard.copy(logits), rule, rows_in_use=count, permutation=got).ids
            guard.check()
            assert ids.eq(-1).all(1).tolist() == [False] * live + [True] * (most - live)
            assert_apart(got, ids[:live])
            if most == 1:
                assert_permutation(got, ids, experts, 16, live)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "whole"])
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 1, 1), (17, 60, 4), (5, 128, 8), (3, 512, 10), (2, 512, 31)]
)
def test_a_shared_expert_stands_behind_those_that_are_chosen(
    tokens: int, experts: int, top_k: int, gated: bool, device: torch.device
) -> None:
    logits = torch.randn((tokens, experts + gated), generator=torch.Generator().manual_seed(experts)).to(device) * 3
    for choosing in (SoftmaxRule(top_k, True), sigmoid_rule(experts, top_k, device, scale=2.5)):
        rule = SharedRule(choosing, gated)
        guard = Guard(device)
        got = guarded(logits, rule, guard)
        guard.check()
        assert_routing(got, logits, rule)
        assert got.ids[:, -1].eq(experts).all()
        alone = route(logits[:, :experts].contiguous(), choosing)
        assert torch.equal(got.ids[:, :-1], alone.ids)
        assert torch.equal(got.weights[:, :-1], alone.weights)
        on_cpu = choose_experts(logits.cpu(), dataclasses.replace(rule, choosing=on_a_cpu(choosing)))
        assert torch.equal(on_cpu.ids.int(), got.ids.cpu())
        torch.testing.assert_close(on_cpu.weights, got.weights.cpu(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("at", [2, -1], ids=["of-an-expert", "of-the-gate"])
def test_a_bad_logit_beside_a_shared_expert(at: int, bad: float, device: torch.device) -> None:
    logits = torch.randn((3, 17), generator=torch.Generator().manual_seed(6))
    logits[1, at] = bad
    rule = SharedRule(SoftmaxRule(4, True), gated=True)
    got = route(logits.to(device), rule, spoil=True)
    assert got.flags.tolist() == [False, True, False]
    assert got.ids[1].tolist() == [0, 1, 2, 3, 16]
    assert got.weights.isnan().all(1).tolist() == choose_experts(logits, rule).weights.isnan().all(1).tolist()
    assert got.weights.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "whole"])
def test_few_tokens_with_a_shared_expert_are_permuted(gated: bool, device: torch.device) -> None:
    """The last of each token's tiles is that of the shared expert."""
    most = most_apart(11, 513)
    logits = torch.randn((most, 512 + gated), generator=torch.Generator().manual_seed(8)).to(device)
    guard = Guard(device)
    got = guard.rebuild(Permutation.allocate(11 * most, 513, device))
    ids = route(guard.copy(logits), SharedRule(SoftmaxRule(10, True), gated), permutation=got).ids
    guard.check()
    assert_apart(got, ids)
    assert got.tiles[10 : 11 * most : 11, 0].eq(512).all()


def on_a_cpu(rule: SoftmaxRule | SigmoidRule) -> SoftmaxRule | SigmoidRule:
    """`rule` with its bias there."""
    return dataclasses.replace(rule, bias=rule.bias.cpu()) if isinstance(rule, SigmoidRule) else rule


def assert_apart(got: Permutation, ids: torch.Tensor) -> None:
    """One tile for each of `ids` (T, K), those of a token by expert."""
    count, places = (
        ids.numel(),
        (ids.long().sort().indices + torch.arange(len(ids), device=ids.device)[:, None] * ids.shape[1]),
    )
    assert got.rows_in_use.tolist() == got.num_tiles.tolist() == [count]
    assert got.order[:count].tolist() == places.flatten().tolist()
    experts = ids.flatten()[places.flatten()].tolist()
    assert got.tiles[:count].tolist() == [[expert, row, 1] for row, expert in enumerate(experts)]
    assert got.order[count:].eq(-1).all(), "rows not in use were written"
    assert got.tiles[count:].eq(-1).all(), "tiles not in use were written"


@pytest.mark.parametrize("mutant", ["expert", "row", "order", "count"])
def test_the_check_sees_one_wrong_place(mutant: str, device: torch.device) -> None:
    logits = torch.randn((3, 128), generator=torch.Generator().manual_seed(4)).to(device)
    got = Guard(device).rebuild(Permutation.allocate(24, 128, device))
    ids = route(logits, SoftmaxRule(8, True), permutation=got).ids
    assert_apart(got, ids)
    match mutant:
        case "expert":
            got.tiles[9, 0] += 1
        case "row":
            got.tiles[9, 1] += 1
        case "order":
            got.order[[3, 4]] = got.order[[4, 3]]
        case "count":
            got.num_tiles[0] -= 1
    with pytest.raises(AssertionError):
        assert_apart(got, ids)


def test_choices_of_more_tokens_are_not_permuted(device: torch.device) -> None:
    room = Permutation.allocate(16, 16, device)
    with pytest.raises(KernelContractError, match="more tokens"):
        route(torch.zeros((3, 16), device=device), SoftmaxRule(2, True), permutation=room)
    with pytest.raises(KernelContractError, match=r"permutation\.order"):
        route(
            torch.zeros((2, 128), device=device),
            SoftmaxRule(9, True),
            permutation=Permutation.allocate(16, 128, device),
        )


def test_no_tokens(device: torch.device) -> None:
    """Class D, sglang#22455: zero rows are a size."""
    got = route(torch.empty((0, 8), device=device), SoftmaxRule(2, True))
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
        route(torch.zeros(shape, device=device), SoftmaxRule(top_k, True))


def sigmoid_rule(experts: int, top_k: int, device: torch.device, **more: Any) -> SigmoidRule:
    bias = torch.randn((experts,), generator=torch.Generator().manual_seed(experts)) * 0.3
    return SigmoidRule(top_k, more.pop("renormalize", True), bias.to(device), **more)


GROUPS = [
    (2, 8, 2, 2, 1),
    (3, 64, 6, 8, 3),
    (2, 160, 8, 4, 2),
    (2, 256, 8, 8, 4),
    (3, 12, 4, 3, 2),
    (2, 512, 22, 32, 20),
]
"""T, E, K, groups, groups kept."""


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalised", "raw"])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), SHAPES)
def test_sigmoids_with_a_bias(tokens: int, experts: int, top_k: int, renormalize: bool, device: torch.device) -> None:
    logits = torch.randn((tokens, experts), generator=torch.Generator().manual_seed(experts)).to(device) * 3
    rule = sigmoid_rule(experts, top_k, device, renormalize=renormalize, scale=2.5)
    guard = Guard(device)
    got = guarded(logits, rule, guard)
    guard.check()
    assert_routing(got, logits, rule)
    assert_same_as_on_a_cpu(got, logits, rule)


def assert_same_as_on_a_cpu(got: Routing, logits: torch.Tensor, rule: SigmoidRule) -> None:
    other = choose_experts(logits.cpu(), dataclasses.replace(rule, bias=rule.bias.cpu()))
    assert torch.equal(got.ids.cpu().long(), other.ids)
    sound = ~got.flags.cpu()
    torch.testing.assert_close(got.weights.cpu()[sound], other.weights[sound], rtol=2e-6, atol=0)
    assert other.weights[~sound].isnan().all()


@pytest.mark.parametrize(("tokens", "experts", "top_k", "groups", "kept"), GROUPS)
def test_groups(tokens: int, experts: int, top_k: int, groups: int, kept: int, device: torch.device) -> None:
    logits = torch.randn((tokens, experts), generator=torch.Generator().manual_seed(experts)).to(device)
    rule = sigmoid_rule(experts, top_k, device, groups=groups, kept=kept)
    got = route(logits, rule)
    assert_routing(got, logits, rule)
    assert_same_as_on_a_cpu(got, logits, rule)
    assert all(len({e // (experts // groups) for e in row}) <= kept for row in got.ids.tolist())
    # the twin: without groups others are chosen, or the reference would not see a kernel that forgets them
    with pytest.raises(AssertionError):
        assert_routing(route(logits, dataclasses.replace(rule, groups=1, kept=1)), logits, rule)


@pytest.mark.parametrize("mutant", ["bias-in-the-weight", "no-bias", "scale"])
def test_the_check_sees_a_wrong_sigmoid_rule(mutant: str, device: torch.device) -> None:
    logits = torch.randn((5, 64), generator=torch.Generator().manual_seed(1)).to(device)
    rule = sigmoid_rule(64, 4, device, scale=2.5)
    got = route(logits, rule)
    match mutant:
        case "bias-in-the-weight":
            got.weights.add_(rule.bias[got.ids.long()])
        case "no-bias":
            got = route(logits, dataclasses.replace(rule, bias=torch.zeros_like(rule.bias)))
        case "scale":
            got = route(logits, dataclasses.replace(rule, scale=2.4))
    with pytest.raises(AssertionError):
        assert_routing(got, logits, rule)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_any_logits_of_sigmoids(bad: list[float], groups: int, device: torch.device) -> None:
    """Distinct ids and finite weights, also where all sigmoids are 0 or 1; the neighbours are untouched."""
    good = torch.randn((3, 16), generator=torch.Generator().manual_seed(2))
    logits = good.clone()
    logits[1] = torch.tensor(bad)
    rule = sigmoid_rule(16, 8, device, groups=groups, kept=max(1, groups - 2))
    got = route(logits.to(device), rule)
    assert all(len(set(row)) == 8 and min(row) >= 0 and max(row) < 16 for row in got.ids.tolist())
    assert bool(torch.isfinite(got.weights).all())
    assert got.flags.tolist() == [False, not bool(logits[1].isfinite().all()), False]
    assert_same_as_on_a_cpu(got, logits, rule)
    alone = route(good[[0, 2]].to(device), rule)
    assert torch.equal(got.ids[[0, 2]], alone.ids)
    assert torch.equal(got.weights[[0, 2]], alone.weights)


def test_all_sigmoids_zero_or_one(device: torch.device) -> None:
    """Where all are 0 the weights are 0, not NaN; equal scores go to the lower id, of equal groups the lower is kept."""
    logits = torch.tensor([[-200.0] * 16, [200.0] * 16], device=device)
    bias = torch.zeros(16, device=device)
    got = route(logits, SigmoidRule(3, True, bias))
    assert got.ids.tolist() == [[0, 1, 2]] * 2
    assert got.weights[0].eq(0).all()
    assert not got.flags.any()
    bias[4:8] = -1.0
    assert route(logits, SigmoidRule(5, True, bias, groups=4, kept=2)).ids.tolist() == [[0, 1, 2, 3, 8]] * 2


@pytest.mark.parametrize(
    ("more", "match"),
    [
        pytest.param({"groups": 3}, "groups", id="uneven"),
        pytest.param({"groups": 4, "kept": 5}, "kept", id="more-than-there-are"),
        pytest.param({"groups": 8}, "top_k", id="too-few-experts"),
        pytest.param({"groups": 16}, "group", id="one-expert"),
        pytest.param({"bias": torch.zeros(15)}, "bias", id="short-bias"),
    ],
)
def test_limits_of_groups_are_refused(more: dict[str, Any], match: str, device: torch.device) -> None:
    rule = dataclasses.replace(SigmoidRule(3, True, torch.zeros(16, device=device)), **more)
    with pytest.raises(KernelContractError, match=match):
        route(torch.zeros((2, 16), device=device), rule)
