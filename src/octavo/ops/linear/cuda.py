"""Linear layers of a model on `dense_gemm`."""

from __future__ import annotations

import torch

from octavo.ops.formats import LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.linear.dense_gemm import dense_gemm
from octavo.ops.quantize.cuda import CudaQuantizer


class KernelLinear:
    """y = x @ W^T + b; FP8 weights take x rounded to FP8 per row. A row's bits depend on that row and the weight alone."""

    def __init__(self, weight: LinearWeight) -> None:
        self._weight = weight

    def __call__(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16, or as a norm made it -> (T, N) bf16, new.

        Raises:
            KernelContractError: x has another dtype, width or device.
        """
        return self._into(x, torch.bfloat16)

    def float32(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) float32, new; see `__call__`."""
        return self._into(x, torch.float32)

    def _into(self, x: torch.Tensor | Inputs, dtype: torch.dtype) -> torch.Tensor:
        activations = Inputs.of(x).activate(self._weight, CudaQuantizer())
        rows = activations.data
        out = torch.empty((rows.shape[0], self._weight.data.shape[0]), dtype=dtype, device=rows.device)
        return dense_gemm(activations, self._weight, out=out)
