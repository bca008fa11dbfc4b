"""Linear layers whose rows do not depend on how many rows there are, on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from octavo.ops.contract import Dims
from octavo.ops.formats import LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.matrix_products import matrix_products
from octavo.ops.quantize.cpu import dequantized, rounding_of
from octavo.ops.row_chunks import row_chunks

TILE_ROWS = 32
"""A BLAS picks its order of summation by the shape, so the shape is always the same: 32 rows."""


def tiled_matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight in float32, 32 rows at a time; (T, K), (K, N) float32, contiguous -> (T, N) float32."""
    rows, width = x.shape
    tiles = -(-rows // TILE_ROWS)
    padding = tiles * TILE_ROWS - rows
    padded = (F.pad(x, (0, 0, 0, padding)) if padding else x).view(tiles, TILE_ROWS, width)
    out = matrix_products(padded, weight.expand(tiles, width, weight.shape[1]))
    return out.view(tiles * TILE_ROWS, weight.shape[1])[:rows]


class TiledLinear:
    """Weights widened once to float32, inputs rounded as the weights ask; float32 products of 32-row tiles.

    A row's bits depend on that row and the weight alone.
    """

    def __init__(self, weight: LinearWeight) -> None:
        self._rounding = rounding_of(weight)
        self._weight = weight.wide().t().contiguous()
        self._bias = None if weight.bias is None else weight.bias.float()

    def __call__(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) bf16; see `Linear`.

        Raises:
            KernelContractError: x has another dtype or width.
        """
        return self._into(Inputs.of(x).bf16, torch.bfloat16)

    def float32(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x (T, K) bf16 -> (T, N) float32; see `__call__`."""
        return self._into(Inputs.of(x).bf16, torch.float32)

    def _into(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        Dims().check("x", x, ("T", self._weight.shape[0]), dtype=torch.bfloat16)
        out = x.new_empty((x.shape[0], self._weight.shape[1]), dtype=dtype)
        for chunk in row_chunks(len(x)):
            product = tiled_matmul(dequantized(x[chunk], self._rounding), self._weight)
            out[chunk] = product if self._bias is None else product.add_(self._bias)
        return out
