"""The cache of all layers: paged keys and values, and states of running requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo.config.facts import CacheLayout, PagedKv, RecurrentState
from octavo.config.quantization import KvFormat
from octavo.ops.activations import FP8
from octavo.ops.zeros import zeros

DTYPES = {KvFormat.BF16: torch.bfloat16, KvFormat.FP8: FP8}


class KVCache:
    """Keys, values and states, layer by layer as the family describes them.

    `layers[l]` of an attention layer is (2, num_blocks, block_size, num_kv_heads, head_dim), bf16 or fp8; [0] keys,
    [1] values; written by attention at `slot_mapping`, read through `block_tables`. Of a recurrent layer it is (num_states, numbers)
    float32, a row for each running request. A model has an attention layer at least.
    """

    def __init__(self, layers: list[torch.Tensor]) -> None:
        self.layers = layers

    @property
    def num_blocks(self) -> int:
        """Blocks of each layer."""
        return int(self._paged.shape[1])

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return int(self._paged.shape[2])

    @property
    def num_states(self) -> int:
        """States of each recurrent layer; 0 if there is no such layer."""
        return next((len(layer) for layer in self.layers if layer.ndim == 2), 0)

    @property
    def device(self) -> torch.device:
        """Where the cache lies."""
        return self.layers[0].device

    @property
    def num_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    def of(self, numbers: Sequence[int]) -> KVCache:
        """The cache of those layers alone."""
        return KVCache([self.layers[number] for number in numbers])

    @classmethod
    def allocate(
        cls, layout: CacheLayout, *, num_blocks: int, num_states: int = 0, block_size: int, device: torch.device
    ) -> KVCache:
        """Zeroed cache; zero is finite, so a masked read of a never-written row cannot make NaN.

        Args:
            num_states: how many requests may run at once; 0 serves models of attention alone.
        """

        def layer(kind: PagedKv | RecurrentState) -> torch.Tensor:
            if isinstance(kind, RecurrentState):
                return zeros((num_states, kind.numbers), torch.float32, device)
            return zeros((2, num_blocks, block_size, kind.num_kv_heads, kind.head_dim), DTYPES[kind.format], device)

        return cls([layer(kind) for kind in layout])

    @property
    def _paged(self) -> torch.Tensor:
        return next(layer for layer in self.layers if layer.ndim == 5)
