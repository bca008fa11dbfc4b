"""Gated DeltaNet on both back ends: right values against float64, and a request's bits however it is cut and in any company."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.delta_net import DeltaPlan, DeltaShape, StateUse, plan_delta
from octavo.ops.delta_net.cpu import decays, sigmoid, tree_sum
from ops.delta_net.draws import BACKENDS, SHAPES, Machine, Tokens, draw_weights

LIMIT = 2.5 * BF16_ROUNDING
"""Two roundings: a number behind the convolution now and then to the other side than in float64."""
backends = pytest.mark.parametrize("backend", BACKENDS)
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@backends
@shapes
def test_against_float64(backend: str, shape: DeltaShape, device: torch.device) -> None:
    machine, tokens = Machine(backend, shape, device), Tokens.draw(21, shape, seed=1)
    out = machine.alone(tokens)
    expected, state = machine.expected(tokens)
    assert_rows(out.view(21, shape.value_heads, -1).flatten(0, 1), expected.flatten(0, 1), LIMIT)
    kept = machine.states[0, : shape.state_numbers].cpu().view(state.shape)
    assert_rows(kept.flatten(0, 1), state.flatten(0, 1), LIMIT)
    history = machine.states[0, shape.state_numbers :].cpu().view(shape.taps - 1, -1)
    assert torch.equal(history, tokens.qkv[1 - shape.taps :].float())
    assert machine.states[1:].isnan().all()


@backends
def test_other_gates_taps_or_tokens_show(backend: str, device: torch.device) -> None:
    """The twins."""
    shape = SHAPES["shared-keys"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(21, shape, seed=1)
    out = machine.alone(tokens)[1:]
    for name in ("write_logits", "decay_logits", "qkv"):
        part = getattr(tokens, name)
        other = machine.expected(dataclasses.replace(tokens, **{name: part.roll(1, 1)}))[0]
        assert row_errors(out, other.flatten(1)[1:]).min() > LIMIT
    machine.weights = dataclasses.replace(machine.weights, taps=machine.weights.taps.flip(1))
    assert row_errors(out, machine.expected(tokens)[0].flatten(1)[1:]).min() > LIMIT


@backends
@pytest.mark.parametrize("seed", range(3))
def test_any_chunks_in_any_company(backend: str, seed: int, device: torch.device) -> None:
    """Three requests move on by drawn chunks; each row has the bits, and each state, that it has alone."""
    pick, shape = random.Random(seed), list(SHAPES.values())[seed]
    machine, alone = Machine(backend, shape, device), Machine(backend, shape, device)
    requests = [Tokens.draw(pick.randint(5, 30), shape, seed=10 * seed + i) for i in range(3)]
    expected, states = [], []
    for tokens in requests:
        expected.append(alone.alone(tokens))
        states.append(alone.states[0].clone())
    places, done = pick.sample(range(4), 3), [0, 0, 0]
    while left := [i for i in range(3) if done[i] < len(expected[i])]:
        chosen = pick.sample(left, pick.randint(1, len(left)))
        counts = [min(pick.choice([1, 1, 2, 3, 8, 9]), len(expected[i]) - done[i]) for i in chosen]
        step = [
            (requests[i][done[i] : done[i] + count], StateUse(places[i] if done[i] else -1, places[i]))
            for i, count in zip(chosen, counts, strict=True)
        ]
        for i, count, out in zip(chosen, counts, machine.run(step), strict=True):
            assert torch.equal(out, expected[i][done[i] : done[i] + count])
            done[i] += count
    for place, state in zip(places, states, strict=True):
        assert torch.equal(machine.states[place], state)


@backends
@pytest.mark.parametrize("after", [1, 2, 7, 12])
def test_a_kept_state_is_gone_on_from(backend: str, after: int, device: torch.device) -> None:
    """Whoever goes on from it, and more than once; also when it was kept in the middle of a chunk behind another."""
    shape = SHAPES["shared-keys"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(14, shape, seed=4)
    whole = machine.alone(tokens)
    first = machine.run([(tokens[:2], StateUse(-1, 0))])
    rest = machine.run([(tokens[2:14], StateUse(0, 0, keep=3, keep_after=after))])
    assert torch.equal(torch.cat(first + rest), whole)
    for place in (1, 2):
        again = machine.run([(tokens[2 + after :], StateUse(3, place))]) if after < 12 else []
        assert all(torch.equal(out, whole[2 + after :]) for out in again)
    if after == 12:
        assert torch.equal(machine.states[3], machine.states[0])


@backends
def test_class_e_a_bad_row_stays_in_its_request(backend: str, device: torch.device) -> None:
    shape = SHAPES["shared-keys"]
    machine = Machine(backend, shape, device)
    good, bad = Tokens.draw(9, shape, seed=5), Tokens.draw(9, shape, seed=6)
    expected, before = machine.alone(good), machine.alone(bad)
    bad.qkv[4] = torch.nan
    outs = machine.run([(bad, StateUse(-1, 1)), (good, StateUse(-1, 2))])
    assert outs[0][4:].isnan().all()
    assert torch.equal(outs[0][:4], before[:4])
    assert torch.equal(outs[1], expected)
    # the state of the bad request goes to another one
    assert torch.equal(machine.run([(good, StateUse(-1, 1))])[0], expected)


@backends
def test_class_g_lines_out_of_range_are_left_out(backend: str, device: torch.device) -> None:
    shape = SHAPES["one-head"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(6, shape, seed=7)
    machine.states.fill_(0.5)
    lines = [
        [-1, 4, -1, 0, 0, 6],
        [4, 0, -1, 0, 0, 6],
        [-2, 0, -1, 0, 0, 6],
        [-1, 0, -1, 0, -1, 3],
        [-1, 0, -1, 0, 2, 5],
    ]
    lines += [[-1, -1, -1, 0, 0, 6], [0, 0, -1, 0, 0, 0], [-1, -1, -1, -1, -1, -1], [0, 0, -1, 0, 2**31 - 1, 2]]
    plan = DeltaPlan(torch.tensor(lines, dtype=torch.int32, device=device))
    qkv, write, decay = (part.to(device) for part in (tokens.qkv, tokens.write_logits, tokens.decay_logits))
    machine.layer(qkv, write, decay, machine.states, plan)
    assert (machine.states == 0.5).all()
    kept = DeltaPlan(torch.tensor([[-1, 0, 4, 2, 0, 6]], dtype=torch.int32, device=device))
    machine.layer(qkv, write, decay, machine.states, kept)
    assert (machine.states[1:] == 0.5).all()
    assert not (machine.states[0] == 0.5).any()


@backends
def test_no_tokens(backend: str, device: torch.device) -> None:
    shape = SHAPES["one-head"]
    machine = Machine(backend, shape, device)
    nothing = Tokens.draw(0, shape, seed=0)
    qkv, write, decay = (part.to(device) for part in (nothing.qkv, nothing.write_logits, nothing.decay_logits))
    assert machine.layer(qkv, write, decay, machine.states, plan_delta([], (0,), device)).shape == (0, 8)
    assert machine.states.isnan().all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_back_ends_agree(shape: DeltaShape, device: torch.device) -> None:
    tokens = Tokens.draw(17, shape, seed=8)
    outs = [Machine(backend, shape, device).alone(tokens) for backend in BACKENDS]
    assert_rows(outs[0], outs[1], LIMIT)


def test_gates_do_not_hang_on_their_place() -> None:
    """What PyTorch computes eight at a time it may round otherwise at the end of a row."""
    shape = DeltaShape(1, 37, 8, 8, 4)
    weights, logits = draw_weights(shape), torch.randn((50, 37), generator=torch.Generator().manual_seed(9)) * 5
    one = dataclasses.replace(weights, log_decay=weights.log_decay[5:6], step_bias=weights.step_bias[5:6])
    for row in range(50):
        assert torch.equal(decays(logits[row : row + 1, 5:6], one), decays(logits, weights)[row : row + 1, 5:6])
        assert torch.equal(sigmoid(logits[row : row + 1, 5:6]), sigmoid(logits)[row : row + 1, 5:6])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 128])
def test_a_sum_has_one_tree(size: int) -> None:
    x = torch.randn((5, size, 3), generator=torch.Generator().manual_seed(size))
    total = tree_sum(x, 1)
    assert torch.allclose(total.double(), x.double().sum(1), atol=1e-5)
    assert torch.equal(tree_sum(x[2:3, :, 1:2], 1), total[2:3, 1:2])
    padded = torch.nn.functional.pad(x, (0, 0, 0, (1 << (size - 1).bit_length()) - size))
    assert torch.equal(tree_sum(padded, 1), total)


@backends
def test_contract(backend: str, device: torch.device) -> None:
    shape = SHAPES["one-head"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(3, shape, seed=1)
    with pytest.raises(KernelContractError, match="write_logits"):
        machine.run([(dataclasses.replace(tokens, write_logits=tokens.write_logits.double()), StateUse(-1, 0))])
    machine.states = machine.states[:, 1:].contiguous()
    with pytest.raises(KernelContractError, match="states"):
        machine.run([(tokens, StateUse(-1, 0))])


@pytest.mark.parametrize(
    "uses",
    [
        [StateUse(-1, 0)],
        [StateUse(-1, 0), StateUse(-1, 0)],
        [StateUse(-1, 0, keep=1, keep_after=1), StateUse(-1, 1)],
        [StateUse(-1, 0, keep=2, keep_after=1), StateUse(2, 1)],
    ],
    ids=["too few", "one state twice", "kept over another's", "kept over what another reads"],
)
def test_a_plan_in_which_chunks_meet_is_refused(uses: list[StateUse]) -> None:
    with pytest.raises(KernelContractError, match="uses"):
        plan_delta(uses, (0, 1, 2), torch.device("cpu"))
