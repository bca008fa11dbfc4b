"""Inputs of products with their scales: one type per format, value = data x scale; and who makes them."""

from __future__ import annotations

import abc
import dataclasses
from typing import Protocol

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

    @property
    @abc.abstractmethod
    def scales(self) -> torch.Tensor | None:
        """The scales that a kernel multiplies by; None where data are the values."""

    @staticmethod
    @abc.abstractmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        """The shape of the scales that are written with (rows, width) of data."""

    @abc.abstractmethod
    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        """Bind or compare the sizes `rows` and `cols`.

        Raises:
            KernelContractError: a tensor has another shape or dtype.
        """

    @abc.abstractmethod
    def values(self) -> torch.Tensor:
        """(R, K) float64, exact."""


@dataclasses.dataclass(frozen=True)
class TokenScaled(Activations):
    """Activations with one scale per row: data (R, K) fp8, scale (R,) f32."""

    scale: torch.Tensor

    @property
    def scales(self) -> torch.Tensor:
        return self.scale

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (rows,)

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (rows,), dtype=torch.float32)

    def values(self) -> torch.Tensor:
        return self.data.double() * self.scale.double()[:, None]


@dataclasses.dataclass(frozen=True)
class GroupScaled(Activations):
    """Activations with one scale per row and 128 columns: data (R, K) fp8, scale (R, ceil(K / 128)) f32."""

    scale: torch.Tensor

    @property
    def scales(self) -> torch.Tensor:
        return self.scale

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (rows, blocks(width))

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (rows, blocks(dims[cols])), dtype=torch.float32)

    def values(self) -> torch.Tensor:
        return self.data.double() * self.scale.double().repeat_interleave(BLOCK, 1)[:, : self.data.shape[1]]


@dataclasses.dataclass(frozen=True)
class StaticScaled(Activations):
    """Activations with one scale known beforehand: data (R, K) fp8, scale (1,) f32."""

    scale: torch.Tensor

    @property
    def scales(self) -> torch.Tensor:
        return self.scale

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (0,)

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (1,), dtype=torch.float32)

    def values(self) -> torch.Tensor:
        return self.data.double() * self.scale.double()


@dataclasses.dataclass(frozen=True)
class Unscaled(Activations):
    """Activations as they are: data (R, K) bf16."""

    @property
    def scales(self) -> None:
        return None

    @staticmethod
    def scale_shape(rows: int, width: int) -> tuple[int, ...]:
        return (0,)

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=torch.bfloat16)

    def values(self) -> torch.Tensor:
        return self.data.double()


class Quantizer(Protocol):
    """Makes activations of bf16 rows x (R, K): a kernel, or its reference."""

    def per_token(self, x: torch.Tensor) -> TokenScaled: ...

    def per_group(self, x: torch.Tensor) -> GroupScaled: ...

    def static(self, x: torch.Tensor, scale: torch.Tensor) -> StaticScaled: ...
