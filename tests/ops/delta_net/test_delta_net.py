"""Gated DeltaNet on both back ends: right values against float64, and a request's bits however it is cut and in any company."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Iterator

import pytest
import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.config.delta_shape import SPAN
from octavo.errors import KernelContractError
from octavo.ops.contract import Dims
from octavo.ops.delta_net import DeltaPlan, DeltaShape, DeltaWeights, StateUse, cuda, most_spans, plan_delta
from octavo.ops.delta_net.cpu import decays, sigmoid, tree_sum
from octavo.ops.delta_net.layer import StateParts, check_delta, split_states
from ops.delta_net.draws import BACKENDS, SHAPES, Machine, Step, Tokens, draw_weights, empty_states

LIMIT = 2.5 * BF16_ROUNDING
"""Two roundings: a number behind the convolution now and then to the other side than in float64."""
backends = pytest.mark.parametrize("backend", BACKENDS)
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@backends
@shapes
def test_against_float64(backend: str, shape: DeltaShape, device: torch.device) -> None:
    """Two spans and five rows of the next, and what is kept of them."""
    machine, tokens = Machine(backend, shape, device), Tokens.draw(37, shape, seed=1)
    out = machine.alone(tokens)
    expected, _ = machine.expected(tokens)
    assert_rows(out.view(37, shape.value_heads, -1).flatten(0, 1), expected.flatten(0, 1), LIMIT)
    memory, _, history, _ = machine.kept(0, 37)
    _, state = machine.expected(tokens[:32])
    assert_rows(memory.flatten(0, 1), state.mT.flatten(0, 1), LIMIT)
    assert torch.equal(history, tokens.qkv[1 - shape.taps :])
    assert machine.states[1:].isnan().all()


STATE_LIMIT = {"cpu": 2**-18, "kernel": 2**-15}
"""Of a state's rows: a CPU's products have all 24 bits of a float32, those of kernels 16."""


@backends
def test_nothing_but_inputs_is_rounded_to_bf16(backend: str, device: torch.device) -> None:
    """A state behind 48 tokens beside float64; rounded to bf16 once, it shows."""
    shape = DeltaShape(1, 2, 16, 16, 2)
    machine, tokens = Machine(backend, shape, device), Tokens.draw(48, shape, seed=2)
    one = torch.zeros_like(machine.weights.taps)
    one[:, 1] = 64.0
    machine.set_weights(dataclasses.replace(machine.weights, taps=one))
    tokens.qkv.abs_()
    machine.alone(tokens)
    memory, *_ = machine.kept(0, 48)
    state = machine.expected(tokens)[1].mT
    assert_rows(memory.flatten(0, 1), state.flatten(0, 1), STATE_LIMIT[backend])
    assert row_errors(memory.bfloat16().flatten(0, 1), state.flatten(0, 1)).min() > STATE_LIMIT[backend], "the twin"


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
@pytest.mark.parametrize(("name", "at"), [("qkv", 9), ("write_logits", 9), ("decay_logits", 9), ("decay_logits", 20)])
def test_one_row_shows(backend: str, name: str, at: int, device: torch.device) -> None:
    """The twin of one row: another key, gate or decay is seen in it, and in no row before."""
    shape = SHAPES["one-head"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(24, shape, seed=1)
    out, part = machine.alone(tokens), getattr(tokens, name).clone()
    part[at] = torch.where(part[at] > 0, -8.0, 8.0)
    other = machine.expected(dataclasses.replace(tokens, **{name: part}))[0].flatten(1)
    errors = row_errors(out, other)
    assert errors[:at].max() < LIMIT < errors[at]
    assert errors[at + 1 :].max() > LIMIT


@backends
@pytest.mark.parametrize("seed", range(4))
def test_any_chunks_in_any_company(backend: str, seed: int, device: torch.device) -> None:
    """Three requests move on by drawn chunks; each row has the bits, and all that is kept, that it has alone."""
    pick, shape = random.Random(seed), list(SHAPES.values())[seed]
    machine, alone = Machine(backend, shape, device), Machine(backend, shape, device)
    requests = [Tokens.draw(pick.randint(3, 36), shape, seed=10 * seed + i) for i in range(3)]
    expected, kept = [], []
    for tokens in requests:
        expected.append(alone.alone(tokens))
        kept.append(alone.kept(0, len(tokens.qkv)))
    places = pick.sample(range(4), 3)
    for i, first, end, out in divide(machine, requests, places, pick):
        assert torch.equal(out, expected[i][first:end])
    for place, tokens, parts in zip(places, requests, kept, strict=True):
        assert all(map(torch.equal, machine.kept(place, len(tokens.qkv)), parts))


def divide(
    machine: Machine, requests: list[Tokens], places: list[int], pick: random.Random
) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """Move `requests` on by drawn chunks, with states at `places`: what each chunk gives, and whose it is from where to where."""
    ends, done = [len(tokens.qkv) for tokens in requests], [0] * len(requests)
    while left := [i for i, end in enumerate(ends) if done[i] < end]:
        chosen = pick.sample(left, pick.randint(1, len(left)))
        counts = [min(pick.choice([1, 2, 8, 15, 16, 17, 33]), ends[i] - done[i]) for i in chosen]
        step: Step = [
            (requests[i], done[i], done[i] + count, StateUse(places[i] if done[i] else -1, places[i]))
            for i, count in zip(chosen, counts, strict=True)
        ]
        for i, (_, first, end, _), out in zip(chosen, step, machine.run(step), strict=True):
            yield i, first, end, out
            done[i] = end


TURNS = [(shape, places) for shape, places in zip(SHAPES.values(), itertools.cycle([(2,), (2, 3)]), strict=False)]
"""Each shape goes on in its state or to another one, the first in both."""


@backends
@pytest.mark.parametrize(("shape", "places"), [*TURNS, (TURNS[0][0], (2, 3))], ids=str)
def test_token_by_token(backend: str, shape: DeltaShape, places: tuple[int, ...], device: torch.device) -> None:
    """Each token's bits are those it has in one chunk of all, and so are those that are kept behind it, over two borders of
    spans; where it goes on in its state, a row is computed apart from chunks. A chunk takes it from the third to the twelfth."""
    machine, tokens = Machine(backend, shape, device), Tokens.draw(34, shape, seed=3)
    whole, source = machine.alone(tokens), -1
    borders = [0, 1, 2, *range(12, 35)]
    for number, (first, end) in enumerate(itertools.pairwise(borders)):
        place = places[number % len(places)]
        out = machine.run([(tokens, first, end, StateUse(source, place))])[0]
        assert torch.equal(out, whole[first:end]), first
        if end in (2, 16, 32, 34):
            machine.alone(tokens[:end])
            assert all(map(torch.equal, machine.kept(place, end), machine.kept(0, end))), end
        source = place


@shapes
@pytest.mark.parametrize(
    ("before", "resident"),
    [(0, 0), (1, cuda.RESIDENT_ROWS), (7, 0), (14, cuda.RESIDENT_ROWS), (15, 0), (15, cuda.RESIDENT_ROWS)],
    ids=lambda number: "two tiles" if number == 0 else str(number),
)
def test_single_rows_are_computed_as_chunks_are(
    shape: DeltaShape, before: int, resident: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they give, and all that is kept; and the twin: to one of them a plan gives the place before its own."""
    monkeypatch.setattr(cuda, "RESIDENT_ROWS", resident)
    tokens = Tokens.draw(32, shape, seed=6)
    uses = [StateUse(0, 0), StateUse(-1, 2), StateUse(1, 1)]
    plan = plan_delta(uses, (0, 1, 6, 7), (17 + before, 5, 17), device)
    assert plan.first_single.tolist() == [1]
    late = plan.chunks.clone()
    late[1, 6] = (before - 1) % SPAN
    first_states = Machine("kernel", shape, device)
    first_states.run([(tokens, 0, 16 + before, StateUse(-1, 0)), (tokens, 0, 16, StateUse(-1, 1))])

    def run(plan: DeltaPlan) -> list[torch.Tensor]:
        machine = Machine("kernel", shape, device)
        machine.states.copy_(first_states.states)
        rows = torch.tensor([16 + before, 0, 1, 2, 3, 4, 16])
        qkv, write, decay = (part[rows].to(device) for part in (tokens.qkv, tokens.write_logits, tokens.decay_logits))
        out = machine.layer(qkv, write, decay, machine.states, plan)
        kept = [part for place, count in ((0, 17 + before), (1, 17), (2, 5)) for part in machine.kept(place, count)]
        return [out.cpu(), *kept]

    expected = run(dataclasses.replace(plan, first_single=torch.full_like(plan.first_single, 3)))
    assert all(map(torch.equal, run(plan), expected))
    assert not torch.equal(run(dataclasses.replace(plan, chunks=late))[0][0], expected[0][0])


