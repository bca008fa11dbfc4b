"""The tensors one forward pass takes: no global context, everything a layer needs is an argument."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch

from octavo.ops.delta_net import StateUse
from octavo.ops.upload import upload


@dataclasses.dataclass(frozen=True)
class DeviceTokens:
    """Tokens that the step before has sampled and only the device knows yet."""

    places: torch.Tensor
    """(2, P) int64 on the host: their rows in the batch, ascending, and the slots that they were sampled for."""
    sampled: torch.Tensor
    """(slots,) int64 on the model's device: the last token of each."""

    def write_to(self, token_ids: torch.Tensor) -> None:
        """Write the tokens to their rows of `token_ids` (T,) int64 on the model's device."""
        rows, slots = upload(self.places, token_ids.device)
        token_ids.index_copy_(0, rows, self.sampled.index_select(0, slots))


@dataclasses.dataclass(frozen=True)
class ForwardBatch:
    """One step as tensors, on the model's device or still on the host; nothing here is written by the model.

    T tokens in S chunks (one chunk per request), W = ceil(max_model_len / block_size) block-table columns.
    """

    token_ids: torch.Tensor
    """(T,) int64; what is in the rows of `device_tokens` has no meaning."""
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
    states: tuple[StateUse, ...] = ()
    """(S): what each chunk does with the states of recurrent layers; not read by attention."""
    rows_in_use: torch.Tensor | None = None
    """(1,) int32: how many first rows are in use, where only the device knows; None: all T. Other rows have slot -1, and
    their hidden states have no meaning."""
    output_counts: tuple[int, ...] | None = None
    """(S) host integers: how many of the last rows of chunk s have hidden states that are wanted; None: all.

    Keys and values are needed of every row, but of the last layer nothing else is.
    """
    device_tokens: DeviceTokens | None = None
    """Tokens that are not yet in `token_ids`; only in a batch on the host."""

    def to(self, device: torch.device) -> ForwardBatch:
        """The same with its tensors on `device`, the device's own tokens among the others."""
        token_ids = upload(self.token_ids, device)
        if self.device_tokens is not None:
            self.device_tokens.write_to(token_ids)
        return dataclasses.replace(
            self,
            token_ids=token_ids,
            positions=upload(self.positions, device),
            slot_mapping=upload(self.slot_mapping, device),
            block_tables=upload(self.block_tables, device),
            device_tokens=None,
        )

    @property
    def output_starts(self) -> tuple[int, ...]:
        """(S + 1) host integers: the wanted rows of chunk s are output_starts[s] .. output_starts[s + 1] - 1 of all wanted."""
        if self.output_counts is None:
            return self.chunk_starts
        return tuple(itertools.accumulate(self.output_counts, initial=0))

    def output_rows(self) -> torch.Tensor | None:
        """(R,) int64 on the model's device: the wanted rows; None if they are all."""
        if self.output_counts is None or self.output_starts[-1] == self.chunk_starts[-1]:
            return None
        ends = zip(self.chunk_starts[1:], self.output_counts, strict=True)
        rows = np.concatenate([np.arange(end - count, end) for end, count in ends])
        return upload(torch.from_numpy(rows), self.token_ids.device)
