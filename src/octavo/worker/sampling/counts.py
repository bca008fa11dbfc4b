"""How often each token occurs in a request: what the penalties need, on the device, where the next token is known first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from octavo.ops.adjust import IN_PROMPT
from octavo.ops.upload import upload
from octavo.ops.zeros import zeros


def counts_bytes_per_request(vocab_size: int) -> int:
    """Bytes of a row of `TokenCounts`."""
    return 4 * vocab_size


class TokenCounts:
    """A row for each slot, of which those are kept whose requests have a penalty."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.table = zeros((num_slots, vocab_size), torch.int32, device)
        """(slots, V): see `adjust`."""

    def begin(self, slot: int, prompt: Sequence[int], made: Sequence[int]) -> None:
        """Count the tokens of a request that gets `slot`; ids are below V."""
        counts: dict[int, int] = dict.fromkeys(prompt, IN_PROMPT)
        for token_id in made:
            counts[token_id] = counts.get(token_id, 0) + 1
        pairs = np.array([list(counts.keys()), list(counts.values())], dtype=np.int64)
        ids, values = upload(torch.from_numpy(pairs), self.table.device)
        self.table[slot].zero_().index_copy_(0, ids, values.int())

    def add(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Count one more token for each of `slots` (R,) int64, no two equal: `token_ids` (R,) int64 in 0..V-1."""
        self.table[slots, token_ids] += 1