def test_single_rows_are_the_last_of_a_plan() -> None:
    """Those that go on where they are and keep nothing else; a span knows its chunk by its place."""
    uses = [StateUse(0, 0), StateUse(1, 2), StateUse(3, 3, keep=4, keep_after=1), StateUse(5, 5), StateUse(6, 6)]
    plan = plan_delta(uses, (0, 1, 2, 3, 20, 21), (4, 4, 4, 33, 16), torch.device("cpu"))
    assert (plan.first_single.tolist(), plan.only_singles) == ([3], False)
    assert plan_delta(uses[:1] + uses[4:], (0, 1, 2), (4, 16), torch.device("cpu")).only_singles
    assert plan.chunks[:, 1].tolist() == [2, 3, 5, 0, 6]
    assert plan.chunks[plan.spans.long(), 1].tolist() == [0, 2, 3, 5, 5, 6]
    assert plan.chunks[plan.spans.long(), 7].tolist() == [0, 1, 2, 3, 3, 5]


@backends
@pytest.mark.parametrize("part", ["memory", "gates", "history", "rows"])
@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
def test_a_row_reads_all_that_is_kept(backend: str, part: str, at: int, device: torch.device) -> None:
    """The twin of one token: one number of what is kept is another, at the first place or at the last that is in use."""
    shape = SHAPES["shared-keys"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(24, shape, seed=3)
    whole, index = machine.alone(tokens), StateParts._fields.index(part)
    step: Step = [(tokens, 21, 22, StateUse(1, 1))]
    for wrong in (False, True):
        machine.run([(tokens, 0, 21, StateUse(-1, 1))])
        if wrong:
            number = split_states(machine.states, shape)[index][1, : 5 if part in ("gates", "rows") else None]
            number[(at,) * number.dim()] += 1.0
        assert torch.equal(machine.run(step)[0], whole[21:22]) is not wrong


@backends
@pytest.mark.parametrize(("first", "after"), [(2, 1), (2, 13), (2, 14), (2, 30), (2, 33), (16, 16), (16, 19), (30, 3)])
def test_a_kept_state_is_gone_on_from(backend: str, first: int, after: int, device: torch.device) -> None:
    """Whoever goes on from it, and more than once, wherever it was kept: in the midst of a span, behind one, at the end."""
    shape = SHAPES["one-head"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(35, shape, seed=4)
    whole = machine.alone(tokens)
    parts = machine.run([(tokens, 0, first, StateUse(-1, 0))])
    parts += machine.run([(tokens, first, 35, StateUse(0, 0, keep=3, keep_after=after))])
    assert torch.equal(torch.cat(parts), whole)
    for place in (1, 2):
        again = machine.run([(tokens, first + after, 35, StateUse(3, place))]) if first + after < 35 else []
        assert all(torch.equal(out, whole[first + after :]) for out in again)
        assert not again or all(map(torch.equal, machine.kept(place, 35), machine.kept(0, 35)))
    if first + after == 35:
        assert all(map(torch.equal, machine.kept(3, 35), machine.kept(0, 35)))


@backends
def test_a_border_at_another_place_shows(backend: str, device: torch.device) -> None:
    """The twin of the tests above: positions that are one too high take a row of the span for one of the next."""
    shape = SHAPES["shared-keys"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(20, shape, seed=5)
    whole = machine.alone(tokens)
    machine.run([(tokens, 0, 10, StateUse(-1, 0))])
    joined = Tokens.join([tokens[:1], tokens])
    out = machine.run([(joined, 11, 21, StateUse(0, 0))])[0]
    assert not torch.equal(out, whole[10:])
    assert row_errors(out, whole[10:].float()).max() > LIMIT


@backends
def test_class_e_a_bad_row_stays_in_its_request(backend: str, device: torch.device) -> None:
    """And spoils no row before it, of its own span either."""
    shape = SHAPES["shared-keys"]
    good = Tokens.draw(21, shape, seed=5)
    machine = Machine(backend, shape, device)
    expected = machine.alone(good)
    for at, value in ((4, torch.nan), (19, torch.inf), (15, -torch.inf)):
        bad = Tokens.draw(21, shape, seed=6)
        before = machine.alone(bad)
        bad.qkv[at] = value
        outs = machine.run([(bad, 0, 21, StateUse(-1, 1)), (good, 0, 21, StateUse(-1, 2))])
        assert outs[0][at:].isnan().all(1).all()
        assert torch.equal(outs[0][:at], before[:at])
        assert torch.equal(outs[1], expected)
        # the state of the bad request goes to another one
        assert torch.equal(machine.run([(good, 0, 21, StateUse(-1, 1))])[0], expected)


@backends
@pytest.mark.parametrize("name", ["qkv", "write_logits", "decay_logits"])
def test_class_e_a_bad_number_spoils_no_row_before_it(backend: str, name: str, device: torch.device) -> None:
    """One number of a row, in a query, a key, a value or a gate."""
    shape = SHAPES["shared-keys"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(18, shape, seed=9)
    expected = machine.alone(tokens)
    for channel in (0, 40, 70) if name == "qkv" else (1,):
        part = getattr(tokens, name).clone()
        part[9, channel] = torch.nan
        out = machine.alone(dataclasses.replace(tokens, **{name: part}))
        assert torch.equal(out[:9], expected[:9])
        assert out[9].isnan().any()


@backends
def test_class_g_lines_out_of_range_are_left_out(backend: str, device: torch.device) -> None:
    shape = SHAPES["one-head"]
    machine, tokens = Machine(backend, shape, device), Tokens.draw(6, shape, seed=7)
    machine.states.fill_(0.5)
    whole = [-1, 0, -1, 0, 0, 6, 0, 0]
    changes = [{1: 4}, {0: 4}, {0: -2}, {4: -1}, {4: 2}, {1: -1}, {5: 0}, {5: -1}, {5: 2**31 - 1}, {4: 2**31 - 1}]
    changes += [{0: 0, 6: -1}, {0: 0, 6: 16}, {6: 3}, {7: -1}, {7: 1}, {7: 2**31 - 1}]
    qkv, write, decay = (part.to(device) for part in (tokens.qkv, tokens.write_logits, tokens.decay_logits))

    def run(line: list[int], spans: list[int], first_single: int = 1) -> None:
        chunks, first, of_spans = (
            torch.tensor(part, dtype=torch.int32, device=device) for part in ([line], [first_single], spans)
        )
        machine.layer(qkv, write, decay, machine.states, DeltaPlan(chunks, first, of_spans))

    for change in changes:
        run([change.get(i, number) for i, number in enumerate(whole)], [0])
        run([-1] * 8, [0], first_single=0)
        assert (machine.states == 0.5).all(), change
    run([-1, 0, 4, 2, 0, 6, 0, 0], [0])
    assert (machine.states[1:] == 0.5).all()
    assert not (split_states(machine.states, shape).memory[0] == 0.5).any()


@backends
def test_no_tokens(backend: str, device: torch.device) -> None:
    shape = SHAPES["one-head"]
    machine = Machine(backend, shape, device)
    nothing = Tokens.draw(0, shape, seed=0)
    qkv, write, decay = (part.to(device) for part in (nothing.qkv, nothing.write_logits, nothing.decay_logits))
    assert machine.layer(qkv, write, decay, machine.states, plan_delta([], (0,), (), device)).shape == (0, 8)
    assert machine.states.isnan().all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_back_ends_agree(shape: DeltaShape, device: torch.device) -> None:
    tokens = Tokens.draw(17, shape, seed=8)
    outs = [Machine(backend, shape, device).alone(tokens) for backend in BACKENDS]
    assert_rows(outs[0], outs[1], LIMIT)


@backends
def test_rows_may_lie_apart(backend: str, device: torch.device) -> None:
    """As parts of what one projection gives; what lies between them is NaN."""
    shape = SHAPES["shared-keys"]
    tokens = Tokens.draw(37, shape, seed=9)
    machine, other = Machine(backend, shape, device), Machine(backend, shape, device)
    out = machine.alone(tokens)

    def apart(x: torch.Tensor, room: int) -> torch.Tensor:
        wide = torch.full((len(x), x.shape[1] + room), torch.nan, dtype=x.dtype, device=device)
        return wide[:, 1 : 1 + x.shape[1]].copy_(x)

    plan = plan_delta([StateUse(-1, 0)], (0, 37), (37,), device)
    parts = apart(tokens.qkv, 5), apart(tokens.write_logits, 3), apart(tokens.decay_logits, 2)
    assert torch.equal(other.layer(*parts, other.states, plan).cpu(), out.cpu())
    assert torch.equal(other.states.view(torch.int32), machine.states.view(torch.int32))


@backends
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_inputs_may_lie_by_key_head(backend: str, shape: DeltaShape, device: torch.device) -> None:
    """As one projection gives them, with NaN for what else it gives; a prompt of which a state is kept, a chunk that goes on, and single rows."""
    tokens, heads = Tokens.draw(41, shape, seed=10), shape.key_heads

    def by_key_head(x: torch.Tensor, sizes: list[int], room: int) -> torch.Tensor:
        parts = [part.unflatten(1, (heads, -1)) for part in x.split(sizes, dim=1)]
        behind = torch.full((len(x), heads, room), torch.nan, dtype=x.dtype)
        return torch.cat([*parts, behind], dim=2).to(device)

    kinds = [shape.queries, shape.queries, shape.channels - 2 * shape.queries]
    qkv = by_key_head(tokens.qkv, kinds, 6)
    logits = by_key_head(torch.cat((tokens.write_logits, tokens.decay_logits), 1), [shape.value_heads] * 2, 2)
    write, decay, _ = logits.split([shape.value_heads // heads] * 2 + [2], dim=2)
    other = Machine(backend, shape, device)
    for turned in (False, True):
        machine = Machine(backend, shape, device)
        steps = [
            (0, 19, StateUse(-1, 0, 1, 5)),
            (19, 37, StateUse(0, 2)),
            *((at, at + 1, StateUse(2, 2)) for at in range(37, 41)),
        ]
        outs, expected = [], []
        for first, end, use in steps:
            plan = plan_delta([use], (0, end - first), (end,), device)
            given = qkv.flip(1) if turned else qkv
            outs.append(machine.layer(given[first:end], write[first:end], decay[first:end], machine.states, plan))
            if not turned:
                expected += other.run([(tokens, first, end, use)])
        if not turned:
            right = torch.cat(expected), other.states
        same = (
            torch.equal(torch.cat(outs).cpu(), right[0]),
            torch.equal(machine.states.view(torch.int32), right[1].view(torch.int32)),
        )
        assert same == ((False, False) if turned and heads > 1 else (True, True)), (
            "the twin: key heads in another order"
        )


def test_gates_do_not_hang_on_their_place() -> None:
    """What PyTorch computes eight at a time it may round otherwise at the end of a row."""
    shape = DeltaShape(1, 37, 8, 8, 4)
    weights, logits = draw_weights(shape), torch.randn((50, 37), generator=torch.Generator().manual_seed(9)) * 5
    one = dataclasses.replace(weights, log_decay=weights.log_decay[5:6], step_bias=weights.step_bias[5:6])
    for row in range(50):
        assert torch.equal(decays(logits[row : row + 1, 5:6], one), decays(logits, weights)[row : row + 1, 5:6])
        assert torch.equal(sigmoid(logits[row : row + 1, 5:6]), sigmoid(logits)[row : row + 1, 5:6])


def test_as_many_spans_as_there_can_be() -> None:
    """Of every row alone, and of chunks that have a row on either side of full spans."""
    for counts in ([1] * 5, [18] * 3, [2] * 4, [34, 1, 16]):
        tokens, ends = sum(counts), [15 + count for count in counts]
        starts = list(itertools.accumulate(counts, initial=0))
        plan = plan_delta([StateUse(i, i) for i in range(len(counts))], starts, ends, torch.device("cpu"))
        assert len(plan.spans) <= most_spans(tokens, len(counts))
    assert most_spans(5, 5) == 5
    assert most_spans(54, 3) == 9


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
        machine.alone(dataclasses.replace(tokens, write_logits=tokens.write_logits.double()))
    machine.states = machine.states[:, 1:].contiguous()
    with pytest.raises(KernelContractError, match="states"):
        machine.alone(tokens)


@pytest.mark.parametrize(
    "uses",
    [
        [StateUse(-1, 0)],
        [StateUse(-1, 0), StateUse(0, 0)],
        [StateUse(-1, 0, keep=1, keep_after=1), StateUse(1, 1)],
        [StateUse(-1, 0, keep=2, keep_after=1), StateUse(2, 1)],
        [StateUse(-1, 0), StateUse(-1, 1)],
    ],
    ids=["too few", "one state twice", "kept over another's", "kept over what another reads", "from nothing"],
)
def test_a_plan_in_which_chunks_meet_is_refused(uses: list[StateUse]) -> None:
    with pytest.raises(KernelContractError, match="uses"):
        plan_delta(uses, (0, 1, 2), (1, 2), torch.device("cpu"))


@backends
def test_key_heads_that_share_numbers_or_are_far_apart_are_refused(backend: str, device: torch.device) -> None:
    shape = SHAPES["shared-keys"]
    machine, heads = Machine(backend, shape, device), shape.key_heads
    plan = plan_delta([StateUse(-1, 0)], (0, 3), (3,), device)
    width = shape.channels // heads
    qkv = torch.zeros((3, heads, width), dtype=torch.bfloat16, device=device)
    logits = torch.zeros((3, heads, shape.value_heads // heads), device=device)
    other = torch.zeros((3, heads, 5), device=device)[..., :2]
    for wrong, match in (
        ((qkv[:, :1].expand(-1, heads, -1), logits, logits), "qkv.stride"),
        ((qkv, logits[:, :1].expand(-1, heads, -1), logits), "write_logits.stride"),
        ((qkv, logits, other), "decay_logits"),
    ):
        with pytest.raises(KernelContractError, match=match):
            machine.layer(*wrong, machine.states, plan)
    assert machine.states.isnan().all()


def test_key_heads_too_far_apart_for_32_bits_are_refused() -> None:
    shape, nowhere = SHAPES["shared-keys"], torch.device("meta")
    width, logits = shape.channels // 2, torch.empty((3, 2, 2), device=nowhere)
    weights = DeltaWeights(*(part.to(nowhere) for part in vars(draw_weights(shape)).values()))
    on_cpu = plan_delta([StateUse(-1, 0)], (0, 3), (3,), torch.device("cpu"))
    parts = (part.to(nowhere) for part in (on_cpu.chunks, on_cpu.first_single, on_cpu.spans))
    plan = DeltaPlan(next(parts), next(parts), next(parts))
    states = empty_states(shape, 2, nowhere)
    for distance, match in ((2**29, None), (2**31, "qkv.stride")):
        qkv = torch.empty(2**32, dtype=torch.bfloat16, device=nowhere).as_strided((3, 2, width), (width, distance, 1))
        with pytest.raises(KernelContractError, match=match) if match else contextlib.nullcontext():
            check_delta(Dims(), qkv, logits, logits, weights, states, plan, shape)
