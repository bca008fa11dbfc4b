"""The models' seam: expert layers of the kernels beside those of PyTorch's operations."""

from __future__ import annotations

import pytest
import torch

from cases import exact_fp8, powers_of_two, to_device
from compare import assert_rows, row_errors
from octavo.models.cuda_operations import CudaOperations
from octavo.ops.experts import CpuExperts, ExpertWeights, SoftmaxRule
from octavo.ops.formats import Bf16, Fp8Channel, LinearWeight

EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 8, 2, 128, 96


def weight(kind: type, rows: int, cols: int, generator: torch.Generator) -> LinearWeight:
    data = exact_fp8((EXPERTS, rows, cols), generator)
    if kind is Fp8Channel:
        return Fp8Channel(data, powers_of_two((EXPERTS, rows), generator, -6, -3))
    return Bf16((data.float() / 16).bfloat16())


def moved(weights: ExpertWeights, device: torch.device) -> ExpertWeights:
    return ExpertWeights(gate_up=to_device(weights.gate_up, device), down=to_device(weights.down, device))


@pytest.mark.parametrize("kind", [Fp8Channel, Bf16], ids=lambda kind: kind.__name__)
def test_both_backends_agree(kind: type, device: torch.device) -> None:
    """Within the roundings of two FP8 products; a row with bad logits is NaN in both."""
    generator = torch.Generator().manual_seed(21)
    weights = ExpertWeights(
        gate_up=weight(kind, 2 * INTERMEDIATE, HIDDEN, generator), down=weight(kind, HIDDEN, INTERMEDIATE, generator)
    )
    x = torch.randn((9, HIDDEN), generator=generator).bfloat16()
    logits = torch.randn((9, EXPERTS), generator=generator) * 3
    logits[4, 2] = torch.nan
    torch_experts = CpuExperts(weights, SoftmaxRule(TOP_K, True))
    kernel_experts = CudaOperations(max_tokens=16).experts(moved(weights, device), SoftmaxRule(TOP_K, True))
    expected = torch_experts(x, logits)
    out = kernel_experts(x.to(device), logits.to(device)).cpu()
    good = [0, 1, 2, 3, 5, 6, 7, 8]
    assert_rows(out[good], expected[good], 1.5e-2)
    assert out[4].isnan().all()
    assert expected[4].isnan().all()
    logits[0] = logits[1]
    mutant = kernel_experts(x.to(device), logits.to(device)).cpu()
    assert float(row_errors(mutant[:1], expected[:1])) > 1.5e-2


def test_layers_of_a_shape_share_their_workspace(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(22)
    weights = moved(
        ExpertWeights(
            gate_up=weight(Fp8Channel, 2 * INTERMEDIATE, HIDDEN, generator),
            down=weight(Fp8Channel, HIDDEN, INTERMEDIATE, generator),
        ),
        device,
    )
    operations = CudaOperations(max_tokens=4)
    first, second = (operations.experts(weights, SoftmaxRule(TOP_K, False)) for _ in range(2))
    assert vars(first)["_workspace"] is vars(second)["_workspace"]


@pytest.mark.parametrize("rows_in_use", [0, 1, 3])
def test_rows_past_those_in_use_are_not_computed(rows_in_use: int, device: torch.device) -> None:
    """They come out as zero, whatever they hold; those in use have the bits that they have without them."""
    generator = torch.Generator().manual_seed(23)
    weights = moved(
        ExpertWeights(
            gate_up=weight(Fp8Channel, 2 * INTERMEDIATE, HIDDEN, generator),
            down=weight(Fp8Channel, HIDDEN, INTERMEDIATE, generator),
        ),
        device,
    )
    experts = CudaOperations(max_tokens=4).experts(weights, SoftmaxRule(TOP_K, True))
    x = torch.randn((4, HIDDEN), generator=generator).bfloat16().to(device)
    logits = torch.randn((4, EXPERTS), generator=generator).to(device)
    every = experts(x, logits)
    assert every.any(-1).all()
    x[rows_in_use:] = torch.nan
    out = experts(x, logits, torch.tensor([rows_in_use], dtype=torch.int32, device=device))
    assert torch.equal(out[:rows_in_use], every[:rows_in_use])
    assert not out[rows_in_use:].any()
