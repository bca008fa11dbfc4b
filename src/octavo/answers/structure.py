"""What the grammar of an answer is made of: thoughts, then calls that are enforced, or the form that a client asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from octavo.answers.parsers import Start, Think
from octavo.answers.parsers.call_form import CallForm
from octavo.answers.parsers.reasoning import CLOSE, OPEN
from octavo.answers.tool import Tool
from octavo.structured_outputs import GrammarKind, StructuredOutputsParams

Format = dict[str, Any]
"""A part of a structural tag, in xgrammar's words."""

MAX_WHITESPACE = 24
"""Characters of it between two tokens of JSON: without a bound, some models write nothing else."""
ANY_TEXT: Format = {"type": "any_text"}
_GAP: Format = {"type": "regex", "pattern": "[ \\n]{0,4}"}
"""What models write between the end of their thoughts and what follows."""


def calls(form: type[CallForm], tools: Iterable[Tool], *, only_one: bool) -> Format:
    """At least one call of any of the tools, as `form` spells it."""
    text = form.text
    assert text is not None
    tags = [
        {
            "type": "tag",
            "begin": text.begin.replace("NAME", tool.name),
            "content": _json({"type": "object", **tool.parameters}, text.style),
            "end": text.end,
        }
        for tool in tools
    ]
    separated = {"separator": text.separator, "at_least_one": True, "stop_after_first": only_one}
    return {"type": "tags_with_separator", "tags": tags, **separated}


def form_of(asked: StructuredOutputsParams) -> Format:
    """The form that a client asks for, as a part."""
    source = asked.source()
    match source.kind:
        case GrammarKind.JSON_SCHEMA:
            return _json(json.loads(source.text), most_whitespace=MAX_WHITESPACE if source.any_whitespace else 0)
        case GrammarKind.REGEX:
            return {"type": "regex", "pattern": source.text}
        case GrammarKind.EBNF:
            return {"type": "grammar", "grammar": source.text}
        case GrammarKind.LARK:
            return {"type": "grammar", "grammar": source.text, "syntax": "lark"}
        case GrammarKind.STRUCTURAL_TAG:
            return _tag_format(json.loads(source.text))


def either(*parts: Format) -> Format:
    """Any one of the parts."""
    return {"type": "or", "elements": list(parts)}


def after_thoughts(reasoning: type[Think] | None, start: Start, rest: Format, most_tokens: int | None = None) -> Format:
    """`rest` after the thoughts that an answer may begin with.

    Args:
        reasoning: how the model marks them; None: there are none.
        start: what the prompt says of them.
        most_tokens: of the thoughts; their closing mark is enforced behind so many.
    """
    if reasoning is None or start is Start.CLOSED:
        return rest
    free = rest is ANY_TEXT
    rest = rest if free else _sequence(_GAP, rest)
    if start is Start.OPENED or reasoning.always:
        return _sequence(_thoughts("", most_tokens), rest)
    # Text that is free could open thoughts too, which nothing would bound then.
    without = {**ANY_TEXT, "excludes": [OPEN]} if free else rest
    return either(_sequence(_thoughts(OPEN, most_tokens), rest), without)


def as_structure(part: Format, asked_as: str) -> StructuredOutputsParams:
    """The whole of an answer; `asked_as` is the field that errors name."""
    return StructuredOutputsParams(structural_tag={"type": "structural_tag", "format": part}, asked_as=asked_as)


def _thoughts(opening: str, most_tokens: int | None) -> Format:
    bound = {} if most_tokens is None else {"max_tokens": most_tokens}
    return {"type": "tag", "begin": opening, "content": {**ANY_TEXT, **bound}, "end": CLOSE}


def _sequence(*parts: Format) -> Format:
    return {"type": "sequence", "elements": list(parts)}


def _json(schema: Mapping[str, Any], style: str = "json", most_whitespace: int = MAX_WHITESPACE) -> Format:
    return {"type": "json_schema", "json_schema": schema, "style": style, "max_whitespace_cnt": most_whitespace}


def _tag_format(told: Mapping[str, Any]) -> Format:
    """The part that a structural tag holds, also one in its older form."""
    if "structures" not in told:
        part: Format = told["format"]
        return part
    tags = [
        {"type": "tag", "begin": each["begin"], "content": _json(each["schema"]), "end": each["end"]}
        for each in told["structures"]
    ]
    return {"type": "triggered_tags", "triggers": told.get("triggers", []), "tags": tags}
