"""Looks for marks in a text that is not all there yet."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPACE = re.compile(r"\s*")


def skip_space(text: str, at: int) -> int:
    """The place of the first character from `at` on that is not white space, or the end."""
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def find_first(text: str, marks: Iterable[str], at: int = 0) -> tuple[int, str] | None:
    """The first place of one of `marks`, with the longest that stands there."""
    found = [(place, -len(mark), mark) for mark in marks if (place := text.find(mark, at)) >= 0]
    return (min(found)[0], min(found)[2]) if found else None


def partial(text: str, marks: Iterable[str]) -> int:
    """Characters at the end of `text` that may become one of `marks`."""
    return max((_partial(text, mark) for mark in marks), default=0)


def after(text: str, at: int, mark: str, *, ended: bool) -> int | None:
    """The place after `mark` if that is what follows `at`, white space aside; else `at`; None if it may still come."""
    start = skip_space(text, at)
    if text.startswith(mark, start):
        return start + len(mark)
    return None if not ended and mark.startswith(text[start:]) else at


def _partial(text: str, mark: str) -> int:
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
