"""What attention is on every device: bound to its shape once, planned once per step, called by every layer."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.ops.attention.cache import UNSCALED, KvScales
from octavo.ops.prepare_qkv import HeadNorms, WidthNorms
from octavo.ops.rotary import RotaryTable


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """Grouped-query attention: `heads` query heads of `head_dim` numbers, of which heads / kv_heads share keys and values."""

    heads: int
    kv_heads: int
    head_dim: int


class AttentionPlan:
    """What the layers of one step share about who attends to what: made and read by the same attention."""


@dataclasses.dataclass(frozen=True)
class AttentionRows:
    """What attention must know of a step's T rows, besides their hidden states."""

    slot_mapping: torch.Tensor
    """(T,) int64: where each row's keys and values go."""
    angles: RotaryTable
    """(T, R / 2): the table at each row's position, of the R <= D numbers of a head that are turned."""
    plan: AttentionPlan
    """Of the rows that attend."""
    query_rows: torch.Tensor | None = None
    """(R,) int64: the rows that attend; None: all."""

    def select_queries(self, x: torch.Tensor) -> torch.Tensor:
        """The rows of x (T, ...) that attend: (R, ...)."""
        return x if self.query_rows is None else x.index_select(0, self.query_rows)


class AttentionLayer(Protocol):
    """The attention of one layer, with the norms of its queries and keys."""

    def __call__(self, qkv: torch.Tensor, rows: AttentionRows, cache: torch.Tensor) -> torch.Tensor:
        """Norm and rotate queries and keys, write keys and values to the cache, attend.

        Args:
            qkv: (T, (heads + 2 KV heads) * D) bf16: query heads, key heads, value heads; read. Of a gated layer a gate of D numbers, which
                is not read, stands behind each query head.
            rows: of this step.
            cache: (2, blocks, block size, KV heads, D) bf16 or fp8; written at `rows.slot_mapping`, read by `rows.plan`.

        Returns:
            (R, heads * D) bf16 of the R rows that attend, new.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        ...


class Attention(Protocol):
    """Attention of one shape."""

    def plan(
        self,
        block_tables: torch.Tensor,
        chunk_starts: tuple[int, ...],
        context_lens: tuple[int, ...],
        *,
        block_size: int,
    ) -> AttentionPlan:
        """Decide what each row attends to, from host numbers.

        Args:
            block_tables: (S, W) int32; -1 past a request's last block.
            chunk_starts: (S + 1) rows of those that attend; chunks are not empty.
            context_lens: (S) tokens of each request up to and including its chunk's last row.
            block_size: tokens per block.

        Returns:
            The plan, its tensors on the device of `block_tables`.
        """
        ...

    def layer(
        self, norms: HeadNorms | WidthNorms | None, scales: KvScales = UNSCALED, *, gated: bool = False
    ) -> AttentionLayer:
        """The attention of a layer; None for `norms`: queries and keys are only rotated. `scales`: of a cache in FP8. `gated`: behind each
        query head stands a gate; not with `WidthNorms`."""
        ...
