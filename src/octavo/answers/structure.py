"""What the grammar of an answer is made of: thoughts, then calls that are enforced, or the form that a client asks for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from octavo.answers.parsers import Start, Think
from octavo.answers.parsers.call_form import CallForm
from octavo.answers.parsers.reasoning import CLOSE, OPEN
from octavo.answers.tool import Tool
from octavo.structured_outputs import GrammarKind, Origin, StructuredOutputsParams

Format = dict[str, Any]
"""A part of a structural tag, in xgrammar's words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part of a structural tag, and what it was made of."""

    format: Format
    origins: tuple[Origin, ...] = ()
    """Places as if the part were the whole."""


MAX_WHITESPACE = 24
"""Characters of it between two tokens of JSON: without a bound, some models write nothing else."""
_ANY_TEXT: Format = {"type": "any_text"}
ANY_TEXT = Part(_ANY_TEXT)
"""Whatever the model says."""
_GAP = Part({"type": "regex", "pattern": "[ \\n]{0,4}"})
"""What models write between the end of their thoughts and what follows."""


def calls(form: type[CallForm], tools: Iterable[Tool], *, only_one: bool) -> Part:
    """At least one call of any of the tools, as `form` spells it."""
    text = form.text
    assert text is not None
    tags, origins = [], []
    for number, tool in enumerate(tools):
        begin = text.begin.replace("NAME", tool.name)
        schema = _json({"type": "object", **tool.parameters}, text.style)
        tags.append({"type": "tag", "begin": begin, "content": schema, "end": text.end})
        origins.append(Origin(f"#/tags/{number}/content/json_schema", "tools", tool.place, dotted=True))
    separated = {"separator": text.separator, "at_least_one": True, "stop_after_first": only_one}
    return Part({"type": "tags_with_separator", "tags": tags, **separated}, tuple(origins))


def form_of(asked: StructuredOutputsParams) -> Part:
    """The form that a client asks for, as a part."""
    source = asked.source()
    match source.kind:
        case GrammarKind.JSON_SCHEMA:
            part = _json(json.loads(source.text), most_whitespace=MAX_WHITESPACE if source.any_whitespace else 0)
            moved = {"#/json_schema": "#"}
        case GrammarKind.REGEX:
            part, moved = {"type": "regex", "pattern": source.text}, {}
        case GrammarKind.EBNF:
            part, moved = {"type": "grammar", "grammar": source.text}, {}
        case GrammarKind.LARK:
            part, moved = {"type": "grammar", "grammar": source.text, "syntax": "lark"}, {}
        case GrammarKind.STRUCTURAL_TAG:
            part, moved = _tag_format(json.loads(source.text))
    begun = f"{asked.refusal}at "
    return Part(part, tuple(Origin(here, asked.asked_as, begun + there) for here, there in moved.items()))


def either(*parts: Part) -> Part:
    """Any one of the parts."""
    return _joined("or", parts)


def after_thoughts(reasoning: type[Think] | None, start: Start, rest: Part, most_tokens: int | None = None) -> Part:
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
    without = Part({**_ANY_TEXT, "excludes": [OPEN]}) if free else rest
    return either(_sequence(_thoughts(OPEN, most_tokens), rest), without)


def as_structure(part: Part, asked_as: str) -> StructuredOutputsParams:
    """The whole of an answer; `asked_as` is the field that errors name."""
    return StructuredOutputsParams(
        structural_tag={"type": "structural_tag", "format": part.format},
        asked_as=asked_as,
        origins=tuple(origin.within("/format") for origin in part.origins),
    )


def _thoughts(opening: str, most_tokens: int | None) -> Part:
    bound = {} if most_tokens is None else {"max_tokens": most_tokens}
    return Part({"type": "tag", "begin": opening, "content": {**_ANY_TEXT, **bound}, "end": CLOSE})


def _sequence(*parts: Part) -> Part:
    return _joined("sequence", parts)


def _joined(kind: str, parts: Iterable[Part]) -> Part:
    """A part of which `parts` are the elements."""
    elements, origins = [], []
    for number, part in enumerate(parts):
        elements.append(part.format)
        origins += [origin.within(f"/elements/{number}") for origin in part.origins]
    return Part({"type": kind, "elements": elements}, tuple(origins))


def _json(schema: Mapping[str, Any], style: str = "json", most_whitespace: int = MAX_WHITESPACE) -> Format:
    return {"type": "json_schema", "json_schema": schema, "style": style, "max_whitespace_cnt": most_whitespace}


def _tag_format(told: Mapping[str, Any]) -> tuple[Format, dict[str, str]]:
    """The part that a structural tag holds, also one in its older form, and where each place of the part stood."""
    if "structures" not in told:
        return told["format"], {"#": "#/format"}
    tags = [
        {"type": "tag", "begin": each["begin"], "content": _json(each["schema"]), "end": each["end"]}
        for each in told["structures"]
    ]
    moved = {f"#/tags/{number}/content/json_schema": f"#/structures/{number}/schema" for number in range(len(tags))}
    return {"type": "triggered_tags", "triggers": told.get("triggers", []), "tags": tags}, moved
