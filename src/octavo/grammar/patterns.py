"""Patterns within schemas, which xgrammar refuses without their place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from octavo.structured_outputs import GrammarKind, GrammarSource, escaped


def wrong_pattern(source: GrammarSource) -> str | None:
    """JSON pointer of a pattern within `source` that is none to xgrammar; None if there is none."""
    import xgrammar

    if source.kind not in (GrammarKind.JSON_SCHEMA, GrammarKind.STRUCTURAL_TAG):
        return None
    for place, pattern in _patterns_within(json.loads(source.text)):
        try:
            xgrammar.Grammar.from_regex(pattern)
        except Exception:
            return place
    return None


def _patterns_within(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the patterns of strings and of names, each behind its JSON pointer."""
    left = [(value, "#")]
    while left:
        each, where = left.pop()
        if isinstance(each, list):
            left += [(inner, f"{where}/{index}") for index, inner in enumerate(each)]
        elif isinstance(each, dict):
            if isinstance(each.get("pattern"), str):
                yield f"{where}/pattern", each["pattern"]
            if isinstance(named := each.get("patternProperties"), dict):
                yield from ((f"{where}/patternProperties/{escaped(pattern)}", pattern) for pattern in named)
            left += [(inner, f"{where}/{escaped(name)}") for name, inner in each.items()]
