"""Linear layers of PyTorch's own operations, on CUDA. Their bits may change with the number of rows."""

from __future__ import annotations

import torch

from octavo.errors import CheckpointError
from octavo.ops.contract import Dims
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.linear.layer import Linear
from octavo.ops.quantize.cpu import quantize_tokens


def torch_linear(weight: LinearWeight) -> Linear:
    """The layer of `weight`.

    Raises:
        CheckpointError: as `RowwiseFp8Linear`, or scales are of blocks or static.
    """
    match weight:
        case Fp8Channel():
            return RowwiseFp8Linear(weight)
        case Bf16():
            return CublasLinear(weight)
        case Fp8Block() | Fp8Static():
            raise CheckpointError("the baseline has no product for this format; compare another one")


class CublasLinear:
    """bf16 weights, float32 sums."""

    def __init__(self, weight: Bf16) -> None:
        self._weight, self._bias = weight.data, weight.bias

    def __call__(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) bf16; see `Linear`.

        Raises:
            KernelContractError: x has another dtype or width.
        """
        x = Inputs.of(x).bf16
        Dims().check("x", x, ("T", self._weight.shape[1]), dtype=torch.bfloat16)
        return torch.nn.functional.linear(x, self._weight, self._bias)

    def float32(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) float32; see `__call__`."""
        x = Inputs.of(x).bf16
        Dims().check("x", x, ("T", self._weight.shape[1]), dtype=torch.bfloat16)
        if x.shape[0] == 0:
            return x.new_empty((0, self._weight.shape[0]), dtype=torch.float32)
        out = torch.mm(x, self._weight.t(), out_dtype=torch.float32)
        return out if self._bias is None else out + self._bias.float()


class RowwiseFp8Linear:
    """FP8 weights and activations through `torch._scaled_mm` with one scale per row and per channel.

    Raises:
        CheckpointError: a size is not a multiple of 16, which the operation needs.
    """

    def __init__(self, weight: Fp8Channel) -> None:
        if weight.data.shape[0] % 16 or weight.data.shape[1] % 16:
            raise CheckpointError(
                f"an FP8 weight of shape {tuple(weight.data.shape)} cannot run on CUDA: both sizes must be multiples "
                "of 16; leave the layer unquantized or use device cpu"
            )
        self._weight = weight.data
        self._scale = weight.scale[None, :].contiguous()
        self._bias = weight.bias

    def __call__(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) bf16; see `Linear`.

        Raises:
            KernelContractError: x has another dtype or width.
        """
        x = Inputs.of(x).bf16
        Dims().check("x", x, ("T", self._weight.shape[1]), dtype=torch.bfloat16)
        quantized, scale = quantize_tokens(x)
        out = scaled_matmul(quantized, scale, self._weight, self._scale)
        return out if self._bias is None else out + self._bias

    def float32(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) float32 with the precision of bf16; see `__call__`."""
        return self(x).float()


def scaled_matmul(
    x: torch.Tensor, x_scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor
) -> torch.Tensor:
    """(x * x_scale) @ (weight * weight_scale^T)^T in bf16.

    x (T, K) and weight (N, K) FP8, x_scale (T, 1) and weight_scale (1, N) float32 -> (T, N) bf16.
    """
    if x.shape[0] == 0:
        return x.new_empty((0, weight.shape[0]), dtype=torch.bfloat16)
    return torch._scaled_mm(
        x, weight.t(), scale_a=x_scale, scale_b=weight_scale, out_dtype=torch.bfloat16, use_fast_accum=True
    )
