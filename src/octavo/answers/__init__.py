"""Prompts and the answers to them: what the server and the Python API both make of an engine. No torch."""

from octavo.answers.answer import Answer, Part
from octavo.answers.answer_set import AnswerSet
from octavo.answers.forms import AnswerForms
from octavo.answers.prompt import Prompt
from octavo.answers.reading import Reading
from octavo.answers.tool import Tool

__all__ = ["Answer", "AnswerForms", "AnswerSet", "Part", "Prompt", "Reading", "Tool"]
