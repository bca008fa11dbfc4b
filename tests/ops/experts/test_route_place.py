"""Routing and placing in one launch against both operations, bit by bit, and against the references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from benchmarks.route_place import Both, Case, rules
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import octavo.ops.experts.route_place as one_launch
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.experts.route import Routing, route
from octavo.ops.experts.route_place import MAX_TOKENS, route_place
from octavo.ops.experts.route_place.reference import route_place_reference
from octavo.ops.experts.rules import RoutingRule, SigmoidRule, SoftmaxRule

RULES: dict[str, tuple[RoutingRule, int]] = {
    "softmax": (SoftmaxRule(8, True), 128),
    "softmax of 10": (SoftmaxRule(10, True), 200),
    "softmax of an odd number": (SoftmaxRule(3, True), 37),
    "all experts": (SoftmaxRule(4, True), 4),
    "one expert": (SoftmaxRule(1, True), 1),
    "one of 128": (SoftmaxRule(1, True), 128),
    "two of 256": (SoftmaxRule(2, True), 256),
    "sigmoids": (SigmoidRule(8, True, torch.linspace(-1, 1, 256), scale=2.5), 256),
    "sigmoids as they are": (SigmoidRule(6, False, torch.linspace(1, -1, 64)), 64),
    "all groups": (SigmoidRule(6, True, torch.linspace(1, -1, 64), groups=8, kept=8), 64),
    "groups": (SigmoidRule(8, True, torch.linspace(-1, 1, 256), groups=8, kept=4), 256),
    "257 experts": (SoftmaxRule(2, True), 257),
    "not renormalised": (SoftmaxRule(4, False), 60),
    "32 experts a token": (SoftmaxRule(32, True), 64),
}
"""Name to a rule and the number of experts; the last four take two launches."""
IN_ONE = list(RULES)[:-4]


def made(name: str, device: torch.device) -> tuple[RoutingRule, int]:
    rule, experts = RULES[name]
    if isinstance(rule, SigmoidRule):
        rule = dataclasses.replace(rule, bias=rule.bias.to(device))
    return rule, experts


def draw(tokens: int, experts: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    noise = torch.Generator().manual_seed(tokens * experts)
    return (torch.randn((tokens, experts), generator=noise) * 3).to(dtype).to(device)


def count(rows: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.int32, device=device)


def poisoned(logits: torch.Tensor, rule: RoutingRule, guard: Guard, slack: int) -> Both:
    """Room that is filled with what neither operation writes."""
    tokens, experts = logits.shape
    return (
        guard.rebuild(Routing.allocate(tokens, rule.top_k, logits.device)),
        guard.rebuild(Permutation.allocate(tokens * rule.top_k + slack, experts, logits.device)),
    )


def at_once(
    logits: torch.Tensor, rule: RoutingRule, used: torch.Tensor | None, *, slack: int = 0, rows: int = 16
) -> Both:
    guard = Guard(logits.device)
    routing, permutation = poisoned(logits, rule, guard, slack)
    given = guard.copy(logits)
    route_place(given, rule, tile_rows=rows, spoil=True, rows_in_use=used, out=routing, permutation=permutation)
    guard.check()
    return routing, permutation


def one_by_one(
    logits: torch.Tensor, rule: RoutingRule, used: torch.Tensor | None, *, slack: int = 0, rows: int = 16
) -> Both:
    routing, permutation = poisoned(logits, rule, Guard(logits.device), slack)
    route(logits, rule, spoil=True, out=routing)
    permute(routing.ids, logits.shape[1], tile_rows=rows, rows_in_use=used, out=permutation)
    return routing, permutation


def tensors(both: Both) -> Iterator[torch.Tensor]:
    routing, permutation = both
    yield from (routing.ids, routing.weights.view(torch.int32), routing.flags)
    yield from (permutation.order, permutation.offsets, permutation.tiles, permutation.num_tiles)


def same(a: Both, b: Both) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("name", RULES)
def test_both_ways_have_the_same_bits(name: str, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    rule, experts = made(name, device)
    logits = draw(tokens, experts, device, dtype)
    for used, slack in ((None, 0), (count(tokens - 1, device), 5)):
        assert same(at_once(logits, rule, used, slack=slack), one_by_one(logits, rule, used, slack=slack))


@pytest.mark.parametrize("rows_in_use", [-3, 0, 1, 4, 5, 2**31 - 1])
@pytest.mark.parametrize("name", IN_ONE)
def test_rows_past_those_in_use_are_routed_and_not_placed(name: str, rows_in_use: int, device: torch.device) -> None:
    rule, experts = made(name, device)
    logits = draw(5, experts, device)
    got = at_once(logits, rule, count(rows_in_use, device))
    assert same(got, one_by_one(logits, rule, count(rows_in_use, device)))
    placed = min(max(rows_in_use, 0), 5) * rule.top_k
    assert got[1].offsets[-1] == placed
    assert got[1].order[placed:].eq(-1).all()
    assert got[0].ids.ge(0).all()


@pytest.mark.parametrize("name", IN_ONE)
def test_what_is_routed_and_placed_is_right(name: str, device: torch.device) -> None:
    rule, experts = made(name, device)
    logits = draw(6, experts, device)
    assert_right(at_once(logits, rule, None), logits, rule)


def assert_right(got: Both, logits: torch.Tensor, rule: RoutingRule) -> None:
    (ids, weights, flags), (order, offsets, tiles) = route_place_reference(logits.cpu(), rule, rows=16)
    routing, permutation = got
    assert torch.equal(routing.ids.cpu(), ids)
    torch.testing.assert_close(routing.weights.cpu().double(), weights, rtol=2e-6, atol=0)
    assert torch.equal(routing.flags.cpu(), flags)
    assert permutation.order.tolist() == order
    assert permutation.offsets.tolist() == offsets
    assert permutation.tiles[: int(permutation.num_tiles)].tolist() == [list(tile) for tile in tiles]


@pytest.mark.parametrize("mutant", ["row", "weight", "order", "offset", "tile"])
def test_the_checks_see_one_wrong_value(mutant: str, device: torch.device) -> None:
    rule, experts = made("softmax", device)
    logits = draw(6, experts, device)
    got, other = at_once(logits, rule, None), one_by_one(logits, rule, None)
    routing, permutation = got
    match mutant:
        case "row":
            routing.ids[3] = routing.ids[2]
        case "weight":
            routing.weights[4, 7] *= 1.00001
        case "order":
            permutation.order[[7, 8]] = permutation.order[[8, 7]]
        case "offset":
            permutation.offsets[100] += 1
        case "tile":
            permutation.tiles[9, 2] += 1
    assert not same(got, other)
    with pytest.raises(AssertionError):
        assert_right(got, logits, rule)


INF, NAN = float("inf"), float("nan")
SPECIAL = [0.0, -0.0, 1.0, 2.5, -2.5, 3.4e38, -3.4e38, 1e-45, -200.0, 200.0, INF, -INF, NAN]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, MAX_TOKENS), st.sampled_from(IN_ONE), st.integers(0, 17), st.data())
def test_any_logits_have_the_same_bits_both_ways(tokens: int, name: str, used: int, data: st.DataObject) -> None:
    """Ties, zeros of both signs, what is not finite: also where whole rows are equal."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rule, experts = made(name, device)
    values = torch.tensor(data.draw(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=5)))
    noise = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits = values[torch.randint(len(values), (tokens, experts), generator=noise)].to(device)
    got = at_once(logits, rule, count(used, device))
    assert same(got, one_by_one(logits, rule, count(used, device)))
    assert all(len(set(row)) == rule.top_k and min(row) >= 0 and max(row) < experts for row in got[0].ids.tolist())


