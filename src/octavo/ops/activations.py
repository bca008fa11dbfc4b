"""Inputs of products with their scales: one type per format, value = data x scale; and who makes them."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Protocol

import torch

from octavo.ops.contract import Dims

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
BLOCK = 128
"""Side of a weight block and width of an activation group in the block format."""


def blocks(size: int) -> int:
    """ceil(size / 128)"""
    return -(-size // BLOCK)


@dataclasses.dataclass(frozen=True)
class Activations(abc.ABC):
    """Rows of a product's input, in the format that its weights ask for."""

    data: torch.Tensor
    dtype: ClassVar[torch.dtype] = FP8
    """Of the data."""

    @property
    @abc.abstractmethod
    def scales(self) -> torch.Tensor | None:
        """The scales that a kernel multiplies by; None where data are the values."""

    @staticmethod
    @abc.abstractmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        """The shape of the scales that are written with (rows, width) of data."""

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        """Bind or compare the sizes `rows` and `cols`.

        Raises:
            KernelContractError: a tensor has another shape or dtype.
        """
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=self.dtype)

    @abc.abstractmethod
    def values(self) -> torch.Tensor:
        """(R, K) float64, exact."""


@dataclasses.dataclass(frozen=True)
class Scaled(Activations):
    """FP8 activations, whose values are data times scale."""

    scale: torch.Tensor

    @property
    def scales(self) -> torch.Tensor:
        return self.scale

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        super().check(argument, dims, rows, cols)
        dims.check(f"{argument}.scale", self.scale, self._scale_dims(dims, rows, cols), dtype=torch.float32)

    @abc.abstractmethod
    def _scale_dims(self, dims: Dims, rows: str, cols: str) -> tuple[str | int, ...]:
        """The shape of `scale`, by the names of the data's sizes."""


@dataclasses.dataclass(frozen=True)
class TokenScaled(Scaled):
    """Activations with one scale per row: data (R, K) fp8, scale (R,) f32."""

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (rows,)

    def _scale_dims(self, dims: Dims, rows: str, cols: str) -> tuple[str | int, ...]:
        return (rows,)

    def values(self) -> torch.Tensor:
        return self.data.double() * self.scale.double()[:, None]


@dataclasses.dataclass(frozen=True)
class GroupScaled(Scaled):
    """Activations with one scale per row and 128 columns: data (R, K) fp8, scale (R, ceil(K / 128)) f32."""

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (rows, blocks(width))

    def _scale_dims(self, dims: Dims, rows: str, cols: str) -> tuple[str | int, ...]:
        return (rows, blocks(dims[cols]))

    def values(self) -> torch.Tensor:
        return self.data.double() * self.scale.double().repeat_interleave(BLOCK, 1)[:, : self.data.shape[1]]


@dataclasses.dataclass(frozen=True)
class StaticScaled(Scaled):
    """Activations with one scale known beforehand: data (R, K) fp8, scale (1,) f32."""

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (0,)

    def _scale_dims(self, dims: Dims, rows: str, cols: str) -> tuple[str | int, ...]:
        return (1,)

    def values(self) -> torch.Tensor:
        return self.data.double() * self.scale.double()


@dataclasses.dataclass(frozen=True)
class Unscaled(Activations):
    """Activations as they are: data (R, K) bf16."""

    dtype: ClassVar[torch.dtype] = torch.bfloat16

    @property
    def scales(self) -> None:
        return None

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (0,)

    def values(self) -> torch.Tensor:
        return self.data.double()


class Quantizer(Protocol):
    """Makes activations of bf16 rows x (R, K): a kernel, or its reference."""

    def per_token(self, x: torch.Tensor) -> TokenScaled: ...

    def per_group(self, x: torch.Tensor) -> GroupScaled: ...

    def static(self, x: torch.Tensor, scale: torch.Tensor) -> StaticScaled: ...
