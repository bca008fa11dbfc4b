"""The training model of octavo-tiny: chosen experts alone against all experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tools.tiny import checkpoint, export, sparse, start, train
from tools.tiny.model import Experts, Model, Numerics, Shape, rope_table, rotate

FOLDER = Path(__file__).parents[2] / "src/octavo/assets/octavo-tiny"
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
    assert torch.equal(plan.assignment[rows], torch.arange(tokens * k))
    assert torch.equal(plan.token[rows], torch.arange(tokens * k) // k)
    empty = torch.ones(plan.assignment.numel(), dtype=torch.bool).index_fill(0, rows, value=False)
    assert torch.all(plan.assignment[empty] == tokens * k)
    assert torch.all(plan.token[empty] == tokens)


def small_run(folder: Path, *more: str) -> train.Trainer:
    """A trainer of one-row batches on the CPU."""
    options = ("--rows", "16", "--length", "64", "--workers", "0", "--per-task", "1", "--warm-up", "1")
    return train.Trainer(train.parse(["--out", str(folder), *options, *more]))


def test_a_resumed_run_goes_on_from_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    whole = small_run(tmp_path)
    steps = train.on_device(whole.rounds()[0], whole.device)
    for step in range(2):
        whole.update(steps[step], 0.0)
    checkpoint.save(path, whole.model, whole.adam, whole.step)
    resumed, fresh = small_run(tmp_path, "--resume", str(path)), small_run(tmp_path)
    assert (resumed.step, fresh.step) == (2, 0)
    pairs = zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=2**-8, atol=0.0) for a, b in pairs)
    for trainer in (whole, resumed, fresh):
        trainer.update(steps[2], 0.0)
    assert resumed.step == 3

    def all_of(trainer: train.Trainer, moment: str) -> torch.Tensor:
        return torch.cat([trainer.adam.state[p][moment].flatten() for p in trainer.model.parameters()])

    for moment in checkpoint.MOMENTS:
        wanted = all_of(whole, moment)
        error, other = ((all_of(t, moment) - wanted).norm() / wanted.norm() for t in (resumed, fresh))
        assert error < 0.2 < other


@pytest.mark.parametrize(
    ("done", "step", "rate"),
    [(0.0, 0, 0.01), (0.1, 99, 1.0), (0.7, 5000, 1.0), (0.85, 9000, 0.5), (1.0, 9999, 0.0), (1.2, 9999, 0.0)],
    ids=str,
)
def test_learning_rate_rises_holds_and_falls(done: float, step: int, rate: float) -> None:
    assert train.learning_rate(done, step, 1.0, warm_up=100, decay=0.3) == pytest.approx(rate)


def test_bf16_folder_holds_the_dequantised_weights(tmp_path: Path) -> None:
    export.save_bf16(FOLDER, tmp_path)
    fp8, plain = load_file(str(FOLDER / "model.safetensors")), load_file(str(tmp_path / "model.safetensors"))
    assert {value.dtype for value in plain.values()} == {torch.bfloat16}
    assert "quantization_config" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    name = "model.layers.1.mlp.experts.77.down_proj.weight"
    exact = fp8[name].double() * fp8[f"{name}_scale"].double()
    assert torch.allclose(plain[name].double(), exact, rtol=2**-8, atol=0.0)
    assert plain.keys() == {key for key in fp8 if not key.endswith("_scale")}


def test_the_first_heads_look_back_whatever_the_tokens_are() -> None:
    torch.manual_seed(0)
    model = Model(Shape(), Numerics(dtype=torch.float32))
    first: Any = model.mixers[0]
    shape = model.shape
    x = first.norm(torch.nn.functional.embedding(torch.randint(0, 256, (1, 64)), model.embed))
    cos, sin = rope_table(shape.head_dim, shape.rope_theta, 64, x.device)
    q = rotate(first.q_norm((x @ first.q.T).view(1, 64, shape.heads, -1)), cos, sin)[0]
    k = rotate(first.k_norm((x @ first.k.T).view(1, 64, shape.kv_heads, -1)), cos, sin)[0, :, 0]
    for head, back in enumerate(start.BACK):
        scores = (q[:, head] @ k.T) * shape.head_dim**-0.5
        chances = scores.masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf).softmax(dim=-1)
        assert chances.diagonal(-back)[8:].min() > 0.7
