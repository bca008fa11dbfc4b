"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen2.5 and Qwen3."""

from __future__ import annotations

from typing import ClassVar

from octavo.answers.parsers.call_form import Broken, CallReader, CallText, Complete, Verdict
from octavo.answers.parsers.json_call import read_call
from octavo.answers.parsers.json_scanner import JsonScanner
from octavo.answers.parsers.marks import after, skip_space
from octavo.answers.tool import ToolSet

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    """The form of Hermes. A call counts as soon as its object is whole: models forget the closing mark."""

    marks: ClassVar[tuple[str, ...]] = (OPEN,)
    first_marks: ClassVar[tuple[str, ...]] = ()
    other_marks: ClassVar[tuple[str, ...]] = (CLOSE,)
    between: ClassVar[str] = ""
    short_ids: ClassVar[bool] = False
    text: ClassVar[CallText | None] = CallText(
        begin=f'{OPEN}\n{{"name": "NAME", "arguments": ', end=f"}}\n{CLOSE}", separator="\n"
    )
    traits: ClassVar[tuple[str, ...]] = (OPEN,)

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return ObjectReader(CLOSE)


class ObjectReader:
    """Reads one object, and the mark `close` if it follows."""

    def __init__(self, close: str) -> None:
        self._close = close
        self._scanner: JsonScanner | None = None

    def read(self, text: str, *, ended: bool) -> Verdict:
        if self._scanner is None:
            start = skip_space(text, 0)
            if start == len(text):
                return Broken() if ended else None
            if text[start] != "{":
                return Broken()
            self._start, self._scanner = start, JsonScanner(start)
        self._scanner.scan(text)
        end = self._scanner.end
        if end is None:
            return Broken() if ended or self._scanner.broken else None
        call = read_call(text[self._start : end])
        if call is None:
            return Broken()
        close = after(text, end, self._close, ended=ended)
        return None if close is None else Complete((call,), close)
