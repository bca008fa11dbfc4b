"""Places of requests in their grammars, alone and many side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from octavo.grammar.vocabularies import Vocabularies

GROUP = 64
"""Requests for which masks are found side by side."""
MOST_THREADS = 8
"""Of the process that follows grammars, to fill masks and to compile one: half of the processor's cores at most."""


class Following:
    """One request's place in its grammar."""

    def __init__(self, vocabularies: Vocabularies, compiled: Any) -> None:
        import xgrammar

        self._vocabularies = vocabularies
        self._grammar = compiled.grammar
        self.matcher = xgrammar.GrammarMatcher(compiled)
        self.last: int | None = None
        """The token that was accepted last."""

    def accept(self, token_id: int) -> bool:
        """Go on by one token; False if it may not come."""
        self.last = token_id
        return bool(self.matcher.accept_token(token_id))

    def replay(self, tokens: Sequence[int]) -> bool:
        """Go on by tokens that were made before; False if they may not come.

        A part that may have so many tokens is ended by xgrammar as it makes the mask behind them, so where there is one, all masks are
        made again: `GrammarMatcher::Impl::budget_enforce_pending_` in its source.
        """
        bounded = bool(tokens) and "max_tokens" in str(self._grammar)
        for token_id in tokens:
            if bounded:
                self.bits()
            if not self.accept(token_id):
                return False
        return True

    def bits(self) -> bytes:
        """As one of `Allowed.bits`."""
        import numpy as np

        if self.matcher.is_terminated():
            return bytes(-(-self._vocabularies.size // 8))
        row = np.empty((1, self._vocabularies.words), dtype=np.int32)
        self.matcher.fill_next_token_bitmask(row)
        return self._vocabularies.as_bytes(row, [self.last])[0]


class Batch:
    """Many places in grammars, whose bits are found side by side, those of one group while others are made of the group before."""

    def __init__(self, vocabularies: Vocabularies) -> None:
        import numpy as np
        import xgrammar

        self._vocabularies = vocabularies
        self._matcher = xgrammar.BatchGrammarMatcher(max_threads=following_threads())
        self._thread = ThreadPoolExecutor(1)
        self._rows = [np.empty((GROUP, vocabularies.words), dtype=np.int32) for _ in range(2)]
        """Of the group that is filled and of the one before; kept, as fresh memory costs more than to fill it."""

    def begin(self, places: Sequence[Following]) -> Callable[[], list[bytes | None]]:
        """Begin with a group, of at most `GROUP` places; gives what waits for the bits of each as one of `Allowed.bits`, None where it
        cannot be followed. That is to be called before the next but one begins."""
        self._rows.reverse()
        going = [place for place in places if not place.matcher.is_terminated()]
        rows = self._rows[0][: len(going)]
        filled = self._thread.submit(self._fill, [place.matcher for place in going], rows)

        def bits() -> list[bytes | None]:
            try:
                filled.result()
            except Exception:  # it does not say of whom
                return [bits_of(place) for place in places]
            told = self._vocabularies.as_bytes(rows, [place.last for place in going])
            made = dict(zip(map(id, going), told, strict=True))
            nothing = bytes(-(-self._vocabularies.size // 8))
            return [made.get(id(place), nothing) for place in places]

        return bits

    def _fill(self, matchers: list[Any], rows: Any) -> None:
        if matchers:
            self._matcher.batch_fill_next_token_bitmask(matchers, rows)


def bits_of(place: Following) -> bytes | None:
    """Its `bits`; None where it cannot be followed."""
    try:
        return place.bits()
    except Exception:
        return None


def following_threads() -> int:
    """How many the process that follows grammars has for work that it shares out."""
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // 2))
