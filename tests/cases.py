"""Shapes, routings and weights that tests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from octavo.ops.activations import FP8, blocks
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, Weights

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """One expert layer: E experts, K chosen, hidden size H, intermediate size I."""

    name: str
    experts: int
    top_k: int
    hidden: int
    intermediate: int


QWEN3_30B = LayerShape("Qwen3-30B-A3B", 128, 8, 2048, 768)
MIXTRAL_8X7B = LayerShape("Mixtral-8x7B", 8, 2, 4096, 14336)

SMALL = [
    LayerShape("one-expert", 1, 1, 128, 80),
    LayerShape("mixtral-like", 8, 2, 256, 96),
    LayerShape("deepseek-lite-like", 64, 6, 128, 176),
    LayerShape("qwen2-like", 60, 4, 144, 192),
    LayerShape("wide-top-k", 32, 22, 128, 64),
    LayerShape("over-256", 257, 8, 128, 64),
]
"""Small enough for the interpreter; E, K and I of real models where the interpreter can afford them."""


def exact_fp8(shape: tuple[int, ...], generator: torch.Generator, limit: int = 3) -> torch.Tensor:
    """Whole numbers within +-limit in FP8: their products and sums are exact in float32, in any order."""
    return torch.randint(-limit, limit + 1, shape, generator=generator).float().to(FP8)


def powers_of_two(shape: tuple[int, ...], generator: torch.Generator, low: int, high: int) -> torch.Tensor:
    """2^n with n drawn from low..high: a scale taken from the wrong place is off by a factor, not by a rounding."""
    return torch.randint(low, high + 1, shape, generator=generator).float().exp2()


def exact_rows(rows: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, width) bf16 that FP8 holds exactly: FP8 whole numbers times a power of two per row, amax 448 units.

    The scale of such a row is a power of two, and so is that of each 128 columns.
    """
    units = exact_fp8((rows, width), generator, limit=8).float()
    units[:, ::128] = 448.0
    return (units * powers_of_two((rows, 1), generator, -10, -8)).bfloat16()


def make_weights(kind: type, experts: int, parts: int, rows: int, cols: int, generator: torch.Generator) -> Weights:
    """Weights (experts, parts x rows, cols) of the format `kind`, exactly representable, scales all different."""
    data = exact_fp8((experts, parts * rows, cols), generator)
    if kind is Fp8Channel:
        return Fp8Channel(data, powers_of_two((experts, parts * rows), generator, -6, -3))
    if kind is Fp8Static:
        scale = powers_of_two((experts, parts), generator, -6, -3).repeat_interleave(rows, 1)
        return Fp8Static(data, scale, input_scales=torch.tensor([2.0**-9, 2.0**-7, 2.0**-8]))
    if kind is Fp8Block:
        return Fp8Block(data, powers_of_two((experts, parts * blocks(rows), blocks(cols)), generator, -6, -3))
    return Bf16((data.float() / 16).bfloat16())


T = TypeVar("T", bound="DataclassInstance")


def to_device(tensors: T, device: torch.device) -> T:
    """The same dataclass with its tensors on `device`."""
    parts = ((field.name, getattr(tensors, field.name)) for field in dataclasses.fields(tensors))
    moved = {name: part.to(device) for name, part in parts if isinstance(part, torch.Tensor)}
    return dataclasses.replace(tensors, **moved)


def distinct_ids(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
    """(tokens, top_k) int32, distinct per row, uniform."""
    return torch.rand((tokens, experts), generator=generator).argsort(-1)[:, :top_k].to(torch.int32).contiguous()


def _skewed(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
    bias = -torch.arange(experts).float() / 2
    noise = -torch.log(-torch.log(torch.rand((tokens, experts), generator=generator)))
    return (bias + noise).argsort(-1, descending=True)[:, :top_k].to(torch.int32).contiguous()


def _without(expert: int) -> Callable[[int, int, int, torch.Generator], torch.Tensor]:
    def ids(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.randint(0, max(experts - 1, 1), (tokens, top_k), generator=generator)
        place = expert % experts
        return torch.where(drawn >= place, drawn + 1, drawn).remainder(experts).to(torch.int32)

    return ids


def _constant(expert: int) -> Callable[[int, int, int, torch.Generator], torch.Tensor]:
    def ids(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
        return torch.full((tokens, top_k), expert % experts, dtype=torch.int32)

    return ids


def _sentinels(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
    ids = distinct_ids(tokens, experts, top_k, generator)
    bad = torch.tensor([-1, -(2**31), experts, experts + 1, 2**31 - 1], dtype=torch.int32)
    drawn = bad[torch.randint(0, len(bad), ids.shape, generator=generator)]
    return torch.where(torch.rand(ids.shape, generator=generator) < 0.3, drawn, ids)


def _absent(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
    return torch.full((tokens, top_k), -1, dtype=torch.int32)


def _duplicates(tokens: int, experts: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, experts, (tokens, 1), generator=generator).expand(-1, top_k).to(torch.int32).contiguous()


ROUTINGS: dict[str, Callable[[int, int, int, torch.Generator], torch.Tensor]] = {
    "uniform": distinct_ids,
    "skewed": _skewed,
    "all-to-first": _constant(0),
    "all-to-last": _constant(-1),
    "first-empty": _without(0),
    "middle-empty": _without(3),
    "last-empty": _without(-1),
    "duplicates": _duplicates,
    "sentinels": _sentinels,
    "all-absent": _absent,
}
"""ids (T, K) int32 from (T, E, K, generator)."""


@dataclasses.dataclass(frozen=True)
class HeadShape:
    """Attention of H query heads over G KV heads of D numbers."""

    name: str
    heads: int
    kv_heads: int
    width: int


QWEN3_30B_HEADS = HeadShape("Qwen3-30B-A3B", 32, 4, 128)
QWEN3_6_HEADS = HeadShape("Qwen3.6-35B-A3B", 16, 2, 256)
SMALL_HEADS = [
    HeadShape("shared-by-8", 8, 1, 128),
    HeadShape("odd-width", 6, 2, 24),
    HeadShape("one-each", 2, 2, 64),
    HeadShape("wide-group", 24, 1, 16),
]
"""Few heads for the interpreter; widths that are no power of two and narrower than a tile."""
