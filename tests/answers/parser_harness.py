"""Parsers under test: a text in pieces, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from octavo.answers.parsers import (
    CALL_FORMS,
    REASONING,
    AnswerParser,
    Content,
    Event,
    Reasoning,
    Start,
    ToolCallArguments,
    ToolCallParser,
    ToolCallStart,
    joined,
)
from octavo.answers.tool import Tool, ToolSet

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "spot": {"type": "object"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "names": {"type": ["array", "string"]},
        "ratio": {"type": "number"},
    },
}
TOOLS = ToolSet([Tool("weather", SCHEMA), Tool("now", {})])


def parser(form: str | None, reasoning: str | None = None, start: Start = Start.UNSAID) -> AnswerParser:
    return AnswerParser(
        REASONING[reasoning](start, calls_end_it=form is not None) if reasoning is not None else None,
        ToolCallParser(CALL_FORMS[form], TOOLS) if form is not None else None,
    )


def events(parts: Iterable[str], reader: AnswerParser) -> list[Event]:
    """What `reader` makes of the parts, neighbours joined."""
    found: list[Event] = []
    for part in parts:
        found += reader.feed(part)
    return joined(found + reader.finish())


def content(found: Sequence[Event]) -> str:
    return "".join(event.text for event in found if isinstance(event, Content))


def thoughts(found: Sequence[Event]) -> str:
    return "".join(event.text for event in found if isinstance(event, Reasoning))


def calls(found: Sequence[Event]) -> list[tuple[str, str]]:
    """Names and arguments; the numbers must count from 0."""
    made: list[tuple[str, str]] = []
    for event in found:
        if isinstance(event, ToolCallStart):
            assert event.index == len(made)
            made.append((event.name, ""))
        elif isinstance(event, ToolCallArguments):
            assert event.index == len(made) - 1
            made[-1] = (made[-1][0], made[-1][1] + event.text)
    return made


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    """`text` in pieces that end at `cuts`."""
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
