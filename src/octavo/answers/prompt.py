"""The prompt of an answer: token ids, and the text that they were made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids that an answer continues."""

    index: int
    """Its place among the prompts of the call."""
    token_ids: Sequence[int]
    text: str | None
    """As it was given, or a chat template made it; None if it came as token ids."""
