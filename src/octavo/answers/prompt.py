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
    cache_salt: str | None = None
    """Prompts share what the prefix cache holds of them with those of the same salt alone; None: with all that have none."""
    priority: int = 0
    """Lower ones are answered first."""


def cut(ids: Sequence[int], most: int, *, right: bool = False) -> Sequence[int]:
    """The last `most` (at least one) of `ids`, or with `right` the first ones."""
    return ids[:most] if right else ids[-most:]
