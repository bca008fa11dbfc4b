"""The paged cache of keys and values of all layers."""

from __future__ import annotations

import math
import mmap

import torch

from octavo.config.facts import CacheLayout, PagedKv
from octavo.config.quantization import KvFormat
from octavo.ops.activations import FP8


class KVCache:
    """Paged keys and values, layer by layer as the family describes them.

    `layers[l]` is (2, num_blocks, block_size, num_kv_heads, head_dim), bf16 or fp8; [0] keys, [1] values; written
    by attention at `slot_mapping`, read through `block_tables`.
    """

    def __init__(self, layers: list[torch.Tensor]) -> None:
        self.layers = layers

    @property
    def num_blocks(self) -> int:
        """Blocks of each layer."""
        return int(self.layers[0].shape[1])

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return int(self.layers[0].shape[2])

    @property
    def device(self) -> torch.device:
        """Where the cache lies."""
        return self.layers[0].device

    @property
    def num_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    @classmethod
    def allocate(cls, layout: CacheLayout, *, num_blocks: int, block_size: int, device: torch.device) -> KVCache:
        """Zeroed cache; zero is finite, so a masked read of a never-written row cannot make NaN."""
        return cls([_zeros(layer, num_blocks, block_size, device) for layer in layout])


DTYPES = {KvFormat.BF16: torch.bfloat16, KvFormat.FP8: FP8}


def _zeros(layer: PagedKv, num_blocks: int, block_size: int, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU the system gives each page when it is first touched, which a cache of GiB may never be."""
    shape, dtype = (2, num_blocks, block_size, layer.num_kv_heads, layer.head_dim), DTYPES[layer.format]
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
