"""Linear layers of a model on `dense_gemm`."""

from __future__ import annotations

import torch

from octavo.kernels.dense_gemm import dense_gemm
from octavo.kernels.linear import Bf16Weight, Fp8Weight, LinearWeight
from octavo.kernels.quantize import quantize
from octavo.kernels.scaled import TokenScaled, Unscaled


def product(x: TokenScaled | Unscaled, weight: LinearWeight, dtype: torch.dtype) -> torch.Tensor:
    """x (T, K) in the format that `weight` asks for -> (T, N) of `dtype`, new."""
    return dense_gemm(x, weight, out=x.data.new_empty((x.data.shape[0], weight.data.shape[0]), dtype=dtype))


class KernelLinear:
    """y = x @ W^T + b; FP8 weights take x rounded to FP8 per row. A row's bits depend on that row and the weight alone."""

    def __init__(self, weight: LinearWeight) -> None:
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) bf16, new.

        Raises:
            KernelContractError: x has another dtype, width or device.
        """
        return self._into(x, torch.bfloat16)

    def float32(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) float32, new; see `__call__`."""
        return self._into(x, torch.float32)

    def _into(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return product(self._inputs(x), self._weight, dtype)

    def _inputs(self, x: torch.Tensor) -> TokenScaled | Unscaled:
        match self._weight:
            case Fp8Weight():
                return quantize(x)
            case Bf16Weight():
                return Unscaled(x)
