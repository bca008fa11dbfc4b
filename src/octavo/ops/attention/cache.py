"""The paged KV cache: what it holds, and writing to it, on any device."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.activations import FP8
from octavo.ops.contract import Dims
from octavo.ops.quantize.rule import static_codes

CACHE_TYPES = (torch.bfloat16, FP8)
"""What keys and values are kept in: as they are, or as codes, each of which is exact in bf16, in which products take them."""


@dataclasses.dataclass(frozen=True)
class KvScales:
    """By what the codes of a layer's keys and values are multiplied, after the products; 1 where a cache holds no codes."""

    keys: float = 1.0
    values: float = 1.0


UNSCALED = KvScales()


def write_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    scales: KvScales = UNSCALED,
) -> None:
    """cache[:, slot] = (key, value), in FP8 their codes; a key whose value is not finite becomes NaN.

    So a query that sees a bad value scores NaN, and a query that does not see it can read the value as a number.

    Args:
        keys, values: (T, G, D) bf16; read.
        cache: (2, blocks, block size, G, D) bf16 or fp8; written at `slot_mapping`.
        slot_mapping: (T,) int64, distinct.
        scales: of the codes.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("cache", cache, (2, "blocks", "block size", "G", "D"), dtype=CACHE_TYPES)
    heads, width = cache.shape[3:]
    dims.check("keys", keys, ("T", "G", "D"), dtype=torch.bfloat16)
    dims.check("values", values, ("T", "G", "D"), dtype=torch.bfloat16)
    dims.check("slot_mapping", slot_mapping, ("T",), dtype=torch.int64)
    # On a device the answer would have to be waited for.
    if values.is_cuda or not all_below(values, torch.inf):
        keys = torch.where(values.isfinite().all(-1, keepdim=True), keys, torch.nan)
    if cache.dtype == FP8:
        keys = static_codes(keys, keys.new_tensor(scales.keys, dtype=torch.float32)).view(torch.uint8)
        values = static_codes(values, values.new_tensor(scales.values, dtype=torch.float32)).view(torch.uint8)
        cache = cache.view(torch.uint8)
    slots = cache.view(2, -1, heads, width)
    slots[0].index_copy_(0, slot_mapping, keys)
    slots[1].index_copy_(0, slot_mapping, values)


def all_below(x: torch.Tensor, limit: float) -> bool:
    """Whether every |x| < limit; NaN is not. Any shape and float dtype."""
    return not x.numel() or bool(x.abs().max() < limit)
