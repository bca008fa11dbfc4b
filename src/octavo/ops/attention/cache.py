"""Writing to the paged KV cache, on any device."""

from __future__ import annotations

import torch

from octavo.ops.contract import Dims


def write_kv(keys: torch.Tensor, values: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor) -> None:
    """cache[:, slot] = (key, value); a key whose value is not finite becomes NaN.

    So a query that sees a bad value scores NaN, and a query that does not see it can read the value as a number.

    Args:
        keys, values: (T, G, D) bf16; read.
        cache: (2, blocks, block size, G, D) bf16; written at `slot_mapping`.
        slot_mapping: (T,) int64, distinct.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("cache", cache, (2, "blocks", "block size", "G", "D"), dtype=torch.bfloat16)
    heads, width = cache.shape[3:]
    dims.check("keys", keys, ("T", "G", "D"), dtype=torch.bfloat16)
    dims.check("values", values, ("T", "G", "D"), dtype=torch.bfloat16)
    dims.check("slot_mapping", slot_mapping, ("T",), dtype=torch.int64)
    # On a device the answer would have to be waited for.
    if values.is_cuda or not all_below(values, torch.inf):
        keys = torch.where(values.isfinite().all(-1, keepdim=True), keys, torch.nan)
    slots = cache.view(2, -1, heads, width)
    slots[0].index_copy_(0, slot_mapping, keys)
    slots[1].index_copy_(0, slot_mapping, values)


def all_below(x: torch.Tensor, limit: float) -> bool:
    """Whether every |x| < limit; NaN is not. Any shape and float dtype."""
    return not x.numel() or bool(x.abs().max() < limit)
