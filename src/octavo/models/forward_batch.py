"""The tensors one forward pass takes: no global context, everything a layer needs is an argument."""

from __future__ import annotations

import dataclasses
import itertools
import math
import mmap
from collections.abc import Callable

import numpy as np
import torch

from octavo.ops.upload import upload


@dataclasses.dataclass(frozen=True)
class LateTokens:
    """Tokens that a step before has sampled and the host does not know yet."""

    rows: torch.Tensor
    """(P,) int64 on the host: their rows in the batch, ascending."""
    token_ids: torch.Tensor
    """(P,) int64 on the model's device."""

    def put_in(self, token_ids: torch.Tensor) -> None:
        """Write them to their rows of `token_ids` (T,) int64 on the model's device."""
        token_ids.index_copy_(0, upload(self.rows, token_ids.device), self.token_ids)


@dataclasses.dataclass(frozen=True)
class ForwardBatch:
    """One step as tensors, on the model's device or still on the host; nothing here is written by the model.

    T tokens in S chunks (one chunk per request), W = ceil(max_model_len / block_size) block-table columns.
    """

    token_ids: torch.Tensor
    """(T,) int64; what is in the rows of `late` has no meaning."""
    positions: torch.Tensor
    """(T,) int64, position of each token in its request."""
    slot_mapping: torch.Tensor
    """(T,) int64, block id * block_size + offset: where each token's keys and values go."""
    block_tables: torch.Tensor
    """(S, W) int32; columns past the request's last block hold -1 and are never followed."""
    chunk_starts: tuple[int, ...]
    """(S + 1) host integers: rows chunk_starts[s] .. chunk_starts[s + 1] - 1 belong to chunk s."""
    context_lens: tuple[int, ...]
    """(S) host integers: tokens of request s up to and including its last row here."""
    rows_in_use: torch.Tensor | None = None
    """(1,) int32: how many first rows are in use, where only the device knows; None: all T. Other rows have slot -1, and
    their hidden states have no meaning."""
    tails: tuple[int, ...] | None = None
    """(S) host integers: how many of the last rows of chunk s have hidden states that are wanted; None: all.

    Keys and values are needed of every row, but of the last layer nothing else is.
    """
    late: LateTokens | None = None
    """Tokens that are not yet in `token_ids`; only in a batch on the host."""
    written: Callable[[], None] | None = None
    """Called in every layer between the writing of keys and values and the reading: returns when all that is to be read
    and is not of this batch has been written too."""

    def to(self, device: torch.device) -> ForwardBatch:
        """The same with its tensors on `device`, the late tokens among the others."""
        token_ids = upload(self.token_ids, device)
        if self.late is not None:
            self.late.put_in(token_ids)
        return dataclasses.replace(
            self,
            token_ids=token_ids,
            positions=upload(self.positions, device),
            slot_mapping=upload(self.slot_mapping, device),
            block_tables=upload(self.block_tables, device),
            late=None,
        )

    @property
    def tail_starts(self) -> tuple[int, ...]:
        """(S + 1) host integers: the wanted rows of chunk s are tail_starts[s] .. tail_starts[s + 1] - 1 of all wanted."""
        return self.chunk_starts if self.tails is None else tuple(itertools.accumulate(self.tails, initial=0))

    def tail_rows(self) -> torch.Tensor | None:
        """(R,) int64 on the model's device: the wanted rows; None if they are all."""
        if self.tails is None or self.tail_starts[-1] == self.chunk_starts[-1]:
            return None
        ends = zip(self.chunk_starts[1:], self.tails, strict=True)
        rows = np.concatenate([np.arange(end - tail, end) for end, tail in ends])
        return upload(torch.from_numpy(rows), self.token_ids.device)


class KVCache:
    """Paged keys and values of all layers.

    `layers[l]` is (2, num_blocks, block_size, num_kv_heads, head_dim) bf16; [0] keys, [1] values; written by
    attention at `slot_mapping`, read through `block_tables`.
    """

    def __init__(self, layers: list[torch.Tensor]) -> None:
        self.layers = layers

    @property
    def block_size(self) -> int:
        return int(self.layers[0].shape[2])

    @classmethod
    def allocate(
        cls,
        *,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        device: torch.device,
    ) -> KVCache:
        """Zeroed cache; zero is finite, so a masked read of a never-written row cannot make NaN."""
        shape = (2, num_blocks, block_size, num_kv_heads, head_dim)
        return cls([_zeros(shape, device) for _ in range(num_layers)])


def _zeros(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """bf16 zeros; on a CPU the system gives each page when it is first touched, which a cache of GiB may never be."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.bfloat16, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * torch.bfloat16.itemsize, flags=mmap.MAP_PRIVATE)
    return torch.frombuffer(memory, dtype=torch.bfloat16).view(shape)
