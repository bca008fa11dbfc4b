"""Rotary embedding against float64, row by row and bit by bit."""

from __future__ import annotations

import pytest
import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.config.rope import Rope, Yarn
from octavo.errors import KernelContractError
from octavo.ops.rotary import RotaryTable, rotary
from octavo.ops.rotary.reference import rotary_reference

CPU = torch.device("cpu")
YARN = Yarn(original_positions=32_768, beta_fast=32.0, beta_slow=1.0, truncate=True, attention_factor=1.14)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("head_dim", [2, 16, 24, 128])
def test_rotary_against_float64(head_dim: int) -> None:
    positions = torch.tensor([0, 1, 2, 77, 511])
    x = noise(5, 3, head_dim)
    out = rotary(x, RotaryTable.make(512, Rope(1e4, head_dim), CPU).at(positions))
    expected = rotary_reference(x, positions, 1e4)
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), BF16_ROUNDING)
    off_by_one = rotary_reference(x, positions + 1, 1e4)
    assert row_errors(out.flatten(0, 1), off_by_one.flatten(0, 1)).min() > BF16_ROUNDING


@pytest.mark.parametrize(("head_dim", "width"), [(16, 8), (24, 10), (128, 64), (128, 2)])
def test_a_part_of_each_head(head_dim: int, width: int) -> None:
    positions = torch.tensor([0, 1, 2, 77, 511])
    x = noise(5, 3, head_dim)
    out = rotary(x, RotaryTable.make(512, Rope(1e4, width), CPU).at(positions))
    expected = rotary_reference(x, positions, 1e4, width)
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), BF16_ROUNDING)
    assert torch.equal(out[..., width:], x[..., width:])
    whole = rotary_reference(x, positions, 1e4)
    assert row_errors(out[1:].flatten(0, 1), whole[1:].flatten(0, 1)).min() > BF16_ROUNDING


def test_rotary_row_depends_on_itself_alone() -> None:
    table = RotaryTable.make(128, Rope(1e6, 24), CPU)
    positions = torch.randint(128, (50,), generator=torch.Generator().manual_seed(3))
    x = noise(50, 4, 24)
    whole = rotary(x, table.at(positions))
    for row in range(50):
        assert torch.equal(rotary(x[row : row + 1], table.at(positions[row : row + 1])), whole[row : row + 1])


@pytest.mark.parametrize("rope", [Rope(1e6, 24), Rope(1e4, 128), Rope(1e4, 64, 4.0, YARN)], ids=["24", "128", "yarn"])
def test_the_rows_of_a_short_table_have_the_bits_of_a_long_one(rope: Rope) -> None:
    long = RotaryTable.make(40_960, rope, CPU)
    for positions in [*range(1, 130), 2048, 32_769, 40_001]:
        short = RotaryTable.make(positions, rope, CPU)
        for rows, whole in [(short.cos, long.cos), (short.sin, long.sin)]:
            assert torch.equal(rows.view(torch.int32), whole[:positions].view(torch.int32))


def test_contract() -> None:
    table = RotaryTable.make(8, Rope(1e4, 16), CPU)
    with pytest.raises(KernelContractError, match=r"rows.cos"):
        rotary(noise(3, 2, 8), table.at(torch.tensor([0, 1, 2])))
    with pytest.raises(KernelContractError, match=r"rows.cos"):
        rotary(noise(3, 2, 16), table.at(torch.tensor([0, 1])))
