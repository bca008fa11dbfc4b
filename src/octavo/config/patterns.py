"""Regular expressions out of a model's config.json: matched by `re`, whose time is bounded by what is taken."""

from __future__ import annotations

import math
import re
from re import _constants as ops
from re import _parser as parser
from typing import Any

LONGEST = 64
"""Characters of a name, about: more often nothing is repeated."""
MOST_CHOICES = 22.0
"""Most bits of choices on the way through a pattern: three repeats without end and some alternatives."""

REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """`pattern`, compiled.

    Raises:
        ValueError: it is none, or one that may take exponential time: `re` tries every way through it before it gives up.
    """
    try:
        choices = _choices(parser.parse(pattern))
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    if choices > MOST_CHOICES:
        raise ValueError("it may take without end, as repeats within or behind each other do; write names instead")
    return compiled


def _choices(parsed: Any) -> float:
    """The binary logarithm of the ways through a parsed pattern, at most."""
    return sum((_choices_of(op, argument) for op, argument in parsed), 0.0)


def _choices_of(op: Any, argument: Any) -> float:
    if op in REPEATS:
        low, high, inner = argument
        high = min(int(high), LONGEST)
        lengths = math.log2(max(1, high - int(low) + 1))
        return high * _choices(inner) + lengths
    if op is ops.BRANCH:
        return math.log2(len(argument[1])) + max(_choices(inner) for inner in argument[1])
    if op is ops.SUBPATTERN:
        return _choices(argument[3])
    if op is ops.ATOMIC_GROUP:
        return _choices(argument)
    if op in (ops.ASSERT, ops.ASSERT_NOT):
        return _choices(argument[1])
    if op is ops.GROUPREF_EXISTS:
        return sum(_choices(inner) for inner in argument[1:] if inner is not None)
    return 0.0
