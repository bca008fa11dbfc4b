"""Making a model's parameters in a place, and noting which checkpoint tensor fills which part of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from octavo.config.quantization import Quantization, WeightFormat
from octavo.errors import CheckpointError
from octavo.ops.activations import BLOCK, FP8, blocks
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight

Sources = dict[str, torch.Tensor]
"""The name of each checkpoint tensor and the view of the parameters that it fills, in its own shape."""


class Place(Protocol):
    """Where parameters lie: asked for one tensor after the other, always in the same order for a config."""

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor; what is in it is the place's affair."""
        ...


def fresh_memory(device: torch.device) -> Place:
    """The place in which each parameter gets uninitialised memory of its own on `device`."""

    def place(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    return place


class ParameterMaker:
    """Makes parameters in a place, in the format that a checkpoint has for each module."""

    def __init__(self, place: Place, quantization: Quantization) -> None:
        self._place, self._quantization = place, quantization
        self.kv_format = quantization.kv_cache
        self.num_bytes = 0
        """Of all that was made."""
        self._notes: list[Callable[[], Sources]] = []
        """Taken only where weights are loaded: of many experts they take many times as long as what they are of."""

    def sources(self) -> Sources:
        """All of what was made, by the tensors of a checkpoint that fill it."""
        return {name: view for note in self._notes for name, view in note().items()}

    def vector(self, name: str, size: int) -> torch.Tensor:
        """The tensor `name`: (size,) bf16."""
        return self._named(name, self._empty((size,), torch.bfloat16))

    def float_vector(self, name: str, size: int) -> torch.Tensor:
        """The tensor `name`: (size,) float32."""
        return self._named(name, self._empty((size,), torch.float32))

    def single(self, name: str) -> torch.Tensor:
        """The tensor `name`: (1,) float32, one number in whatever shape it is stored."""
        return self.float_vector(name, 1)

    def matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """The tensor `name`: (rows, columns) bf16."""
        return self._named(name, self._empty((rows, columns), torch.bfloat16))

    def taps(self, name: str, channels: int, count: int) -> torch.Tensor:
        """The tensor `name` of a convolution of each channel by itself, (channels, 1, count), as (channels, count) bf16."""
        return self._named(name, self._empty((channels, 1, count), torch.bfloat16)).squeeze(1)

    def float_linear(self, module: str, rows: int, columns: int) -> LinearWeight | torch.Tensor:
        """The layer `module` of (rows, columns): a tensor in float32, or a weight in FP8 if it is quantized."""
        if self._covers([module]):
            return self.linear([(module, rows)], columns)
        return self._named(f"{module}.weight", self._empty((rows, columns), torch.float32))

    def linear(self, parts: list[tuple[str, int]], columns: int, *, bias: bool = False) -> LinearWeight:
        """The layers `parts` (module name, rows), which read the same input, one above the other.

        Raises:
            CheckpointError: they are not stored alike, or blocks of scales cross from one to the next.
        """
        rows = sum(count for _, count in parts)
        names = [name for name, _ in parts]
        if self._covers(names) and self._quantization.format is WeightFormat.FP8_BLOCK:
            _require_whole_blocks(parts)
        weight = self._weight(names, (rows, columns), bias=bias)
        self._notes.append(lambda: self._parts(parts, weight))
        return weight

    def stack(self, modules: Sequence[str], parts: list[tuple[str, int]], columns: int) -> LinearWeight:
        """The layers `parts` (name behind that of a module, rows) of every one of `modules`, one above the other.

        Raises:
            CheckpointError: they are not stored alike.
        """
        names = [f"{module}.{name}" for module in modules for name, _ in parts]
        weight = self._weight(names, (len(modules), sum(count for _, count in parts), columns), parts=len(parts))

        def sources() -> Sources:
            found: Sources = {}
            for place, module in enumerate(modules):
                named = [(f"{module}.{name}", count) for name, count in parts]
                found |= self._parts(named, weight.expert(place), first=place * len(parts))
            return found

        self._notes.append(sources)
        return weight

    def can_join(self, parts: Sequence[tuple[str, int]]) -> bool:
        """Whether the layers `parts` (name, rows) can be computed as one, each as it would be by itself: stored alike, in whole blocks, and not
        with static scales, of which all would get the largest for their inputs."""
        quantized = {self._quantization.covers(name) for name, _ in parts}
        if quantized != {True}:
            return quantized == {False}
        match self._quantization.format:
            case WeightFormat.FP8_STATIC:
                return False
            case WeightFormat.FP8_BLOCK:
                return all(rows % BLOCK == 0 for _, rows in parts[:-1])
            case _:
                return True

    def can_stack(self, layers: Sequence[str]) -> bool:
        """As `can_join`, of layers that each keep blocks of their own."""
        return self.can_join([(name, 0) for name in layers])

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        made = self._place(shape, dtype)
        self.num_bytes += made.nbytes
        return made

    def _named(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        self._notes.append(lambda: {name: tensor})
        return tensor

    def _covers(self, modules: list[str]) -> bool:
        """Whether `modules` are quantized: all of them, or none."""
        quantized = self._quantization.covers(modules[0])
        odd = next((module for module in modules if self._quantization.covers(module) != quantized), None)
        if odd is not None:
            raise CheckpointError(
                f"quantization_config ignores one of {modules[0]} and {odd} but not the other; they are computed "
                "together and must be stored alike",
                tensor=f"{odd}.weight",
            )
        return quantized

    def _weight(
        self, modules: list[str], shape: tuple[int, ...], *, bias: bool = False, parts: int = 1
    ) -> LinearWeight:
        quantized = self._covers(modules)
        biases = self._empty((shape[0],), torch.bfloat16) if bias else None
        if not quantized:
            return Bf16(self._empty(shape, torch.bfloat16), biases)
        data = self._empty(shape, FP8)
        if self._quantization.format is WeightFormat.FP8_STATIC:
            input_scales = self._empty((len(modules),), torch.float32)
            return Fp8Static(data, self._empty(shape[:-1], torch.float32), biases, input_scales=input_scales)
        if self._quantization.format is not WeightFormat.FP8_BLOCK:
            return Fp8Channel(data, self._empty(shape[:-1], torch.float32), biases)
        *experts, rows, columns = shape
        scales = (*experts, parts * blocks(rows // parts), blocks(columns))
        return Fp8Block(data, self._empty(scales, torch.float32), biases, parts)

    def _parts(self, parts: list[tuple[str, int]], weight: LinearWeight, first: int = 0) -> Sources:
        """`first`: place of the first part among all that read the same input, in `stack` those of every expert."""
        found: Sources = {}
        start = 0
        for place, (module, count) in enumerate(parts, first):
            stored = weight.stored(slice(start, start + count))
            scale = {"weight_scale": self._quantization.scale_name}
            found |= {f"{module}.{scale.get(name, name)}": view for name, view in stored.items()}
            if isinstance(weight, Fp8Static):
                found[f"{module}.input_scale"] = weight.input_scales[place : place + 1]
            start += count
        return found


def _require_whole_blocks(parts: list[tuple[str, int]]) -> None:
    """Refuse layers that are computed as one, of which one ends within a block of scales."""
    for name, rows in parts[:-1]:
        if rows % BLOCK:
            raise CheckpointError(
                f"has {rows} rows in blocks of {BLOCK}; the layers {', '.join(name for name, _ in parts)} are computed as "
                f"one, so all but the last need a multiple of {BLOCK}",
                tensor=f"{name}.weight",
            )
