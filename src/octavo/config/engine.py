"""The one frozen configuration the engine runs by; resolved from `Settings` once the worker is ready."""

from __future__ import annotations

import dataclasses

from octavo.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Limits and sizes of the scheduler.

    Raises:
        ConfigError: sizes that cannot work together.
    """

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    """Most tokens of a request, prompt and answer together."""
    max_num_batched_tokens: int = 8192
    """The token budget of a step."""
    max_num_seqs: int = 256
    """Most requests running at once; the number of slots."""
    block_size: int = 16
    """Tokens per KV block."""
    num_blocks: int
    """KV blocks in the pool, ids 0 .. num_blocks - 1."""
    prefix_caching: bool = True
    num_snapshots: int | None = None
    """Recurrent states kept behind cached prefixes, without which none can be gone on from; None: the model has no such states."""
    snapshot_spacing: int = 1024
    """Tokens between two snapshots of a request, besides the one at its prompt's end."""
    long_prefill_token_threshold: int = 0
    """Most prompt tokens of one request per step; 0: no bound but the budget."""
    priorities: bool = False
    """Requests may have a priority."""
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    max_logprobs: int = 20
    seed: int = 0
    """Base of the seeds drawn for requests that bring none."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "max_model_len",
            "max_num_batched_tokens",
            "max_num_seqs",
            "block_size",
            "num_blocks",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")

    @property
    def pool_tokens(self) -> int:
        """Tokens the KV pool holds."""
        return self.num_blocks * self.block_size

    @property
    def max_request_tokens(self) -> int:
        """Most tokens of one request that model and pool both allow: the one limit everything reads."""
        return min(self.max_model_len, self.pool_tokens)
