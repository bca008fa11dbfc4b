"""`[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and of later models `[TOOL_CALLS]NAME[ARGS]{...}`: Mistral."""

from __future__ import annotations

import re
from typing import ClassVar

from octavo.answers.parsers.call_form import Broken, Call, CallReader, CallText, Complete, Verdict
from octavo.answers.parsers.json_call import read_calls
from octavo.answers.parsers.json_scanner import JsonScanner, as_json
from octavo.answers.parsers.marks import skip_space
from octavo.answers.tool import ToolSet

OPEN, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_HEAD = re.compile(r"\s{0,16}([\w.:/-]{1,256})(?:\[CALL_ID\]\w{1,64})?\s{0,16}(?:\[ARGS\])?\s{0,16}(?=\{)")
_HEAD_BEGINS = re.compile(r"\s{0,16}[\w.:/-]{0,256}[\[\]\w\s]{0,128}")
"""Each text that a head begins with, and more."""


class Mistral:
    """The forms of Mistral, whose templates want short ids."""

    marks: ClassVar[tuple[str, ...]] = (OPEN,)
    first_marks: ClassVar[tuple[str, ...]] = ()
    other_marks: ClassVar[tuple[str, ...]] = (CALL_ID, ARGS)
    between: ClassVar[str] = ""
    short_ids: ClassVar[bool] = True
    text: ClassVar[CallText | None] = CallText(begin=f'{OPEN}[{{"name": "NAME", "arguments": ', end="}]")
    traits: ClassVar[tuple[str, ...]] = (OPEN,)

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return _Reader()


class _Reader:
    """Reads an array of calls, or one call by name."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._scanner: JsonScanner | None = None
        self._start = 0

    def read(self, text: str, *, ended: bool) -> Verdict:
        if self._scanner is None:
            found = self._find_start(text)
            if not found:
                return Broken() if ended or found is False else None
        assert self._scanner is not None
        self._scanner.scan(text)
        end = self._scanner.end
        if end is None:
            return Broken() if ended or self._scanner.broken else None
        calls = self._calls(text[self._start : end])
        return Complete(tuple(calls), end) if calls else Broken()

    def _find_start(self, text: str) -> bool | None:
        """Find where the JSON begins; False if there will be none, None if it may still come."""
        start = skip_space(text, 0)
        if start == len(text):
            return None
        if text[start] != "[":
            match = _HEAD.match(text)
            if match is None:
                return None if _HEAD_BEGINS.fullmatch(text) else False
            self._name, start = match[1], match.end()
        self._start, self._scanner = start, JsonScanner(start)
        return True

    def _calls(self, text: str) -> list[Call] | None:
        if self._name is None:
            return read_calls(text)
        arguments = as_json(text)
        return [Call(self._name, arguments)] if arguments is not None else None
