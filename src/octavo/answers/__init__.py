"""Prompts and the answers to them: what the server and the Python API both make of an engine. No torch."""

from octavo.answers.answer import Answer, Part
from octavo.answers.answer_set import AnswerSet
from octavo.answers.prompt import Prompt

__all__ = ["Answer", "AnswerSet", "Part", "Prompt"]
