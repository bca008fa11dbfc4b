"""What the rest of the house must know of a model, whatever its family."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from octavo.config.quantization import KvFormat, WeightFormat


@dataclasses.dataclass(frozen=True)
class PagedKv:
    """The cache of one attention layer: keys and values of every token, in blocks."""

    num_kv_heads: int
    head_dim: int
    format: KvFormat = KvFormat.BF16

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.format.num_bytes * self.num_kv_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class RecurrentState:
    """The cache of one recurrent layer: as many numbers for each running request, whatever its length; float32."""

    numbers: int

    @property
    def bytes_per_request(self) -> int:
        """Bytes of one request's state."""
        return 4 * self.numbers


CacheLayout = tuple[PagedKv | RecurrentState, ...]
"""The cache of each layer, as the family describes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model as the server, the engine and the memory of the worker see it."""

    architecture: str
    """As `config.json` names it, such as `Qwen3MoeForCausalLM`."""
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_position_embeddings: int
    """Most tokens of a request."""
    cache: CacheLayout
    weight_format: WeightFormat
    identity: Mapping[str, Any]
    """All numbers of the family's config that can change a bit of an answer, for the server's fingerprint."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return sum(layer.bytes_per_token for layer in self.cache if isinstance(layer, PagedKv))

    @property
    def state_bytes_per_request(self) -> int:
        """Bytes of the states of one running request over all layers; 0 for a model of attention alone."""
        return sum(layer.bytes_per_request for layer in self.cache if isinstance(layer, RecurrentState))

    def cache_bytes(self, *, tokens: int, requests: int) -> int:
        """Bytes of the keys and values of `tokens` and of the states of `requests`."""
        return tokens * self.kv_bytes_per_token + requests * self.state_bytes_per_request
