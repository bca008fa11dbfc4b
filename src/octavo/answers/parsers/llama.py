"""`{"name": ..., "parameters": {...}}` and nothing else, calls separated by semicolons: Llama 3.1 to 4."""

from __future__ import annotations

from typing import ClassVar

from octavo.answers.parsers.call_form import Broken, CallReader, CallText, Complete, Verdict
from octavo.answers.parsers.json_call import read_call
from octavo.answers.parsers.json_scanner import JsonScanner
from octavo.answers.parsers.marks import skip_space
from octavo.answers.tool import ToolSet

TAG = "<|python_tag|>"


class Llama:
    """The form of Llama. An object counts only at the beginning, or after its tag, and if it names a tool: answers may
    hold JSON."""

    marks: ClassVar[tuple[str, ...]] = (TAG,)
    first_marks: ClassVar[tuple[str, ...]] = ("{",)
    other_marks: ClassVar[tuple[str, ...]] = ()
    between: ClassVar[str] = ";,"
    short_ids: ClassVar[bool] = False
    text: ClassVar[CallText | None] = CallText(begin='{"name": "NAME", "parameters": ', end="}", separator="; ")
    traits: ClassVar[tuple[str, ...]] = (TAG, '{"name": function name, "parameters"')

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return _Reader(tools, opened=mark == "{")


class _Reader:
    def __init__(self, tools: ToolSet, *, opened: bool) -> None:
        self._tools = tools
        self._prefix = "{" if opened else ""
        """What of the object is the mark."""
        self._scanner: JsonScanner | None = None
        self._start = 0

    def read(self, text: str, *, ended: bool) -> Verdict:
        whole = self._prefix + text
        if self._scanner is None:
            self._start = skip_space(whole, 0)
            if self._start == len(whole):
                return Broken() if ended else None
            if whole[self._start] != "{":
                return Broken()
            self._scanner = JsonScanner(self._start)
        self._scanner.scan(whole)
        end = self._scanner.end
        if end is None:
            return Broken() if ended or self._scanner.broken else None
        call = read_call(whole[self._start : end])
        if call is None or call.name not in self._tools:
            return Broken()
        return Complete((call,), end - len(self._prefix))
