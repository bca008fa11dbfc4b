"""Routers whose weights are float32: all bits of them count, at any number of rows."""

from __future__ import annotations

import pytest
import torch

from octavo.models.cpu_operations import CpuOperations
from octavo.models.decoder.layers import Router, split_float32
from octavo.ops.inputs import Inputs

EXPERTS, WIDTH = 12, 96


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_three_matrices_say_what_one_in_float32_says() -> None:
    weight = noise(EXPERTS, WIDTH, seed=1) * torch.logspace(-8, 8, WIDTH)
    parts = split_float32(weight)
    assert len(parts) == 3
    assert all(part.dtype == torch.bfloat16 for part in parts)
    assert torch.equal(torch.stack(parts).double().sum(0), weight.double())
    assert not torch.equal(parts[0].double() + parts[1].double(), weight.double())


def test_one_matrix_is_enough_for_what_was_bf16() -> None:
    weight = noise(EXPERTS, WIDTH, seed=1).bfloat16()
    [part] = split_float32(weight.float())
    assert torch.equal(part, weight)
    assert len(split_float32(torch.zeros(2, 3))) == 1


@pytest.mark.parametrize("rows", [1, 33])
def test_logits_against_float64(rows: int) -> None:
    weight, x = noise(EXPERTS, WIDTH, seed=1), noise(rows, WIDTH, seed=2).bfloat16()
    expected = x.double() @ weight.double().t()
    limit = 1e-6 * float(expected.abs().max())
    together = Router(weight, CpuOperations())(Inputs(x))
    assert (together.double() - expected).abs().max() < limit
    # the twin: rounded to bf16
    rounded = Router(weight.bfloat16().float(), CpuOperations())(Inputs(x))
    assert (rounded.double() - expected).abs().max() > 100 * limit
    router = Router(weight, CpuOperations())
    assert torch.equal(together, torch.cat([router(Inputs(row)) for row in x.split(1)]))
