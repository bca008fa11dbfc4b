"""Splits answers into content, reasoning and calls of tools: one file per form in which models write these."""

from octavo.answers.parsers.answer_parser import AnswerParser
from octavo.answers.parsers.enforced_calls import EnforcedCallParser
from octavo.answers.parsers.events import Content, Event, Reasoning, ToolCallArguments, ToolCallStart, joined
from octavo.answers.parsers.reasoning import Start, Think
from octavo.answers.parsers.registry import CALL_FORMS, REASONING, enforced_form, form_for, reasoning_for
from octavo.answers.parsers.tool_calls import ToolCallParser

__all__ = [
    "CALL_FORMS",
    "REASONING",
    "AnswerParser",
    "Content",
    "EnforcedCallParser",
    "Event",
    "Reasoning",
    "Start",
    "Think",
    "ToolCallArguments",
    "ToolCallParser",
    "ToolCallStart",
    "enforced_form",
    "form_for",
    "joined",
    "reasoning_for",
]