@pytest.mark.parametrize("rows", [16, 64])
def test_equal_rows_share_tiles(rows: int, device: torch.device) -> None:
    """All tokens choose the same experts: each has a whole tile of 16, in the order of the tokens."""
    rule, experts = made("softmax", device)
    logits = draw(1, experts, device).repeat(16, 1)
    got = at_once(logits, rule, None, rows=rows)
    assert same(got, one_by_one(logits, rule, None, rows=rows))
    assert got[1].num_tiles.tolist() == [8]
    assert got[1].tiles[:8, 2].eq(16).all()


@pytest.mark.parametrize("name", RULES)
def test_one_launch_where_it_is_promised(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("two launches")

    rule, experts = made(name, device)
    most = 8 if rule.top_k > 8 else 16
    monkeypatch.setattr(one_launch, "route", refuse)
    if name in IN_ONE:
        route_place(draw(most, experts, device), rule, tile_rows=16)
    for tokens in (0, most + 1) if name in IN_ONE else (1,):
        with pytest.raises(AssertionError, match="two launches"):
            route_place(draw(tokens, experts, device), rule, tile_rows=16)


class Wrong(Case):
    """A twin, one of whose ways puts one row elsewhere."""

    def in_two(self) -> Both:
        both = super().in_two()
        both[1].order[3] += 1
        return both


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("name", rules(torch.device("cpu")))
def test_what_is_timed_is_equal(name: str, tokens: int, device: torch.device) -> None:
    rule, experts = rules(device)[name]
    Case.draw(tokens, rule, experts, device).check()
    with pytest.raises(AssertionError, match="order differ"):
        Wrong.draw(tokens, rule, experts, device).check()


def test_no_tokens(device: torch.device) -> None:
    routing, permutation = route_place(torch.empty((0, 8), device=device), SoftmaxRule(2, True), tile_rows=16)
    assert routing.ids.shape == (0, 2)
    assert permutation.offsets.tolist() == [0] * 9
    assert permutation.num_tiles.tolist() == [0]


@pytest.mark.parametrize("tokens", [2, 20])
@pytest.mark.parametrize("wrong", ["logits", "top_k", "tile_rows", "rows_in_use", "out.order", "out.weights"])
def test_a_wrong_argument_is_named(wrong: str, tokens: int, device: torch.device) -> None:
    logits, used = torch.zeros((tokens, 8), device=device), count(1, device)
    other = Routing.allocate(tokens + 1, 2, device)
    out = Routing.allocate(tokens, 2, device)
    with pytest.raises(KernelContractError, match=wrong):
        route_place(
            logits.double() if wrong == "logits" else logits,
            SoftmaxRule(9 if wrong == "top_k" else 2, True),
            tile_rows=8 if wrong == "tile_rows" else 16,
            rows_in_use=used.long() if wrong == "rows_in_use" else used,
            out=dataclasses.replace(out, weights=other.weights) if wrong == "out.weights" else None,
            permutation=Permutation.allocate(tokens if wrong == "out.order" else 2 * tokens, 8, device),
        )
