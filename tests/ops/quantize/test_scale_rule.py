"""The scale rule against the library that defines it, and the same on CPU and CUDA; it runs on the host."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams

from octavo.ops.quantize.cpu import quantize_tokens, round_tokens
from octavo.ops.quantize.cuda import quantize
from octavo.ops.quantize.reference import quantize_reference


def test_the_scale_is_that_of_compressed_tensors() -> None:
    """Source of the rule: compressed_tensors.quantization.utils.calculate_qparams."""

    x = torch.randn((64, 96), generator=torch.Generator().manual_seed(8)).float()
    x[3] = 0
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="token", dynamic=True)
    scale, _ = calculate_qparams(x.amin(-1), x.amax(-1), args)
    assert torch.equal(quantize_reference(x)[1], scale)


EDGE = 448.0 * 2.0**-126
"""The least largest magnitude whose scale is a normal float32."""
ROWS = {
    "normal": [1.0, -3.5, 0.3, 447.0],
    "one-scale": [448.0, -448.0, 2.0**-9, 17.0],
    "at-the-floor": [EDGE, -EDGE / 3, EDGE / 448, 0.0],
    "below-the-floor": [EDGE * 0.75, -EDGE / 5, EDGE / 448, 0.0],
    "smallest-normal": [2.0**-126, -(2.0**-126), 2.0**-130, 0.0],
    "subnormal": [2.0**-133, -(2.0**-133), 0.0, 2.0**-132],
    "huge": [3.3e38, -1e38, 1e30, 1.0],
    "zero": [0.0, -0.0, 0.0, 0.0],
    "nan": [1.0, float("nan"), 2.0, 3.0],
    "infinity": [1.0, float("inf"), 2.0, 3.0],
    "minus-infinity": [float("-inf"), 1.0, 0.0, -2.0],
}


def bits(tensor: torch.Tensor) -> list[int]:
    """Of each number; every NaN counts as one."""
    same = torch.where(tensor.isnan(), torch.nan, tensor) if tensor.dtype == torch.float32 else tensor
    return same.contiguous().view(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("name", ROWS)
def test_cpu_cuda_and_reference_have_the_same_bits(name: str) -> None:
    """Codes and scales, of a row by itself and among all kinds; the CPU's rounded values are the codes' numbers."""
    row = torch.tensor([ROWS[name]]).bfloat16()
    among = torch.tensor(list(ROWS.values())).bfloat16()
    for x, at in ((row, 0), (among, list(ROWS).index(name))):
        codes, scale = (part[at] for part in quantize_reference(x))
        on_cuda = quantize(x)
        on_cpu = quantize_tokens(x)
        rounded, rounded_scale = round_tokens(x)
        assert bits(on_cuda.data[at]) == bits(on_cpu[0][at]) == bits(codes)
        assert bits(on_cuda.scale[at]) == bits(on_cpu[1][at]) == bits(rounded_scale[at]) == bits(scale)
        assert torch.equal(rounded[at], codes.float())


def test_every_finite_bf16_number_is_coded_alike() -> None:
    """Each by itself in a row: subnormals, and both sides of the floor of the scale."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = torch.stack((numbers, numbers / 3), dim=1)
    codes, scale = quantize_reference(x)
    on_cpu, on_cuda = quantize_tokens(x), quantize(x)
    assert bits(on_cpu[0]) == bits(on_cuda.data) == bits(codes)
    assert bits(on_cpu[1]) == bits(on_cuda.scale) == bits(scale)


def test_what_the_rule_says_of_each_kind() -> None:
    scales = dict(zip(ROWS, quantize_reference(torch.tensor(list(ROWS.values())).bfloat16())[1].tolist(), strict=True))
    assert scales["one-scale"] == 1.0
    assert scales["zero"] == 2.0**-23
    assert {scales[name] for name in ("at-the-floor", "below-the-floor", "smallest-normal", "subnormal")} == {2.0**-126}
    assert all(scales[name] != scales[name] for name in ("nan", "infinity", "minus-infinity"))
