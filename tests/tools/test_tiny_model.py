"""The training model of octavo-tiny: chosen experts alone against all experts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tools.tiny import sparse
from tools.tiny.model import Experts, Numerics, Shape

SHAPE = Shape(hidden=32, layers=2, experts=16, top_k=4, expert_width=16)


def pair(block: int, *, activations: bool, collapsed: bool) -> tuple[Experts, Experts]:
    """The same weights computed densely and sparsely; collapsed: the router sends every token to the same experts."""
    torch.manual_seed(0)
    dense = Experts(SHAPE, Numerics(activations=activations, dtype=torch.float32))
    if collapsed:
        with torch.no_grad():
            dense.router.mul_(1e-6)
    chosen = Experts(SHAPE, Numerics(activations=activations, dtype=torch.float32, block=block))
    chosen.load_state_dict(dense.state_dict())
    return dense, chosen


def run(experts: Experts, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output and every gradient."""
    x = x.clone().requires_grad_()
    y, balance = experts(x)
    (y * dy).sum().add(balance).backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad} | {n: p.grad for n, p in experts.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("collapsed", [False, True], ids=["spread", "collapsed"])
@pytest.mark.parametrize("activations", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize(("tokens", "block"), [(1, 16), (37, 4), (96, 16)], ids=str)
def test_chosen_experts_equal_all_experts(tokens: int, block: int, *, activations: bool, collapsed: bool) -> None:
    dense, chosen = pair(block, activations=activations, collapsed=collapsed)
    x, dy = torch.randn(tokens, SHAPE.hidden), torch.randn(tokens, SHAPE.hidden)
    want, got = run(dense, x, dy), run(chosen, x, dy)
    assert want.keys() == got.keys() == {"y", "x", "norm.weight", "router", "gate", "up", "down"}
    for name, value in want.items():
        assert torch.allclose(got[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max())), name
    with torch.no_grad():
        busiest = int(chosen.gate.grad.abs().sum(dim=(1, 2)).argmax())  # type: ignore[union-attr]
        chosen.down[busiest] *= 1.5
    assert not torch.allclose(run(chosen, x, dy)["y"], want["y"], rtol=1e-3, atol=1e-4 * float(want["y"].abs().max()))


@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from((1, 4, 16)), st.integers(0, 2**31), st.booleans())
def test_layout_gives_every_slot_a_row_of_its_expert(tokens: int, k: int, block: int, seed: int, skewed: bool) -> None:
    chances = torch.rand(tokens, 6, generator=torch.Generator().manual_seed(seed))
    ids = (chances + torch.arange(6.0) * 10 * skewed).topk(k).indices
    plan = sparse.layout(ids, 6, block)
    rows = plan.row.flatten()
    assert rows.unique().numel() == tokens * k
    assert torch.equal(plan.expert[rows // block], ids.flatten())
    assert torch.equal(plan.slot[rows], torch.arange(tokens * k))
    assert torch.equal(plan.token[rows], torch.arange(tokens * k) // k)
    empty = torch.ones(plan.slot.numel(), dtype=torch.bool).index_fill(0, rows, value=False)
    assert torch.all(plan.slot[empty] == tokens * k)
    assert torch.all(plan.token[empty] == tokens)
