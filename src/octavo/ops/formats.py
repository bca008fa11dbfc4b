"""Weights with their scales: one type per format, which answers what depends on it; value = data x scale.

Sources of the formats: compressed-tensors `QuantizationStrategy` (channel, token, tensor) and the `weight_scale_inv`
blocks of 128 x 128 that DeepSeek-V3's and Qwen3's own FP8 checkpoints use.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import ClassVar, Self

import torch

from octavo.ops.activations import (
    BLOCK,
    FP8,
    Activations,
    GroupScaled,
    Quantizer,
    StaticScaled,
    TokenScaled,
    Unscaled,
    blocks,
)
from octavo.ops.contract import Dims

_FP8_NUMBERS = torch.arange(256, dtype=torch.uint8).view(FP8).float()


def widen(data: torch.Tensor) -> torch.Tensor:
    """FP8 to float32 by table, several times faster than the conversion on a CPU; any shape."""
    return _FP8_NUMBERS.index_select(0, data.view(torch.uint8).view(-1).int()).view(data.shape)


@dataclasses.dataclass(frozen=True)
class Weights(abc.ABC):
    """A matrix (N, K), or one for each expert (E, N, K), as a checkpoint stores it."""

    data: torch.Tensor
    activations: ClassVar[type[Activations]]
    """What the other side of a product is."""
    blockwise: ClassVar[bool] = False
    """Whether scales change along K, so that a kernel cannot multiply by them at the end."""

    @property
    @abc.abstractmethod
    def scales(self) -> torch.Tensor | None:
        """The scales that a kernel multiplies by; None where data are the values."""

    @property
    @abc.abstractmethod
    def scale_strides(self) -> tuple[int, int, int, int]:
        """The strides of scales from row to row of the activations, expert to expert, gate to up, column to column; 0 if unused."""

    @abc.abstractmethod
    def check(self, argument: str, dims: Dims, parts: int) -> None:
        """Bind or compare E and K of stacked experts, whose N rows are `parts` matrices.

        Raises:
            KernelContractError: a tensor has another shape or dtype.
        """

    @abc.abstractmethod
    def activate(self, x: torch.Tensor, quantizer: Quantizer) -> Activations:
        """x (R, K) bf16 in the format that these weights ask for."""

    @abc.abstractmethod
    def expert(self, number: int) -> Self:
        """The matrix of one of stacked experts, a view."""

    @abc.abstractmethod
    def values(self, parts: int = 1) -> torch.Tensor:
        """(N, K) float64 of one matrix, exact; `parts` matrices are stacked along N."""


@dataclasses.dataclass(frozen=True)
class Bf16(Weights):
    """Weights as they are: data (..., N, K) bf16, bias (N,) bf16 or None; activations Unscaled."""

    data: torch.Tensor
    bias: torch.Tensor | None = None
    activations: ClassVar[type[Activations]] = Unscaled

    @property
    def scales(self) -> None:
        return None

    @property
    def scale_strides(self) -> tuple[int, int, int, int]:
        return (0, 0, 0, 0)

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=torch.bfloat16)

    def check_matrix(self, argument: str, dims: Dims) -> None:
        """Bind or compare N and K of one matrix."""
        dims.check(f"{argument}.data", self.data, ("N", "K"), dtype=torch.bfloat16)

    def activate(self, x: torch.Tensor, quantizer: Quantizer) -> Unscaled:
        return Unscaled(x)

    def expert(self, number: int) -> Bf16:
        return Bf16(self.data[number])

    def values(self, parts: int = 1) -> torch.Tensor:
        return self.data.double()

    def wide(self) -> torch.Tensor:
        """(..., N, K) float32, new."""
        return self.data.float()

    def stored(self, rows: slice) -> dict[str, torch.Tensor]:
        """Name in a checkpoint -> the view that it fills, in its shape there, of some rows of one matrix."""
        return {"weight": self.data[rows]} | ({} if self.bias is None else {"bias": self.bias[rows]})


@dataclasses.dataclass(frozen=True)
class RowScaled(Weights):
    """FP8 weights with one scale per output row: data (..., N, K) fp8, scale (..., N) f32, bias (N,) bf16 or None."""

    data: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def scales(self) -> torch.Tensor:
        return self.scale

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, ("E", self.data.shape[1]), dtype=torch.float32)

    def check_matrix(self, argument: str, dims: Dims) -> None:
        """Bind or compare N and K of one matrix."""
        dims.check(f"{argument}.data", self.data, ("N", "K"), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, ("N",), dtype=torch.float32)

    def values(self, parts: int = 1) -> torch.Tensor:
        return self.data.double() * self.scale.double()[:, None]

    def wide(self) -> torch.Tensor:
        """(..., N, K) float32, new."""
        return widen(self.data) * self.scale[..., None]

    def stored(self, rows: slice) -> dict[str, torch.Tensor]:
        """Name in a checkpoint -> the view that it fills, in its shape there, of some rows of one matrix."""
        bias = {} if self.bias is None else {"bias": self.bias[rows]}
        return {"weight": self.data[rows], **bias, "weight_scale": self.scale[rows, None]}


@dataclasses.dataclass(frozen=True)
class Fp8Channel(RowScaled):
    """Weights with one scale per output channel; activations TokenScaled.

    data (..., N, K) fp8, scale (..., N) f32, bias (N,) bf16 or None.
    """

    activations: ClassVar[type[Activations]] = TokenScaled

    @property
    def scale_strides(self) -> tuple[int, int, int, int]:
        return (1, self.scale.shape[-1], self.scale.shape[-1] // 2, 1)

    def activate(self, x: torch.Tensor, quantizer: Quantizer) -> TokenScaled:
        return quantizer.per_token(x)

    def expert(self, number: int) -> Fp8Channel:
        return Fp8Channel(self.data[number], self.scale[number])


@dataclasses.dataclass(frozen=True)
class Fp8Static(RowScaled):
    """Weights whose inputs have one scale, known beforehand; activations StaticScaled.

    data (..., N, K) fp8; scale (..., N) f32, that of a matrix repeated over its rows; bias (N,) bf16 or None; input_scales (P,)
    f32: what a checkpoint says of each of the matrices that read the same input.
    """

    input_scales: torch.Tensor = dataclasses.field(kw_only=True)
    activations: ClassVar[type[Activations]] = StaticScaled

    @functools.cached_property
    def input_scale(self) -> torch.Tensor:
        """(1,) f32: the largest, by which no input is cut that is not cut by its own. Not to be read before parameters are filled."""
        return self.input_scales.max().view(1)

    @property
    def scale_strides(self) -> tuple[int, int, int, int]:
        return (0, self.scale.shape[-1], self.scale.shape[-1] // 2, 1)

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        super().check(argument, dims, parts)
        dims.check(f"{argument}.input_scale", self.input_scale, (1,), dtype=torch.float32)

    def check_matrix(self, argument: str, dims: Dims) -> None:
        super().check_matrix(argument, dims)
        dims.check(f"{argument}.input_scale", self.input_scale, (1,), dtype=torch.float32)

    def activate(self, x: torch.Tensor, quantizer: Quantizer) -> StaticScaled:
        return quantizer.static(x, self.input_scale)

    def expert(self, number: int) -> Fp8Static:
        return Fp8Static(self.data[number], self.scale[number], input_scales=self.input_scales)


@dataclasses.dataclass(frozen=True)
class Fp8Block(Weights):
    """Weights with one scale per 128 x 128 block; activations GroupScaled.

    data (..., N, K) fp8; scale (..., parts x ceil(N / parts / 128), ceil(K / 128)) f32; bias (N,) bf16 or None.
    """

    data: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None
    parts: int = 1
    """Matrices of equal height that are stacked along N, each with blocks of its own, as gate and up are."""
    activations: ClassVar[type[Activations]] = GroupScaled
    blockwise: ClassVar[bool] = True

    @property
    def scales(self) -> torch.Tensor:
        return self.scale

    @property
    def scale_strides(self) -> tuple[int, int, int, int]:
        return (0, 0, 0, 0)

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=FP8)
        rows = parts * blocks(self.data.shape[1] // parts)
        dims.check(f"{argument}.scale", self.scale, ("E", rows, blocks(dims["K"])), dtype=torch.float32)

    def check_matrix(self, argument: str, dims: Dims) -> None:
        """Bind or compare N and K of one matrix."""
        dims.check(f"{argument}.data", self.data, ("N", "K"), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (blocks(dims["N"]), blocks(dims["K"])), dtype=torch.float32)

    def activate(self, x: torch.Tensor, quantizer: Quantizer) -> GroupScaled:
        return quantizer.per_group(x)

    def expert(self, number: int) -> Fp8Block:
        return Fp8Block(self.data[number], self.scale[number], parts=self.parts)

    def values(self, parts: int = 1) -> torch.Tensor:
        return self.data.double() * self._spread(self.scale.double(), max(parts, self.parts))

    def wide(self) -> torch.Tensor:
        """(..., N, K) float32, new."""
        return widen(self.data) * self._spread(self.scale, self.parts)

    def stored(self, rows: slice) -> dict[str, torch.Tensor]:
        """Name in a checkpoint -> the view that it fills, in its shape there, of some rows of one matrix.

        `rows` begin with a block, and end with one or with their part.
        """
        height = self.data.shape[0] // self.parts
        part, begin = divmod(rows.start, height)
        first = part * blocks(height) + begin // BLOCK
        bias = {} if self.bias is None else {"bias": self.bias[rows]}
        scale = self.scale[first : first + blocks(rows.stop - rows.start)]
        return {"weight": self.data[rows], **bias, "weight_scale": scale}

    def _spread(self, scale: torch.Tensor, parts: int) -> torch.Tensor:
        """The scale of each number of `data`, in its shape."""
        rows, columns = self.data.shape[-2:]
        by_part = scale.unflatten(-2, (parts, -1)).repeat_interleave(BLOCK, -2)[..., : rows // parts, :]
        by_row: torch.Tensor = by_part.flatten(-3, -2)
        return by_row.repeat_interleave(BLOCK, -1)[..., :columns]


LinearWeight = Bf16 | Fp8Channel | Fp8Static | Fp8Block
"""What a model's layers are made of."""
