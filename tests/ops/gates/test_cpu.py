"""Gates on a CPU: a row's bits at any place of any tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.ops.gates.cpu import CpuGates


@given(st.integers(1, 33), st.integers(1, 70), st.data())
def test_a_row_has_the_same_bits_anywhere(rows: int, width: int, data: st.DataObject) -> None:
    noise = torch.Generator().manual_seed(rows * 100 + width)
    x, other = (torch.randn((rows, width), generator=noise).bfloat16() for _ in range(2))
    logits, wide = torch.randn((rows, 1), generator=noise), torch.randn((rows, 2 * width), generator=noise)
    weight, gates, row = torch.rand(width, generator=noise).bfloat16(), CpuGates(), data.draw(st.integers(0, rows - 1))
    one = slice(row, row + 1)
    pairs = [
        (gates.swiglu(wide), gates.swiglu(wide[one].clone())),
        (
            gates.norm(x, other[:, None], weight, 1e-6).bf16,
            gates.norm(x[one].clone(), other[one, None], weight, 1e-6).bf16,
        ),
        (gates.heads(x, other[:, None]).bf16, gates.heads(x[one].clone(), other[one, None]).bf16),
        (gates.add_share(x, other, logits), gates.add_share(x[one].clone(), other[one], logits[one])),
        (gates.add_share(x, other, None), gates.add_share(x[one].clone(), other[one], None)),
    ]
    for whole, alone in pairs:
        assert torch.equal(whole[one], alone)


@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_a_share_is_the_sigmoid_of_its_logit(logit: float) -> None:
    x, shared = torch.ones(1, 4).bfloat16(), torch.full((1, 4), 2.0).bfloat16()
    made = CpuGates().add_share(x, shared, torch.tensor([[logit]]))
    assert made.float().tolist() == [[{-30.0: 1.0, 0.0: 2.0, 30.0: 3.0}[logit]] * 4]
