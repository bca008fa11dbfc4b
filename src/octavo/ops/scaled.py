"""FP8 tensors with their scales: one type per format; value = data x scale.

Sources of the formats: compressed-tensors `QuantizationStrategy` (channel, token, tensor) and the `weight_scale_inv`
blocks of 128 x 128 that DeepSeek-V3's and Qwen3's own FP8 checkpoints use.
"""

from __future__ import annotations

import dataclasses

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
class TokenScaled:
    """Activations with one scale per row: data (R, K) fp8, scale (R,) f32."""

    data: torch.Tensor
    scale: torch.Tensor

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (rows,), dtype=torch.float32)


@dataclasses.dataclass(frozen=True)
class GroupScaled:
    """Activations with one scale per row and 128 columns: data (R, K) fp8, scale (R, ceil(K / 128)) f32."""

    data: torch.Tensor
    scale: torch.Tensor

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (rows, blocks(dims[cols])), dtype=torch.float32)


@dataclasses.dataclass(frozen=True)
class StaticScaled:
    """Activations with one scale known beforehand: data (R, K) fp8, scale (1,) f32."""

    data: torch.Tensor
    scale: torch.Tensor

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, (1,), dtype=torch.float32)


@dataclasses.dataclass(frozen=True)
class Unscaled:
    """Activations as they are: data (R, K) bf16."""

    data: torch.Tensor

    def check(self, argument: str, dims: Dims, rows: str, cols: str) -> None:
        dims.check(f"{argument}.data", self.data, (rows, cols), dtype=torch.bfloat16)


Activations = TokenScaled | GroupScaled | StaticScaled | Unscaled


@dataclasses.dataclass(frozen=True)
class ChannelWeights:
    """Expert weights with one scale per output channel: data (E, N, K) fp8, scale (E, N) f32; activations TokenScaled."""

    data: torch.Tensor
    scale: torch.Tensor

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, ("E", self.data.shape[1]), dtype=torch.float32)


@dataclasses.dataclass(frozen=True)
class TensorWeights:
    """Expert weights with one scale per matrix; activations StaticScaled by `input_scale`.

    data (E, N, K) fp8; scale (E, parts) f32, parts = 2 where gate and up are stacked along N, else 1; input_scale (1,) f32.
    """

    data: torch.Tensor
    scale: torch.Tensor
    input_scale: torch.Tensor

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=FP8)
        dims.check(f"{argument}.scale", self.scale, ("E", parts), dtype=torch.float32)
        dims.check(f"{argument}.input_scale", self.input_scale, (1,), dtype=torch.float32)


@dataclasses.dataclass(frozen=True)
class BlockWeights:
    """Expert weights with one scale per 128 x 128 block; activations GroupScaled.

    data (E, N, K) fp8; scale (E, parts x ceil(N / parts / 128), ceil(K / 128)) f32: gate and up have their own blocks.
    """

    data: torch.Tensor
    scale: torch.Tensor

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=FP8)
        rows = parts * blocks(self.data.shape[1] // parts)
        dims.check(f"{argument}.scale", self.scale, ("E", rows, blocks(dims["K"])), dtype=torch.float32)


@dataclasses.dataclass(frozen=True)
class PlainWeights:
    """Expert weights as they are: data (E, N, K) bf16; activations Unscaled."""

    data: torch.Tensor

    def check(self, argument: str, dims: Dims, parts: int) -> None:
        dims.check(f"{argument}.data", self.data, ("E", self.data.shape[1], "K"), dtype=torch.bfloat16)


Weights = ChannelWeights | TensorWeights | BlockWeights | PlainWeights
