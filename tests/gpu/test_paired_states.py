"""States of a chunk that is the only one, by two warps, on Hopper: the bits of those that are computed beside others."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from layer import CUDA
from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.delta_net import StateUse, cuda
from ops.delta_net.draws import Machine, Step, Tokens

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
SHAPES = {"qwen3.6": DeltaShape(16, 32, 128, 128, 4), "few-heads": DeltaShape(1, 3, 128, 128, 4)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def run(shape: DeltaShape, steps: list[Step], *, paired: bool) -> list[torch.Tensor]:
    """What each step gives, and all states behind them; NaN as 7."""
    machine = Machine("kernel", shape, CUDA, num_states=6)
    with pytest.MonkeyPatch.context() as patch:
        if not paired:
            patch.setattr(cuda, "runs_persistent_kernels", lambda device: False)
        outs = [out for step in steps for out in machine.run(step)]
    return [torch.nan_to_num(each.float(), nan=7.0).cpu() for each in (*outs, machine.states)]


def wrong(shape: DeltaShape, steps: list[Step]) -> list[int]:
    """Which of the results have other bits by two warps."""
    expected, found = (run(shape, steps, paired=paired) for paired in (False, True))
    return [number for number, pair in enumerate(zip(found, expected, strict=True)) if not torch.equal(*pair)]


@each_shape
@pytest.mark.parametrize("count", [2, 15, 16, 17, 31, 32, 33, 100, 1001])
def test_a_prompt(shape: DeltaShape, count: int) -> None:
    tokens = Tokens.draw(count, shape, seed=count)
    assert wrong(shape, [[(tokens, 0, count, StateUse(-1, 0))]]) == []


@each_shape
@pytest.mark.parametrize("first", [1, 5, 15, 16, 23])
def test_a_chunk_goes_on_and_a_state_is_kept_in_it(shape: DeltaShape, first: int) -> None:
    tokens = Tokens.draw(200, shape, seed=first)
    steps = [[(tokens, 0, first, StateUse(-1, 0))]]
    for after in (1, 3, SPAN, 2 * SPAN + 1, 90):
        steps += [[(tokens, first, first + 90, StateUse(0, 1, 2, after))]]
        assert wrong(shape, steps) == [], after
        steps = steps[:1]
    assert wrong(shape, [*steps, [(tokens, first, 200, StateUse(0, 0))], [(tokens, 199, 200, StateUse(0, 3))]]) == []


@each_shape
def test_beside_single_rows_and_beside_another_chunk(shape: DeltaShape) -> None:
    tokens, others = Tokens.draw(300, shape, seed=1), [Tokens.draw(50, shape, seed=2 + number) for number in range(2)]
    begin = [(each, 0, 40, StateUse(-1, 1 + number)) for number, each in enumerate(others)]
    singles = [(each, 40, 41, StateUse(1 + number, 1 + number)) for number, each in enumerate(others)]
    assert wrong(shape, [begin, [(tokens, 0, 300, StateUse(-1, 0)), *singles]]) == []
    assert wrong(shape, [[(tokens, 0, 300, StateUse(-1, 0)), *begin]]) == []


@each_shape
@pytest.mark.parametrize("part", ["qkv", "write_logits", "decay_logits"])
def test_rows_that_are_not_finite(shape: DeltaShape, part: str) -> None:
    tokens = Tokens.draw(120, shape, seed=9)
    for row, column in ((0, 0), (37, -1), (119, 1)):
        changed = getattr(tokens, part).clone()
        changed[row, column] = torch.inf if row == 37 else torch.nan
        other = dataclasses.replace(tokens, **{part: changed})
        assert wrong(shape, [[(other, 0, 120, StateUse(-1, 0))]]) == [], row


@each_shape
def test_the_comparison_sees_one_number(shape: DeltaShape) -> None:
    """The twin: one number of one key, early in a prompt, is another."""
    tokens = Tokens.draw(200, shape, seed=4)
    changed = tokens.qkv.clone()
    changed[20, shape.queries + 5] += 0.25
    other = dataclasses.replace(tokens, qkv=changed)
    expected = run(shape, [[(tokens, 0, 200, StateUse(-1, 0))]], paired=False)
    found = run(shape, [[(other, 0, 200, StateUse(-1, 0))]], paired=True)
    assert not torch.equal(found[0], expected[0])
    assert torch.equal(found[0][:20], expected[0][:20])
