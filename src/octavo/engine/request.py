"""A request: the prompt and the sampling settings that a caller gives the engine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence as Items

from octavo.grammar import Grammar
from octavo.sampling import SamplingParams


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One prompt that wants one answer (n answers are n requests)."""

    request_id: str
    """Unique among the requests alive; the key of the seed if `sampling.seed` is None."""
    prompt_token_ids: Items[int]
    sampling: SamplingParams
    arrival_s: float = dataclasses.field(default_factory=time.monotonic)
    """When it arrived, by the engine's clock (`time.monotonic` unless simulated)."""
    grammar: Grammar | None = None
    """What the answer must follow: `sampling.structured_outputs`, compiled."""
    cache_salt: str | None = None
    """Cached prefixes are shared with requests of the same salt only; None: with all that have none."""
    priority: int = 0
    """Lower ones are served first, where `--scheduling-policy` is priority; first come, first served among equals."""
