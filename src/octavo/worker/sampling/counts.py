"""How often each token occurs in a request: what the penalties need, kept only for requests that have one."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """Distinct tokens of prompt and answer, and how often the answer has each."""

    def __init__(self, prompt: Iterable[int], made: Iterable[int]) -> None:
        self._place: dict[int, int] = {}
        self._ids = array("q")
        self._made = array("q")
        for token_id in prompt:
            self._find(token_id)
        for token_id in made:
            self.add_made(token_id)

    def add_made(self, token_id: int) -> None:
        """Count one more `token_id` in the answer."""
        self._made[self._find(token_id)] += 1

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """(U,) distinct ids, in order of first occurrence; a copy."""
        return np.array(self._ids, dtype=np.int64)

    @property
    def made(self) -> npt.NDArray[np.int64]:
        """(U,) occurrences of each of `ids` in the answer; 0 if only the prompt has it; a copy."""
        return np.array(self._made, dtype=np.int64)

    def _find(self, token_id: int) -> int:
        place = self._place.get(token_id)
        if place is None:
            place = self._place[token_id] = len(self._ids)
            self._ids.append(token_id)
            self._made.append(0)
        return place
