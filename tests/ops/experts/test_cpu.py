"""The expert layer of PyTorch operations against float64, row by row and bit by bit."""

from __future__ import annotations

import pytest
import torch

from compare import assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, blocks
from octavo.ops.experts import CpuExperts, ExpertWeights, SharedRule, SoftmaxRule, choose_experts
from octavo.ops.experts.reference import experts_reference
from octavo.ops.experts.rules import sigmoid
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight

EXPERTS, TOP_K, HIDDEN, WIDTH = 16, 4, 40, 24
LIMIT = 0.01


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(kind: str, rows: int, columns: int, seed: int) -> LinearWeight:
    noise = torch.randn((EXPERTS, rows, columns), generator=generator(seed)) / columns**0.5
    if kind == "bf16":
        return Bf16(noise.bfloat16())
    if kind == "block":
        parts = rows // WIDTH if rows == 2 * WIDTH else 1
        grid = (EXPERTS, parts * blocks(rows // parts), blocks(columns))
        scale = 2.0 ** -(torch.arange(EXPERTS * grid[1] * grid[2]).remainder(3) + 6.0)
        return Fp8Block((noise * 100).to(FP8), scale.view(grid), parts=parts)
    # [F] Neighbours differ in scale: one expert's scale on the next shows.
    own = 2.0 ** torch.arange(EXPERTS).remainder(2)[:, None]
    if kind == "static":
        scale = own.expand(EXPERTS, rows).contiguous() / 100
        return Fp8Static((noise * 100).to(FP8), scale, input_scales=torch.arange(1.0, 2 * EXPERTS + 1) / 400)
    return Fp8Channel((noise * 100).to(FP8), own.expand(EXPERTS, rows).contiguous() / 100)


def weights(kind: str) -> ExpertWeights:
    return ExpertWeights(stack(kind, 2 * WIDTH, HIDDEN, 1), stack(kind, HIDDEN, WIDTH, 2))


def inputs(count: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn((count, HIDDEN), generator=generator(seed)).bfloat16()
    return x, torch.randn((count, EXPERTS), generator=generator(seed + 1)) * 2


@pytest.fixture(params=["bf16", "fp8", "static", "block"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("renormalize", [False, True], ids=["raw", "renormalized"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 33, 94, 300])
def test_against_float64(kind: str, count: int, renormalize: bool) -> None:
    layer = CpuExperts(weights(kind), SoftmaxRule(TOP_K, renormalize))
    x, logits = inputs(count)
    expected = experts_reference(x, logits, weights(kind), SoftmaxRule(TOP_K, renormalize))
    assert_rows(layer(x, logits), expected, LIMIT)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "whole"])
@pytest.mark.parametrize("count", [1, 33, 150])
def test_a_shared_expert_against_float64(kind: str, count: int, gated: bool) -> None:
    """The last of all; weighted twice as much shows."""
    rule = SharedRule(SoftmaxRule(TOP_K, True), gated)
    layer = CpuExperts(weights(kind), rule)
    x, logits = inputs(count)
    logits = logits[:, : rule.logits_for(EXPERTS)].contiguous()
    logits[:, -1].abs_()  # a gate that is half open at least
    expected = experts_reference(x, logits, weights(kind), rule)
    assert_rows(layer(x, logits), expected, LIMIT)
    alone = experts_reference(x, logits[:, : EXPERTS - 1].contiguous(), weights(kind), rule.choosing)
    assert row_errors(layer(x, logits), 2 * expected - alone).min() > 5 * LIMIT, "the twin"


def test_the_comparison_sees_one_wrong_expert(kind: str) -> None:
    """The twin: expert 5 takes expert 6's down projection."""
    right = weights(kind)
    wrong = weights(kind)
    wrong.down.data.view(torch.uint8)[5] = wrong.down.data.view(torch.uint8)[6]
    x, logits = inputs(60)
    expected = experts_reference(x, logits, right, SoftmaxRule(TOP_K, True))
    errors = row_errors(CpuExperts(wrong, SoftmaxRule(TOP_K, True))(x, logits), expected)
    routing = choose_experts(logits, SoftmaxRule(TOP_K, True))
    share = torch.where(routing.ids == 5, routing.weights, 0.0).sum(-1)
    assert (share > 0.15).sum() > 2
    assert errors[share > 0.15].min() > LIMIT
    assert errors[share == 0].max() <= LIMIT


@pytest.mark.parametrize("skew", ["even", "all-to-last", "one-each"])
def test_a_row_depends_on_itself_alone(kind: str, skew: str) -> None:
    """Any company, order and load of its experts; [C] all tokens to the last experts among them."""
    layer = CpuExperts(weights(kind), SoftmaxRule(TOP_K, True))
    x, logits = inputs(150)
    if skew == "all-to-last":
        logits[:, -TOP_K:] += 100
    if skew == "one-each":
        logits[:, :1] += 100
    whole = layer(x, logits)
    for count in (1, 2, 3, 8, 31, 32, 33, 64, 65, 149):
        assert torch.equal(layer(x[:count], logits[:count]), whole[:count])
    order = torch.randperm(150, generator=generator(9))
    assert torch.equal(layer(x[order], logits[order]), whole[order])
    for row in (0, 77, 149):
        assert torch.equal(layer(x[row : row + 1], logits[row : row + 1])[0], whole[row])


def test_class_c_and_e_bad_rows_stay_alone(kind: str) -> None:
    """[C][E] Logits NaN, infinite or equal, hidden states NaN: ids distinct and in range, bad rows NaN, others as ever."""
    layer = CpuExperts(weights(kind), SoftmaxRule(TOP_K, True))
    x, logits = inputs(12)
    expected = layer(x, logits)
    logits[1] = torch.nan
    logits[3, 7] = torch.nan
    logits[5] = torch.inf
    logits[7] = -torch.inf
    x[9] = torch.nan
    bad = [1, 3, 5, 7, 9]
    good = [0, 2, 4, 6, 8, 10, 11]
    routing = choose_experts(logits, SoftmaxRule(TOP_K, True))
    assert routing.ids.min() >= 0
    assert routing.ids.max() < EXPERTS
    assert all(len(set(row)) == TOP_K for row in routing.ids.tolist())
    assert routing.weights[[1, 3, 5, 7]].isnan().all()
    out = layer(x, logits)
    assert out[bad].isnan().all()
    assert torch.equal(out[good], expected[good])


def test_ties_go_to_the_lower_id() -> None:
    """Against a stable sort, with many equal logits beside rows without, and -0.0 beside 0.0."""
    logits = torch.randint(-2, 3, (400, EXPERTS), generator=generator(6)).float()
    logits[::3] = torch.randn((134, EXPERTS), generator=generator(5))
    border = torch.arange(EXPERTS, 0, -1.0)
    border[TOP_K] = border[TOP_K - 1]
    logits[0] = border.flip(0)
    logits[logits == 0] *= torch.where(torch.rand(int((logits == 0).sum()), generator=generator(7)) < 0.5, -1.0, 1.0)
    ids = choose_experts(logits, SoftmaxRule(TOP_K, False)).ids
    assert torch.equal(ids, torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :TOP_K])
    assert (choose_experts(torch.zeros((1, EXPERTS)), SoftmaxRule(TOP_K, True)).ids == torch.arange(TOP_K)).all()


@pytest.mark.parametrize("experts", [1, 128, 257, 512])
def test_class_b_expert_counts(experts: int) -> None:
    """[B] More experts than threads of a block; all winners at the top; as many chosen as there are."""
    logits = torch.randn((9, experts), generator=generator(8))
    top_k = min(10, experts)
    logits[:, -top_k:] += 50
    routing = choose_experts(logits, SoftmaxRule(top_k, True))
    assert routing.ids.min() >= experts - top_k
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(9))


def test_contract(kind: str) -> None:
    layer = CpuExperts(weights(kind), SoftmaxRule(TOP_K, True))
    x, logits = inputs(3)
    with pytest.raises(KernelContractError, match="logits: expected"):
        layer(x, logits[:2])
    with pytest.raises(KernelContractError, match="x: expected"):
        layer(x[:, :-1].contiguous(), logits)


@pytest.mark.parametrize("rows", [5, 64, 257])
def test_a_sigmoid_alone_and_among_others(rows: int) -> None:
    """What torch.sigmoid does not keep: on a CPU it rounds what is left over of whole vectors in another way."""
    x = torch.randn((rows, 1), generator=generator(9)) * 5
    together = sigmoid(x)
    assert torch.equal(together, torch.cat([sigmoid(row) for row in x.split(1)]))
    assert float((together.double() - x.double().sigmoid()).abs().max()) < 2e-7
